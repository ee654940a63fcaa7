"""Work while others write: a reader that tails the log, a closing, two sweepers."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from ledger.engine.log.event_log import read_log
from ledger.engine.postgres.pipeline import Pipeline
from ledger.engine.writer.request import Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts.report import command_of
from ledger.features.lines.loops import Sweeper
from tests.support.facts import activation, fact
from tests.support.log_checker import check
from tests.support.racing_writers import (
    activate,
    each_process,
    now,
    parsed,
    principal,
    running_writer,
)
from tests.support.views import led, projecting, query, until

BUSY = "LIN-26-000001"
LARGE = "LIN-26-000002"
WRITERS, FACTS = 8, 60
"""Threads per process, and facts per thread."""
LEAST = 20
"""The least number of facts before a closing, and of facts after it."""


def _write_on(number: int, gate: Any, conninfo: str) -> int:
    """Report facts from eight threads; return the number of facts that were recorded."""
    recorded = []

    def report(writer: Writer, name: str) -> None:
        for _ in range(FACTS):
            tags = fact("service_line.updated", BUSY, {"project_tags": [name]}, source=name)
            outcome = writer.execute(command_of(parsed(tags), principal(name)))
            recorded.append(isinstance(outcome, Receipt))

    with running_writer(conninfo, idle_after=timedelta(hours=1)) as writer:
        threads = [
            threading.Thread(target=report, args=(writer, f"/{number}/{n}")) for n in range(WRITERS)
        ]
        gate.wait(30)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return recorded.count(True)


def test_a_tailing_reader_among_16_writers_in_2_processes_misses_no_event(conninfo: str) -> None:
    with running_writer(conninfo, idle_after=timedelta(hours=1)) as writer:
        activate(writer, BUSY)
    positions: list[int] = []
    rounds = 0
    stop = threading.Event()

    def tail() -> None:
        nonlocal rounds
        connection = psycopg.connect(conninfo, autocommit=True)
        pipeline = Pipeline(connection)
        finished = False
        while not finished:
            # The flag is checked before the read: the last read comes after the last append.
            finished = stop.is_set()
            rows = read_log(pipeline, positions[-1] if positions else 0, 50)
            finished = finished and not rows
            rounds += bool(rows) and not stop.is_set()
            positions.extend(row[4] for row in rows)
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
    assert positions == [row[0] for row in rows]
    assert len(positions) == 2 * WRITERS * FACTS + 1
    assert rounds > 0, "the reader did not run beside the writers"
    assert check(conninfo).findings == []


def _write_meanwhile(number: int, gate: Any, conninfo: str) -> list[int]:
    """Report facts of another line until ``LEAST`` follow the closing; return all positions."""
    positions = list[int]()
    with running_writer(conninfo, idle_after=timedelta(hours=1)) as writer:
        gate.wait(30)
        left = LEAST
        while left:
            tags = fact("service_line.updated", BUSY, {"project_tags": ["on"]}, source="/beside")
            outcome = writer.execute(command_of(parsed(tags), principal("b")))
            assert isinstance(outcome, Receipt)
            positions.append(outcome.position)
            left -= bool(_closed(conninfo))
    return positions


def _close(number: int, gate: Any, conninfo: str) -> list[int]:
    """Close the large line while the other process writes."""
    with running_writer(conninfo, idle_after=timedelta(hours=1)) as writer:
        closing = command_of(
            parsed(fact("service_line.closed", LARGE, source="/closer")), principal("closer")
        )
        gate.wait(30)
        until(lambda: len(_written(conninfo)) > LEAST, "the others' facts before the closing")
        assert isinstance(writer.execute(closing), Receipt)
        return []


def _close_or_write(number: int, gate: Any, conninfo: str) -> list[int]:
    return (_close, _write_meanwhile)[number](number, gate, conninfo)


def _written(conninfo: str) -> list[int]:
    """The positions of the other line's facts."""
    return _positions(conninfo, "originator_id = %s AND topic ~ 'updated'", BUSY)


def _closed(conninfo: str) -> list[int]:
    """The positions of the closing and of the runs that it cancels."""
    return _positions(conninfo, "topic ~ '^(execution.closed|run.cancelled)/'")


def _positions(conninfo: str, condition: str, *values: Any) -> list[int]:
    statement = f"SELECT notification_id FROM ledger.ledger_events WHERE {condition} ORDER BY 1"
    return [position for (position,) in query(conninfo, statement, *values)]


def test_closing_a_line_with_3000_open_runs_is_one_append_among_other_writers(
    conninfo: str,
) -> None:
    with running_writer(conninfo, idle_after=timedelta(hours=1)) as writer:
        activate(writer, BUSY, LARGE)
        for start in range(0, 3000, 1000):
            starts = [
                fact("run.started", f"RUN-26-{n + 100_000:06d}", {"service_line_id": LARGE})
                for n in range(start, start + 1000)
            ]
            reports = [command_of(parsed(one), principal("starter")) for one in starts]
            assert all(isinstance(o, Receipt) for o in writer.submit(reports).result(20))
    _, others = each_process(_close_or_write, 2, conninfo)
    closed = _closed(conninfo)
    assert len(closed) == 3001
    assert others == _written(conninfo)
    before = [position for position in others if position < closed[0]]
    after = [position for position in others if position > closed[-1]]
    assert before + after == others, "another fact lies between the closing's events"
    assert min(len(before), len(after)) >= LEAST
    log = check(conninfo)
    assert log.findings == []
    assert log.topics["run.cancelled/1"] == 3000


def _sweep(number: int, gate: Any, conninfo: str) -> list[int]:
    """Sweep 20 times while the other process sweeps; return how many lines each sweep sent idle."""
    swept = []
    with running_writer(conninfo, idle_after=timedelta(seconds=1)) as writer:
        sweeper = Sweeper(
            led(conninfo, "sweeper"),
            writer,
            now,
            lambda _: timedelta(seconds=1),
            3600,
        )
        gate.wait(30)
        for _ in range(20):
            swept.append(sweeper.run_once())
    return swept


def _lines(count: int) -> Iterator[str]:
    return (f"LIN-26-{n:06d}" for n in range(1, count + 1))


def test_two_sweepers_at_once_send_every_quiet_line_idle_once(conninfo: str) -> None:
    earlier = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    with running_writer(conninfo, idle_after=timedelta(hours=1)) as writer:
        reports = [
            command_of(parsed(activation(line, time=earlier)), principal("setup"))
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
