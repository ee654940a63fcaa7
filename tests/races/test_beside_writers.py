"""What goes on beside writers: a reader that tails, a closing, two sweepers."""

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from ledger.application.report import ReportFact
from ledger.application.writer import Writer
from ledger.intake.request import Receipt
from ledger.log.recorder import read_log
from ledger.postgres.pipeline import Pipeline
from ledger.service.composition.loops import create_sweeper
from tests.support.facts import activation, fact
from tests.support.log_checker import check
from tests.support.racers import activate, each_process, fast_idling, now, parsed, principal
from tests.support.views import projecting

BUSY = "LIN-26-000001"
LARGE = "LIN-26-000002"
WRITERS, FACTS = 8, 60
"""Threads a process and facts a thread."""


def _write_on(number: int, gate: Any, conninfo: str) -> int:
    """Eight threads that report one fact after the other; how many were recorded."""
    recorded = []

    def report(writer: Writer, name: str) -> None:
        for _ in range(FACTS):
            tags = fact("service_line.updated", BUSY, {"project_tags": [name]}, source=name)
            outcome = writer.execute(ReportFact(parsed(tags), principal(name)))
            recorded.append(isinstance(outcome, Receipt))

    with fast_idling(conninfo, idle_after=timedelta(hours=1)) as writer:
        threads = [
            threading.Thread(target=report, args=(writer, f"/{number}/{n}")) for n in range(WRITERS)
        ]
        gate.wait(30)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return recorded.count(True)


def test_a_tailing_reader_beside_16_writers_in_2_processes_misses_nothing(conninfo: str) -> None:
    with fast_idling(conninfo, idle_after=timedelta(hours=1)) as writer:
        activate(writer, BUSY)
    seen: list[int] = []
    rounds = 0
    stop = threading.Event()

    def tail() -> None:
        nonlocal rounds
        connection = psycopg.connect(conninfo, autocommit=True)
        pipeline = Pipeline(connection)
        finished = False
        while not finished:
            # Looked at before the read: the last read comes after the last append.
            finished = stop.is_set()
            rows = read_log(pipeline, seen[-1] if seen else 0, 50)
            finished = finished and not rows
            rounds += bool(rows)
            seen.extend(row[4] for row in rows)
        connection.close()

    reader = threading.Thread(target=tail)
    reader.start()
    try:
        recorded = each_process(_write_on, 2, conninfo)
    finally:
        stop.set()
        reader.join(20)
    assert recorded == [WRITERS * FACTS] * 2
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        rows = connection.execute(
            "SELECT notification_id FROM ledger.ledger_events ORDER BY notification_id"
        ).fetchall()
    assert seen == [row[0] for row in rows]
    assert len(seen) == 2 * WRITERS * FACTS + 1
    assert rounds > 50, "the reader did not run beside the writers"
    assert check(conninfo).findings == []


def _write_beside(number: int, gate: Any, conninfo: str, seconds: float) -> list[float]:
    """One fact after the other on another line, for so long; when each was recorded."""
    at = []
    with fast_idling(conninfo, idle_after=timedelta(hours=1)) as writer:
        gate.wait(30)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            tags = fact("service_line.updated", BUSY, {"project_tags": ["on"]}, source="/beside")
            assert isinstance(writer.execute(ReportFact(parsed(tags), principal("b"))), Receipt)
            at.append(time.time())
    return at


def _close(number: int, gate: Any, conninfo: str, seconds: float) -> list[float]:
    """Close the large line amid the others' work; when that began and ended."""
    with fast_idling(conninfo, idle_after=timedelta(hours=1)) as writer:
        closing = ReportFact(
            parsed(fact("service_line.closed", LARGE, source="/closer")), principal("closer")
        )
        gate.wait(30)
        threading.Event().wait(seconds / 4)
        began = time.time()
        assert isinstance(writer.execute(closing), Receipt)
        return [began, time.time()]


def _close_or_write(number: int, gate: Any, *arguments: Any) -> list[float]:
    return (_close, _write_beside)[number](number, gate, *arguments)


def test_closing_a_line_with_5000_open_runs_takes_under_a_second_while_others_write_on(
    conninfo: str,
) -> None:
    with fast_idling(conninfo, idle_after=timedelta(hours=1)) as writer:
        activate(writer, BUSY, LARGE)
        for start in range(0, 5000, 1000):
            starts = [
                fact("run.started", f"RUN-26-{n + 100_000:06d}", {"service_line_id": LARGE})
                for n in range(start, start + 1000)
            ]
            reports = [ReportFact(parsed(one), principal("starter")) for one in starts]
            assert all(isinstance(o, Receipt) for o in writer.submit(reports).result(20))
    (began, ended), others = each_process(_close_or_write, 2, conninfo, 2.0)
    assert ended - began < 1.0
    assert sum(at < began for at in others) > 10
    assert sum(at > ended for at in others) > 10
    log = check(conninfo)
    assert log.findings == []
    assert log.topics["run.cancelled/1"] == 5000


def _sweep(number: int, gate: Any, conninfo: str) -> list[int]:
    """Sweep again and again beside the other process; the lines that each sweep sent idle."""
    swept = []
    with fast_idling(conninfo, idle_after=timedelta(seconds=1)) as writer:
        sweeper = create_sweeper(conninfo, writer, now, lambda _: timedelta(seconds=1), 3600)
        gate.wait(30)
        for _ in range(20):
            swept.append(sweeper.run_once())
    return swept


def _lines(count: int) -> Iterator[str]:
    return (f"LIN-26-{n:06d}" for n in range(1, count + 1))


def test_two_sweepers_at_once_send_every_quiet_line_idle_once(conninfo: str) -> None:
    earlier = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    with fast_idling(conninfo, idle_after=timedelta(hours=1)) as writer:
        reports = [
            ReportFact(parsed(activation(line, time=earlier)), principal("setup"))
            for line in _lines(300)
        ]
        assert all(isinstance(o, Receipt) for o in writer.submit(reports).result(20))
    # The views stay where they are: every later sweep finds the same candidates again.
    with projecting(conninfo) as projector:
        projector.catch_up()
    swept = each_process(_sweep, 2, conninfo)
    assert sum(map(sum, swept)) == 300
    log = check(conninfo)
    assert log.findings == []
    assert log.topics["execution.idle/1"] == 300
