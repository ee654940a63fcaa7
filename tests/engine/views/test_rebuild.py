"""A rebuild makes the log's rows in new tables, and leaves no table behind."""

import re
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from ledger.app.features import projections
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.values.principal import EVERYONE
from ledger.engine.views.projector import LostLead
from ledger.engine.views.rebuilding import rebuild as rebuilding
from ledger.engine.views.rebuilding.rebuilder import Rebuilder
from ledger.engine.views.rebuilding.shadow import CannotBuild, clean_up, shadow
from ledger.engine.views.schema import create_tables
from ledger.engine.writer.writer import Writer
from tests.support.facts import LINE, activation, fact
from tests.support.reader import become_reader, reading
from tests.support.rebuilding import (
    NAMES,
    Vandal,
    damage,
    ignore_progress,
    leftover_tables,
    listening,
    rebuild,
    rows_from_log,
    rows_of,
    tracking,
    view,
)
from tests.support.views import (
    PoisonedRunView,
    following,
    head,
    insert_raw,
    projecting,
    query,
    report,
    until,
    view_positions,
)

POISON = "RUN-26-900666"


def start(run: str) -> dict[str, object]:
    return fact("run.started", run, {"service_line_id": LINE})


def test_rebuilt_rows_equal_the_live_rows_and_a_replay_of_the_log(worked: str) -> None:
    before = rows_of(worked)
    assert {table for table, _ in before} == {t.name for p in projections() for t in p.tables}
    assert before == rows_from_log(worked)
    for projection in (*projections(), view("run")):
        times = tracking(worked)[projection.name][1]
        built = rebuild(worked, projection)
        assert (built.differing, built.generation) == (0, times + 1)
        assert built.position == head(worked)
        assert built.rows == sum(t.name == n for t in projection.tables for n, _ in before)
    assert tracking(worked)["run"][1] == 3
    assert rows_of(worked) == before
    assert leftover_tables(worked) == []


def test_odd_text_is_stored_alike_in_batches_and_one_by_one(conninfo: str, writer: Writer) -> None:
    odd = ["\\N", "a b", "\\r\\n", "\\", '"{},', "\\x41", "ü\U0001f600", "\u2028", "NULL", "\\."]
    report(writer, activation(project_tags=["PROJ-26-000001"]))
    for _ in range(12):
        facts = []
        for text in odd:
            blocker = {"blocker_id": text, "cause": "capacity_issue", "reason": f"{text}\t\r\n"}
            facts += [
                fact("execution.blocked", LINE, blocker, actorid=text, actortype="user"),
                fact("execution.unblocked", LINE, {"blocker_id": text}),
                fact("execution.checked_in", LINE, {"hours": 1, "resource_id": text}),
            ]
        report(writer, *facts)
    for projection in projections():
        rebuild(conninfo, projection)
    rows = rows_of(conninfo)
    assert len(rows) > 1000
    assert rows == rows_from_log(conninfo)


def test_the_projector_goes_on_from_rebuilt_rows(conninfo: str, writer: Writer) -> None:
    report(writer, activation(), start("RUN-26-900001"))
    with projecting(conninfo) as projector:
        projector.catch_up()
    for projection in projections():
        rebuild(conninfo, projection)
    report(writer, fact("run.completed", "RUN-26-900001", {"tokens_used": 3}), start(POISON))
    with projecting(conninfo) as projector:
        projector.catch_up()
    assert rows_of(conninfo) == rows_from_log(conninfo)


def test_a_rebuild_repairs_damaged_rows_and_says_how_many(worked: str) -> None:
    right, vandal = rows_of(worked), Vandal(worked, 3)
    for projection in projections():
        for table in projection.tables:
            vandal.remove(projection, table)
            vandal.add(projection, table)
            column = next(c for c in table.columns if c not in (*table.key, "position"))
            assert vandal.spoil_cell(projection, table, column)
    expected = damage(rows_of(worked), right)
    assert len(expected) > 10
    for projection in projections():
        names = {table.name for table in projection.tables}
        differing = sum(one.table in names for one in expected)
        assert rebuild(worked, projection).differing == differing
    assert rows_of(worked) == right


