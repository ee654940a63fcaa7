"""Events to stored bytes and back: stable topics, one decoder for each topic and format, JSON.

A stored event is (stream id, version, topic, state). The topic is the event class's ``TOPIC``,
``name/version``; the state is the envelope as JSON, with the event's own fields as an object, the
body. The envelope has two formats:

    2   a JSON array, whose elements ``StoredArray`` names; its first element is the number 2
    1   a JSON object with the names of ``_StoredObject``, which earlier versions wrote

New events are stored in format 2, which repeats no names. Stored events are never rewritten, so
format 1 stays readable for ever. PostgreSQL can read both: ``convert_from(state, 'UTF8')::json``.
The format also decides which leaf an event has in the sealed log (``sealing/leaf.py``).

An event's schema changes in one of two ways. A new field of the body gets a default, and old bytes
decode as they are. Any other change needs a new class with the next version in its topic. The old
class then stays in the table of events, and an upcaster in ``decode`` must turn it into the new
class, so that folds see one schema. So far no event has needed an upcaster. A change of the
envelope needs a new format.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, cast

import msgspec
from eventsourcing.persistence import Mapper, MapperDeserialisationError, StoredEvent

from ledger.domain.events import EVENTS
from ledger.domain.recorded import Actor, FactIdentity, Recorded
from ledger.domain.values import ActorType, instant_of, micros_of

B = TypeVar("B")


class StoredArray(msgspec.Struct, Generic[B], frozen=True, array_like=True, gc=False):
    """The envelope in format 2: a JSON array of these elements in this order."""

    format: Literal[2]
    organization_id: str | None
    workspace_id: str | None
    service_line_id: str | None
    occurred_at: int
    """Microseconds since 1970-01-01 UTC, as in ``recorded_at``."""
    recorded_at: int
    actor: tuple[ActorType, str]
    reported_by: str
    fact: tuple[str, str, bytes] | None
    """Source, id and digest."""
    request_id: str | None
    causation_id: str | None
    nonce: bytes
    body: B


class _StoredObject(msgspec.Struct, Generic[B], frozen=True, kw_only=True):
    """The envelope in format 1: a JSON object of these names, with RFC 3339 instants."""

    occurred_at: datetime
    recorded_at: datetime
    actor: Actor
    reported_by: str
    organization_id: str | None = None
    workspace_id: str | None = None
    service_line_id: str | None = None
    fact: FactIdentity | None = None
    request_id: str | None = None
    causation_id: str | None = None
    nonce: bytes
    body: B


class EnvelopeMapper(Mapper[str]):
    """The library's mapper interface for ``Recorded`` envelopes."""

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._decode_array: dict[str, Callable[[bytes], StoredArray[Any]]] = {
            cls.TOPIC: msgspec.json.Decoder(StoredArray[cls]).decode  # type: ignore[valid-type]
            for cls in EVENTS
        }
        self._decode_object: dict[str, Callable[[bytes], _StoredObject[Any]]] = {
            cls.TOPIC: msgspec.json.Decoder(_StoredObject[cls]).decode  # type: ignore[valid-type]
            for cls in EVENTS
        }

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """Encode a ``Recorded``. Its position is not in the bytes, but in a column of its own."""
        e = cast(Recorded, domain_event)
        return StoredEvent(
            e.originator_id, e.originator_version, type(e.body).TOPIC, self.encode(e)
        )

    def encode(self, event: Recorded) -> bytes:
        """The state of an event, in format 2."""
        fact = event.fact
        return self._encode(
            StoredArray(
                2,
                event.organization_id,
                event.workspace_id,
                event.service_line_id,
                micros_of(event.occurred_at),
                micros_of(event.recorded_at),
                (event.actor.type, event.actor.id),
                event.reported_by,
                None if fact is None else (fact.source, fact.id, fact.digest),
                event.request_id,
                event.causation_id,
                event.nonce,
                event.body,
            )
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Recorded:
        """Decode a stored event, or a notification, whose id is the position.

        Raises MapperDeserialisationError on an unknown topic or unreadable state.
        """
        return self.decode(
            stored_event.originator_id,  # type: ignore[arg-type]
            stored_event.originator_version,
            stored_event.topic,
            stored_event.state,
            getattr(stored_event, "id", 0),
        )

    def decode(
        self, originator_id: str, version: int, topic: str, state: bytes, position: int
    ) -> Recorded:
        """Decode an event from its columns, without a ``StoredEvent``: for the hot paths."""
        s: StoredArray[Any] | _StoredObject[Any]
        try:
            if state[:1] == b"[":
                s = self._decode_array[topic](state)
                occurred_at, recorded_at = instant_of(s.occurred_at), instant_of(s.recorded_at)
                actor, fact = Actor(*s.actor), FactIdentity(*s.fact) if s.fact else None
            else:
                s = self._decode_object[topic](state)
                occurred_at, recorded_at, actor, fact = (
                    s.occurred_at,
                    s.recorded_at,
                    s.actor,
                    s.fact,
                )
        except (KeyError, ValueError, OverflowError, msgspec.MsgspecError) as error:
            raise MapperDeserialisationError(
                f"{topic} at position {position} ({originator_id} version {version}): {error!r}"
            ) from error
        return Recorded(
            originator_id=originator_id,
            originator_version=version,
            position=position,
            occurred_at=occurred_at,
            recorded_at=recorded_at,
            actor=actor,
            reported_by=s.reported_by,
            organization_id=s.organization_id,
            workspace_id=s.workspace_id,
            service_line_id=s.service_line_id,
            fact=fact,
            request_id=s.request_id,
            causation_id=s.causation_id,
            nonce=s.nonce,
            body=s.body,
        )
