"""Snapshots: a long stream is read from its latest one, and nobody can tell but by the clock."""

import hashlib
import logging
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec
import psycopg
import pytest

from ledger.domain.api_key import API_KEY_EVENTS
from ledger.domain.errors import Unavailable
from ledger.domain.execution_events import EXECUTION_EVENTS, CheckInVoided, Closed
from ledger.domain.recorded import Event, Recorded
from ledger.domain.run import RUN_EVENTS
from ledger.log.snapshots import EVERY, FOLD, KINDS, keep, restore
from ledger.postgres.pipeline import Transaction
from tests.application.long_streams import (
    Chance,
    assert_same,
    check_ins,
    fill,
    kept,
    length,
    process,
    remembered,
    replayed,
    stored,
    submit,
)
from tests.golden.samples import BODIES, envelope
from tests.support.facts import fact
from tests.support.ledger import Ledger
from tests.support.log_checker import check
from tests.support.transactions import undone

PINNED = (3, "e3cc5e166647eb2b")
"""FOLD, and what the folds then made of every event."""

FAMILIES: dict[str, Sequence[type[Event]]] = {
    "LIN": EXECUTION_EVENTS,
    "RUN": RUN_EVENTS,
    "KEY": API_KEY_EVENTS,
}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_a_snapshot_leads_to_equals_what_the_whole_stream_tells(
    own_ledger: Ledger, seed: int
) -> None:
    chance = Chance(seed, own_ledger.line())
    for more in (EVERY + 1, 2 * EVERY + 90, 3 * EVERY - 7):
        chance.report(own_ledger, until=more)
        assert kept(own_ledger).keys() == {chance.line}
        with process(own_ledger) as cold:
            seen = cold.look(chance.line)
            assert cold.decoded < EVERY
        assert_same(seen, replayed(own_ledger, chance.line))
    # The workload is worth its while: everything but the end has happened.
    kinds = {type(recorded.body) for recorded in stored(own_ledger, chance.line)}
    assert kinds == set(EXECUTION_EVENTS) - {Closed, CheckInVoided}


@pytest.mark.parametrize("seed", [4, 5])
def test_every_state_on_the_way_comes_back_as_it_was(own_ledger: Ledger, seed: int) -> None:
    chance = Chance(seed, own_ledger.line())
    chance.report(own_ledger, until=EVERY - 1)
    aggregate = KINDS["LIN"](chance.line)
    with undone(own_ledger.conninfo) as transaction:
        for recorded in stored(own_ledger, chance.line):
            aggregate.evolve(recorded)
            keep(transaction, [aggregate])
            again = restore(*kept_row(transaction))
            assert again is not None
            assert_same(again, aggregate)
            assert_same(remembered(again), aggregate)


def kept_row(transaction: Transaction) -> tuple[Any, ...]:
    """The only snapshot there is."""
    rows = transaction.cursor().execute("SELECT stream, version, state FROM ledger.snapshot")
    (row,) = rows.fetchall()
    return row


def test_runs_and_keys_would_come_back_too(own_ledger: Ledger) -> None:
    run = own_ledger.run(own_ledger.line())
    own_ledger.accept(fact("run.completed", run, {"tokens_used": 7}))
    with undone(own_ledger.conninfo) as transaction:
        keep(transaction, [replayed(own_ledger, run)])
        again = restore(*kept_row(transaction))
    assert again is not None
    assert_same(again, replayed(own_ledger, run))
    assert_same(remembered(again), replayed(own_ledger, run))


