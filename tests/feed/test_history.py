"""A line's history: every event of the line and its runs, as published (contract, Reading)."""

import json
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.engine.values.values import format_instant
from projections.feed import statements
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.ledger import new_id
from tests.support.model import public_name
from tests.support.plans import rows_touched
from tests.support.random_life import SECRET, Life, history_of
from tests.support.soak import repeated
from tests.support.stored import stored_object

ENVELOPE = [
    "id", "type", "occurred_at", "recorded_at", "position", "actor", "reported_by", "subject",
    "service_line_id", "organization_id", "workspace_id", "causation_id", "payload", "fact",
    "trace_id", "state_before", "state_after",
]  # fmt: skip

RAW = """
SELECT notification_id, originator_id, topic, recorded_at, convert_from(state, 'UTF8')
FROM ledger.ledger_events ORDER BY notification_id
"""


def raw(edge: Edge, line: str) -> list[dict[str, Any]]:
    """The stored events of a line and its runs."""
    rows = []
    for position, stream, topic, recorded_at, text in edge.select(RAW):
        state = stored_object(text)
        if line in (stream, state.get("service_line_id")):
            rows.append(
                state
                | {"position": position, "stream": stream, "topic": topic.split("/")[0]}
                | {"recorded": recorded_at}
            )
    return rows


@pytest.fixture(scope="module", params=[2, 3])
def life(edge: Edge, request: pytest.FixtureRequest) -> Life:
    life = Life(edge, request.param)
    life.live(60)
    if request.param == 2:
        life.close()
    return life


def test_the_history_has_every_stored_event_in_log_order(edge: Edge, life: Life) -> None:
    stored, history = raw(edge, life.line), history_of(edge, life.line)
    assert len(stored) > 60
    assert [e["position"] for e in history] == [e["position"] for e in stored]
    signals: dict[str, str] = {}
    for event, row in zip(history, stored, strict=True):
        is_change = has_other_status(row, signals)
        assert event["type"] == public_name(row["topic"], is_change)
        assert event["id"] == f"EVT-{row['recorded'].year % 100:02d}-{row['position']:06d}"
        assert event["subject"] == {
            "type": "run" if row["stream"].startswith("RUN") else "service_line",
            "id": row["stream"],
        }
        assert (event["service_line_id"], event["organization_id"], event["workspace_id"]) == (
            life.line, ORGANIZATION, WORKSPACE,
        )  # fmt: skip
        assert event["actor"] == row["actor"]
        assert event["reported_by"] == row["reported_by"]
        assert event["causation_id"] == row.get("causation_id")
        assert event["fact"] == fact_in(row)
        assert instant(event["occurred_at"]) == instant(row["occurred_at"])
        assert instant(event["recorded_at"]) == row["recorded"]


def fact_in(row: dict[str, Any]) -> dict[str, str] | None:
    """The fact that a stored event records."""
    fact = row.get("fact")
    return None if fact is None else {"source": fact["source"], "id": fact["id"]}


def has_other_status(row: dict[str, Any], signals: dict[str, str]) -> bool:
    """True if a report changes a signal's status; ``signals`` has the statuses so far."""
    if row["topic"] != "health.signal_reported":
        return False
    signal, status = row["body"]["signal"], row["body"]["status"]
    earlier, signals[signal] = signals.get(signal), status
    return bool(status != earlier)


def instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_the_states_of_a_history_are_a_chain_that_ends_at_the_present_state(
    edge: Edge, life: Life
) -> None:
    history = history_of(edge, life.line)
    assert history[0]["state_before"] is None
    for earlier, later in pairwise(history):
        assert later["state_before"] == earlier["state_after"]
        if later["state_before"] != later["state_after"]:
            assert later["type"].startswith("execution.")
            assert later["subject"]["type"] == "service_line"
    assert history[-1]["state_after"] == edge.data(f"/v1/execution/{life.line}")["state"]
    assert len({event["state_after"] for event in history}) >= 4


def test_each_event_has_exactly_the_keys_of_the_envelope(edge: Edge, life: Life) -> None:
    history = history_of(edge, life.line)
    assert len(history) > 60
    for event in history:
        assert list(event) == ENVELOPE
        assert list(event["actor"]) == ["type", "id"]
        states = {"state_before": event["state_before"], "state_after": event["state_after"]}
        if event["type"].startswith("execution."):
            assert event["payload"] | states == event["payload"]
        else:
            assert not states.keys() & event["payload"].keys()


def test_no_payload_holds_a_runs_input_output_or_error(edge: Edge, life: Life) -> None:
    sent = [event for event in life.accepted if SECRET in json.dumps(event)]
    assert {event["type"] for event in sent} >= {"run.started", "run.completed", "run.failed"}
    history = history_of(edge, life.line)
    assert SECRET not in json.dumps(history)
    for event in history:
        assert not event["payload"].keys() & {"input", "output", "error"}


