"""Positions and ids after a loss: another PostgreSQL, timeline or dump gives none of them again."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ledger.app.composition.database import prepare_database
from ledger.app.composition.writing import create_writer, running
from ledger.app.settings import Settings
from ledger.engine.log.append import Wanted
from ledger.engine.log.event_log import Log
from ledger.engine.log.lineage import _IDS_A_SECOND, _POSITIONS_A_SECOND, IDS_MOVED, POSITIONS_MOVED
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.embedded.programs import find_programs
from ledger.engine.values.errors import ClockSkew, InvalidState
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.values import EVENT_ID, format_id
from ledger.engine.writer.request import Outcome, Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts.report import command_of
from tests.support.databases import empty
from tests.support.decision_tables import assert_decision_tables_match_log
from tests.support.facts import activation, fact
from tests.support.ledger import new_id
from tests.support.log_checker import check
from tests.support.racing_writers import parsed
from tests.support.relay import Relay
from tests.support.service import Clock
from tests.support.standby import pair_in
from tests.support.views import head, query

LINEAGE = "SELECT system_identifier, timeline, tables FROM ledger.lineage"


class Process:
    """A process with a writer of its own."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def record(self, event: dict[str, Any]) -> Outcome:
        return self._writer.execute(command_of(parsed(event), COMMAND_LINE))

    def line(self, **more: Any) -> str:
        line = new_id("LIN")
        assert isinstance(self.record(activation(line, **more)), Receipt)
        return line

    def issue(self, line: str) -> tuple[int, int]:
        """Record a run whose id the ledger issues; return its position, and the id's number."""
        made = self.record(fact("run.requested", None, {"service_line_id": line}))
        assert isinstance(made, Receipt), made
        return made.position, int(made.subject.split("-")[2])


@contextmanager
def process_on(
    conninfo: str, settings: Settings, clock: Callable[[], datetime] | None = None
) -> Iterator[Process]:
    log = Log(conninfo)
    with running(create_writer(settings, log, clock or Clock())) as writer:
        yield Process(writer)


def test_the_first_append_of_a_new_ledger_writes_the_row_and_skips_nothing(
    conninfo: str, settings: Settings
) -> None:
    assert query(conninfo, LINEAGE) == []
    with process_on(conninfo, settings) as process:
        line = process.line()
        assert head(conninfo) == 1
    ((system, timeline, tables),) = query(conninfo, LINEAGE)
    assert query(conninfo, "SELECT system_identifier::text FROM pg_control_system()") == [(system,)]
    oids = "SELECT oid || '/' || 'ledger.ledger_events'::regclass::oid FROM pg_database"
    assert query(conninfo, f"{oids} WHERE datname = current_database()") == [(tables,)]
    assert timeline == 1
    with process_on(conninfo, settings) as again:
        assert again.issue(line) == (2, 2)


def test_an_append_after_the_first_of_its_connection_takes_two_round_trips(
    conninfo: str, settings: Settings, tmp_path: Path
) -> None:
    relay = Relay(conninfo, tmp_path)
    try:
        with process_on(relay.conninfo, settings) as process:
            line = process.line(model="capacity")
            for _ in range(3):
                before = relay.syncs
                check_in = process.record(fact("execution.checked_in", line, {"hours": 1}))
                assert isinstance(check_in, Receipt)
                assert relay.syncs - before == 2
    finally:
        relay.close()


@pytest.mark.parametrize(
    "other", ["timeline = timeline - 1", "system_identifier = '7'", "tables = '1/2'"]
)
def test_another_postgresql_skips_positions_and_ids_once_with_the_first_append(
    conninfo: str, settings: Settings, other: str
) -> None:
    with process_on(conninfo, settings) as process:
        line = process.line()
        before = query(conninfo, LINEAGE)
        query(conninfo, f"UPDATE ledger.lineage SET {other}")
        assert process.issue(line) == (2, 2), "a connection outlives no failover"
    with process_on(conninfo, settings) as first, process_on(conninfo, settings) as second:
        moved = (3 + POSITIONS_MOVED, 3 + IDS_MOVED)
        assert first.issue(line) == moved
        assert second.issue(line) == (moved[0] + 1, moved[1] + 1)
        assert first.issue(line) == (moved[0] + 2, moved[1] + 2)
    assert query(conninfo, LINEAGE) == before
    assert check(conninfo).findings == []
    assert_decision_tables_match_log(conninfo)


def test_a_counter_that_was_lost_begins_behind_the_ids_that_it_may_have_given(
    conninfo: str, settings: Settings
) -> None:
    with process_on(conninfo, settings) as process:
        line = process.line(execution_id=new_id("RUN"))
        query(conninfo, "UPDATE ledger.lineage SET timeline = 0")
    assert query(conninfo, "SELECT 1 FROM ledger.id_counter") == []
    ((now,),) = query(conninfo, "SELECT clock_timestamp()")
    with process_on(conninfo, settings, Clock(now)) as process:
        assert process.issue(line)[1] == IDS_MOVED + 1
    assert_decision_tables_match_log(conninfo)


