"""A verification names every row that differs from the log, and no other row."""

import random
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from ledger.app.features import projections
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.views.rebuilding import rebuild as rebuilding
from ledger.engine.views.rebuilding.compare import Difference
from ledger.engine.views.rebuilding.shadow import CannotBuild, shadow
from ledger.engine.writer.writer import Writer
from tests.support.facts import LINE, activation, fact
from tests.support.racing_writers import running_writer
from tests.support.rebuilding import (
    Vandal,
    as_named,
    damage,
    ignore_progress,
    leftover_tables,
    rebuild,
    rows_of,
    skipping,
    tracking,
    verify,
    verify_all,
    view,
)
from tests.support.views import (
    PoisonedRunView,
    following,
    head,
    projecting,
    query,
    report,
    view_positions,
)

POISON = "RUN-26-900666"
BEGINNINGS = r"activated|run\.(requested|started)"
"""The types of events that begin a stream."""

# The log's events by position, as the API names them.
_EVENT_IDS = """
SELECT notification_id, 'EVT-' || to_char(recorded_at AT TIME ZONE 'UTC', 'YY-')
    || lpad(notification_id::text, 6, '0')
FROM ledger.ledger_events
"""


def assert_events_are_right(conninfo: str, named: list[Difference]) -> None:
    """Each difference names an event of the log, except extra rows that name none."""
    ids: dict[int, str] = dict(query(conninfo, _EVENT_IDS))  # type: ignore[arg-type]
    for difference in named:
        position = int(difference.event_id.split("-")[2])
        if position in ids:
            assert difference.event_id == ids[position]
        else:
            assert difference.kind == "extra", difference


def cells() -> list[tuple[Any, Any, str]]:
    """Every column of every table of every view."""
    return [(p, table, c) for p in projections() for table in p.tables for c in table.columns]


def test_no_row_of_a_sound_ledger_is_named(worked: str) -> None:
    rows = rows_of(worked)
    for projection in projections():
        found, named = verify(worked, projection)
        assert named == []
        names = {table.name for table in projection.tables}
        assert found.rows == sum(table in names for table, _ in rows)
        assert found.position == head(worked)
    assert (leftover_tables(worked), rows_of(worked)) == ([], rows)


@pytest.mark.parametrize("seed", [1])
def test_every_row_with_one_of_a_hundred_damaged_cells_is_named_and_no_other_row(
    worked: str, seed: int
) -> None:
    right, vandal, dice = rows_of(worked), Vandal(worked, seed), random.Random(seed)
    # Every column once, the rest at random.
    chosen = cells() + dice.choices(cells(), k=20)
    dice.shuffle(chosen)
    assert len(chosen) > 100
    for projection, table, column in chosen:
        assert vandal.spoil_cell(projection, table, column), (table.name, column)
    expected = damage(rows_of(worked), right)
    assert {kind for _, _, kind, _, _ in expected} == {"missing", "extra", "differs"}
    assert sum(len(columns) or 1 for _, _, _, columns, _ in expected) > 80
    named = verify_all(worked)
    assert as_named(named) == expected
    assert_events_are_right(worked, named)


def test_missing_rows_of_ten_events_are_named_in_every_table(worked: str) -> None:
    right = rows_of(worked)
    positions = query(worked, "SELECT notification_id FROM ledger.ledger_events ORDER BY 1")
    gone = [position for (position,) in random.Random(4).sample(positions, 10)]
    for name in ("execution_interval", "execution_version", "execution_step", "execution_day",
                 "run_payload", "run_day", "event"):  # fmt: skip
        query(worked, f"DELETE FROM ledger.{name}_g1 WHERE position = ANY(%s)", gone)
    expected = damage(rows_of(worked), right)
    assert {d.position for d in expected} == set(gone)
    assert {d.kind for d in expected} == {"missing"}
    named = verify_all(worked)
    assert as_named(named) == expected
    assert_events_are_right(worked, named)


