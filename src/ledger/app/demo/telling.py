"""Tells a story to the ledger as if the ledger had run all along.

Each fact is recorded a moment after it happened. In between lines become idle and runs fail by
their leases, as the ledger's loops would have decided. So the story's past can be read, even one in
which a later fact was not recorded yet.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from itertools import islice
from operator import attrgetter
from typing import Any, Protocol, cast

import msgspec

from ledger.engine.log.leases import EndedLease
from ledger.engine.values.errors import Unavailable
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.values import parse_instant
from ledger.engine.writer.command import Command
from ledger.engine.writer.fair_queue import Outcomes
from ledger.engine.writer.group import Group
from ledger.engine.writer.request import Outcome, Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts import envelope
from ledger.features.facts.report import command_of
from ledger.features.lines.commands.lines import GoIdle
from ledger.features.runs.commands import ExpireLease

_DELAY = timedelta(milliseconds=350)
"""From an occurrence to its recording."""

_SWEEP_EVERY = timedelta(hours=3)
"""The interval of sweeps for idle lines: seldom for a sweeper, yet enough to show idle times."""

_BEATS_FOR = timedelta(minutes=4)
"""How long a worker that dies has sent heartbeats."""

_AT_ONCE = 1000

_TRIES = 3
"""How often commands are submitted: an append waits some seconds before it fails."""


class _Expire(ExpireLease):
    """Fail a run by a lease that ended in the story: nobody listened then, and it has no row."""

    def __init__(self, run_id: str, lease: EndedLease) -> None:
        super().__init__(run_id)
        self._lease = lease

    def _ended(self, group: Group) -> EndedLease:
        return self._lease


class _Timed:
    """A command that is decided at an instant of the story, whenever it is submitted."""

    def __init__(self, command: Command, at: datetime) -> None:
        self.command, self._at = command, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self.command, name)

    def decide(self, group: Group) -> Receipt:
        group.begin(self._at)
        return self.command.decide(group)


class Stage:
    """The writer for an act of the story: it decides by an instant of the story."""

    def __init__(self, writer: Writer, at: datetime) -> None:
        self._writer, self.at = writer, at

    def submit(self, commands: Sequence[Command]) -> Future[Outcomes]:
        return self._writer.submit([cast(Command, _Timed(each, self.at)) for each in commands])

    def execute(self, command: Command) -> Receipt:
        (outcome,) = _record(self._writer, [(self.at, command)])
        if not isinstance(outcome, Receipt):
            raise outcome
        return outcome


class Act(Protocol):
    """A part of the story that needs all that was recorded before its instant."""

    @property
    def at(self) -> datetime: ...

    def play(self, stage: Stage) -> None:
        """Record the act. Raises Unavailable, and the refusal of a command."""


def tell(
    writer: Writer,
    story: Iterator[dict[str, Any]],
    advance: Callable[[int], None],
    acts: Sequence[Act] = (),
) -> Iterator[Outcome]:
    """Record a story's facts, each at its time, and acts between them; yield the facts' outcomes.

    Raises Unavailable if the database takes no more, and the refusal of an act.
    """
    commands, waiting = _with_sweeps(story, advance), sorted(acts, key=attrgetter("at"))
    while batch := list(islice(commands, _AT_ONCE)):
        while waiting and batch[-1][0] >= waiting[0].at:
            act = waiting.pop(0)
            index = next(number for number, (at, _) in enumerate(batch) if at >= act.at)
            yield from _outcomes(writer, batch[:index])
            act.play(Stage(writer, act.at))
            batch = batch[index:]
        yield from _outcomes(writer, batch)
    for act in waiting:
        act.play(Stage(writer, act.at))


def _outcomes(writer: Writer, batch: Sequence[tuple[datetime, Command]]) -> Iterator[Outcome]:
    """Record commands; yield the outcomes of the facts among them."""
    if batch:
        for (_, command), outcome in zip(batch, _record(writer, batch), strict=True):
            if not isinstance(command, GoIdle | ExpireLease):
                yield outcome


def _record(writer: Writer, batch: Sequence[tuple[datetime, Command]]) -> Sequence[Outcome]:
    """Submit commands, and all of them again if an append failed: repeated ones are duplicates."""
    commands = [cast(Command, _Timed(command, at)) for at, command in batch]
    for _ in range(_TRIES):
        outcomes = writer.submit(commands).result()
        if not any(isinstance(outcome, Unavailable) for outcome in outcomes):
            return outcomes
    raise Unavailable(
        "The database accepts no more: the story is told in part. Tell it to another empty ledger."
    )


def _with_sweeps(
    story: Iterator[dict[str, Any]], advance: Callable[[int], None]
) -> Iterator[tuple[datetime, Command]]:
    """The story's commands, and between them the commands of the ledger's loops."""
    lines: list[str] = []
    leases: dict[str, EndedLease] = {}
    sweep_at: datetime | None = None
    for fact in story:
        at = parse_instant(fact["time"]) + _DELAY
        sweep_at = sweep_at or at + _SWEEP_EVERY
        while sweep_at < at:
            yield from ((sweep_at, GoIdle(line_id)) for line_id in lines)
            sweep_at += _SWEEP_EVERY
        for run_id in [run_id for run_id, lease in leases.items() if lease.ends_at + _DELAY < at]:
            lease = leases.pop(run_id)
            yield lease.ends_at + _DELAY, _Expire(run_id, lease)
        if seconds := fact["data"].get("lease_seconds"):
            last_at = at + _BEATS_FOR
            ends_at = last_at + timedelta(seconds=seconds)
            leases[fact["subject"]] = EndedLease(last_at, ends_at)
        if fact["type"] == "service_line.activated":
            lines.append(fact["subject"])
        raw = msgspec.json.encode(fact)
        advance(len(raw))
        yield at, command_of(envelope.from_structured(raw), COMMAND_LINE)
