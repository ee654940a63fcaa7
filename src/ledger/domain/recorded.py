"""The envelope: what every event carries beside its own facts, for ever.

An event class says what happened. ``Recorded`` says who reported it, when it happened, when we
learned of it, and where it stands in its stream and in the log.
"""

from datetime import datetime
from typing import ClassVar

import msgspec

from ledger.domain.values import ActorType, format_id


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """What happened, in the past tense. ``TOPIC`` is its stored name and schema version.

    The name is data: it never changes. A field may be added with a default; any other change is
    a new class with the next version, and the old one stays readable (see ``log/codec.py``).
    """

    TOPIC: ClassVar[str]


class Actor(msgspec.Struct, frozen=True):
    """Who did it, as reported: a user, an API key, an agent or the system itself."""

    type: ActorType
    id: str


class FactIdentity(msgspec.Struct, frozen=True):
    """Which reported fact an event records: (organization, source, id) and its content digest."""

    source: str
    id: str
    digest: bytes
    """SHA-256 of the content as sent; for run facts an HMAC under the run's key."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """An event in its envelope; satisfies the library's ``DomainEventProtocol``."""

    originator_id: str
    """The stream: a LIN, RUN, KEY or WHK id, or REF- and a credential."""
    originator_version: int
    position: int
    """Its place in the log: rises, may skip."""
    occurred_at: datetime
    """When it happened, as reported."""
    recorded_at: datetime
    """When the ledger learned of it: given under the append lock, rises strictly with position."""
    actor: Actor
    reported_by: str
    """The credential itself, which no sender can set."""
    organization_id: str | None
    workspace_id: str | None
    service_line_id: str | None
    fact: FactIdentity | None
    request_id: str | None
    causation_id: str | None
    """The EVT id of the event that caused this one."""
    nonce: bytes
    """16 random bytes: a neighbour in the sealed log cannot guess this event's leaf."""
    body: Event

    @property
    def line_id(self) -> str:
        """The line it belongs to: a run's, or the line whose own stream it is in."""
        return self.service_line_id or self.originator_id

    @property
    def event_id(self) -> str:
        """``EVT-YY-N``: the year of recording and the position (contract 5)."""
        return format_id("EVT", self.recorded_at.year, self.position)
