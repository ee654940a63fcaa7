"""Heartbeats, expiries, endings and closings race on the same runs; then the raw log is checked.

The checker shares no code with the ledger. The test itself knows what is not in the log: the
heartbeats that were answered, and the times in which no process listened.
"""

import random
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime, timedelta
from typing import NamedTuple

import psycopg
import pytest

from ledger.app.composition.writing import create_writer, running
from ledger.app.settings import Settings
from ledger.engine.log import leases
from ledger.engine.log.event_log import Log
from ledger.engine.values.errors import LedgerError
from ledger.engine.writer.command import Command
from ledger.engine.writer.writer import Writer
from ledger.features.facts.report import ReportFact, command_of
from ledger.features.runs.commands import ExpireLease, Heartbeat
from ledger.features.runs.loops import LeaseWatch
from tests.support.facts import activation, fact
from tests.support.leases import listen
from tests.support.log_checker import LogChecker, check
from tests.support.racing_writers import parsed, principal
from tests.support.service import Clock
from tests.support.soak import repeated
from tests.support.views import led

WRITERS = 3
COMMANDS = 500
"""The number of commands of each writer at the most."""

HEATS = 8
"""The most parts of the race that tests for no damage."""

HEAT = 50
"""The commands of each writer in a part of a race that ends once the damage is found."""


class Beat(NamedTuple):
    """A heartbeat that was answered as done, and an instant before it was sent."""

    run: str
    sent_at: datetime


class Race:
    """Several writers, a watch over leases, and a clock that goes on and sometimes leaps."""

    def __init__(self, conninfo: str, settings: Settings) -> None:
        self.conninfo, self.settings, self.clock = conninfo, settings, Clock()
        self.counts: Counter[str] = Counter()
        self.beats: list[Beat] = []
        self.outages: list[tuple[datetime, datetime]] = []
        self._lines: list[str] = []
        self._runs: list[str] = []
        self._numbers = iter(range(1, 10**6))
        self._heat = -1

    def go(self, commands: int) -> LogChecker:
        """Let each writer execute that many commands; then check the log."""
        self._ended = threading.Event()
        self._heat += 1
        with ExitStack() as stack, closing(Log(self.conninfo)) as log:
            listen(log, self.clock)
            writers = [stack.enter_context(self._writer()) for _ in range(WRITERS)]
            watch = LeaseWatch(led(self.conninfo, "leases"), writers[0])
            with ThreadPoolExecutor(WRITERS + 2) as pool:
                workers = [pool.submit(self._pass_time, log), pool.submit(self._watch, watch)]
                racers = [pool.submit(self._act, n, w, commands) for n, w in enumerate(writers)]
                try:
                    for racer in racers:
                        racer.result(60)
                finally:
                    self._ended.set()
                for loop in workers:
                    loop.result(60)
        return check(self.conninfo)

    @contextmanager
    def _writer(self) -> Iterator[Writer]:
        log = Log(self.conninfo)
        with running(create_writer(self.settings, log, self.clock)) as writer:
            yield writer

    def _pass_time(self, log: Log) -> None:
        dice = random.Random(self._heat)
        while not self._ended.is_set():
            if dice.random() < 0.03:
                # Nobody listens; meanwhile the other threads go on at the later time.
                since = self.clock.now
                self.clock.advance(seconds=dice.choice([3, 40, 1000]))
                listen(log, self.clock)
                self.outages.append((since, self.clock.now))
            else:
                listen(log, self.clock, 0.5)

    def _watch(self, watch: LeaseWatch) -> None:
        with ExitStack() as stack:
            stack.callback(watch.disconnect)
            while not self._ended.is_set():
                self.counts["expired by the watch"] += watch.run_once()

    def _act(self, number: int, writer: Writer, commands: int) -> None:
        dice = random.Random(self._heat * WRITERS + number)
        by = principal(f"KEY-26-77777{number}")
        for _ in range(commands):
            group = [self._command(dice, by) for _ in range(dice.choice([1, 1, 4]))]
            sent_at = self.clock.now
            for command, outcome in zip(group, writer.submit(group).result(30), strict=True):
                name = type(command).__name__
                if isinstance(command, ReportFact):
                    name = command.fact.type
                code = outcome.code if isinstance(outcome, LedgerError) else "done"
                self.counts[f"{name} {code}"] += 1
                if isinstance(command, Heartbeat) and code == "done":
                    self.beats.append(Beat(*command.streams(), sent_at))

    def _command(self, dice: random.Random, by: object) -> Command:
        number, roll = next(self._numbers), dice.random()
        if len(self._lines) < 3 or roll < 0.01:
            self._lines.append(f"LIN-26-{number:06d}")
            return self._fact(number, activation(self._lines[-1]), by)
        if len(self._runs) < 6 or roll < 0.12:
            self._runs.append(f"RUN-26-{number:06d}")
            kind = dice.choice(["run.requested", "run.started", "run.started"])
            data = {"service_line_id": self._lines[-1], "lease_seconds": dice.choice([5, 9])}
            return self._fact(number, fact(kind, self._runs[-1], data), by)
        run = dice.choice(self._runs[-12:])
        if roll < 0.55:
            return Heartbeat(run, by)  # type: ignore[arg-type]
        if roll < 0.75:
            return ExpireLease(run)
        if roll < 0.80:
            return self._fact(number, fact("run.started", run), by)
        if roll < 0.99:
            kind = dice.choice(["run.completed", "run.failed", "run.failed", "run.cancelled"])
            return self._fact(number, fact(kind, dice.choice(self._runs[-40:])), by)
        return self._fact(number, fact("service_line.closed", self._lines.pop(0)), by)

    def _fact(self, number: int, event: dict[str, object], by: object) -> Command:
        return command_of(parsed(event | {"id": str(number)}), by)  # type: ignore[arg-type]


