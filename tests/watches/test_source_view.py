"""Events in, rows of sources out."""

from datetime import timedelta
from typing import Any

import pytest

from ledger.engine.values.recorded import FactIdentity, Recorded
from ledger.features.lines.model.execution_events import CheckedIn
from projections.watches.source import view
from projections.watches.source.view import SOURCE, SourceRow, SourceView
from tests.support.domain import START, recorded
from tests.support.view_rows import given

LINE = "LIN-26-000001"


def check_in(position: int, source: str, seconds: float = 0, **more: Any) -> Recorded:
    """A check-in that a source has reported, recorded that long after the start."""
    fields = {
        "originator_id": LINE,
        "fact": FactIdentity(source, f"fact-{position}", b""),
        "recorded_at": START + timedelta(seconds=seconds),
    }
    return recorded(CheckedIn(), position, **fields | more)


def row(position: int, source: str, slot: int = 0, **more: Any) -> SourceRow:
    begun = SourceRow(
        organization_id="ORG-26-000001",
        slot=slot,
        workspace_id="WS-26-000001",
        source=source,
        reported_by="KEY-26-000001",
        first_seen=START,
        last_seen=START,
        fact_type="execution.checked_in",
        subject=LINE,
        position=position,
    )
    return begun._replace(**more)


def test_a_source_has_a_row_which_moves_once_a_minute() -> None:
    first = check_in(1, "/a", reported_by="KEY-26-000001")
    again = check_in(2, "/a", 59, reported_by="KEY-26-000002")
    given(SourceView()).when(first, again).then(SOURCE, row(1, "/a"))
    later = check_in(3, "/a", 61, reported_by="KEY-26-000002")
    moved = row(3, "/a", reported_by="KEY-26-000002", last_seen=START + timedelta(minutes=1))
    given(SourceView(), first).when(later).then(SOURCE, moved)


def test_a_source_has_a_row_for_each_workspace() -> None:
    events = [check_in(1, "/a"), check_in(2, "/a", workspace_id="WS-26-000002")]
    rows = given(SourceView()).when(*events).rows(SOURCE)
    assert [(r.workspace_id, r.slot) for r in rows] == [("WS-26-000001", 0), ("WS-26-000002", 1)]


def test_an_event_that_no_fact_reported_is_no_sign_of_life() -> None:
    given(SourceView()).when(check_in(1, "/a", fact=None)).then(SOURCE)


def test_a_new_source_takes_the_slot_of_the_one_that_was_silent_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(view, "MOST", 2)
    events = [check_in(1, "/a"), check_in(2, "/b"), check_in(3, "/a", 61), check_in(4, "/c", 62)]
    rows = given(SourceView()).when(*events).rows(SOURCE)
    assert {r.slot: r.source for r in rows} == {0: "/a", 1: "/c"}
