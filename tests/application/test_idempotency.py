"""A command that is sent again under its key finds its first outcome (contract 7), below HTTP."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from ledger.application.command import OwnCommand
from ledger.application.commands.lines import Pause, Resume
from ledger.application.housekeeper import Housekeeper
from ledger.application.idempotency import KEPT_FOR
from ledger.application.unit import Unit
from ledger.domain.errors import Invalid, LedgerError, Refused
from ledger.intake.principal import Principal
from ledger.intake.request import IdempotencyKey, Receipt
from ledger.log.side_tables import DROP_EXPIRED
from ledger.service.composition.writing import writing
from tests.support.ledger import NARROW, REPORTER, STRANGER, Ledger, new_id
from tests.support.views import query, until

FIRST, OTHER = b"1" * 32, b"2" * 32
WRONG = Invalid("The request is not valid.", (("/reason", "too long"), ("/x", "not known")))


def key(line: str, name: str = "k", fingerprint: bytes = FIRST, by: Principal = REPORTER) -> Any:
    return IdempotencyKey(by.id, f"/v1/execution/{line}/pause", name, fingerprint)


def pause(line: str, name: str = "k", fingerprint: bytes = FIRST, **more: Any) -> Pause:
    """A pause under a key."""
    by = more.pop("by", REPORTER)
    sent = key(line, name, fingerprint, by)
    return Pause(line, by, reason="x", idempotency=sent, **more)


def sent(ledger: Ledger, command: Pause) -> Any:
    return ledger.writer.execute(command)


def shown(outcome: Any) -> tuple[Any, ...]:
    """What a caller is told."""
    if isinstance(outcome, Receipt):
        return outcome.subject, outcome.event_ids, outcome.position
    assert isinstance(outcome, LedgerError)
    return outcome.code, outcome.detail, getattr(outcome, "errors", None), type(outcome)


def kept(ledger: Ledger) -> int:
    return len(ledger.rows("SELECT 1 FROM ledger.idempotency"))


def end(ledger: Ledger) -> int:
    return int(ledger.rows("SELECT max(notification_id) AS p FROM ledger.ledger_events")[0]["p"])


# What is replayed.


def test_a_command_that_was_carried_out_is_not_carried_out_again(ledger: Ledger) -> None:
    line = ledger.line()
    first = sent(ledger, pause(line))
    ledger.resume(line)
    before = end(ledger)
    again = sent(ledger, pause(line))
    assert (shown(again), first.replayed, again.replayed) == (shown(first), False, True)
    assert end(ledger) == before
    assert ledger.detail(line)["state"] == "running"


@pytest.mark.parametrize("status", [409, 422])
def test_a_409_and_a_422_are_replayed_though_they_would_be_accepted_now(
    ledger: Ledger, status: int
) -> None:
    line = ledger.line()
    fault = WRONG if status == 422 else None
    ledger.pause(line)
    first = sent(ledger, pause(line, fault=fault))
    ledger.resume(line)
    before = end(ledger)
    again = sent(ledger, pause(line))
    assert isinstance(again, Refused)
    assert (shown(again), first.replayed, again.replayed) == (shown(first), False, True)
    assert end(ledger) == before, "neither an event nor a second record"


def test_a_404_is_judged_anew(ledger: Ledger) -> None:
    line, before = new_id("LIN"), kept(ledger)
    assert sent(ledger, pause(line)).code == "not_found"
    assert kept(ledger) == before
    ledger.line(line=line)
    assert isinstance(sent(ledger, pause(line)), Receipt)


def test_another_request_under_the_key_is_a_mistake_that_is_recorded_but_not_kept(
    ledger: Ledger,
) -> None:
    line = ledger.line()
    first = sent(ledger, pause(line))
    before = end(ledger)
    for _ in range(2):
        assert sent(ledger, pause(line, fingerprint=OTHER)).code == "idempotency_key_reused"
    records = ledger.events(f"REF-{REPORTER.id}", after=before)
    assert [r["state"]["body"]["code"] for r in records] == ["idempotency_key_reused"] * 2
    assert end(ledger) == before + 2
    assert shown(sent(ledger, pause(line))) == shown(first)


def test_each_credential_path_and_key_stands_for_itself(ledger: Ledger) -> None:
    line, other = ledger.line(workspace_id="WS-26-000002"), ledger.line()
    assert isinstance(sent(ledger, pause(line)), Receipt)
    for command in (
        pause(line, "K"), pause(line, "k "), pause(line, by=NARROW),
        Pause(line, REPORTER, reason="x", idempotency=key(other)),
    ):  # fmt: skip
        outcome = sent(ledger, command)
        assert (outcome.code, outcome.replayed) == ("invalid_state", False)
    assert sent(ledger, pause(line, by=STRANGER)).code == "not_found"


def test_a_key_holds_within_one_group(ledger: Ledger) -> None:
    line = ledger.line()
    group = [
        pause(line), pause(line), pause(line, fingerprint=OTHER), Resume(line, REPORTER, reason=""),
        pause(line),
    ]  # fmt: skip
    outcomes = ledger.writer.submit(group).result(20)
    first, twin, other, _, late = outcomes
    assert shown(first) == shown(twin) == shown(late)
    assert [outcome.replayed for outcome in (first, twin, late)] == [False, True, True]
    assert isinstance(other, Refused)
    assert other.code == "idempotency_key_reused"


# For a day.


def test_it_is_kept_for_24_hours_and_not_longer(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    first = sent(own_ledger, pause(line))
    own_ledger.clock.advance(hours=24, microseconds=-2)
    assert sent(own_ledger, pause(line)).replayed
    own_ledger.clock.advance(microseconds=3)
    late = sent(own_ledger, pause(line, fingerprint=OTHER))
    assert (late.code, late.replayed) == ("invalid_state", False)
    assert kept(own_ledger) == 1, "the new one has taken the old one's place"
    assert shown(sent(own_ledger, pause(line, fingerprint=OTHER))) == shown(late) != shown(first)


@contextmanager
def housekeeping(ledger: Ledger) -> Iterator[Housekeeper]:
    housekeeper = Housekeeper(ledger.conninfo, ledger.writer, ledger.clock)
    try:
        yield housekeeper
    finally:
        housekeeper._disconnect()


def test_the_housekeeper_drops_those_that_have_expired_and_no_other(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    for name in "abc":
        sent(own_ledger, pause(line, name))
    own_ledger.clock.advance(hours=12)
    young = sent(own_ledger, pause(line, "young"))
    with housekeeping(own_ledger) as housekeeper:
        assert (housekeeper.run_once(), kept(own_ledger)) == (0, 4)
        own_ledger.clock.advance(hours=12, seconds=1)
        assert (housekeeper.run_once(), kept(own_ledger)) == (3, 1)
    assert shown(sent(own_ledger, pause(line, "young"))) == shown(young)


def test_an_outcome_that_is_replaced_while_its_predecessor_is_dropped_stays(
    own_ledger: Ledger,
) -> None:
    ledger = own_ledger
    line = ledger.line()
    sent(ledger, pause(line))
    ledger.clock.advance(hours=25)
    expired = {"until": ledger.clock.now - KEPT_FOR, "limit": 10}
    with ThreadPoolExecutor() as other, psycopg.connect(ledger.conninfo) as replacing:
        replacing.execute("UPDATE ledger.idempotency SET recorded_at = %s", (ledger.clock.now,))
        dropping = other.submit(dropped, ledger.conninfo, DROP_EXPIRED, expired)
        until(lambda: query(ledger.conninfo, _WAITING), "the housekeeper to wait")
        replacing.commit()
        assert dropping.result(20) == 0
    assert kept(ledger) == 1


_WAITING = """
SELECT 1 FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE NOT l.granted AND a.datname = current_database() AND a.query LIKE '%DELETE%'
"""


def dropped(conninfo: str, statement: str, expired: dict[str, Any]) -> int:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return connection.execute(statement.encode(), expired).rowcount


# Together with the event, and with it alone.


def test_an_outcome_is_kept_in_its_events_own_transaction(ledger: Ledger) -> None:
    line = ledger.line()
    outcome = sent(ledger, pause(line))
    rows = ledger.rows(
        "SELECT xmin::text FROM ledger.ledger_events WHERE notification_id = %s UNION ALL"
        " SELECT xmin::text FROM ledger.idempotency WHERE path = %s",
        outcome.position,
        key(line).path,
    )
    assert len(rows) == 2
    assert rows[0] == rows[1]


class Breaks(OwnCommand):
    """A command with a bug in it: its group is rolled back, and carried out one by one."""

    def decide(self, unit: Unit) -> Receipt:
        raise RuntimeError("nobody thought of this")


def test_a_group_that_fails_keeps_nothing_of_its_first_try(
    ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    line, before = ledger.line(), end(ledger)
    outcomes = ledger.writer.submit([pause(line), Breaks(REPORTER), pause(line)]).result(20)
    first, _, twin = outcomes
    assert isinstance(first, Receipt)
    assert (shown(twin), first.replayed) == (shown(first), False)
    assert len(ledger.events(line, after=before)) == 1
    caplog.clear()  # the group was meant to


def test_nothing_of_a_kept_outcome_can_be_read(own_ledger: Ledger) -> None:
    line = own_ledger.line()
    secret = Invalid("Kanarienvogel", (("/Kanarienvogel", "Kanarienvogel"),))
    outcome = sent(own_ledger, pause(line, "a"))
    sent(own_ledger, pause(line, "b", fault=secret))
    (first, second) = own_ledger.rows("SELECT outcome FROM ledger.idempotency ORDER BY key")
    stored = bytes(first["outcome"]) + bytes(second["outcome"])
    for word in ("Kanarienvogel", line, outcome.event_ids[0], "receipt", "invalid_request"):
        assert word.encode() not in stored
    with pytest.raises(ValueError):
        json.loads(first["outcome"])
    # And it opens for its own key alone.
    assert own_ledger.rows(
        "UPDATE ledger.idempotency AS i SET outcome = o.outcome, fingerprint = o.fingerprint"
        " FROM ledger.idempotency AS o WHERE i.key = 'a' AND o.key = 'b' RETURNING 1"
    )
    assert sent(own_ledger, pause(line, "a")).code == "unavailable"
    assert isinstance(sent(own_ledger, pause(own_ledger.line(), "c")), Receipt)


# Twins.

WRITERS, KEYS, TWINS = 3, 12, 6


def test_twins_in_flight_on_several_writers_are_one_command(own_ledger: Ledger) -> None:
    lines = [own_ledger.line() for _ in range(KEYS)]
    before, gate = end(own_ledger), threading.Barrier(WRITERS)

    def send(writer: Any) -> list[tuple[str, Any]]:
        gate.wait(20)
        futures = [
            (line, writer.submit([pause(line, fault=WRONG if number % 3 == 0 else None)]))
            for _ in range(TWINS)
            for number, line in enumerate(lines)
        ]
        return [(line, future.result(20)[0]) for line, future in futures]

    with ExitStack() as stack:
        settings, conninfo, clock = own_ledger.settings, own_ledger.conninfo, own_ledger.clock
        writers = [stack.enter_context(writing(settings, conninfo, clock)) for _ in range(WRITERS)]
        others = stack.enter_context(ThreadPoolExecutor())
        outcomes = [one for found in others.map(send, writers) for one in found]
    for number, line in enumerate(lines):
        of_line = [outcome for name, outcome in outcomes if name == line]
        assert len({shown(outcome) for outcome in of_line}) == 1
        assert [outcome.replayed for outcome in of_line].count(False) == 1
        events = own_ledger.events(line, after=before)
        assert len(events) == (0 if number % 3 == 0 else 1)
    refused = sum(number % 3 == 0 for number in range(KEYS))
    assert len(own_ledger.events(f"REF-{REPORTER.id}", after=before)) == refused


def test_a_day_is_what_is_promised() -> None:
    assert timedelta(hours=24) == KEPT_FOR