# Paging.


@pytest.mark.parametrize("limit", [*range(1, 10), 26, 27, 50, 99, 100])
def test_pages_of_any_limit_give_each_event_once(edge: Edge, walked: str, limit: int) -> None:
    assert history_of(edge, walked, limit) == history_of(edge, walked, 100)
    assert len(history_of(edge, walked, limit)) == 54


@pytest.fixture(scope="module")
def walked(edge: Edge) -> str:
    """A line with 54 events, a multiple of many limits."""
    line = edge.fresh()
    edge.accept(*(fact("execution.checked_in", line, {"hours": 1}) for _ in range(33)))
    edge.accept(*(fact("run.started", None, {"service_line_id": line}) for _ in range(20)))
    return line


def test_events_that_are_recorded_between_pages_come_at_the_end(edge: Edge) -> None:
    line = edge.fresh()
    edge.accept(*(fact("execution.checked_in", line) for _ in range(9)))
    path, entries = f"/v1/execution/{line}/history?limit=4", []
    page = edge.get(path).json()
    for number in range(4):
        entries += page["data"]
        if number < 3:
            edge.accept(fact("service_line.updated", line, {"project_tags": [str(number)]}))
        page = edge.get(f"{path}&cursor={page['meta']['cursor']}").json()
    assert page == {"data": [], "meta": {"cursor": None, "has_more": False}}
    assert entries == history_of(edge, line)
    assert [e["payload"].get("project_tags") for e in entries[-3:]] == [["0"], ["1"], ["2"]]


def test_the_default_limit_is_25_and_the_last_page_has_a_cursor(edge: Edge, walked: str) -> None:
    path = f"/v1/execution/{walked}/history"
    first = edge.get(path).json()
    assert (len(first["data"]), first["meta"]["has_more"]) == (25, True)
    last = edge.get(f"{path}?limit=54").json()["meta"]
    assert last["has_more"] is False
    assert last["cursor"] is not None


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "from=2026-04-15", "type=x"])
def test_a_wrong_parameter_is_a_422(edge: Edge, walked: str, query: str) -> None:
    answer = edge.get(f"/v1/execution/{walked}/history?{query}")
    assert_problem(answer, 422, "invalid_request")


# Bounds of the recording.


@pytest.mark.parametrize("examples", repeated([9, 400]))
def test_a_history_between_two_instants_has_what_was_recorded_then(
    edge: Edge, life: Life, examples: int
) -> None:
    whole = history_of(edge, life.line)
    recorded = [instant(event["recorded_at"]) for event in whole]
    moments = st.sampled_from(recorded).flatmap(
        lambda at: st.sampled_from([at - MICROSECOND, at, at + MICROSECOND])
    )
    instants = moments.filter(lambda at: at <= recorded[-1])
    path = f"/v1/execution/{life.line}/history"

    @given(
        pair=st.tuples(instants, instants).map(sorted),
        fields=st.sampled_from([NAMES[:1], NAMES[1:], NAMES]),
        as_of=st.none() | instants,
        limit=st.sampled_from([1, 7, 100]),
    )
    @settings(max_examples=examples, deadline=None)
    def check(
        pair: list[datetime], fields: tuple[str, ...], as_of: datetime | None, limit: int
    ) -> None:
        bounds = {name: pair[NAMES.index(name)] for name in fields}
        params: dict[str, Any] = {name: format_instant(at) for name, at in bounds.items()}
        if as_of is not None:
            params["as_of"] = format_instant(as_of)
            if as_of < recorded[0]:
                assert_problem(edge.get(path, params=params), 404, "not_found")
                return
        after = bounds.get("recorded_after", recorded[0] - MICROSECOND)
        until = min(bounds.get("recorded_until", recorded[-1]), as_of or recorded[-1])
        expected = [e for e, at in zip(whole, recorded, strict=True) if after < at <= until]
        assert paged(edge, path, params | {"limit": limit}) == expected

    check()


NAMES = ("recorded_after", "recorded_until")
MICROSECOND = timedelta(microseconds=1)


def paged(edge: Edge, path: str, params: dict[str, Any]) -> list[dict[str, Any]]:
    events = list[dict[str, Any]]()
    for _ in range(500):
        answer = edge.get(path, params=params)
        assert answer.status_code == 200, answer.text
        events += answer.json()["data"]
        cursor, has_more = answer.json()["meta"].values()
        if not has_more:
            return events
        params = {**params, "cursor": cursor}
    raise AssertionError("the walk has no end")


