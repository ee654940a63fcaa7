"""Processes that race one another: each has a writer of its own on the same database.

``race`` starts the processes, lets them begin at the same moment, and returns the counted outcomes.
A sabotaged log removes one guard of the store in the child processes, to prove that this guard
keeps the log sound.
"""

import contextlib
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any

from ledger.app.composition.writing import running
from ledger.engine.log.append import Append, Loaded, Wanted
from ledger.engine.log.event_log import Log
from ledger.engine.log.tables import OpenRunRow
from ledger.engine.log.vault import Vault
from ledger.engine.postgres.pipeline import Statement
from ledger.engine.values.errors import LedgerError
from ledger.engine.values.principal import Principal
from ledger.engine.views.inline import InlineViews
from ledger.engine.writer.command import Command
from ledger.engine.writer.request import Outcome, Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts import envelope
from ledger.features.facts.envelope import Fact
from ledger.features.facts.report import ReportFact, command_of
from ledger.features.lines.commands.lines import GoIdle, LiftHold, Pause, Resume
from tests.support.facts import ORGANIZATION, activation, encode
from tests.support.forked import CONTEXT

SLOTS = 4
"""The number of lines for which all racers compete at any moment."""

_IN_FLIGHT = 3
_CHUNK = 20
_GENERATION = 10
"""The number of chunks after which all racers move on to new lines."""

_VAULT_KEY = bytes(range(32))
"""The key of these tests alone."""


class UnlockedLog(Log):
    """A log without the append lock: appends of several processes overlap."""

    lock = Statement(b"SET LOCAL lock_timeout = '2s'")


class ForgetfulAppend(Append):
    """An append that finds no open run when a line closes."""

    def open_runs(self, line_id: str) -> list[OpenRunRow]:
        return []


class SabotagedLog(Log):
    """A log whose appends are of another class."""

    append_class: type[Append]

    @contextlib.contextmanager
    def append_transaction(self) -> Iterator[Append]:
        with super().append_transaction() as append:
            append.__class__ = self.append_class
            yield append


class ForgetfulLog(SabotagedLog):
    """A log whose appends find no open runs."""

    append_class = ForgetfulAppend


class StaleAppend(Append):
    """An append that takes every stream in memory to be up to date."""

    def read(self, wanted: Wanted) -> Loaded:
        read = super().read(wanted)
        return read._replace(tails=[tail for tail in read.tails if wanted.streams[tail[0]] == 0])


class StaleLog(SabotagedLog):
    """A log whose appends never reload a stream."""

    append_class = StaleAppend


def now() -> datetime:
    """The real clock."""
    return datetime.now(UTC)


def principal(name: str) -> Principal:
    """A credential of the tests' organization, distinguished by its name."""
    return Principal(name, "api_key", frozenset({"read", "write"}), ORGANIZATION, None)


def parsed(event: dict[str, Any]) -> Fact:
    """A fact as the API would pass it on."""
    fact = envelope.from_structured(encode(event))
    assert isinstance(fact, Fact), fact
    return fact


@contextlib.contextmanager
def running_writer(
    conninfo: str,
    kind: type[Log] = Log,
    idle_after: timedelta = timedelta(microseconds=50),
    views: InlineViews | None = None,
) -> Iterator[Writer]:
    """A running writer; lines become idle after ``idle_after``. The log may be sabotaged."""
    log = kind(conninfo)
    vault = Vault(_VAULT_KEY)
    with running(Writer(log, vault, now, lambda _: idle_after, views=views)) as writer:
        yield writer


def activate(writer: Writer, *lines: str) -> None:
    """Activate lines of a model with runs."""
    commands = [command_of(parsed(activation(line)), principal("setup")) for line in lines]
    for outcome in writer.submit(commands).result():
        assert isinstance(outcome, Receipt), outcome


def race(
    conninfo: str,
    racers: int,
    commands: int,
    kind: type[Log] = Log,
) -> Counter[str]:
    """Let processes race; return the number of commands by outcome, summed over the processes."""
    counts = each_process(_race, racers, conninfo, commands, kind)
    return sum(counts, start=Counter())


def each_process(target: Callable[..., Any], count: int, *arguments: Any) -> list[Any]:
    """Run ``target(number, gate, *arguments)`` in processes that share a barrier; their results."""
    gate = CONTEXT.Barrier(count)
    pipes, processes = [], []
    for number in range(count):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=_call, args=(theirs, target, number, gate, arguments))
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        results = []
        for pipe in pipes:
            assert pipe.poll(60), "a process has not come to its end"
            results.append(pipe.recv())
        return results
    finally:
        for process in processes:
            process.join(10)
            if process.is_alive():
                process.kill()
                process.join()


def _call(pipe: Any, target: Callable[..., Any], number: int, gate: Any, arguments: Any) -> None:
    pipe.send(target(number, gate, *arguments))