def test_ten_events_that_the_projector_skipped_are_found_by_their_consequences(worked: str) -> None:
    right = rows_of(worked)
    statement = "SELECT notification_id FROM ledger.ledger_events WHERE topic !~ %s ORDER BY 1"
    skipped = {p for (p,) in random.Random(5).sample(query(worked, statement, BEGINNINGS), 10)}
    for projection in projections():
        # Fill the view as a projector that skips these events would.
        rebuild(worked, skipping(view(projection.name), skipped))
    expected = damage(rows_of(worked), right)
    assert skipped <= {d.position for d in expected}
    named = verify_all(worked)
    assert as_named(named) == expected
    assert_events_are_right(worked, named)


def test_rows_added_by_hand_are_named_as_extra(worked: str) -> None:
    right = rows_of(worked)
    tables = [(projection, table) for projection in projections() for table in projection.tables]
    for projection, table in tables:
        Vandal(worked, 6).add(projection, table)
    expected = damage(rows_of(worked), right)
    assert {(d.table, d.kind) for d in expected} == {(table.name, "extra") for _, table in tables}
    assert len(expected) == len(tables)
    assert as_named(verify_all(worked)) == expected


def test_damage_is_named_exactly_while_writers_go_on(worked: str) -> None:
    right, vandal = rows_of(worked), Vandal(worked, 7)
    # Every later event writes the rows of these two tables anew, which would mend them.
    lasting = [cell for cell in cells() if cell[1].name not in ("webhook", "execution_count")]
    for projection, table, column in random.Random(7).choices(lasting, k=40):
        assert vandal.spoil_cell(projection, table, column)
    expected = damage(rows_of(worked), right)
    ending, written = threading.Event(), [0]

    def write(writer: Writer) -> None:
        report(writer, activation())
        while not ending.is_set():
            number = written[0] = written[0] + 1
            run = f"RUN-26-{500_000 + number}"
            report(
                writer,
                fact("execution.checked_in", LINE, {"hours": 1}),
                fact("run.started", run, {"service_line_id": LINE}),
                fact("run.completed", run, {"tokens_used": 3}),
            )

    with running_writer(worked, idle_after=timedelta(hours=1)) as writer, following(worked):
        thread = threading.Thread(target=write, args=[writer])
        thread.start()
        try:
            before = written[0]
            assert as_named(verify_all(worked)) == expected
            assert written[0] > before
        finally:
            ending.set()
            thread.join(20)
    assert leftover_tables(worked) == []


def test_a_stopped_view_is_compared_at_the_position_it_has_reached(
    conninfo: str, writer: Writer
) -> None:
    start = {"service_line_id": LINE}
    report(writer, activation(), fact("run.started", "RUN-26-900001", start))
    report(writer, fact("run.started", POISON, start))
    with projecting(conninfo, PoisonedRunView(POISON)) as projector:
        projector.catch_up()
    stopped_at, stopped = view_positions(conninfo)["run"]
    assert stopped
    found, named = verify(conninfo, view("run"))
    assert (found.position, named) == (stopped_at, [])
    assert view_positions(conninfo)["run"] == (stopped_at, True)


def test_rows_of_another_version_are_not_compared(worked: str) -> None:
    query(worked, "UPDATE ledger.projection SET version = 1 WHERE name = 'run'")
    with pytest.raises(CannotBuild, match="rebuild it first"):
        verify(worked, view("run"))
    assert leftover_tables(worked) == []
    assert verify(worked, view("event"))[1] == []


class Abandoned(Exception):
    """Raised by a callback."""


def _give_up(*_: object) -> None:
    raise Abandoned


@pytest.mark.parametrize(
    ("progress", "tell"),
    [(_give_up, ignore_progress), (ignore_progress, _give_up)],
    ids=["filling", "comparing"],
)
def test_a_verification_that_is_abandoned_leaves_no_table(
    worked: str, progress: Callable[..., None], tell: Callable[..., None]
) -> None:
    Vandal(worked, 8).remove(view("run"), view("run").tables[0])
    before = tracking(worked)
    with pytest.raises(Abandoned):
        rebuilding.verify(worked, EnvelopeMapper(), view("run"), progress, tell)
    assert (leftover_tables(worked), tracking(worked)) == ([], before)


def test_a_view_that_is_being_rebuilt_is_not_verified(worked: str) -> None:
    with shadow(worked, EnvelopeMapper(), view("run"), ignore_progress):
        with pytest.raises(CannotBuild, match="run is being rebuilt or verified by another"):
            verify(worked, view("run"))
        assert verify(worked, view("event"))[1] == []