def test_the_bounds_may_be_dates_and_may_lie_before_the_line(edge: Edge, walked: str) -> None:
    path = f"/v1/execution/{walked}/history"
    assert edge.data(f"{path}?recorded_after=2026-01-01&limit=100") == history_of(edge, walked)
    before = edge.get(f"{path}?recorded_until=2026-01-01")
    assert before.json() == {"data": [], "meta": {"cursor": None, "has_more": False}}
    assert before.headers["ledger-position"] == "0"
    # As of an instant before its activation a line is unknown, whatever the bounds are.
    for bound in NAMES:
        answer = edge.get(f"{path}?{bound}=2026-01-01&as_of=2026-01-02")
        assert_problem(answer, 404, "not_found")


def test_the_cursor_of_a_history_goes_on_at_an_instant(edge: Edge, walked: str) -> None:
    path = f"/v1/execution/{walked}/history"
    recorded = [event["recorded_at"] for event in history_of(edge, walked)]
    params = {"recorded_after": recorded[3], "recorded_until": recorded[30]}
    cursor = edge.get(path, params=params | {"limit": "5"}).json()["meta"]["cursor"]
    going_on = edge.get(path, params=params | {"cursor": cursor, "as_of": recorded[20]}).json()
    assert [event["recorded_at"] for event in going_on["data"]] == recorded[9:21]


def test_a_bound_in_the_future_or_an_end_before_its_start_is_a_422(edge: Edge, walked: str) -> None:
    path = f"/v1/execution/{walked}/history"
    (item,) = edge.accept(fact("execution.checked_in", walked))
    last = edge.data(f"/v1/events/{item['event_ids'][0]}")["recorded_at"]
    future = format_instant(max(instant(last), edge.clock.now) + MICROSECOND)
    refused = [
        ("recorded_after", {"recorded_after": future}),
        ("recorded_until", {"recorded_until": future}),
        ("recorded_until", {"recorded_until": future, "as_of": last}),
        ("as_of", {"recorded_until": last, "as_of": future}),
        ("recorded_until", {"recorded_after": last, "recorded_until": "2026-04-01"}),
        ("recorded_until", {"recorded_until": "now"}),
    ]
    for name, params in refused:
        problem = assert_problem(edge.get(path, params=params), 422, "invalid_request")
        assert [error["pointer"] for error in problem["errors"]] == [f"/{name}"]
    for name in NAMES:
        assert edge.get(path, params={name: last}).status_code == 200


# Single events.


def test_every_kind_of_event_has_its_published_type(edge: Edge) -> None:
    line, run, cancelled = edge.fresh(), new_id("RUN"), new_id("RUN")
    begun, on = {"service_line_id": line, "input": SECRET}, {"signal": "sla_compliance"}
    check_in = fact("execution.checked_in", line, {"hours": 2, "note": "n", "resource_id": "r"})
    edge.accept(
        fact("service_line.updated", line, {"project_tags": ["x"]}),
        fact("resource.allocated", line, {"id": "r", "type": "pod"}),
        fact("resource.released", line, {"id": "r"}),
        check_in,
        fact("execution.check_in_voided", line, {"fact_id": check_in["id"], "reason": "typo"}),
        fact("health.signal_reported", line, on | {"status": "red", "value": 1}),
        fact("health.signal_reported", line, on | {"status": "red", "value": 2}),
        fact("health.signal_reported", line, on | {"status": "green"}),
        fact("execution.blocked", line, {"blocker_id": "1", "cause": "approval_gap"}),
        fact("execution.unblocked", line, {"blocker_id": "1"}),
        fact("service_line.paused", line, {"reason": "stop"}),
        fact("service_line.resumed", line),
        fact("run.requested", run, begun),
        fact("run.started", run, {"triggered_by": {"type": "user", "actor_id": "USR-1"}}),
        fact("agent.run.failed", run, {"tokens_used": 7, "error": {"message": SECRET}}),
        fact("run.requested", cancelled, begun),
        fact("service_line.closed", line, {"reason": "done"}),
    )
    history = history_of(edge, line)
    assert [event["type"] for event in history] == [
        "execution.started", "execution.updated", "resource.allocated", "resource.released",
        "execution.checked_in", "execution.check_in_voided", "health.changed",
        "health.signal_reported", "health.changed", "execution.blocked", "execution.unblocked",
        "execution.paused", "execution.resumed", "run.requested", "run.started", "run.failed",
        "run.requested", "run.cancelled", "execution.closed",
    ]  # fmt: skip
    payloads = {event["type"]: event["payload"] for event in history}
    assert payloads["execution.checked_in"] == {
        "hours": 2, "note": "n", "resource_id": "r",
        "state_before": "running", "state_after": "running",
    }  # fmt: skip
    assert payloads["execution.check_in_voided"]["fact_id"] == check_in["id"]
    assert payloads["health.signal_reported"]["value"] == 2
    assert payloads["execution.blocked"]["state_after"] == "blocked"
    ended = {
        "tokens_used": 7, "token_usage": None, "duration_ms": 0, "late": False,
        "external_id": None, "attempt": 1, "retry_of": None,
        "lease_expired": False, "last_heard_at": None,
    }  # fmt: skip
    assert payloads["run.failed"] == ended
    assert payloads["run.started"]["triggered_by"] == {"type": "user", "actor_id": "USR-1"}


