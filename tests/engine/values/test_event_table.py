"""The table of events is complete, and so is all code that reads it.

A failed test names the forgotten row, event or column.
"""

from collections.abc import Callable, Iterator, Mapping

import msgspec
import pytest

from ledger.app.features import projections
from ledger.engine.log.decisions import DecisionTables
from ledger.engine.values.event_table import DecisionEffect, EventRow, Part
from ledger.engine.values.recorded import Event, Recorded
from ledger.engine.values.refusals import REFUSAL_TABLE, Refusals
from ledger.features.facts.fact_types import FACT_TYPES
from ledger.features.feed import audited
from ledger.features.keys.model import API_KEY_TABLE, ApiKey
from ledger.features.lines.model.execution import Execution
from ledger.features.lines.model.execution_events import EXECUTION_EVENTS
from ledger.features.runs.model import run
from ledger.features.runs.model.run import Run
from ledger.features.usage.model import statement
from ledger.features.watches.model import alert, watch
from ledger.features.webhooks.model import endpoint
from ledger.features.webhooks.model.endpoint import Endpoint
from ledger.records import EVENT_TABLE, EVENTS
from projections.lines.line import LineFold
from tests.support.audits import SYSTEM_TYPES
from tests.whole.golden.samples import BODIES, WATCH, envelope

SAMPLES: Mapping[type[Event], Recorded] = {type(body): envelope(body) for body in BODIES}
"""An event of each class; ``tests/whole/golden`` names a class that has no sample."""

ROWS = pytest.mark.parametrize("row", EVENT_TABLE, ids=lambda row: row.event.__name__)
SAMPLED_ROWS = pytest.mark.parametrize(
    "row", [row for row in EVENT_TABLE if row.event in SAMPLES], ids=lambda row: row.event.__name__
)

FOLDS: Mapping[str, tuple[tuple[type[Event], ...], Callable[[Recorded], None]]] = {
    "Execution": (EXECUTION_EVENTS, Execution("LIN").apply),
    "Run": (run.RUN_EVENTS, Run("RUN").apply),
    "ApiKey": (tuple(row.event for row in API_KEY_TABLE), ApiKey("KEY").apply),
    "Endpoint": (endpoint.ENDPOINT_EVENTS, Endpoint("WHK").apply),
    "Statement": (statement.STATEMENT_EVENTS, statement.UsageStatement("STM").apply),
    "Watch": (watch.WATCH_EVENTS, watch.Watch("WCH", settings=WATCH).apply),
    "Alert": (alert.ALERT_EVENTS, alert.Alert("ALR").apply),
    "Refusals": (tuple(row.event for row in REFUSAL_TABLE), Refusals("REF").apply),
    "the view of lines": ((*EXECUTION_EVENTS, *run.RUN_EVENTS), LineFold(Execution("LIN")).apply),
}


def is_unhandled(fold: Callable[[Recorded], None], sample: Recorded) -> bool:
    """True if a fold has no entry for the event. Other tests cover the results of folds."""
    try:
        fold(sample)
    except KeyError as error:
        return error.args == (type(sample.body),)
    return False


def subclasses(above: type[Event] = Event) -> Iterator[type[Event]]:
    """The ledger's subclasses of a class, at all depths."""
    for subclass in above.__subclasses__():
        if subclass.__module__.startswith("ledger."):
            if hasattr(subclass, "TOPIC"):  # else several classes share its fields
                yield subclass
            yield from subclasses(subclass)


def test_every_class_of_events_has_one_row() -> None:
    assert {*subclasses()} - {*EVENTS} == set(), "Add its row to the table of its aggregate."
    assert {*EVENTS} <= {*subclasses()}
    assert len(EVENTS) == len(set(EVENTS))


@ROWS
def test_a_row_has_both_a_published_type_and_a_payload_or_neither(row: EventRow) -> None:
    assert (row.published_as is None) == (row.payload is None), (
        "a published type goes with a payload"
    )
    if isinstance(row.payload, tuple) and not isinstance(row.payload, Part):
        assert set(row.payload) <= set(row.event.__struct_fields__)
    if isinstance(row.payload, Part):
        assert row.payload.field in row.event.__struct_fields__
    assert row.event.__doc__, "the docstring documents the published type"


def test_published_types_and_topics_are_unique() -> None:
    types = [row.published_as for row in EVENT_TABLE if row.published_as is not None]
    assert len(types) == len(set(types))
    assert len({event.TOPIC for event in EVENTS}) == len(EVENTS)


def test_every_fact_type_is_recorded_by_an_event() -> None:
    recorded = {row.fact for row in EVENT_TABLE}
    assert set(FACT_TYPES) - recorded == set(), "no row records this fact"
    assert {fact for fact in recorded if fact} - set(FACT_TYPES) == set(), "no such fact"


@pytest.mark.parametrize("fold", FOLDS)
def test_each_fold_handles_all_of_its_events_and_no_other_event(fold: str) -> None:
    events, apply = FOLDS[fold]
    unknown = {event for event, sample in SAMPLES.items() if is_unhandled(apply, sample)}
    assert unknown & set(events) == set(), f"{fold} does not fold it: give it a case"
    assert SAMPLES.keys() - unknown - set(events) == set(), (
        "handled, though it is not an event of this fold"
    )


@SAMPLED_ROWS
def test_the_decision_tables_handle_every_event(row: EventRow) -> None:
    assert not is_unhandled(DecisionTables().note, SAMPLES[row.event]), (
        "Give the row's note a case in engine/log/decisions.py."
    )


def test_every_change_to_the_decision_tables_is_made_by_an_event() -> None:
    assert set(DecisionEffect) - {row.noted for row in EVENT_TABLE} == set(), (
        "no event makes this change"
    )


@SAMPLED_ROWS
def test_every_event_is_audited_unless_the_ledger_itself_records_it(row: EventRow) -> None:
    sample = SAMPLES[row.event]
    reported = sample if row.fact is not None else msgspec.structs.replace(sample, fact=None)
    is_written = audited.write_of(reported) is not None
    is_systems = row.published_as in SYSTEM_TYPES
    assert is_written != is_systems, "an audited action or a type in SYSTEM_TYPES, not both"


@ROWS
def test_the_view_of_events_has_every_event(row: EventRow) -> None:
    (view,) = (view for view in projections() if view.name == "event")
    assert row.event in view.events
