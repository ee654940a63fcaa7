"""A command repeated under its idempotency key finds its first outcome (contract, Access)."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from ledger.app.composition.writing import writing
from ledger.engine.values.errors import Invalid, LedgerError, Refused
from ledger.engine.values.principal import Principal
from ledger.engine.writer.command import OwnCommand
from ledger.engine.writer.group import RETENTION, Group
from ledger.engine.writer.housekeeper import DROP_EXPIRED, Housekeeper
from ledger.engine.writer.request import IdempotencyKey, Receipt
from ledger.features.lines.commands.lines import Pause, Resume
from tests.support.ledger import NARROW, REPORTER, Ledger
from tests.support.views import led, query, until

FIRST, OTHER = b"1" * 32, b"2" * 32
WRONG = Invalid("The request is not valid.", (("/reason", "too long"), ("/x", "not known")))


def key(line: str, name: str = "k", fingerprint: bytes = FIRST, by: Principal = REPORTER) -> Any:
    return IdempotencyKey(by.id, f"/v1/execution/{line}/pause", name, fingerprint)


def pause(line: str, name: str = "k", fingerprint: bytes = FIRST, **more: Any) -> Pause:
    """A pause under a key."""
    by = more.pop("by", REPORTER)
    used = key(line, name, fingerprint, by)
    return Pause(line, by, reason="x", idempotency=used, **more)


def execute_pause(ledger: Ledger, command: Pause) -> Any:
    return ledger.writer.execute(command)


def summary_of(outcome: Any) -> tuple[Any, ...]:
    """The parts of an outcome that a caller sees."""
    if isinstance(outcome, Receipt):
        return outcome.subject, outcome.event_ids, outcome.position
    assert isinstance(outcome, LedgerError)
    return outcome.code, outcome.detail, getattr(outcome, "errors", None), type(outcome)


def count_outcomes(ledger: Ledger) -> int:
    return len(ledger.rows("SELECT 1 FROM ledger.idempotency"))


def last_position(ledger: Ledger) -> int:
    return int(ledger.rows("SELECT max(notification_id) AS p FROM ledger.ledger_events")[0]["p"])


# Replayed outcomes.


def test_an_idempotency_key_holds_within_one_group(ledger: Ledger) -> None:
    line = ledger.line()
    group = [
        pause(line), pause(line), pause(line, fingerprint=OTHER), Resume(line, REPORTER, reason=""),
        pause(line),
    ]  # fmt: skip
    outcomes = ledger.writer.submit(group).result(20)
    first, duplicate, other, _, late = outcomes
    assert summary_of(first) == summary_of(duplicate) == summary_of(late)
    assert [outcome.replayed for outcome in (first, duplicate, late)] == [False, True, True]
    assert isinstance(other, Refused)
    assert other.code == "idempotency_key_reused"


# Outcomes are kept for a day.


def test_an_outcome_is_stored_for_24_hours_and_not_longer(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    first = execute_pause(own_ledger, pause(line))
    own_ledger.clock.advance(hours=24, microseconds=-2)
    assert execute_pause(own_ledger, pause(line)).replayed
    own_ledger.clock.advance(microseconds=3)
    late = execute_pause(own_ledger, pause(line, fingerprint=OTHER))
    assert (late.code, late.replayed) == ("invalid_state", False)
    assert count_outcomes(own_ledger) == 1, "the new outcome has replaced the expired outcome"
    assert (
        summary_of(execute_pause(own_ledger, pause(line, fingerprint=OTHER)))
        == summary_of(late)
        != summary_of(first)
    )


@contextmanager
def housekeeping(ledger: Ledger) -> Iterator[Housekeeper]:
    session = led(ledger.conninfo, "housekeeper")
    housekeeper = Housekeeper(session, ledger.writer, ledger.clock, chores=())
    try:
        yield housekeeper
    finally:
        housekeeper.disconnect()


def test_the_housekeeper_drops_expired_outcomes_and_no_others(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    for name in "abc":
        execute_pause(own_ledger, pause(line, name))
    own_ledger.clock.advance(hours=12)
    young = execute_pause(own_ledger, pause(line, "young"))
    with housekeeping(own_ledger) as housekeeper:
        assert (housekeeper.run_once(), count_outcomes(own_ledger)) == (0, 4)
        own_ledger.clock.advance(hours=12, seconds=1)
        assert (housekeeper.run_once(), count_outcomes(own_ledger)) == (3, 1)
    assert summary_of(execute_pause(own_ledger, pause(line, "young"))) == summary_of(young)


def test_an_outcome_stays_if_it_replaces_an_expired_outcome_that_is_being_dropped(
    own_ledger: Ledger,
) -> None:
    ledger = own_ledger
    line = ledger.line()
    execute_pause(ledger, pause(line))
    ledger.clock.advance(hours=25)
    expired = {"until": ledger.clock.now - RETENTION, "limit": 10}
    with ThreadPoolExecutor() as other, psycopg.connect(ledger.conninfo) as replacing:
        replacing.execute("UPDATE ledger.idempotency SET recorded_at = %s", (ledger.clock.now,))
        dropping = other.submit(drop_expired, ledger.conninfo, DROP_EXPIRED, expired)
        until(lambda: query(ledger.conninfo, _DELETE_WAITS), "the housekeeper to wait")
        replacing.commit()
        assert dropping.result(20) == 0
    assert count_outcomes(ledger) == 1


_DELETE_WAITS = """
SELECT 1 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE NOT l.granted AND a.datname = current_database() AND a.query LIKE '%DELETE%'
"""


def drop_expired(conninfo: str, statement: str, expired: dict[str, Any]) -> int:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return connection.execute(statement.encode(), expired).rowcount


# An outcome is stored together with its event, or not at all.


def test_an_outcome_is_stored_in_the_transaction_of_its_event(ledger: Ledger) -> None:
    line = ledger.line()
    outcome = execute_pause(ledger, pause(line))
    rows = ledger.rows(
        "SELECT xmin::text FROM ledger.ledger_events WHERE notification_id = %s UNION ALL"
        " SELECT xmin::text FROM ledger.idempotency WHERE path = %s",
        outcome.position,
        key(line).path,
    )
    assert len(rows) == 2
    assert rows[0] == rows[1]


class Breaks(OwnCommand):
    """A command with a bug: its group is rolled back and carried out again, one by one."""

    def decide(self, group: Group) -> Receipt:
        raise RuntimeError("nobody thought of this")


def test_a_failed_group_keeps_no_outcome_of_its_first_attempt(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    line, before = ledger.line(), last_position(ledger)
    outcomes = ledger.writer.submit([pause(line), Breaks(REPORTER), pause(line)]).result(20)
    first, _, duplicate = outcomes
    assert isinstance(first, Receipt)
    assert (summary_of(duplicate), first.replayed) == (summary_of(first), False)
    assert len(ledger.events(line, after=before)) == 1
    caplog.clear()  # the group failed on purpose


def test_a_stored_outcome_is_encrypted_and_opens_for_its_own_credential_path_and_key_only(
    own_ledger: Ledger,
) -> None:
    line, other = own_ledger.line(workspace_id="WS-26-000002"), own_ledger.line()
    secret = Invalid("Kanarienvogel", (("/Kanarienvogel", "Kanarienvogel"),))
    outcome = execute_pause(own_ledger, pause(line, "a"))
    execute_pause(own_ledger, pause(line, "b", fault=secret))
    (first, second) = own_ledger.rows("SELECT outcome FROM ledger.idempotency ORDER BY key")
    stored = bytes(first["outcome"]) + bytes(second["outcome"])
    for word in ("Kanarienvogel", line, outcome.event_ids[0], "receipt", "invalid_request"):
        assert word.encode() not in stored
    with pytest.raises(ValueError):
        json.loads(first["outcome"])
    # The outcome of another key, credential or path does not open in the first one's place.
    execute_pause(own_ledger, pause(line, "a", by=NARROW))
    execute_pause(own_ledger, Pause(line, REPORTER, reason="x", idempotency=key(other, "a")))
    own = key(line, "a")
    for foreign in (key(line, "b"), key(line, "a", by=NARROW), key(other, "a")):
        assert own_ledger.rows(
            "UPDATE ledger.idempotency AS i SET outcome = o.outcome, fingerprint = o.fingerprint"
            " FROM ledger.idempotency AS o WHERE (i.credential, i.path, i.key) = (%s, %s, %s)"
            " AND (o.credential, o.path, o.key) = (%s, %s, %s) RETURNING 1",
            *(own.credential, own.path, own.key),
            *(foreign.credential, foreign.path, foreign.key),
        )
        assert execute_pause(own_ledger, pause(line, "a")).code == "unavailable"
    assert isinstance(execute_pause(own_ledger, pause(own_ledger.line(), "c")), Receipt)


# Concurrent duplicates.

WRITERS, KEYS, DUPLICATES = 3, 12, 6


def test_concurrent_duplicates_on_several_writers_are_one_command(own_ledger: Ledger) -> None:
    lines = [own_ledger.line() for _ in range(KEYS)]
    before, gate = last_position(own_ledger), threading.Barrier(WRITERS)

    def send(writer: Any) -> list[tuple[str, Any]]:
        gate.wait(20)
        futures = [
            (line, writer.submit([pause(line, fault=WRONG if number % 3 == 0 else None)]))
            for _ in range(DUPLICATES)
            for number, line in enumerate(lines)
        ]
        return [(line, future.result(20)[0]) for line, future in futures]

    with ExitStack() as stack:
        settings, conninfo, clock = own_ledger.settings, own_ledger.conninfo, own_ledger.clock
        writers = [stack.enter_context(writing(settings, conninfo, clock)) for _ in range(WRITERS)]
        others = stack.enter_context(ThreadPoolExecutor())
        outcomes = [pair for pairs in others.map(send, writers) for pair in pairs]
    for number, line in enumerate(lines):
        of_line = [outcome for name, outcome in outcomes if name == line]
        assert len({summary_of(outcome) for outcome in of_line}) == 1
        assert [outcome.replayed for outcome in of_line].count(False) == 1
        events = own_ledger.events(line, after=before)
        assert len(events) == (0 if number % 3 == 0 else 1)
    refused = sum(number % 3 == 0 for number in range(KEYS))
    assert len(own_ledger.events(f"REF-{REPORTER.id}", after=before)) == refused


def test_outcomes_are_stored_for_the_24_hours_of_the_contract() -> None:
    assert timedelta(hours=24) == RETENTION
