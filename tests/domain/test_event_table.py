"""The one table of events: it is whole, and so is whatever is read from it.

Each test names what was forgotten.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from ledger.domain import api_key, endpoint, execution, refusals, run
from ledger.domain.event_table import EventRow, Note, Part
from ledger.domain.events import EVENT_TABLE, EVENTS
from ledger.domain.execution_events import EXECUTION_EVENTS
from ledger.domain.recorded import Event
from ledger.intake.fact_types import FACT_TYPES
from ledger.language import audited
from ledger.log.decisions import _BY_NOTE
from projections import projections
from projections.execution.view import line

ROWS = pytest.mark.parametrize("row", EVENT_TABLE, ids=lambda row: row.event.__name__)

FOLDS: Mapping[str, tuple[tuple[type[Event], ...], Mapping[type[Event], Callable[..., Any]]]] = {
    "Execution": (EXECUTION_EVENTS, execution._APPLY),
    "Run": (run.RUN_EVENTS, run._APPLY),
    "ApiKey": (api_key.API_KEY_EVENTS, api_key._APPLY),
    "Endpoint": (endpoint.ENDPOINT_EVENTS, endpoint._APPLY),
    "Refusals": (refusals.REFUSAL_EVENTS, refusals._APPLY),
    "the view of lines": ((*EXECUTION_EVENTS, *run.RUN_EVENTS), line._COUNT),
}


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
    events, applied = FOLDS[fold]
    assert {e.__name__ for e in events} - {e.__name__ for e in applied} == set(), "not folded"
    assert {e.__name__ for e in applied} - {e.__name__ for e in events} == set(), "never comes"


def test_decisions_know_every_note_and_each_is_made() -> None:
    assert set(Note) - set(_BY_NOTE) == set(), "not known to the decision tables"
    assert set(Note) - {row.noted for row in EVENT_TABLE} == set(), "no event is noted so"


@ROWS
def test_what_nobody_wrote_is_not_audited_and_all_else_is(row: EventRow) -> None:
    by_itself = row.event in audited._REFUSALS
    is_written = row.fact is not None or row.command is not None or by_itself
    is_systems = row.told_as in audited.SYSTEM_TYPES
    assert is_written != is_systems, "an action, or SYSTEM_TYPES"


@ROWS
def test_what_is_told_is_in_a_view(row: EventRow) -> None:
    (view,) = (view for view in projections() if view.name == "event")
    assert row.event in view.events