def test_caused_events_name_the_event_that_caused_them(edge: Edge) -> None:
    line, runs = edge.fresh(), [new_id("RUN"), new_id("RUN")]
    edge.clock.advance(seconds=1_000)
    edge.run(edge.service.sweep())
    edge.accept(*(fact("run.started", run, {"service_line_id": line}) for run in runs))
    edge.accept(fact("service_line.closed", line))
    history = history_of(edge, line)
    assert [(e["type"], e["state_after"]) for e in history] == [
        ("execution.started", "running"), ("execution.idle", "idle"),
        ("execution.active", "running"), ("run.started", "running"), ("run.started", "running"),
        ("run.cancelled", "running"), ("run.cancelled", "running"), ("execution.closed", "closed"),
    ]  # fmt: skip
    started, closed = history[3]["id"], history[7]["id"]
    causes = [event["causation_id"] for event in history]
    assert causes == [None, None, started, None, None, closed, closed, None]
    reported = [event["fact"] is not None for event in history]
    assert reported == [True, False, False, True, True, False, False, True]
    assert history[1]["actor"]["type"] == "system"
    assert all(event["payload"]["by_closing"] for event in history[5:7])


def test_events_name_the_reported_actor_and_the_credential(edge: Edge) -> None:
    line = edge.fresh()
    by = {"actortype": "user", "actorid": "USR-26-000007"}
    edge.accept(fact("execution.checked_in", line, **by), fact("execution.checked_in", line))
    assert edge.post(f"/v1/execution/{line}/pause", json={"reason": "r"}).status_code == 200
    first, named, own, paused = history_of(edge, line)
    credential = first["reported_by"]
    assert credential.startswith("KEY-")
    assert first["actor"] == {"type": "api_key", "id": credential}
    assert named["actor"] == {"type": "user", "id": "USR-26-000007"}
    assert {e["reported_by"] for e in (named, own, paused)} == {credential}
    assert own["actor"] == paused["actor"] == first["actor"]
    assert paused["payload"]["hold"] == "operator"


def test_times_are_shown_in_utc_with_z(edge: Edge) -> None:
    line = edge.fresh()
    edge.accept(fact("execution.checked_in", line, time="2026-04-15T12:30:00.120+02:00"))
    edge.accept(fact("execution.checked_in", line, time="2026-04-15T07:30:00-03:00"))
    times = [event["occurred_at"] for event in history_of(edge, line)[1:]]
    assert times == ["2026-04-15T10:30:00.12Z", "2026-04-15T10:30:00Z"]
    assert all(event["recorded_at"].endswith("Z") for event in history_of(edge, line))


# A line with many runs.


@pytest.fixture(scope="module")
def long(edge: Edge) -> str:
    """A line with 1,000 runs, recorded after 1,000 events of another line."""
    other = edge.fresh()
    edge.accept(*(fact("execution.checked_in", other) for _ in range(1_000)))
    line = edge.fresh()
    runs = [new_id("RUN") for _ in range(1_000)]
    edge.accept(*(fact("run.started", run, {"service_line_id": line}) for run in runs))
    return line


def touched_by_page(edge: Edge, line: str, after: int = 0, by: str = ORGANIZATION) -> int:
    values = {"organization": by, "line_id": line, "after": after, "limit": 26}
    return rows_touched(edge, statements.history_read(frozenset({"organization"})), values)


def test_a_line_with_many_runs_has_its_whole_history(edge: Edge, long: str) -> None:
    history = history_of(edge, long)
    assert [event["type"] for event in history] == ["execution.started", *["run.started"] * 1_000]


@pytest.mark.parametrize("page", [0, 500, 990])
def test_a_page_of_a_line_with_many_runs_touches_few_rows(edge: Edge, long: str, page: int) -> None:
    after = history_of(edge, long)[page]["position"] if page else 0
    assert touched_by_page(edge, long, after) < 300


def test_the_refusal_of_another_tenants_long_history_touches_few_rows(
    edge: Edge, long: str
) -> None:
    assert touched_by_page(edge, long, by="ORG-26-000002") < 300
