"""Any sequence of events, however absurd, can be folded, and leads to the contract's state."""

from datetime import datetime, timedelta
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.values.recorded import Event, FactIdentity, Recorded
from ledger.features.lines.model import execution_events as e
from ledger.features.lines.model.execution import Execution
from ledger.features.runs.model import run as r
from ledger.features.runs.model.run import Run
from tests.support.domain import START, activated, recorded
from tests.support.model import Line, Model
from tests.support.stored import stored_object

HOLDS = st.sampled_from(["operator", "service_line"])
IDS = st.sampled_from(["a", "b"])
JSON = st.recursive(st.none() | st.integers(-99, 99) | st.text(max_size=3), st.lists, max_leaves=3)
SIGNALS = st.sampled_from(["sla_compliance", "outcome_progress"])

UNTIL = st.none() | st.just(START + timedelta(minutes=20))

LINE_BODIES: st.SearchStrategy[Event] = st.one_of(
    st.builds(e.Paused, hold=HOLDS, reason=st.none() | st.text(max_size=3), until=UNTIL),
    st.builds(e.HoldChanged, hold=HOLDS, until=UNTIL),
    st.builds(e.Resumed, hold=HOLDS),
    st.builds(e.Blocked, blocker_id=IDS, cause=st.just("approval_gap")),
    st.builds(e.Unblocked, blocker_id=IDS),
    st.just(e.WentIdle(threshold_seconds=900)),
    st.just(e.Woken()),
    st.just(e.CheckedIn(hours=1.5)),
    st.builds(
        e.HealthSignalReported,
        signal=SIGNALS,
        status=st.sampled_from(["green", "red"]),
        value=JSON,
        evidence=JSON,
    ),
    st.builds(e.ResourceAllocated, resource=st.builds(e.Resource, type=st.just("t"), id=IDS)),
    st.builds(e.ResourceReleased, id=IDS),
    st.builds(e.Updated, project_tags=st.lists(IDS).map(tuple)),
    st.just(e.Closed()),
)
RUN_BODIES: st.SearchStrategy[Event] = st.one_of(
    st.builds(r.RunRequested, run_id_origin=st.just("issued"), input=st.none() | st.binary()),
    st.builds(r.RunStarted, run_id_origin=st.sampled_from([None, "issued"])),
    st.builds(r.RunCompleted, tokens_used=st.none() | st.integers(0, 9), late=st.booleans()),
    st.builds(r.RunFailed, duration_ms=st.none() | st.integers(0, 9), late=st.booleans()),
    st.builds(r.RunCancelled, by_closing=st.booleans()),
)
TIMES = st.integers(-50, 50).map(lambda minutes: START + timedelta(minutes=minutes))
LINE_EVENTS = st.lists(st.tuples(LINE_BODIES, TIMES), max_size=25)
RUN_EVENTS = st.lists(st.tuples(RUN_BODIES, TIMES), max_size=12)


_MAPPER = EnvelopeMapper()


def line_of_model(events: list[Recorded]) -> Line:
    """The line after these events, by the tests' model of the contract."""
    stored = [_MAPPER.to_stored_event(event) for event in events]
    rows = [
        {
            "originator_id": event.originator_id,
            "originator_version": event.originator_version,
            "notification_id": number,
            "topic": event.topic,
            "state": stored_object(event.state),
        }
        for number, event in enumerate(stored, 1)
    ]
    return Model(rows).lines["LIN-26-000001"]


@given(LINE_EVENTS)
@settings(max_examples=200, deadline=None)
def test_a_line_folds_any_sequence_of_events_as_the_model_of_the_contract_does(
    past: list[tuple[Any, datetime]],
) -> None:
    whole = [(activated(), START), *past]
    events = [
        recorded(body, version, at, fact=FactIdentity("s", str(version), bytes(32)))
        for version, (body, at) in enumerate(whole, 1)
    ]
    line = Execution("LIN-26-000001")
    previous = None
    for event in events:
        line.apply(event)
        assert line.changed_at is not None
        assert previous is None or line.changed_at >= previous
        previous = line.changed_at
    expected = line_of_model(events)
    assert (line.state, line.state_since) == (expected.state, expected.state_since)
    assert {name: hold.until for name, hold in line.holds.items()} == {
        name: until and datetime.fromisoformat(until) for name, until in expected.holds.items()
    }
    assert line.blockers.keys() == expected.blockers.keys()
    assert line.resources.keys() == expected.resources.keys()
    assert (line.held_since is None, line.blocked_since is None) == (
        not expected.holds,
        not expected.blockers,
    )
    assert line.changed_at == expected.changed_at
    assert line.version == len(whole)


@given(LINE_EVENTS, st.integers(0, 25))
@settings(max_examples=100, deadline=None)
def test_a_line_restored_from_a_snapshot_goes_on_as_the_original(
    past: list[tuple[Any, datetime]], cut: int
) -> None:
    original, restored = Execution("LIN-26-000001"), Execution("LIN-26-000001")
    for version, (body, at) in enumerate([(activated(), START), *past], 1):
        original.apply(recorded(body, version, at))
        if version == cut + 1:
            stored = msgspec.json.encode(restored)
            restored = msgspec.json.decode(stored, type=Execution)
        restored.apply(recorded(body, version, at))
    assert restored == original
    assert list(restored.signals) == list(original.signals)


@given(RUN_EVENTS, st.integers(0, 12))
@settings(max_examples=100, deadline=None)
def test_a_run_and_a_run_restored_from_a_snapshot_fold_any_sequence_of_events(
    past: list[tuple[Any, datetime]], cut: int
) -> None:
    original, restored = Run("RUN-26-000001"), Run("RUN-26-000001")
    for version, (body, at) in enumerate(past, 1):
        original.apply(recorded(body, version, at))
        if version == cut + 1:
            restored = msgspec.json.decode(msgspec.json.encode(restored), type=Run)
        restored.apply(recorded(body, version, at))
    assert restored == original
    ended = [body for body, _ in past if not isinstance(body, r.RunRequested | r.RunStarted)]
    assert (original.completed_at is None) == (not ended)


@given(LINE_EVENTS)
@settings(max_examples=50, deadline=None)
def test_the_events_of_a_line_do_not_change_another_line(past: list[tuple[Any, datetime]]) -> None:
    line, other = Execution("LIN-26-000001"), Execution("LIN-26-000002")
    for version, (body, at) in enumerate([(activated(), START), *past], 1):
        line.apply(recorded(body, version, at))
    assert other == Execution("LIN-26-000002")
    assert other.holds == other.blockers == other.resources == other.signals == {}
