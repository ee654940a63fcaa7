"""Refusals: the writes of one credential that were turned down, for the audit (contract 5).

A flood of refused requests must not fill the disk. So a credential's refusals are recorded one by
one up to a number a day; those beyond are counted, and one event says how many they were.
In this order: events, state, decide, fold.
"""

from collections.abc import Callable
from datetime import date, datetime
from typing import Any

import msgspec

from ledger.domain.event_table import PASSES, EventRow
from ledger.domain.recorded import Event, Recorded
from ledger.domain.values import day_of

DAILY = 10_000
"""Refusals of one credential that are recorded one by one on a UTC day: some 10 MB at the most."""


class WriteRefused(Event, frozen=True, kw_only=True):
    """A fact or command was turned down; what it said is not kept, only what it was about."""

    TOPIC = "write.refused/1"
    action: str
    code: str
    resource_type: str | None = None
    resource_id: str | None = None
    source: str | None = None
    fact_id: str | None = None


class RefusalsOmitted(Event, frozen=True, kw_only=True):
    """So many more writes of the credential were turned down, and are not recorded singly."""

    TOPIC = "write.refusals_omitted/1"
    count: int
    since: datetime


# Event, type and payload outside, fact and command of the audit log, note of decisions. What the
# audit log calls a refusal, the event itself says.
REFUSAL_TABLE: tuple[EventRow, ...] = (
    EventRow(WriteRefused, None, None, None, None, PASSES),
    EventRow(RefusalsOmitted, None, None, None, None, PASSES),
)

REFUSAL_EVENTS: tuple[type[Event], ...] = tuple(row.event for row in REFUSAL_TABLE)

UNKNOWN_ACTION = "unknown"
"""What a refused fact is called whose type could not be read."""

STREAM_PREFIX = "REF-"


def stream_of(credential: str) -> str:
    """The stream of a credential's refusals."""
    return STREAM_PREFIX + credential


class Refusals(msgspec.Struct):
    """How many of a credential's refusals were recorded on the latest day."""

    id: str
    version: int = 0
    organization_id: str | None = None
    workspace_id: str | None = None
    day: date | None = None
    recorded: int = 0

    def has_room(self, now: datetime) -> bool:
        """Whether one more is recorded singly today."""
        return self.day != day_of(now) or self.recorded < DAILY

    def evolve(self, recorded: Recorded) -> None:
        """Take in one event of this stream. Only assigns, never fails."""
        self.version = recorded.originator_version
        _APPLY[type(recorded.body)](self, recorded.body, recorded)

    def _refused(self, body: WriteRefused, recorded: Recorded) -> None:
        day = day_of(recorded.recorded_at)
        self.recorded = self.recorded + 1 if day == self.day else 1
        self.day = day

    def _passes(self, body: Event, recorded: Recorded) -> None:
        """Nothing but the version changes."""


_APPLY: dict[type[Event], Callable[[Refusals, Any, Recorded], None]] = {
    WriteRefused: Refusals._refused,
    RefusalsOmitted: Refusals._passes,
}