def test_appends_that_are_abandoned_again_and_again_skip_once(
    conninfo: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """A node whose clock is wrong tries each second."""
    with process_on(conninfo, settings) as process:
        line = process.line()
        query(conninfo, "UPDATE ledger.lineage SET timeline = 0")
    caplog.clear()
    log = Log(conninfo)
    log.wall = lambda: time.time() + 3600
    with running(create_writer(settings, log, Clock())) as writer:
        process = Process(writer)
        check_in = fact("run.requested", None, {"service_line_id": line})
        assert [type(process.record(check_in)) for _ in range(3)] == [ClockSkew] * 3
        del log.wall
        assert process.issue(line) == (2 + POSITIONS_MOVED, 2 + IDS_MOVED)
    assert caplog.text.count("another PostgreSQL wrote last") == 1


def test_appends_that_are_abandoned_on_several_connections_skip_once(
    conninfo: str, settings: Settings
) -> None:
    """Each skip after an old backup takes a good part of the positions that ids have digits for."""
    log = Log(conninfo)
    with running(create_writer(settings, log, Clock())) as writer:
        process = Process(writer)
        line = process.line()
        query(conninfo, "UPDATE ledger.lineage SET timeline = 0")
        log.wall = lambda: time.time() + 3600
        for _ in range(3):
            end_writers(conninfo)
            assert isinstance(
                process.record(fact("run.requested", None, {"service_line_id": line})), ClockSkew
            )
        del log.wall
        assert process.issue(line) == (2 + POSITIONS_MOVED, 2 + IDS_MOVED)


def test_the_skip_grows_where_the_databases_clock_was_behind_at_the_first_append(
    conninfo: str, settings: Settings
) -> None:
    with process_on(conninfo, settings) as process:
        line = process.line()
        query(conninfo, "UPDATE ledger.lineage SET timeline = 0")
    last_beat_was(conninfo, "0 s")
    log = Log(conninfo)
    log.wall = lambda: time.time() + 86_400
    with running(create_writer(settings, log, Clock())) as writer:
        process = Process(writer)
        check_in = fact("run.requested", None, {"service_line_id": line})
        assert isinstance(process.record(check_in), ClockSkew)
        last_beat_was(conninfo, "1 day")
        del log.wall
        position, number = process.issue(line)
    assert position > 86_000 * _POSITIONS_A_SECOND
    assert number > 86_000 * _IDS_A_SECOND


def test_the_positions_after_a_backup_of_any_age_fit_into_the_ids_of_events(
    conninfo: str, settings: Settings
) -> None:
    with process_on(conninfo, settings) as process:
        line = process.line()
        query(conninfo, "UPDATE ledger.lineage SET timeline = 0")
    last_beat_was(conninfo, "9 years")
    with process_on(conninfo, settings) as process:
        position, _ = process.issue(line)
    assert re.fullmatch(EVENT_ID, format_id("EVT", 2026, position))


def test_an_append_that_fails_leaves_the_skip_to_the_next_one(
    conninfo: str, settings: Settings
) -> None:
    with process_on(conninfo, settings) as process:
        line = process.line()
        query(conninfo, "UPDATE ledger.lineage SET timeline = 0")
    log = Log(conninfo)
    try:
        with pytest.raises(psycopg.DataError), log.append_transaction() as append:
            append.ended(["a NUL byte\0"])
        assert query(conninfo, LINEAGE)[0][1] == 0
        with log.append_transaction() as append:
            append.read(Wanted())
            assert append.next_position == 2 + 2 * POSITIONS_MOVED
        assert query(conninfo, LINEAGE)[0][1] == 1
    finally:
        log.close()
    with process_on(conninfo, settings) as process:
        assert process.issue(line) == (2 + 2 * POSITIONS_MOVED, 2 + IDS_MOVED)


def test_a_user_that_may_not_read_the_system_identifier_still_notices_another_timeline(
    conninfo: str, settings: Settings
) -> None:
    query(conninfo, "CREATE ROLE plain LOGIN")
    try:
        schema = "TABLES IN SCHEMA ledger", "SEQUENCES IN SCHEMA ledger"
        query(conninfo, "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        query(conninfo, "GRANT USAGE ON SCHEMA ledger TO plain")
        for objects in schema:
            query(conninfo, f"GRANT ALL ON ALL {objects} TO plain")
        query(conninfo, "ALTER ROLE plain BYPASSRLS")
        log = Log(make_conninfo(conninfo, user="plain"))
        try:
            for timeline, system, moves in ((1, "7", False), (0, "7", True)):
                query(conninfo, f"UPDATE ledger.lineage SET timeline = {timeline}")
                with log.append_transaction() as append:
                    append.read(Wanted())
                    is_moved = append.next_position > POSITIONS_MOVED
                assert is_moved is moves
                if not moves:
                    query(conninfo, f"UPDATE ledger.lineage SET system_identifier = '{system}'")
                assert query(conninfo, LINEAGE)[0][:2] == (system, 1)
                end_writers(conninfo)
        finally:
            log.close()
    finally:
        query(conninfo, "DROP OWNED BY plain")
        query(conninfo, "DROP ROLE plain")


def end_writers(conninfo: str) -> None:
    """End the connections of all writers, as a failover does."""
    statement = """SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'ledger'"""
    assert {ended for (ended,) in query(conninfo, statement)} == {True}


@pytest.fixture
def restored(conninfo: str, server: EmbeddedPostgres) -> Iterator[str]:
    """The address of a database for ``restore``."""
    with empty(server.url, f"restored_{conninfo_to_dict(conninfo)['dbname']}") as address:
        yield address


def dump(conninfo: str, file: Path) -> None:
    """Keep a backup."""
    programs = find_programs(None) / "bin"
    subprocess.run([programs / "pg_dump", "-Fc", "-f", str(file), conninfo], check=True)


def restore(file: Path, into: str, settings: Settings) -> None:
    """Restore a backup over the present data."""
    query(into, "DROP SCHEMA IF EXISTS ledger CASCADE")
    restoring = [find_programs(None) / "bin" / "pg_restore", "--exit-on-error"]
    subprocess.run([*restoring, f"--dbname={into}", str(file)], check=True)
    prepare_database(settings, into)


def last_beat_was(conninfo: str, ago: str) -> None:
    """Let the database be of an earlier time."""
    then = f"clock_timestamp() - interval '{ago}'"
    query(conninfo, f"UPDATE ledger.listening SET listened_at = {then}, beaten_at = {then}")


def test_a_restored_dump_gives_no_position_or_id_again(
    conninfo: str, restored: str, settings: Settings, tmp_path: Path
) -> None:
    with process_on(conninfo, settings) as process:
        line = process.line()
        dump(conninfo, tmp_path / "dump")
        lost = [process.issue(line) for _ in range(3)]
    restore(tmp_path / "dump", restored, settings)
    with process_on(restored, settings) as process:
        position, number = process.issue(line)
    assert position > POSITIONS_MOVED > max(lost)[0]
    assert number > IDS_MOVED > max(lost)[1]


def test_a_backup_of_yesterday_gives_none_of_the_many_positions_and_ids_of_the_day_again(
    conninfo: str, restored: str, settings: Settings, tmp_path: Path
) -> None:
    with process_on(conninfo, settings) as process:
        line = process.line()
        process.issue(line)
    last_beat_was(conninfo, "1 day")
    dump(conninfo, tmp_path / "dump")
    sequence = "ledger.ledger_events_notification_id_seq"
    query(conninfo, f"SELECT setval('{sequence}', {7 * POSITIONS_MOVED})")
    query(conninfo, f"UPDATE ledger.id_counter SET last = {7 * IDS_MOVED} WHERE prefix = 'RUN'")
    with process_on(conninfo, settings) as process:
        lost = process.issue(line)
    restore(tmp_path / "dump", restored, settings)
    with process_on(restored, settings) as process:
        position, number = process.issue(line)
    assert position > lost[0] > 7 * POSITIONS_MOVED
    assert number > lost[1] > 7 * IDS_MOVED


def test_a_backup_that_is_restored_again_restores_nothing_that_was_written_after_the_first_time(
    conninfo: str, restored: str, settings: Settings, tmp_path: Path
) -> None:
    with process_on(conninfo, settings) as process:
        line = process.line()
        process.issue(line)
    last_beat_was(conninfo, "1 minute")
    dump(conninfo, tmp_path / "dump")
    issued = []
    for ago in ("1 minute", "2 minutes"):
        restore(tmp_path / "dump", restored, settings)
        last_beat_was(restored, ago)
        with process_on(restored, settings) as process:
            issued += [process.issue(line) for _ in range(3)]
    assert len({position for position, _ in issued}) == 6
    assert len({number for _, number in issued}) == 6


def test_a_failover_that_loses_events_gives_none_of_their_positions_ids_or_versions_again(
    folder: Path, template: Path, settings: Settings
) -> None:
    with pair_in(folder, template) as pair:
        prepare_database(settings, pair.primary.url)
        relay = Relay(pair.primary.url)
        try:
            with process_on(relay.conninfo, settings) as living:
                line = living.line()
                issued = living.issue(line)
                pair.copy()
                lost = [living.issue(line) for _ in range(5)]
                blocked = fact(
                    "execution.blocked", line, {"blocker_id": "B", "cause": "capacity_issue"}
                )
                assert isinstance(living.record(blocked), Receipt)
                promoted = pair.fail_over()
                relay.lead_to(promoted)
                relay.cut()
                assert head(promoted) == issued[0]
                # The process remembers that the line is blocked, and the database does not.
                unblocked = fact("execution.unblocked", line, {"blocker_id": "B"})
                assert isinstance(living.record(unblocked), InvalidState)
                position, number = living.issue(line)
            assert position == issued[0] + POSITIONS_MOVED + 2, "behind the refusal"
            assert position > POSITIONS_MOVED > max(lost)[0]
            assert number == issued[1] + IDS_MOVED + 1
        finally:
            relay.close()
        assert query(promoted, LINEAGE)[0][1] == 2
        assert check(promoted).findings == []
        assert_decision_tables_match_log(promoted)