def test_the_reading_role_may_read_rebuilt_tables_and_not_change_them(worked: str) -> None:
    reading(worked)
    for projection in projections():
        rebuild(worked, projection)
    with psycopg.connect(worked, autocommit=True) as connection:
        become_reader(connection, worked, EVERYONE)
        for table in (table for projection in projections() for table in projection.tables):
            read = f"SELECT {', '.join(table.visible)} FROM ledger.{table.name}"
            for relation in (f"ledger.{table.name}", f"ledger.{table.name}_g2"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(f"DELETE FROM {relation}".encode())
            if table.is_internal:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(read.encode())
            else:
                found = connection.execute(read.encode()).fetchall()
                assert len(found) == len(query(worked, read)) > 0


class Abandoned(Exception):
    """Raised by a callback, as a service that stops does."""


def test_a_rebuild_that_fails_while_filling_leaves_everything_as_it_was(worked: str) -> None:
    rows, before = rows_of(worked), tracking(worked)

    def give_up(position: int, end: int) -> None:
        raise Abandoned

    for name in NAMES:
        with pytest.raises(Abandoned):
            rebuild(worked, view(name), give_up)
        assert leftover_tables(worked) == [], name
    assert (rows_of(worked), tracking(worked)) == (rows, before)
    for name in NAMES:
        rebuild(worked, view(name))
    assert rows_of(worked) == rows


def test_a_rebuild_that_fails_while_comparing_leaves_everything_as_it_was(worked: str) -> None:
    rows, before = rows_of(worked), tracking(worked)
    waiting = "FROM pg_locks WHERE NOT granted AND relation = 'ledger.run_g1'::regclass"
    with psycopg.connect(worked) as other, ThreadPoolExecutor() as pool:
        other.execute("LOCK TABLE ledger.run_g1")
        building = pool.submit(rebuild, worked, view("run"))
        until(lambda: query(worked, f"SELECT 1 {waiting}"), "the comparison")
        query(worked, f"SELECT pg_terminate_backend(pid, 5000) {waiting}")
        with pytest.raises(psycopg.OperationalError):
            building.result()
    assert leftover_tables(worked) == []
    assert (rows_of(worked), tracking(worked)) == (rows, before)


def test_a_second_rebuild_of_a_view_is_refused_and_one_of_another_view_is_not(worked: str) -> None:
    with shadow(worked, EnvelopeMapper(), view("run"), ignore_progress) as first:
        first.fill(first.head())
        with pytest.raises(CannotBuild) as refused:
            rebuild(worked, view("run"))
        assert str(refused.value) == "run is being rebuilt or verified by another process."
        assert rebuild(worked, view("execution")).generation == 2
        # Neither that rebuild nor a service that starts now drops the first rebuild's tables.
        Rebuilder(worked, EnvelopeMapper(), projections()).run_once()
        assert first.connection.execute("SELECT count(*) > 0 FROM ledger.run_g2").fetchone() == (
            True,
        )
    assert leftover_tables(worked) == []
    assert rebuild(worked, view("run")).differing == 0


def test_a_views_lock_is_free_as_soon_as_its_holder_has_returned(conninfo: str) -> None:
    """The lock must not wait until the server notices that the holder's connection is closed."""
    held = b"""SELECT count(*) FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
        WHERE l.locktype = 'advisory' AND d.datname = current_database()"""
    with psycopg.connect(conninfo, autocommit=True) as watching:
        for _ in range(8):
            clean_up(conninfo, view("run"))
            assert watching.execute(held).fetchone() == (0,)
            with shadow(conninfo, EnvelopeMapper(), view("run"), ignore_progress):
                assert watching.execute(held).fetchone() == (1,)
            assert watching.execute(held).fetchone() == (0,)


@pytest.mark.parametrize("cleaner", ["a service that starts", "the next rebuild"])
def test_tables_of_a_killed_rebuild_are_dropped_by_the_next_rebuild_or_service(
    worked: str, cleaner: str
) -> None:
    with psycopg.connect(worked, autocommit=True) as connection:
        create_tables(connection, view("run").tables, 2)
        create_tables(connection, view("run").tables, 11)
    assert len(leftover_tables(worked)) == 8
    before = rows_of(worked)
    if cleaner == "the next rebuild":
        rebuild(worked, view("run"))
    else:
        assert Rebuilder(worked, EnvelopeMapper(), projections()).run_once()
    assert leftover_tables(worked) == []
    assert rows_of(worked) == before


def test_an_event_that_cannot_be_read_ends_a_rebuild_in_one_line(
    conninfo: str, writer: Writer
) -> None:
    report(writer, activation(), start("RUN-26-900001"))
    insert_raw(conninfo, "run.started/1", b"{half", POISON)
    with pytest.raises(CannotBuild) as refused:
        rebuild(conninfo, view("run"))
    assert "\n" not in str(refused.value)
    assert leftover_tables(conninfo) == []


def test_an_event_that_the_fold_cannot_apply_ends_a_rebuild_in_one_line(
    conninfo: str, writer: Writer
) -> None:
    report(writer, activation(), start("RUN-26-900001"))
    (poison,) = report(writer, start(POISON))
    with pytest.raises(CannotBuild) as refused:
        rebuild(conninfo, PoisonedRunView(POISON))
    assert "\n" not in str(refused.value)
    first, last = map(int, re.findall(r"positions (\d+) to (\d+)", str(refused.value))[0])
    assert first <= poison <= last
    assert leftover_tables(conninfo) == []


def test_a_stopped_view_goes_on_once_it_is_rebuilt_by_code_without_the_bug(
    conninfo: str, writer: Writer
) -> None:
    report(writer, activation(), start("RUN-26-900001"), start(POISON), start("RUN-26-900002"))
    with projecting(conninfo, PoisonedRunView(POISON)) as projector:
        projector.catch_up()
    assert view_positions(conninfo)["run"][1]
    built = rebuild(conninfo, view("run"))
    assert (built.position, built.differing) == (head(conninfo), 0)
    assert view_positions(conninfo)["run"] == (head(conninfo), False)
    assert rows_of(conninfo).keys() >= {("run", POISON), ("run", "RUN-26-900002")}


@pytest.mark.parametrize("memory", ["lines", "nothing"])
def test_a_projector_that_was_idle_during_a_rebuild_loses_its_lead_and_stops_no_view(
    conninfo: str, writer: Writer, memory: str
) -> None:
    report(writer, activation())
    with projecting(conninfo) as projector, listening(conninfo) as notifications:
        projector.catch_up()
        for name in NAMES:
            rebuild(conninfo, view(name))
            report(writer, start(f"RUN-26-90001{NAMES.index(name)}"))
            if memory == "nothing":  # then it reads dropped tables
                projector.forget()
            with pytest.raises(LostLead):
                projector.run_once()
            assert projector.lead()
            projector.catch_up()
        until(lambda: notifications.announced("run", head(conninfo)), "the last batch")
    assert notifications.stops == []
    assert rows_of(conninfo) == rows_from_log(conninfo)


def test_the_projector_follows_a_rebuilt_view(conninfo: str, writer: Writer) -> None:
    report(writer, activation())
    with following(conninfo), listening(conninfo) as notifications:
        for number in range(3):
            until(
                lambda: view_positions(conninfo)["run"] == (head(conninfo), False), "the projector"
            )
            rebuild(conninfo, view(NAMES[number]))
            report(writer, start(f"RUN-26-90000{number}"))
            until(
                lambda: set(view_positions(conninfo).values()) == {(head(conninfo), False)},
                "the views",
            )
    assert notifications.stops == []
    assert rows_of(conninfo) == rows_from_log(conninfo)


def test_a_rebuild_waits_for_a_clean_up_of_the_same_view(worked: str) -> None:
    """A service that starts at that moment cleans up."""

    def waits_for(kind: str) -> bool:
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = %s"
        return query(worked, waiting, kind) == [(1,)]

    with psycopg.connect(worked) as reader, ThreadPoolExecutor() as pool:
        with psycopg.connect(worked) as killed:
            create_tables(killed, view("run").tables, 7)
        reader.execute("SELECT FROM ledger.run_g7")
        cleaning = pool.submit(clean_up, worked, view("run"))
        until(lambda: waits_for("relation"), "the clean-up")
        built = pool.submit(rebuild, worked, view("run"))
        until(lambda: waits_for("advisory"), "the rebuild")
        reader.commit()
        cleaning.result()
        assert built.result().differing == 0
    assert leftover_tables(worked) == []


def test_a_rebuild_leaves_a_view_unchanged_that_stays_in_use(
    worked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "_TRIES", 2)
    monkeypatch.setattr(rebuilding, "_LOCK_TIMEOUT", "50ms")
    rows, before = rows_of(worked), tracking(worked)
    with psycopg.connect(worked) as reader:
        reader.execute("SELECT count(*) FROM ledger.run_day")
        with pytest.raises(CannotBuild):
            rebuild(worked, view("run"))
        # A new reader does not wait for the lock that was given up.
        assert query(worked, "SELECT count(*) > 0 FROM ledger.run") == [(True,)]
    assert (rows_of(worked), tracking(worked), leftover_tables(worked)) == (rows, before, [])
