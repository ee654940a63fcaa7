"""Lines in a round: those that it has not come to yet, and what follows for the others."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from ledger.engine.values.values import LATEST, format_id
from ledger.features.watches.commands.alerts import (
    OpenAlert,
    OpenSourceAlert,
    RemindOfAlert,
    ResolveAlert,
)
from ledger.features.watches.kinds.base import AlertSubject, Condition, LineNow
from ledger.features.watches.loops.store import LineToCheck
from ledger.features.watches.model.alert import AlertOpened, Due, ResolvedReason, episodes_of

Queue = dict[str, LineToCheck]
"""The lines of an organization that a round has not come to yet, by id, in their order."""

WatchCommand = OpenAlert | OpenSourceAlert | ResolveAlert | RemindOfAlert


class End(NamedTuple):
    """The end of an alert."""

    reason: ResolvedReason
    at: datetime


class Judged:
    """A line that a round has judged, and what follows."""

    def __init__(self, current: LineNow) -> None:
        self.current = current
        self.id, self.organization_id = current.execution.id, current.execution.organization_id
        self.dues: list[Due] = []
        self.commands: list[WatchCommand] = []
        self.next_at: datetime | None = None
        """When the line is judged next; None: once it changes."""
        self._present: dict[Condition, set[tuple[AlertSubject, str]]] = {}

    def has(self, alert: AlertOpened) -> bool:
        """True if the episode of an alert lasts: a line may have a thousand alerts."""
        condition = alert.condition
        if condition not in self._present:
            found = episodes_of(condition, self.current)
            self._present[condition] = {(each.subject, each.began_by) for each in found}
        return (alert.subject, alert.began_by) in self._present[condition]

    def check_by(self, at: datetime | None) -> None:
        """Judge the line again at an instant at the latest."""
        if at is not None and at < LATEST:
            self.next_at = at if self.next_at is None else min(at, self.next_at)


def queues_of(found: Iterable[LineToCheck]) -> dict[str, Queue]:
    """The lines of each organization, the earliest first, each once."""
    queues = dict[str, Queue]()
    for line in sorted(found, key=lambda each: each.at):
        queues.setdefault(line.organization_id, {}).setdefault(line.line_id, line)
    return queues


def order_of(command: WatchCommand) -> tuple[int, datetime]:
    """Ends before openings; among the ends, the oldest due first."""
    if isinstance(command, OpenAlert | OpenSourceAlert):
        return 1, command.body.due
    return 0, command.at


def body_of(due: Due, current: LineNow, recorded: Mapping[int, datetime]) -> AlertOpened:
    """The opening of an alert, with the event that began its episode, if that is known."""
    episode = due.episode
    evidence: tuple[str, ...] = ()
    if episode.position is not None and episode.position in recorded:
        evidence = (format_id("EVT", recorded[episode.position].year, episode.position),)
    return due.opening(current, evidence)