def _race(number: int, gate: Any, conninfo: str, commands: int, kind: type[Log]) -> Counter[str]:
    racer = Racer(number, quiet_share=0.8)  # so that each racer finds the quiet line idle
    waiting: deque[tuple[list[Command], Future[list[Outcome]]]] = deque()
    with running_writer(conninfo, kind) as writer:
        for number in range(commands // _CHUNK):
            if number % _GENERATION == 0:
                # All racers begin with the next lines at the same moment.
                gate.wait(30)
            chunk = racer.next_commands(number)
            waiting.append((chunk, writer.submit(chunk)))
            if len(waiting) >= _IN_FLIGHT:
                racer.count_outcomes(*waiting.popleft())
        while waiting:
            racer.count_outcomes(*waiting.popleft())
    return racer.counts


class Racer:
    """Random commands: mostly starts of runs, and the commands that may conflict with a start."""

    def __init__(self, number: int, quiet_share: float = 0.5) -> None:
        self.counts: Counter[str] = Counter()
        self._number, self._quiet_share = number, quiet_share
        self._random = random.Random(number)
        self._principal = principal(f"racer-{number}")
        self._runs: list[str] = []
        self._ended: deque[str] = deque(maxlen=5)
        self._facts = 0
        self._run_number = (number + 1) * 100_000
        self._lines: list[str] = []

    def next_commands(self, number: int) -> list[Command]:
        """The commands of a chunk. Chunks of one generation use the same lines in all racers."""
        generation, step = divmod(number, _GENERATION)
        commands: list[Command] = []
        if step == 0:
            self._lines = [f"LIN-26-{slot + 1:03d}{generation:03d}" for slot in range(SLOTS)]
            commands = [
                self._fact("service_line.activated", line, activation()["data"])
                for line in self._lines
            ]
        closing = 0.03 if step >= _GENERATION - 2 else 0.0
        while len(commands) < _CHUNK:
            line = self._random.choice(self._lines)
            if line == self._lines[-1] and self._random.random() < self._quiet_share:
                # A quiet line: its runs end at once, so it becomes idle again and again. A group
                # has one instant, so only the next group of any racer finds that it is idle.
                start = self._start(line)
                self._ended.append(self._runs.pop())
                end = self._fact("run.cancelled", self._ended[-1], {})
                commands += [GoIdle(line), start, end, GoIdle(line)]
            else:
                commands.append(self._next(line, closing))
        return commands

    def _next(self, line: str, closing: float) -> Command:
        if self._random.random() < closing:
            return self._report("closed", line)
        dice = self._random.random()
        if dice < 0.50:
            return self._start(line)
        if dice < 0.80:
            return self._end(line)
        if dice < 0.82:
            until = datetime.now(UTC) + timedelta(seconds=self._random.choice([0.05, 0.3, 600]))
            return Pause(line, self._principal, reason="race", until=until, replace=True)
        if dice < 0.86:
            return Resume(line, self._principal, reason=None)
        if dice < 0.88:
            return self._report(self._random.choice(["paused", "resumed", "resumed"]), line)
        if dice < 0.92:
            return self._block(line)
        if dice < 0.94:
            return LiftHold(line)
        return self._correct() if self._ended else GoIdle(line)

    def _start(self, line: str) -> Command:
        self._run_number += 1
        run = f"RUN-26-{self._run_number:06d}"
        self._runs.append(run)
        attributes = {}
        if self._random.random() < 0.1:
            earlier = datetime.now(UTC) - timedelta(seconds=self._random.random() * 2)
            attributes["time"] = earlier.isoformat()
        kind = "run.requested" if self._random.random() < 0.2 else "run.started"
        return self._fact(kind, run, {"service_line_id": line}, **attributes)

    def _end(self, line: str) -> Command:
        if not self._runs:
            return GoIdle(line)
        kinds = ["run.completed", "run.failed", "run.cancelled"]
        self._ended.append(self._runs.pop(0))
        return self._fact(self._random.choice(kinds), self._ended[-1], {})

    def _correct(self) -> Command:
        """Correct the tokens of a run that has ended, as a rule."""
        by_model = {"token_usage": [{"model": "m", "input": self._random.randint(1, 9)}]}
        used = self._random.choice([by_model, {"tokens_used": 5}])
        return self._fact("run.usage_corrected", self._random.choice(self._ended), used)

    def _block(self, line: str) -> Command:
        blocker = {"blocker_id": self._random.choice("ab")}
        if self._random.random() < 0.7:
            return self._fact("execution.unblocked", line, blocker)
        return self._fact("execution.blocked", line, blocker | {"cause": "capacity_issue"})

    def _report(self, change: str, line: str) -> Command:
        return self._fact(f"service_line.{change}", line, {})

    def _fact(self, kind: str, subject: str, data: Any, **attributes: Any) -> Command:
        self._facts += 1
        event = {
            "specversion": "1.0",
            "id": f"{self._number}-{self._facts}",
            "source": "/race",
            "type": kind,
            "subject": subject,
            "data": data,
        }
        return command_of(parsed(event | attributes), self._principal)

    def count_outcomes(self, commands: list[Command], future: "Future[list[Outcome]]") -> None:
        """Wait for the outcomes of commands; count them in all, and by kind of command."""
        for command, outcome in zip(commands, future.result(30), strict=True):
            name = type(command).__name__
            if isinstance(command, ReportFact):
                name = command.fact.type
            if isinstance(outcome, LedgerError):
                ended = outcome.code
            else:
                ended = "nothing" if outcome.duplicate else "done"
            self.counts[f"{name} {ended}"] += 1
            self.counts[ended] += 1
