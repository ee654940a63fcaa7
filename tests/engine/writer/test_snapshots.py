"""A long stream is read from its latest snapshot, with the result of the whole stream."""

import hashlib
import logging
import random
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import psycopg
import pytest

from ledger.app.composition.verification import compare
from ledger.app.settings import Settings
from ledger.engine.log import snapshots
from ledger.engine.log.schema.migrate import migrate
from ledger.engine.log.snapshots import EVERY, VERSION, restore, row_of
from ledger.engine.log.tables import SNAPSHOT
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.pipeline import Transaction, insert
from ledger.engine.values.errors import Unavailable
from ledger.engine.values.recorded import Event, Recorded
from ledger.features.keys.model import API_KEY_TABLE
from ledger.features.lines.model.execution import Execution
from ledger.features.lines.model.execution_events import EXECUTION_EVENTS, CheckInVoided, Closed
from ledger.features.lines.model.health import Signal
from ledger.features.proof.tables import Difference
from ledger.features.runs.model.run import RUN_EVENTS
from ledger.records import AGGREGATES
from tests.engine.writer.long_streams import (
    Chance,
    assert_same,
    check_ins,
    fill,
    length,
    process,
    repacked,
    replayed,
    snapshot_versions,
    stored_events,
    submit,
)
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.facts import fact
from tests.support.ledger import Ledger, working
from tests.support.log_checker import check
from tests.support.soak import repeated
from tests.support.transactions import undone
from tests.whole.golden.samples import BODIES, GROWN_BODIES, envelope

PINNED = (11, {"LIN": "37eb55630c45e6a7", "RUN": "e81df9403f9e17cf", "KEY": "11f6fe53c60e05dc"})
"""FOLD, and the digests of the aggregates that the folds then made of every event."""

FAMILIES: dict[str, Sequence[type[Event]]] = {
    "LIN": EXECUTION_EVENTS,
    "RUN": RUN_EVENTS,
    "KEY": tuple(row.event for row in API_KEY_TABLE),
}

SAMPLES = [type(body) for body in BODIES]


@pytest.mark.parametrize("seed", repeated([1, 2, 3]))
def test_an_aggregate_from_a_snapshot_equals_that_of_the_whole_stream(
    own_ledger: Ledger, seed: int
) -> None:
    chance = Chance(seed, own_ledger.line())
    for length_by_then in (EVERY + 1, 2 * EVERY + 90, 3 * EVERY - 7):
        chance.report(own_ledger, until=length_by_then)
        assert snapshot_versions(own_ledger).keys() == {chance.line}
        with process(own_ledger) as cold:
            aggregate = cold.aggregate(chance.line)
            assert cold.decoded < EVERY
        assert_same(aggregate, replayed(own_ledger, chance.line))
    kinds = {type(recorded.body) for recorded in stored_events(own_ledger, chance.line)}
    assert kinds & {Closed, CheckInVoided} == set()
    assert set(SAMPLES) & set(EXECUTION_EVENTS) - kinds - {Closed, CheckInVoided} == set(), (
        "The workload lacks an event that no fact reports: let Chance record it (long_streams.py)."
    )


@pytest.mark.parametrize("seed", repeated([4, 5]))
def test_every_intermediate_state_of_a_line_is_restored_from_its_snapshot(
    own_ledger: Ledger, seed: int
) -> None:
    chance = Chance(seed, own_ledger.line())
    chance.report(own_ledger, until=EVERY - 1)
    aggregate = AGGREGATES["LIN"](chance.line)
    with undone(own_ledger.conninfo) as transaction:
        for recorded in stored_events(own_ledger, chance.line):
            aggregate.apply(recorded)
            transaction.defer(insert({SNAPSHOT: [row_of(aggregate)]}))
            again = restore(*stored_row(transaction))
            assert again is not None
            assert_same(again, aggregate)
            assert_same(repacked(again), aggregate)


def stored_row(transaction: Transaction) -> tuple[Any, ...]:
    """The row of the only snapshot."""
    rows = transaction.cursor().execute("SELECT stream, version, state FROM ledger.snapshot")
    (row,) = rows.fetchall()
    return row


