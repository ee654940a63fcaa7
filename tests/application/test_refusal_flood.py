"""A flood of refused writes is recorded up to a number a day; the rest is counted and told."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any

import pytest

from ledger.application.carry_out import TellOmitted
from ledger.application.command import Command, OwnCommand
from ledger.application.commands.lines import Pause
from ledger.application.housekeeper import Housekeeper
from ledger.application.report import ReportFact
from ledger.application.unit import Unit
from ledger.application.writer import Writer
from ledger.domain.errors import InvalidState, NotFound
from ledger.domain.refusals import DAILY, stream_of
from ledger.intake.principal import HOUSEKEEPER, Principal
from ledger.intake.request import IdempotencyKey, Receipt
from ledger.service.composition.writing import writing
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.ledger import REPORTER, STRANGER, Ledger, instant
from tests.support.racers import parsed

UNKNOWN = "LIN-26-999999"
BATCH = 1_000


@pytest.fixture
def flooded(own_ledger: Ledger) -> Ledger:
    """A ledger in which a credential has had as many refusals recorded as there is room for."""
    flood(own_ledger, DAILY)
    return own_ledger


def flood(ledger: Ledger, count: int, by: Principal = REPORTER) -> None:
    flood_through(ledger.writer, count, by)


def flood_through(writer: Writer, count: int, by: Principal = REPORTER) -> None:
    """So many refused facts, in batches."""
    for size in [BATCH] * (count // BATCH) + [count % BATCH]:
        pauses = [fact("service_line.paused", UNKNOWN) for _ in range(size)]
        outcomes = writer.submit(commands(pauses, by)).result(20)
        assert {type(outcome) for outcome in outcomes} <= {NotFound}


def commands(events: Sequence[dict[str, Any]], by: Principal = REPORTER) -> list[Command]:
    return [ReportFact(parsed(event), by) for event in events]


def recorded(ledger: Ledger, by: Principal = REPORTER) -> int:
    return topics(ledger, by).count("write.refused")


def topics(ledger: Ledger, by: Principal = REPORTER) -> list[str]:
    rows = ledger.rows(
        "SELECT topic FROM ledger.ledger_events WHERE originator_id = %s ORDER BY notification_id",
        stream_of(by.id),
    )
    return [row["topic"].split("/")[0] for row in rows]


def told(ledger: Ledger, by: Principal = REPORTER) -> list[dict[str, Any]]:
    """What was said about refusals that were only counted."""
    rows = ledger.events(stream_of(by.id))
    return [row["state"] for row in rows if row["topic"].startswith("write.refusals_omitted")]


def counted(ledger: Ledger) -> list[tuple[str, int, datetime]]:
    rows = ledger.rows("SELECT credential, count, since FROM ledger.refusals_omitted")
    return [(row["credential"], row["count"], row["since"]) for row in rows]


@contextlib.contextmanager
def housekeeping(ledger: Ledger) -> Iterator[Housekeeper]:
    housekeeper = Housekeeper(ledger.conninfo, ledger.writer, ledger.clock)
    try:
        yield housekeeper
    finally:
        housekeeper._disconnect()


def test_beyond_the_days_number_the_log_no_longer_grows_and_the_rest_is_counted(
    flooded: Ledger,
) -> None:
    assert (recorded(flooded), counted(flooded)) == (DAILY, [])
    (size,) = flooded.rows("SELECT count(*) FROM ledger.ledger_events")
    began = flooded.clock.now
    flood(flooded, 2_050)
    assert flooded.pause(UNKNOWN).refusal == (404, "not_found")
    assert flooded.rows("SELECT count(*) FROM ledger.ledger_events") == [size]
    ((credential, count, since),) = counted(flooded)
    assert (credential, count) == (REPORTER.id, 2_051)
    assert since - began < timedelta(seconds=1)


def test_the_number_is_kept_within_one_batch(own_ledger: Ledger) -> None:
    flood(own_ledger, DAILY - 400)
    (item,) = own_ledger.report(activation("LIN-26-000001"))
    flood(own_ledger, BATCH)
    assert item.outcome == "recorded"
    assert recorded(own_ledger) == DAILY
    assert [count for _, count, _ in counted(own_ledger)] == [600]


def test_accepted_writes_of_a_flooding_credential_are_recorded_as_ever(flooded: Ledger) -> None:
    line = flooded.line()
    items = flooded.report(
        fact("service_line.resumed", line), fact("service_line.paused", line),
        fact("service_line.paused", line),
    )  # fmt: skip
    assert [item.outcome for item in items] == ["refused", "recorded", "refused"]
    assert [count for _, count, _ in counted(flooded)] == [2]
    assert recorded(flooded) == DAILY


def test_another_credential_is_not_affected(flooded: Ledger) -> None:
    flood(flooded, 10)
    flood(flooded, 7, STRANGER)
    assert recorded(flooded, STRANGER) == 7
    assert [(credential, count) for credential, count, _ in counted(flooded)] == [(REPORTER.id, 10)]


def test_the_next_day_they_are_recorded_singly_again(flooded: Ledger) -> None:
    flood(flooded, 5)
    flooded.clock.advance(days=1)
    flood(flooded, 3)
    assert recorded(flooded) == DAILY + 3
    assert [count for _, count, _ in counted(flooded)] == [5]


def test_it_is_said_since_when_they_are_counted(flooded: Ledger) -> None:
    line, ticks = flooded.line(), itertools.count()

    def clock() -> datetime:
        return flooded.clock.now + timedelta(seconds=next(ticks))

    with writing(flooded.settings, flooded.conninfo, clock) as writer:
        group = [fact("execution.checked_in", line), *[fact("service_line.resumed", line)] * 20]
        assert len(writer.submit(commands(group)).result(20)) == 21
    ((_, count, since),) = counted(flooded)
    (last,) = flooded.rows("SELECT max(recorded_at) AS at FROM ledger.ledger_events")
    assert count == 20
    assert timedelta(0) < since - last["at"] <= timedelta(seconds=1), "the first of them"


def test_what_is_only_counted_is_not_kept_under_a_key_either(flooded: Ledger) -> None:
    line = flooded.line()

    def pause(name: str) -> Any:
        key = IdempotencyKey(REPORTER.id, f"/v1/execution/{line}/pause", name, b"f")
        return flooded.writer.execute(Pause(line, REPORTER, reason="x", idempotency=key))

    first, *refused = (pause(name) for name in "abcd")
    kept = flooded.rows("SELECT key FROM ledger.idempotency")
    assert (first.replayed, kept) == (False, [{"key": "a"}])
    assert [type(outcome) for outcome in refused] == [InvalidState] * 3
    assert pause("a").event_ids == first.event_ids
    flooded.clock.advance(days=1)
    pause("e")
    assert flooded.rows("SELECT key FROM ledger.idempotency WHERE key = 'e'")


# Told once.


def test_after_a_minute_the_housekeeper_tells_how_many_they_were(flooded: Ledger) -> None:
    flood(flooded, 40)
    ((_, _, since),) = counted(flooded)
    with housekeeping(flooded) as housekeeper:
        assert (housekeeper.run_once(), told(flooded)) == (0, [])
        flooded.clock.advance(seconds=50)
        flood(flooded, 2)
        assert (housekeeper.run_once(), told(flooded)) == (0, [])
        flooded.clock.advance(seconds=11)
        assert housekeeper.run_once() == 1
        (event,) = told(flooded)
        assert housekeeper.run_once() == 0
    assert event["body"]["count"] == 42
    assert instant(event["body"]["since"]) == since
    assert (event["organization_id"], event.get("workspace_id")) == (ORGANIZATION, None)
    assert event["actor"] == {"type": "system", "id": HOUSEKEEPER.id}
    assert event["reported_by"] == HOUSEKEEPER.id
    assert counted(flooded) == []
    assert told(flooded) == [event]


def test_each_flood_is_told_for_itself_and_none_makes_room(flooded: Ledger) -> None:
    with housekeeping(flooded) as housekeeper:
        for count in (3, 5):
            flood(flooded, count)
            flooded.clock.advance(minutes=2)
            housekeeper.run_once()
        flood(flooded, 1)
    assert [event["body"]["count"] for event in told(flooded)] == [3, 5]
    assert [count for _, count, _ in counted(flooded)] == [1]
    assert recorded(flooded) == DAILY


def test_two_housekeepers_tell_it_once(flooded: Ledger) -> None:
    flood(flooded, 9)
    flooded.clock.advance(minutes=2)
    with beside(flooded) as other:
        tellings = [TellOmitted(REPORTER.id) for _ in range(2)]
        futures = [writer.submit(tellings) for writer in (flooded.writer, other)]
        outcomes = [outcome for future in futures for outcome in future.result(20)]
    assert sum(isinstance(outcome, Receipt) for outcome in outcomes) == 1
    assert [event["body"]["count"] for event in told(flooded)] == [9]


class Breaks(OwnCommand):
    """A command with a bug in it: its group is rolled back, and carried out one by one."""

    def decide(self, unit: Unit) -> Receipt:
        raise RuntimeError("nobody thought of this")


def test_a_group_that_fails_counts_nothing_twice_and_loses_no_count(
    flooded: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    line = flooded.line()
    again = [fact("service_line.resumed", line) for _ in range(3)]
    in_one_group(flooded, [*commands(again), Breaks(REPORTER)])
    assert [count for _, count, _ in counted(flooded)] == [3]
    in_one_group(flooded, [TellOmitted(REPORTER.id), Breaks(REPORTER)])
    assert [event["body"]["count"] for event in told(flooded)] == [3]
    assert counted(flooded) == []
    caplog.clear()  # the groups were meant to


def in_one_group(ledger: Ledger, group: Sequence[Command]) -> None:
    assert len(ledger.writer.submit(group).result(20)) == len(group)


# Several processes.


def test_processes_that_share_a_credential_keep_one_count(own_ledger: Ledger) -> None:
    flood(own_ledger, DAILY - 3_000)
    with contextlib.ExitStack() as stack:
        writers = [own_ledger.writer, *(stack.enter_context(beside(own_ledger)) for _ in "ab")]
        others = stack.enter_context(ThreadPoolExecutor())
        assert list(others.map(lambda one: flood_through(one, 2_050), writers)) == [None] * 3
    assert recorded(own_ledger) == DAILY
    assert [count for _, count, _ in counted(own_ledger)] == [3 * 2_050 - 3_000]


def test_a_process_that_begins_anew_goes_on_counting(flooded: Ledger) -> None:
    flood(flooded, 4)
    with beside(flooded) as successor:
        flood_through(successor, 6)
    assert recorded(flooded) == DAILY
    assert [count for _, count, _ in counted(flooded)] == [10]


def beside(ledger: Ledger) -> AbstractContextManager[Writer]:
    """The writer of another process: with nothing in its memory."""
    return writing(ledger.settings, ledger.conninfo, ledger.clock)