def test_a_process_that_does_not_know_a_long_stream_reads_only_its_end(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    for _ in range(13):
        fill(own_ledger, line, EVERY // 2 + 3)
    with process(own_ledger) as cold:
        assert cold.look(line).version == 13 * (EVERY // 2 + 3) + 1
        assert 0 < cold.decoded < EVERY


def test_a_process_that_has_not_seen_a_stream_for_long_does_too(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    with process(own_ledger) as behind:
        assert behind.look(line).version == 1
        for _ in range(3):
            fill(own_ledger, line, 2 * EVERY - 60)
        before = behind.decoded
        assert_same(behind.look(line), replayed(own_ledger, line))
        assert behind.decoded - before < EVERY


def test_a_process_that_is_up_to_date_reads_nothing(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    fill(own_ledger, line, 3 * EVERY)
    with process(own_ledger) as cold:
        cold.look(line)
        before = cold.decoded
        for _ in range(3):
            cold.accept(*check_ins(line, 5))
        assert cold.decoded == before


def test_snapshots_are_written_where_a_stream_passes_a_round_version(own_ledger: Ledger) -> None:
    line, short = own_ledger.line(), own_ledger.line()
    run = own_ledger.run(short)
    expected: dict[str, int] = {}
    version = 1
    for size in (EVERY - 2, 1, 1, EVERY - 3, 1, 1, 1, 2 * EVERY + 50, 7, EVERY - 58, 1):
        fill(own_ledger, line, size)
        if (version + size) // EVERY > version // EVERY:
            expected[line] = version + size
        version += size
        assert kept(own_ledger) == expected
    own_ledger.accept(fact("run.completed", run))
    assert kept(own_ledger).keys() == {line}


def test_no_snapshot_can_stand_beyond_its_stream(own_ledger: Ledger) -> None:
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
    """A process ignores the snapshot there is, and leaves a good one, even if it is refused."""
    with process(ledger) as cold:
        assert_same(cold.look(line), replayed(ledger, line))
        assert cold.decoded == len(stored(ledger, line))
    with process(ledger) as next_one:
        assert_same(next_one.look(line), replayed(ledger, line))
        assert next_one.decoded == 0
        next_one.accept(*check_ins(line, 1))
    assert check(ledger.conninfo).findings == []


@pytest.mark.parametrize("fold", [FOLD - 1, FOLD + 1])
def test_a_snapshot_of_another_fold_is_ignored_and_replaced(own_ledger: Ledger, fold: int) -> None:
    line = own_ledger.line()
    fill(own_ledger, line, EVERY)
    state = msgspec.json.encode({"id": line, "version": EVERY + 1, "workspace_id": "WS-26-000404"})
    spoil(own_ledger, "fold = %s, state = %s", fold, state)
    assert_replaced(own_ledger, line)
    assert own_ledger.rows("SELECT fold FROM ledger.snapshot") == [{"fold": FOLD}]


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"{half",
        b"\xff\xfe",
        b"[]",
        b'{"id": 7}',
        b'{"id": "LIN-26-000404", "version": %d}' % (EVERY + 1),
        b'{"id": "LINE", "version": 1}',
        b'{"id": "LINE", "version": %d, "state": "asleep"}' % (EVERY + 1),
        b'{"id": "LINE", "signals": {"a": {"signal": "sla_compliance", "status": "red", "value": '
        + b"[" * 100_000,
    ],
    ids=["empty", "half", "bytes", "list", "type", "other", "version", "enumeration", "depth"],
)
def test_a_snapshot_that_cannot_be_read_is_ignored_and_replaced(
    own_ledger: Ledger, state: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    line, other = own_ledger.line(), own_ledger.line()
    fill(own_ledger, line, EVERY)
    spoil(own_ledger, "state = %s", state.replace(b"LINE", line.encode()))
    fill(own_ledger, other, EVERY + 30)
    fill(own_ledger, line, 3)
    fill(own_ledger, other, 4)
    with process(own_ledger) as cold, caplog.at_level(logging.WARNING):
        # In one read with a sound one.
        cold.accept(*check_ins(line, 1), *check_ins(other, 1))
        assert cold.decoded == EVERY + 1 + 3 + 4
        assert [line in record.getMessage() for record in caplog.records] == [True]
        for stream in (line, other):
            assert_same(cold.look(stream), replayed(own_ledger, stream))
    with process(own_ledger) as cold:
        assert_same(cold.look(line), replayed(own_ledger, line))
        assert cold.decoded == 0


def test_streams_that_are_long_already_get_a_snapshot_when_they_are_read(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line()
    fill(own_ledger, line, 2 * EVERY)
    assert own_ledger.rows("DELETE FROM ledger.snapshot RETURNING 1")
    assert_replaced(own_ledger, line)
    assert kept(own_ledger) == {line: 2 * EVERY + 1}


# Lets no append commit that holds a snapshot.
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
    assert kept(own_ledger) == {}
    assert length(own_ledger, line) == EVERY - 1

    own_ledger.reader.execute("DROP TRIGGER forbid ON ledger.snapshot")
    fill(own_ledger, line, 1)
    assert kept(own_ledger) == {line: EVERY}
    with process(own_ledger) as cold:
        assert_same(cold.look(line), replayed(own_ledger, line))


def test_two_writers_in_turn_stay_right(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    chance = random.Random(7)
    with process(own_ledger) as one, process(own_ledger) as two:
        for _ in range(24):
            writer = chance.choice([one, two])
            writer.accept(*check_ins(line, chance.choice([1, 1, 20, 90, 250])))
            kind = chance.choice(["service_line.paused", "service_line.resumed"])
            writer.report(fact(kind, line))
            assert_same(writer.look(line), replayed(own_ledger, line))
            assert all(v <= length(own_ledger, s) for s, v in kept(own_ledger).items())
        assert_same(one.look(line), two.look(line))
    assert check(own_ledger.conninfo).findings == []


def test_the_number_of_the_folds_is_raised_with_every_change_of_them() -> None:
    digest = hashlib.sha256()
    for prefix, events in FAMILIES.items():
        digest.update(msgspec.json.encode(_undescribed(msgspec.json.schema(KINDS[prefix]))))
        samples = [body for body in BODIES if type(body) in events]
        for seed in range(60):
            aggregate = KINDS[prefix](prefix)
            chosen = random.Random(seed).choices(samples, k=12)
            for version, body in enumerate([*samples, *chosen] if seed == 0 else chosen, 1):
                aggregate.evolve(_at(version, body))
                digest.update(msgspec.json.encode(aggregate))
    assert (FOLD, digest.hexdigest()[:16]) == PINNED, (
        "A fold of Execution, Run or ApiKey changed, or a field of theirs, or a sample event. "
        "Snapshots made by the old fold would be taken for the new one's: raise FOLD in "
        "src/ledger/log/snapshots.py by one, then pin the pair here. (If it is only a sample "
        "that changed, pin the digest alone.)"
    )


def _at(version: int, body: Event) -> Recorded:
    recorded = envelope(body)
    at = recorded.occurred_at + timedelta(minutes=version * 7 % 5)
    return msgspec.structs.replace(recorded, originator_version=version, occurred_at=at)


def _undescribed(schema: Any) -> Any:
    """Without docstrings, which change nothing."""
    if isinstance(schema, dict):
        return {k: _undescribed(v) for k, v in schema.items() if k != "description"}
    return [_undescribed(item) for item in schema] if isinstance(schema, list) else schema