def end_of(seconds: int, beat_at: datetime, outages: list[tuple[datetime, datetime]]) -> datetime:
    """The end of a lease: what lies in an outage does not count."""
    end = beat_at + timedelta(seconds=seconds)
    for since, until in outages:
        if since < end and until > beat_at:
            end += until - max(since, beat_at)
    return end


def findings(race: Race, log: LogChecker) -> list[str]:
    """The contradictions between the log, the heartbeats and the outages."""
    found = list(log.findings)
    for run, expiry in log.expired.items():
        end = end_of(expiry.seconds, expiry.beat_at, race.outages)
        if expiry.at != end:
            found.append(f"{run} expires at {expiry.at}, and not at {end}")
    for beat in race.beats:
        expiry = log.expired.get(beat.run)
        if expiry is not None and expiry.beat_at < beat.sent_at:
            found.append(f"the expiry of {beat.run} overtakes a heartbeat of {beat.sent_at}")
    with psycopg.connect(race.conninfo) as connection:
        stored = connection.execute("SELECT run_id, seconds FROM ledger.lease").fetchall()
    if dict(stored) != {run: lease.seconds for run, lease in log.leases.items()}:
        found.append("the stored leases are not those of the open runs")
    return found


def unreached(race: Race, log: LogChecker) -> list[str]:
    """The events that the race is about, and that have not come often enough yet."""
    counts = {
        "expiries": (len(log.expired), 30),
        "expiries by the watch": (race.counts["expired by the watch"], 5),
        "heartbeats": (race.counts["Heartbeat done"], 100),
        "heartbeats of ended runs": (race.counts["Heartbeat invalid_state"], 30),
        "late endings": (log.late_endings, 5),
        "closings": (log.topics["execution.closed/1"], 3),
        "outages": (len(race.outages), 3),
    }
    return [name for name, (count, few) in counts.items() if count <= few]


@pytest.mark.parametrize("commands", repeated([COMMANDS // 4, COMMANDS]))
def test_the_log_stays_sound_when_heartbeats_race_expiries_endings_and_closings(
    conninfo: str, settings: Settings, commands: int
) -> None:
    race = Race(conninfo, settings)
    # On a busy machine the clock's thread seldom runs: the race continues until enough has expired.
    for _ in range(HEATS):
        log = race.go(commands)
        assert findings(race, log) == []
        if (lacking := unreached(race, log)) == []:
            break
    assert lacking == [], "the race did not reach what it is about"


@pytest.mark.parametrize(
    ("name", "sabotage", "message"),
    [
        ("HEAR", lambda statement: statement + " AND false", "overtakes a heartbeat"),
        (
            "ENDED",
            lambda statement: statement.replace("AND l.ends_at <= s.listened_at", ""),
            "a lease that has not ended yet",
        ),
        (
            "LISTEN",
            lambda statement: statement + " AND false",
            "expires at",
        ),
    ],
)
def test_without_a_guard_the_checks_find_the_damage(
    conninfo: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    sabotage: object,
    message: str,
) -> None:
    monkeypatch.setattr(leases, name, sabotage(getattr(leases, name)))  # type: ignore[operator]
    race = Race(conninfo, settings)
    found: list[str] = []
    for _ in range(COMMANDS // HEAT):
        found = findings(race, race.go(HEAT))
        if any(message in finding for finding in found):
            return
    pytest.fail(f"nothing {message}: {found[:5]}")
