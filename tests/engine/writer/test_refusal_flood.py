"""Refused writes are recorded up to a daily limit; the rest is counted and reported."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from ledger.app.composition.writing import writing
from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.values.errors import InvalidState, NotFound
from ledger.engine.values.principal import HOUSEKEEPER, Principal
from ledger.engine.values.refusals import DAILY, stream_of
from ledger.engine.writer.command import Command
from ledger.engine.writer.housekeeper import TellOmitted
from ledger.engine.writer.request import IdempotencyKey, Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts.report import command_of
from ledger.features.lines.commands.lines import Pause
from tests.engine.writer.test_idempotency import Breaks, housekeeping
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import TEMPLATE, copied
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.ledger import REPORTER, STRANGER, Ledger, instant, working
from tests.support.racing_writers import parsed

UNKNOWN = "LIN-26-999999"
BATCH = 1_000


@contextmanager
def flooded_copy(
    server: EmbeddedPostgres, name: str, count: int, template: str = TEMPLATE
) -> Iterator[str]:
    """The name of a copy with ``count`` more refusals of a credential."""
    with copied(server.url, name, template) as conninfo:
        with working(conninfo, Settings(master_key=MASTER_KEY)) as ledger:
            flood(ledger, count)
        yield name


@pytest.fixture(scope="module")
def nearly_once(server: EmbeddedPostgres) -> Iterator[str]:
    """The name of a database in which a credential may be recorded 3,000 more refusals today."""
    with flooded_copy(server, "nearly_once", DAILY - 3_000) as name:
        yield name


@pytest.fixture
def nearly(server: EmbeddedPostgres, nearly_once: str, settings: Settings) -> Iterator[Ledger]:
    """A copy of the database ``nearly_once``."""
    with (
        copied(server.url, "nearly", nearly_once) as conninfo,
        working(conninfo, settings) as ledger,
    ):
        yield ledger


@pytest.fixture(scope="module")
def flooded_once(server: EmbeddedPostgres, nearly_once: str) -> Iterator[str]:
    """The name of a database in which a credential has reached its daily limit of refusals."""
    with flooded_copy(server, "flooded_once", 3_000, nearly_once) as name:
        yield name


@pytest.fixture
def flooded(server: EmbeddedPostgres, flooded_once: str, settings: Settings) -> Iterator[Ledger]:
    """A ledger in which a credential has reached its daily limit of recorded refusals."""
    with (
        copied(server.url, "flooded", flooded_once) as conninfo,
        working(conninfo, settings) as ledger,
    ):
        yield ledger


def flood(ledger: Ledger, count: int, by: Principal = REPORTER) -> None:
    flood_through(ledger.writer, count, by)


def flood_through(writer: Writer, count: int, by: Principal = REPORTER) -> None:
    """Report ``count`` facts that are refused, in batches."""
    for size in [BATCH] * (count // BATCH) + [count % BATCH]:
        pauses = [fact("service_line.paused", UNKNOWN) for _ in range(size)]
        outcomes = writer.submit(commands(pauses, by)).result(20)
        assert [type(outcome) for outcome in outcomes] == [NotFound] * size


def commands(events: Sequence[dict[str, Any]], by: Principal = REPORTER) -> list[Command]:
    return [command_of(parsed(event), by) for event in events]


def recorded(ledger: Ledger, by: Principal = REPORTER) -> int:
    return topics(ledger, by).count("write.refused")


def topics(ledger: Ledger, by: Principal = REPORTER) -> list[str]:
    rows = ledger.rows(
        "SELECT topic FROM ledger.ledger_events WHERE originator_id = %s ORDER BY notification_id",
        stream_of(by.id),
    )
    return [row["topic"].split("/")[0] for row in rows]


def omission_reports(ledger: Ledger, by: Principal = REPORTER) -> list[dict[str, Any]]:
    """The stored events that report omitted refusals."""
    rows = ledger.events(stream_of(by.id))
    return [row["state"] for row in rows if row["topic"].startswith("write.refusals_omitted")]


def omitted_counts(ledger: Ledger) -> list[tuple[str, int, datetime]]:
    rows = ledger.rows("SELECT credential, count, since FROM ledger.refusals_omitted")
    return [(row["credential"], row["count"], row["since"]) for row in rows]


def test_refusals_beyond_the_daily_limit_are_counted_and_do_not_grow_the_log(
    flooded: Ledger,
) -> None:
    assert (recorded(flooded), omitted_counts(flooded)) == (DAILY, [])
    (size,) = flooded.rows("SELECT count(*) FROM ledger.ledger_events")
    began = flooded.clock.now
    flood(flooded, 2_050)
    assert flooded.pause(UNKNOWN).refusal == (404, "not_found")
    assert flooded.rows("SELECT count(*) FROM ledger.ledger_events") == [size]
    ((credential, count, since),) = omitted_counts(flooded)
    assert (credential, count) == (REPORTER.id, 2_051)
    assert since - began < timedelta(seconds=1)


def test_the_daily_limit_holds_within_one_batch(nearly: Ledger) -> None:
    flood(nearly, 2_600)
    (item,) = nearly.report(activation("LIN-26-000001"))
    flood(nearly, BATCH)
    assert item.outcome == "recorded"
    assert recorded(nearly) == DAILY
    assert [count for _, count, _ in omitted_counts(nearly)] == [600]


def test_accepted_writes_of_a_flooding_credential_are_still_recorded(flooded: Ledger) -> None:
    line = flooded.line()
    items = flooded.report(
        fact("service_line.resumed", line), fact("service_line.paused", line),
        fact("service_line.paused", line),
    )  # fmt: skip
    assert [item.outcome for item in items] == ["refused", "recorded", "refused"]
    assert [count for _, count, _ in omitted_counts(flooded)] == [2]
    assert recorded(flooded) == DAILY


def test_a_flood_does_not_affect_another_credential(flooded: Ledger) -> None:
    flood(flooded, 10)
    flood(flooded, 7, STRANGER)
    assert recorded(flooded, STRANGER) == 7
    assert [(credential, count) for credential, count, _ in omitted_counts(flooded)] == [
        (REPORTER.id, 10)
    ]


def test_refusals_are_recorded_one_by_one_again_on_the_next_day(flooded: Ledger) -> None:
    flood(flooded, 5)
    flooded.clock.advance(days=1)
    flood(flooded, 3)
    assert recorded(flooded) == DAILY + 3
    assert [count for _, count, _ in omitted_counts(flooded)] == [5]


def test_the_count_of_omitted_refusals_says_since_when_it_counts(flooded: Ledger) -> None:
    line, ticks = flooded.line(), itertools.count()

    def clock() -> datetime:
        return flooded.clock.now + timedelta(seconds=next(ticks))

    with writing(flooded.settings, flooded.conninfo, clock) as writer:
        group = [fact("execution.checked_in", line), *[fact("service_line.resumed", line)] * 20]
        assert len(writer.submit(commands(group)).result(20)) == 21
    ((_, count, since),) = omitted_counts(flooded)
    (last,) = flooded.rows("SELECT max(recorded_at) AS at FROM ledger.ledger_events")
    assert count == 20
    assert timedelta(0) < since - last["at"] <= timedelta(seconds=1), (
        "the instant of the first omitted refusal"
    )


def test_an_omitted_refusal_is_not_stored_under_its_idempotency_key(flooded: Ledger) -> None:
    line = flooded.line()

    def pause(name: str) -> Any:
        key = IdempotencyKey(REPORTER.id, f"/v1/execution/{line}/pause", name, b"f")
        return flooded.writer.execute(Pause(line, REPORTER, reason="x", idempotency=key))

    first, *refused = (pause(name) for name in "abcd")
    keys = flooded.rows("SELECT key FROM ledger.idempotency")
    assert (first.replayed, keys) == (False, [{"key": "a"}])
    assert [type(outcome) for outcome in refused] == [InvalidState] * 3
    assert pause("a").event_ids == first.event_ids
    flooded.clock.advance(days=1)
    pause("e")
    assert flooded.rows("SELECT key FROM ledger.idempotency WHERE key = 'e'")


# Omitted refusals are reported once.


def test_the_housekeeper_reports_the_number_of_omitted_refusals_after_a_minute(
    flooded: Ledger,
) -> None:
    flood(flooded, 40)
    ((_, _, since),) = omitted_counts(flooded)
    with housekeeping(flooded) as housekeeper:
        assert (housekeeper.run_once(), omission_reports(flooded)) == (0, [])
        flooded.clock.advance(seconds=50)
        flood(flooded, 2)
        assert (housekeeper.run_once(), omission_reports(flooded)) == (0, [])
        flooded.clock.advance(seconds=11)
        assert housekeeper.run_once() == 1
        (event,) = omission_reports(flooded)
        assert housekeeper.run_once() == 0
    assert event["body"]["count"] == 42
    assert instant(event["body"]["since"]) == since
    assert (event["organization_id"], event.get("workspace_id")) == (ORGANIZATION, None)
    assert event["actor"] == {"type": "system", "id": HOUSEKEEPER.id}
    assert event["reported_by"] == HOUSEKEEPER.id
    assert omitted_counts(flooded) == []
    assert omission_reports(flooded) == [event]


def test_each_flood_is_reported_by_itself_and_its_report_makes_no_room_for_records(
    flooded: Ledger,
) -> None:
    with housekeeping(flooded) as housekeeper:
        for count in (3, 5):
            flood(flooded, count)
            flooded.clock.advance(minutes=2)
            housekeeper.run_once()
        flood(flooded, 1)
    assert [event["body"]["count"] for event in omission_reports(flooded)] == [3, 5]
    assert [count for _, count, _ in omitted_counts(flooded)] == [1]
    assert recorded(flooded) == DAILY


def test_two_housekeepers_report_omitted_refusals_once(flooded: Ledger) -> None:
    flood(flooded, 9)
    flooded.clock.advance(minutes=2)
    with second_writer(flooded) as other:
        reports = [TellOmitted(REPORTER.id) for _ in range(2)]
        futures = [writer.submit(reports) for writer in (flooded.writer, other)]
        outcomes = [outcome for future in futures for outcome in future.result(20)]
    assert sum(isinstance(outcome, Receipt) for outcome in outcomes) == 1
    assert [event["body"]["count"] for event in omission_reports(flooded)] == [9]


def test_a_failed_group_neither_doubles_nor_loses_the_count_of_omitted_refusals(
    flooded: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    line = flooded.line()
    again = [fact("service_line.resumed", line) for _ in range(3)]
    in_one_group(flooded, [*commands(again), Breaks(REPORTER)])
    assert [count for _, count, _ in omitted_counts(flooded)] == [3]
    in_one_group(flooded, [TellOmitted(REPORTER.id), Breaks(REPORTER)])
    assert [event["body"]["count"] for event in omission_reports(flooded)] == [3]
    assert omitted_counts(flooded) == []
    caplog.clear()  # the groups failed on purpose


def in_one_group(ledger: Ledger, group: Sequence[Command]) -> None:
    assert len(ledger.writer.submit(group).result(20)) == len(group)


# Several processes.


def test_processes_that_share_a_credential_keep_one_count(nearly: Ledger) -> None:
    with contextlib.ExitStack() as stack:
        writers = [nearly.writer, *(stack.enter_context(second_writer(nearly)) for _ in "ab")]
        others = stack.enter_context(ThreadPoolExecutor())
        assert list(others.map(lambda writer: flood_through(writer, 2_050), writers)) == [None] * 3
    assert recorded(nearly) == DAILY
    assert [count for _, count, _ in omitted_counts(nearly)] == [3 * 2_050 - 3_000]


def test_a_restarted_process_goes_on_counting_omitted_refusals(flooded: Ledger) -> None:
    flood(flooded, 4)
    with second_writer(flooded) as successor:
        flood_through(successor, 6)
    assert recorded(flooded) == DAILY
    assert [count for _, count, _ in omitted_counts(flooded)] == [10]


def second_writer(ledger: Ledger) -> AbstractContextManager[Writer]:
    """The writer of another process, with an empty memory."""
    return writing(ledger.settings, ledger.conninfo, ledger.clock)
