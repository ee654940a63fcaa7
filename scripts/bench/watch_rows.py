"""The rows about watches: rounds of their loop, checks of all lines, openings, cost of facts.

The rows run on a copy of the data set, with a writer, a projector and the loop of watches in this
process, which calls them in turn. All lines belong to two organizations. Each of these, and each of
48 others, has 50 watches that are on. ``--big`` has a database of a million lines.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from measure import Bench, Row, at_most
from population import OTHER_ORGANIZATION
from psycopg.rows import tuple_row
from story import ORGANIZATION, line_id

from ledger.app.composition.database import prepare_database
from ledger.app.composition.writing import create_writer, utc_now
from ledger.app.features import projections
from ledger.app.settings import Settings
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.event_log import Log
from ledger.engine.postgres import locks
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.leadership import Candidate
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.views.projector import Projector
from ledger.engine.writer.periodic import LeaderSession
from ledger.engine.writer.request import Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts.envelope import from_structured
from ledger.features.facts.report import command_of
from ledger.features.watches.commands.watches import CreateWatch, DeleteWatch
from ledger.features.watches.kinds import (
    BlockerOpen,
    HealthBelow,
    InState,
    NoActivity,
    PastDue,
    RunOpen,
    RunsFailing,
)
from ledger.features.watches.kinds.base import Condition
from ledger.features.watches.loops.loop import WatchLoop
from ledger.features.watches.model.watch import WatchSettings

YEAR = 365 * 86_400
CONDITIONS: Sequence[Condition] = (
    InState(("blocked",)),
    InState(("paused", "blocked")),
    InState(("running",)),
    BlockerOpen(),
    PastDue(),
    NoActivity(),
    RunOpen(("running",)),
    RunsFailing(20),
    HealthBelow("red"),
)
ORGANIZATIONS = 50
WATCHES = 50  # of each organization
CHANGED = 300  # lines
ROUNDS = 9
FACTS = 5_000
_SOME_WATCHES = """
SELECT watch_id FROM ledger.organization_watch WHERE organization_id = %s ORDER BY watch_id LIMIT 5
"""

_ROUND_SECONDS, _CHECK_SECONDS, _ALERTS, _MORE = 0.25, 60.0, 500.0, 3.0


class Watching:
    """A database with a writer, a projector and the loop of watches, which are called in turn."""

    def __init__(self, conninfo: str, settings: Settings) -> None:
        self.conninfo = conninfo
        self.log = Log(conninfo)
        self.writer: Writer = create_writer(settings, self.log)
        self.writer.start()
        candidate = Candidate({"projector": locks.FOLLOWING["projector"]})
        self.projector = Projector(conninfo, EnvelopeMapper(), projections(), candidate)
        assert self.projector.lead()
        session = LeaderSession(conninfo, "watches", Candidate({"w": locks.FOLLOWING["watches"]}))
        self.loop = WatchLoop(session, self.writer, utc_now, 3600)
        self.numbers = itertools.count(1)
        self.catch_up()

    def close(self) -> None:
        self.loop.disconnect()
        self.projector.disconnect()
        self.writer.stop()
        self.log.close()

    def catch_up(self) -> None:
        while self.projector.run_once():
            pass

    def watch(self, organization: str, condition: Condition, for_seconds: int) -> str:
        """Set up a watch; return its id."""
        settings = WatchSettings(name="A watch", condition=condition, for_seconds=for_seconds)
        command = CreateWatch(
            COMMAND_LINE, None, organization_id=organization, workspace_id=None, settings=settings
        )
        outcome = self.writer.execute(command)
        assert isinstance(outcome, Receipt), outcome
        return outcome.subject

    def report(self, *facts: tuple[str, str, dict[str, Any]]) -> None:
        """Report facts: (type, subject, data)."""
        events = [
            {"specversion": "1.0", "id": f"w-{next(self.numbers)}", "source": "/watches"}
            | {"type": kind, "subject": subject, "data": data}
            for kind, subject, data in facts
        ]
        commands = [
            command_of(from_structured(json.dumps(each).encode()), COMMAND_LINE) for each in events
        ]
        assert all(isinstance(each, Receipt) for each in self.writer.submit(commands).result())

    def check(self) -> tuple[float, int, float]:
        """Rounds until no work is left: (seconds, number recorded, seconds until the last one)."""
        elapsed, done, last = 0.0, 0, 0.0
        while True:
            self.catch_up()
            began = time.perf_counter()
            more, has_more = self.loop._round()
            elapsed, done = elapsed + time.perf_counter() - began, done + more
            last = elapsed if more else last
            if not more and not has_more:
                return elapsed, done, last


@contextmanager
def watching(bench: Bench) -> Iterator[Watching]:
    """Serve a copy of the data set."""
    folder = bench.folder / "watches"
    bench.data.copy_to(folder)
    postgres = EmbeddedPostgres(folder, purpose="bench")
    postgres.start()
    settings = Settings(data_dir=folder, database_url=None)
    try:
        watched = Watching(prepare_database(settings, postgres.url), settings)
        try:
            yield watched
        finally:
            watched.close()
    finally:
        postgres.stop()


def watches(bench: Bench) -> Iterator[Row]:
    """Rounds, checks and openings with all watches; the cost of facts compared with no watches."""
    with watching(bench) as watched:
        lines = bench.data.lines
        with psycopg.connect(watched.conninfo, autocommit=True, row_factory=tuple_row) as reader:
            yield from _measured(watched, reader, bench, lines)


def _measured(
    watched: Watching, reader: psycopg.Connection[Any], bench: Bench, lines: int
) -> Iterator[Row]:
    population = bench.data.population
    numbers = [
        n for n in population.numbers_at_work() if population.organization(n) == ORGANIZATION
    ]
    watched.check()
    watched.watch(ORGANIZATION, InState(("running",)), YEAR)
    yield _check(watched, "one new watch", lines)
    others = [f"ORG-26-{900_000 + n:06d}" for n in range(ORGANIZATIONS - 2)]
    for organization in (ORGANIZATION, OTHER_ORGANIZATION, *others):
        for n in range(WATCHES - (organization == ORGANIZATION)):
            watched.watch(organization, CONDITIONS[n % len(CONDITIONS)], YEAR - n)
    yield _check(watched, f"{WATCHES} new watches", lines)
    yield _rounds(watched, lambda: None, "round of watches with nothing due, s")
    some = itertools.cycle([numbers[i : i + CHANGED] for i in range(0, ROUNDS * CHANGED, CHANGED)])
    blockers = itertools.count()

    def change() -> None:
        data = {"blocker_id": f"w{next(blockers)}", "cause": "approval_gap"}
        watched.report(*(("execution.blocked", line_id(n), data) for n in next(some)))

    yield _rounds(watched, change, f"round of watches with {CHANGED} changed lines, s")
    yield _cost(watched, reader, numbers)
    for (watch,) in reader.execute(_SOME_WATCHES, (ORGANIZATION,)).fetchall():
        watched.writer.execute(DeleteWatch(watch, COMMAND_LINE))
    for n in range(5):
        watched.watch(ORGANIZATION, InState(("running",)), n)
    elapsed, done, last = watched.check()
    note = f"{done:,} in {last:.1f} s; after {elapsed:.1f} s all of {lines:,} lines were looked at"
    rate = done / last
    work = "alerts opened where all lines are due at once, alerts/s"
    yield Row(work, rate, bound=f"≥ {_ALERTS:g}", reached=rate / _ALERTS, note=note)


def _check(watched: Watching, of: str, lines: int) -> Row:
    elapsed, *_ = watched.check()
    most = _CHECK_SECONDS * lines / 1_000_000
    note = f"{lines / elapsed:,.0f} lines/s; {_CHECK_SECONDS:g} s for a million"
    return at_most(f"look of {of} at {lines:,} lines, s", elapsed, most, "s", note)


def _rounds(watched: Watching, before: Callable[[], None], work: str) -> Row:
    times = list[float]()
    for _ in range(ROUNDS):
        before()
        watched.catch_up()
        began = time.perf_counter()
        watched.loop.run_once()
        times.append(time.perf_counter() - began)
    note = f"most {max(times):.3f}"
    return at_most(work, statistics.median(times), _ROUND_SECONDS, "s", note)


def _cost(watched: Watching, reader: psycopg.Connection[Any], numbers: Sequence[int]) -> Row:
    """The time of a round, compared with that of the facts since the last round.

    The facts are check-ins, with their views: as many as one client per core reports in 5 s.
    """
    facts = [("execution.checked_in", line_id(n), {"hours": 1}) for n in numbers]
    facts = [*itertools.islice(itertools.cycle(facts), FACTS)]
    shares, bytes_more = list[float](), list[float]()
    for _ in range(3):
        began, start = time.perf_counter(), _wal(reader)
        for first in range(0, FACTS, 100):
            watched.report(*facts[first : first + 100])
            watched.catch_up()
        reported, after = time.perf_counter(), _wal(reader)
        watched.loop.run_once()
        shares.append(100 * (time.perf_counter() - reported) / (reported - began))
        bytes_more.append(100 * (_wal(reader) - after) / (after - start))
    note = f"{FACTS:,} check-ins and a round; {statistics.median(bytes_more):.2f} % more WAL"
    work = "work of the watches beside that of the facts, %"
    return at_most(work, statistics.median(shares), _MORE, "%", note)


def _wal(reader: psycopg.Connection[Any]) -> float:
    ((position,),) = reader.execute("SELECT pg_current_wal_insert_lsn() - '0/0'").fetchall()
    return float(position)
