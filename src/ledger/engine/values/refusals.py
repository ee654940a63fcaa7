"""Refusals: the refused writes of one credential, for the audit log (contract, Feeds).

A flood of refused requests must not fill the disk. So only a limited number of a credential's
refusals is recorded one by one each day. Further ones are counted, and one event has the count.
"""

from datetime import date, datetime
from typing import ClassVar

from ledger.engine.values.event_table import PASSES, EventRow
from ledger.engine.values.recorded import Event, Folded, Recorded
from ledger.engine.values.values import day_of

DAILY = 10_000
"""The most refusals of a credential recorded one by one on a UTC day: some 10 MB, or a few times as
much if each names many fields."""


class WriteRefused(Event, frozen=True, kw_only=True):
    """A fact or command was refused; the event keeps its subject, not its content."""

    TOPIC = "write.refused/1"
    action: str
    code: str
    resource_type: str | None = None
    resource_id: str | None = None
    source: str | None = None
    fact_id: str | None = None
    pointers: tuple[str, ...] = ()
    """JSON pointers to the wrong fields, as the response named them."""


class RefusalsOmitted(Event, frozen=True, kw_only=True):
    """Further refusals of the credential were only counted; the event records their count."""

    TOPIC = "write.refusals_omitted/1"
    count: int
    since: datetime


# Columns: event, published type, published payload, fact, command, note. A field of the event
# itself is the audit log's action of a refusal.
REFUSAL_TABLE: tuple[EventRow, ...] = (
    EventRow(WriteRefused, None, None, None, None, PASSES),
    EventRow(RefusalsOmitted, None, None, None, None, PASSES),
)

UNKNOWN_ACTION = "unknown"
"""The action of a refused fact whose type could not be read."""

STREAM_PREFIX = "REF-"


def stream_of(credential: str) -> str:
    return STREAM_PREFIX + credential


class Refusals(Folded):
    """How many of a credential's refusals were recorded on the latest day."""

    organization_id: str | None = None
    workspace_id: str | None = None
    day: date | None = None
    recorded: int = 0

    def has_room(self, now: datetime) -> bool:
        return self.day != day_of(now) or self.recorded < DAILY

    def _refused(self, body: WriteRefused, recorded: Recorded) -> None:
        day = day_of(recorded.recorded_at)
        self.recorded = self.recorded + 1 if day == self.day else 1
        self.day = day

    _APPLY: ClassVar = {
        WriteRefused: _refused,
        RefusalsOmitted: Folded._passes,
    }
