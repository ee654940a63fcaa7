"""The one table of events: it is whole, and so is whatever is read from it.

Each test names what was forgotten.
"""

from collections.abc import Callable, Iterator, Mapping

import msgspec
import pytest

from ledger.domain import api_key, endpoint, refusals, run
from ledger.domain.api_key import ApiKey
from ledger.domain.endpoint import Endpoint
from ledger.domain.event_table import EventRow, Note, Part
from ledger.domain.events import EVENT_TABLE, EVENTS
from ledger.domain.execution import Execution
from ledger.domain.execution_events import EXECUTION_EVENTS
from ledger.domain.recorded import Event, Recorded
from ledger.domain.refusals import Refusals
from ledger.domain.run import Run
from ledger.intake.fact_types import FACT_TYPES
from ledger.language import audited
from ledger.log.decisions import DecisionTables
from projections import projections
from projections.execution.line import LineFold
from tests.golden.samples import BODIES, envelope

ROWS = pytest.mark.parametrize("row", EVENT_TABLE, ids=lambda row: row.event.__name__)

FOLDS: Mapping[str, tuple[tuple[type[Event], ...], Callable[[Recorded], None]]] = {
    "Execution": (EXECUTION_EVENTS, Execution("LIN").evolve),
    "Run": (run.RUN_EVENTS, Run("RUN").evolve),
    "ApiKey": (api_key.API_KEY_EVENTS, ApiKey("KEY").evolve),
    "Endpoint": (endpoint.ENDPOINT_EVENTS, Endpoint("WHK").evolve),
    "Refusals": (refusals.REFUSAL_EVENTS, Refusals("REF").evolve),
    "the view of lines": ((*EXECUTION_EVENTS, *run.RUN_EVENTS), LineFold(Execution("LIN")).evolve),
}

SAMPLES: Mapping[type[Event], Recorded] = {type(body): envelope(body) for body in BODIES}


def passes_over(fold: Callable[[Recorded], None], event: type[Event]) -> bool:
    """Whether a fold does not know the event. Other tests cover the fold's result."""
    try:
        fold(SAMPLES[event])
    except KeyError as error:
        return error.args == (event,)
    return False


def classes(above: type[Event] = Event) -> Iterator[type[Event]]:
    for one in above.__subclasses__():
        if one.__module__.startswith("ledger."):
            yield one
            yield from classes(one)


def test_every_class_of_events_has_one_row() -> None:
    assert {event.__name__ for event in classes()} - {e.__name__ for e in EVENTS} == set()
    assert len(EVENTS) == len(set(EVENTS))


@ROWS
def test_a_row_says_how_its_event_is_told_or_that_it_is_not(row: EventRow) -> None:
    assert (row.told_as is None) == (row.told is None), "a type goes with a payload"
    if isinstance(row.told, tuple) and not isinstance(row.told, Part):
        assert set(row.told) <= set(row.event.__struct_fields__)
    if isinstance(row.told, Part):
        assert row.told.field in row.event.__struct_fields__
    assert row.event.__doc__, "its docstring is its documentation"


def test_no_type_and_no_topic_is_there_twice() -> None:
    types = [row.told_as for row in EVENT_TABLE if row.told_as is not None]
    assert len(types) == len(set(types))
    assert len({event.TOPIC for event in EVENTS}) == len(EVENTS)


def test_every_type_of_facts_is_recorded_by_an_event() -> None:
    recorded = {row.fact for row in EVENT_TABLE}
    assert set(FACT_TYPES) - recorded == set(), "no row says that it records this fact"
    assert {fact for fact in recorded if fact} - set(FACT_TYPES) == set(), "no such fact"


@pytest.mark.parametrize("fold", FOLDS)
def test_a_fold_says_of_each_of_its_events_what_it_does(fold: str) -> None:
    events, evolve = FOLDS[fold]
    unknown = {event.__name__ for event in EVENTS if passes_over(evolve, event)}
    assert {event.__name__ for event in events} & unknown == set(), "not folded"
    assert {e.__name__ for e in EVENTS if e not in events} - unknown == set(), "never comes"


@ROWS
def test_the_decision_tables_say_of_each_event_what_it_changes(row: EventRow) -> None:
    assert not passes_over(DecisionTables().note, row.event)


def test_each_note_is_made_by_an_event() -> None:
    assert set(Note) - {row.noted for row in EVENT_TABLE} == set(), "no event is noted so"


@ROWS
def test_every_event_is_audited_unless_the_ledger_itself_records_it(row: EventRow) -> None:
    sample = SAMPLES[row.event]
    reported = sample if row.fact is not None else msgspec.structs.replace(sample, fact=None)
    is_written = audited.entry_of(reported) is not None
    is_systems = row.told_as in audited.SYSTEM_TYPES
    assert is_written != is_systems, "an action, or SYSTEM_TYPES"


@ROWS
def test_every_told_event_is_in_the_view_of_events(row: EventRow) -> None:
    (view,) = (view for view in projections() if view.name == "event")
    assert row.event in view.events