def test_the_snapshot_of_a_run_comes_back_as_it_was(own_ledger: Ledger) -> None:
    run = own_ledger.run(own_ledger.line())
    own_ledger.accept(fact("run.completed", run, {"tokens_used": 7}))
    with undone(own_ledger.conninfo) as transaction:
        transaction.defer(insert({SNAPSHOT: [row_of(replayed(own_ledger, run))]}))
        again = restore(*stored_row(transaction))
    assert again is not None
    assert_same(again, replayed(own_ledger, run))
    assert_same(repacked(again), replayed(own_ledger, run))


def test_a_process_that_does_not_know_a_long_stream_reads_only_its_end(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    for _ in range(13):
        fill(own_ledger, line, EVERY // 2 + 3)
    with process(own_ledger) as cold:
        assert cold.aggregate(line).version == 13 * (EVERY // 2 + 3) + 1
        assert 0 < cold.decoded < EVERY


def test_a_process_that_has_not_seen_a_stream_for_long_reads_only_its_end(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line()
    with process(own_ledger) as behind:
        assert behind.aggregate(line).version == 1
        for _ in range(3):
            fill(own_ledger, line, 2 * EVERY - 60)
        before = behind.decoded
        assert_same(behind.aggregate(line), replayed(own_ledger, line))
        assert behind.decoded - before < EVERY


def test_a_process_that_is_up_to_date_reads_no_event(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    fill(own_ledger, line, 3 * EVERY)
    with process(own_ledger) as cold:
        cold.aggregate(line)
        before = cold.decoded
        for _ in range(3):
            cold.accept(*check_ins(line, 5))
        assert cold.decoded == before


def test_a_snapshot_is_written_when_a_stream_passes_a_multiple_of_the_interval(
    own_ledger: Ledger,
) -> None:
    line, short = own_ledger.line(), own_ledger.line()
    run = own_ledger.run(short)
    expected: dict[str, int] = {}
    version = 1
    for size in (EVERY - 2, 1, 1, EVERY - 3, 1, 1, 1, 2 * EVERY + 50, 7, EVERY - 58, 1):
        fill(own_ledger, line, size)
        if (version + size) // EVERY > version // EVERY:
            expected[line] = version + size
        version += size
        assert snapshot_versions(own_ledger) == expected
    own_ledger.accept(fact("run.completed", run))
    assert snapshot_versions(own_ledger).keys() == {line}


def test_the_database_refuses_a_snapshot_beyond_the_end_of_its_stream(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    fill(own_ledger, line, EVERY)
    for statement in (
        "UPDATE ledger.snapshot SET version = version + 1 RETURNING 1",
        "INSERT INTO ledger.snapshot VALUES ('LIN-26-000404', 1, 1, '') RETURNING 1",
    ):
        with pytest.raises(psycopg.errors.ForeignKeyViolation) as refused:
            own_ledger.rows(statement)
        assert refused.value.diag.constraint_name == "snapshot_within_its_stream"


def spoil(ledger: Ledger, assignment: str, *parameters: Any) -> None:
    statement = f"UPDATE ledger.snapshot SET {assignment} RETURNING version"
    assert len(ledger.rows(statement, *parameters)) == 1


def assert_replaced(ledger: Ledger, line: str) -> None:
    """A process ignores the stored snapshot and replaces it, even if it records no event."""
    with process(ledger) as cold:
        assert_same(cold.aggregate(line), replayed(ledger, line))
        assert cold.decoded == len(stored_events(ledger, line))
    with process(ledger) as next_process:
        assert_same(next_process.aggregate(line), replayed(ledger, line))
        assert next_process.decoded == 0
        next_process.accept(*check_ins(line, 1))
    assert check(ledger.conninfo).findings == []


def test_the_first_start_of_a_version_drops_the_snapshots_of_other_folds(
    own_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(own_ledger, own_ledger.line(), EVERY)
    stored = "SELECT fold FROM ledger.snapshot"
    migrate(own_ledger.conninfo)
    assert own_ledger.rows(stored) == [{"fold": VERSION}]
    monkeypatch.setattr(snapshots, "VERSION", VERSION + 1)
    migrate(own_ledger.conninfo)
    assert own_ledger.rows(stored) == []


def test_a_later_start_leaves_an_altered_fold_to_the_verification(own_ledger: Ledger) -> None:
    fill(own_ledger, own_ledger.line(), EVERY)
    with psycopg.connect(own_ledger.conninfo) as connection:
        connection.execute("UPDATE ledger.snapshot SET fold = fold - 1")
    migrate(own_ledger.conninfo)
    found: list[Difference] = []
    compare(own_ledger.conninfo, found.append, lambda *_: None)
    assert [(difference.table, difference.column) for difference in found] == [("snapshot", "fold")]


@pytest.mark.parametrize("fold", [VERSION - 1, VERSION + 1])
def test_a_snapshot_of_another_fold_version_is_ignored_and_replaced(
    own_ledger: Ledger, fold: int
) -> None:
    line = own_ledger.line()
    fill(own_ledger, line, EVERY)
    # The state can be read: only the number of its fold shows that other code made it.
    signals = {"agent_error_rate": Signal("agent_error_rate", "red")}
    state = msgspec.json.encode(Execution(line, version=EVERY + 1, signals=signals))
    assert restore(line, EVERY + 1, state) is not None
    spoil(own_ledger, "fold = %s, state = %s", fold, state)
    assert_replaced(own_ledger, line)
    assert own_ledger.rows("SELECT fold FROM ledger.snapshot") == [{"fold": VERSION}]


@pytest.fixture(scope="module")
def two_lines_once(server: EmbeddedPostgres) -> Iterator[tuple[str, str, str]]:
    """The name of a database with two lines that have gone on since their snapshots."""
    name = "two_lines_once"
    with copied(server.url, name) as conninfo:
        with working(conninfo, Settings(master_key=MASTER_KEY)) as ledger:
            line, other = ledger.line(), ledger.line()
            for stream, count in ((line, EVERY), (other, EVERY + 30), (line, 3), (other, 4)):
                fill(ledger, stream, count)
        yield name, line, other


@pytest.fixture
def two_lines(
    server: EmbeddedPostgres, two_lines_once: tuple[str, str, str], settings: Settings
) -> Iterator[tuple[Ledger, str, str]]:
    """A copy of that ledger, and the two lines."""
    name, line, other = two_lines_once
    with copied(server.url, "two_lines", name) as conninfo, working(conninfo, settings) as ledger:
        yield ledger, line, other


@pytest.mark.parametrize(
    "state",
    repeated(
        [
            b"{half",
            b'{"id": "LINE", "version": 1}',
            b'{"id": "LINE", "signals": {"a": {"signal": "sla_compliance", "status": "red",'
            b' "value": ' + b"[" * 100_000,
            b"",
            b"\xff\xfe",
            b"[]",
            b'{"id": 7}',
            b'{"id": "LIN-26-000404", "version": %d}' % (EVERY + 1),
            b'{"id": "LINE", "version": %d, "state": "asleep"}' % (EVERY + 1),
        ],
        3,
    ),
    ids=["half", "version", "depth", "empty", "bytes", "list", "type", "other", "enumeration"],
)
def test_a_snapshot_that_cannot_be_read_is_ignored_and_replaced(
    two_lines: tuple[Ledger, str, str], state: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    own_ledger, line, other = two_lines
    at_line = f"state = %s WHERE stream = '{line}'"
    spoil(own_ledger, at_line, state.replace(b"LINE", line.encode()))
    with process(own_ledger) as cold, caplog.at_level(logging.WARNING):
        # One read fetches the broken snapshot together with a sound snapshot.
        cold.accept(*check_ins(line, 1), *check_ins(other, 1))
        assert cold.decoded == EVERY + 1 + 3 + 4
        messages = [each.getMessage() for each in caplog.records if each.name == snapshots.__name__]
        assert [line in message for message in messages] == [True]
        for stream in (line, other):
            assert_same(cold.aggregate(stream), replayed(own_ledger, stream))
    with process(own_ledger) as cold:
        assert_same(cold.aggregate(line), replayed(own_ledger, line))
        assert cold.decoded == 0


def test_a_long_stream_without_a_snapshot_gets_a_snapshot_when_it_is_read(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line()
    fill(own_ledger, line, 2 * EVERY)
    assert own_ledger.rows("DELETE FROM ledger.snapshot RETURNING 1")
    assert_replaced(own_ledger, line)
    assert snapshot_versions(own_ledger) == {line: 2 * EVERY + 1}


# A trigger that fails the commit of every append with a snapshot.
NO_SNAPSHOT_COMMITS = """
CREATE FUNCTION forbid_snapshot() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'a snapshot was there'; END $$;
CREATE CONSTRAINT TRIGGER forbid AFTER INSERT OR UPDATE ON ledger.snapshot
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION forbid_snapshot()
"""


def test_an_append_that_is_rolled_back_leaves_no_snapshot(
    own_ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    line = own_ledger.line()
    fill(own_ledger, line, EVERY - 2)
    own_ledger.reader.execute(NO_SNAPSHOT_COMMITS)
    (outcome,) = submit(own_ledger.writer, *check_ins(line, 1))
    assert isinstance(outcome, Unavailable)
    assert "a snapshot was there" in caplog.text
    assert snapshot_versions(own_ledger) == {}
    assert length(own_ledger, line) == EVERY - 1

    own_ledger.reader.execute("DROP TRIGGER forbid ON ledger.snapshot")
    fill(own_ledger, line, 1)
    assert snapshot_versions(own_ledger) == {line: EVERY}
    with process(own_ledger) as cold:
        assert_same(cold.aggregate(line), replayed(own_ledger, line))


@pytest.mark.parametrize("rounds", repeated([8, 24]))
def test_two_writers_that_alternate_agree_with_the_replay(own_ledger: Ledger, rounds: int) -> None:
    line = own_ledger.line()
    chance = random.Random(7)
    with process(own_ledger) as first, process(own_ledger) as second:
        for _ in range(rounds):
            writer = chance.choice([first, second])
            writer.accept(*check_ins(line, chance.choice([1, 1, 20, 90, 250])))
            kind = chance.choice(["service_line.paused", "service_line.resumed"])
            writer.report(fact(kind, line))
            assert_same(writer.aggregate(line), replayed(own_ledger, line))
            assert all(v <= length(own_ledger, s) for s, v in snapshot_versions(own_ledger).items())
        assert_same(first.aggregate(line), second.aggregate(line))
    assert snapshot_versions(own_ledger).keys() == {line}
    assert check(own_ledger.conninfo).findings == []


@pytest.mark.parametrize("prefix", FAMILIES)
def test_a_changed_fold_needs_a_new_fold_version(prefix: str) -> None:
    kind, events = AGGREGATES[prefix], FAMILIES[prefix]
    digest = hashlib.sha256(msgspec.json.encode(_undescribed(msgspec.json.schema(kind))))
    samples = [body for body in (*BODIES, *GROWN_BODIES) if type(body) in events]
    for seed in range(60):
        aggregate = kind(prefix)
        chosen = random.Random(seed).choices(samples, k=12)
        for version, body in enumerate([*samples, *chosen] if seed == 0 else chosen, 1):
            aggregate.apply(_at(version, body))
            digest.update(msgspec.json.encode(aggregate))
    fold, digests = PINNED
    found = digest.hexdigest()[:16]
    assert (VERSION, found) == (fold, digests[prefix]), (
        f"The fold of {kind.__name__} or its fields changed, or a sample of its events. Is it the"
        " sample alone, of a new event that changes no kept field? Then pin the digest alone."
        " Otherwise snapshots made by the old fold would pass for snapshots of the new fold: raise"
        f" FOLD in engine/log/snapshots.py by one, then pin it with the digest {found!r}."
    )


def _at(version: int, body: Event) -> Recorded:
    recorded = envelope(body)
    at = recorded.occurred_at + timedelta(minutes=version * 7 % 5)
    return msgspec.structs.replace(recorded, originator_version=version, occurred_at=at)


def _undescribed(schema: Any) -> Any:
    """Return a schema without its docstrings, which do not affect what is stored."""
    if isinstance(schema, dict):
        return {k: _undescribed(v) for k, v in schema.items() if k != "description"}
    return [_undescribed(item) for item in schema] if isinstance(schema, list) else schema
