"""The envelope: the data that every event has besides its own fields, for ever.

An event class says what happened. ``Recorded`` adds who reported it, when it happened, when the
ledger recorded it, its version in the stream and its position in the log.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, Self

import msgspec

from ledger.engine.values.values import ActorType, format_id


def outside(name: str) -> str:
    """The stored and published name of a field: ``from`` for ``from_``."""
    return name.removesuffix("_")


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """A recorded change, named in the past tense. ``TOPIC`` is its stored name and schema version.

    The name is stored, so it never changes. A field may be added with a default. Any other change
    needs a new class with the next version; the old class stays readable (``engine/log/codec.py``).
    """

    TOPIC: ClassVar[str]
    LEADS: ClassVar[bool] = False
    """True if the event may come right before the event that caused it."""

    def identities(self, recorded: "Recorded") -> Iterable["Identity"]:
        """The identities that the event has in addition to the one of its fact."""
        return ()


class Actor(msgspec.Struct, frozen=True):
    """The actor of a change."""

    type: ActorType
    id: str


class Identity(NamedTuple):
    """An identity of an event in its organization: the event is recorded once, however often sent.

    A fact has the source and id that its sender chose; neither is empty. The ledger's own
    identities have an empty source, so no fact can have them.
    """

    organization_id: str
    source: str
    name: str

    @property
    def void(self) -> "Identity":
        """The identity of the void of the check-in that this fact reported."""
        return Identity(self.organization_id, "", f"{self.source}\0{self.name}")

    @property
    def digest(self) -> bytes:
        """The stored form: the first 16 bytes of SHA-256. No sent text contains NUL."""
        return hashlib.sha256("\0".join(self).encode()).digest()[:16]

    @classmethod
    def of_run(cls, organization_id: str, source: str, name: str, attempt: int = 1) -> Self:
        """The identity of the event that gave a run its name at a source."""
        suffix = "run" if attempt == 1 else f"run/{attempt}"
        return cls(organization_id, "", f"{source}\0{name}\0{suffix}")

    def awaiting(self, rank: int) -> "Identity":
        """The identity of the run number ``rank`` among those that await a parent of this name."""
        return self._replace(name=f"{self.name}\0awaiting/{rank}")

    @classmethod
    def of_replacement(cls, organization_id: str, statement_id: str) -> Self:
        """The identity of the statement that replaces this one; there is at most one."""
        return cls(organization_id, "", f"{statement_id}\0replaced")

    @classmethod
    def of_document(cls, organization_id: str, document_sha256: str) -> Self:
        """The identity by which the event of a statement's document is found."""
        return cls(organization_id, "", f"{document_sha256}\0document")

    @classmethod
    def of_alert(
        cls, organization_id: str, watch: str, revision: int, subject: str, began_by: str
    ) -> Self:
        """The identity of the alert of a watch's revision for one episode of a subject."""
        return cls(organization_id, "", f"{watch}/{revision}\0{subject}\0{began_by}\0alert")

    @classmethod
    def of_delivery(cls, organization_id: str, endpoint: str, event_id: str, round_: int) -> Self:
        return cls(organization_id, "", f"{endpoint}/{event_id}/{round_}")


class FactIdentity(msgspec.Struct, frozen=True):
    """The fact that an event records: its source and id, and a digest of its content.

    With the envelope's organization, source and id are the fact's ``Identity``.
    """

    source: str
    id: str
    digest: bytes
    """SHA-256 of the content as sent; for run facts an HMAC under the run's key."""


class Recorded(msgspec.Struct, frozen=True):
    """An event in its envelope. Satisfies the library's ``DomainEventProtocol``.

    The hot paths give its fields by position: by name they would take three times as long.
    """

    originator_id: str
    """The stream: a LIN, RUN, KEY, WHK, STM, WCH or ALR id, ``REF-`` and a credential, ``DIR-`` and
    a name's organization and id, or ``READ-`` and a credential, a line and a day."""
    originator_version: int
    position: int
    """The event's place in the log: positions rise and may have gaps."""
    occurred_at: datetime
    """When the event happened, as reported."""
    recorded_at: datetime
    """When the event was recorded: set under the append lock, strictly rising with position."""
    actor: Actor
    reported_by: str
    """The credential that reported the event; no sender can set it."""
    organization_id: str | None
    workspace_id: str | None
    service_line_id: str | None
    fact: FactIdentity | None
    request_id: str | None
    causation_id: str | None
    """The EVT id of the event that caused this one; on a void, of the check-in that it voids."""
    nonce: bytes
    """16 random bytes, so that a reader of other leaves in the sealed log cannot guess this event.
    """
    body: Event
    traceparent: str | None = None
    """The trace that the fact named (W3C Trace Context)."""

    @property
    def line_id(self) -> str:
        """The line of the event's run, or the line whose own stream it is in."""
        return self.service_line_id or self.originator_id

    @property
    def identity(self) -> Identity | None:
        """The identity of the fact that the event records; None if it records no fact."""
        if self.fact is None:
            return None
        return Identity(self.organization_id or "", self.fact.source, self.fact.id)

    def name_of_run(self, name: str, attempt: int = 1) -> Identity:
        """The identity of a run of this name at the source of the fact."""
        assert self.fact is not None, "a fact gives the name"
        return Identity.of_run(self.organization_id or "", self.fact.source, name, attempt)

    @property
    def trace_id(self) -> str | None:
        return None if self.traceparent is None else self.traceparent[3:35]

    @property
    def event_id(self) -> str:
        """``EVT-YY-N``: the year of recording and the position (contract, Feeds)."""
        return format_id("EVT", self.recorded_at.year, self.position)


class Folded(msgspec.Struct):
    """The state of an aggregate, folded from its stream: the base of all aggregates."""

    id: str
    version: int = 0

    _APPLY: ClassVar[Mapping[type[Event], Callable[[Any, Any, Recorded], None]]]
    """How an event of each class changes the state."""

    @property
    def organization_id(self) -> str | None:
        """The tenant. Every aggregate has fields of this name and of the next one."""
        raise NotImplementedError

    @property
    def workspace_id(self) -> str | None:
        raise NotImplementedError

    @property
    def service_line_id(self) -> str | None:
        """The line that the aggregate's events are about; None if there is none."""
        return None

    @property
    def deleted(self) -> bool:
        """True if commands no longer find the aggregate."""
        return False

    def apply(self, recorded: Recorded) -> None:
        """Apply one event of the stream. This only assigns and never fails."""
        self.version = recorded.originator_version
        self._APPLY[type(recorded.body)](self, recorded.body, recorded)

    def _passes(self, body: Event, recorded: Recorded) -> None:
        """Only the version changes."""


class Credential(Folded):
    """An aggregate whose secret identifies a caller, and that may end: the base of API keys."""

    @property
    def expires_at(self) -> datetime | None:
        """The instant at which the credential ends; None if it does not expire."""
        raise NotImplementedError

    def require_working(self, secret_hash: bytes | None, at: datetime) -> None:
        """Raise Forbidden if the credential, or this secret of it, has ended at an instant."""
        raise NotImplementedError
