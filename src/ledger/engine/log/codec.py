"""Events to stored bytes and back: stable topics, one decoder for each topic, JSON.

A stored event is (stream id, version, topic, state). The topic is the event class's ``TOPIC``,
``name/version``. The state is the envelope: a JSON array with the elements of ``StoredArray``, so
it repeats no names. It begins with the number of this format, which is 2. Stored events are never
rewritten. PostgreSQL can read them: ``convert_from(state, 'UTF8')::json``. The event's leaf in the
sealed log has this format too (``features/proof/sealing/leaf.py``).

An event's schema changes in one of two ways. A new field of the body gets a default, and old bytes
decode as they are. Any other change needs a new class with the next version in its topic. It takes
the old one's place in the table of events, and a decoder of the old topic here makes the new class,
so folds and views see one schema. No event has needed that so far. The envelope may grow at its
end, which older nodes ignore; any other change of it needs a new format.
"""

from collections.abc import Callable, Iterable
from typing import Any, Generic, Literal, TypeVar, cast

import msgspec
from eventsourcing.persistence import Mapper, MapperDeserialisationError, StoredEvent

from ledger.engine.values.recorded import Actor, Event, FactIdentity, Recorded
from ledger.engine.values.values import ActorType, instant_of, micros_of
from ledger.records import EVENTS

B = TypeVar("B")


class StoredBeginning(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The first elements of the envelope, decoded in a sixth of the time that the whole takes."""

    format: Literal[2]
    organization_id: str | None
    workspace_id: str | None
    service_line_id: str | None
    occurred_at: int
    """Microseconds since 1970-01-01 UTC, as in ``recorded_at``."""


class StoredArray(StoredBeginning, Generic[B], frozen=True, array_like=True, gc=False):
    """The envelope: a JSON array of these elements in this order."""

    recorded_at: int
    actor: tuple[ActorType, str]
    reported_by: str
    fact: tuple[str, str, bytes] | None
    """Source, id and digest."""
    request_id: str | None
    causation_id: str | None
    nonce: bytes
    body: B


class TracedArray(StoredArray[B], Generic[B], frozen=True, array_like=True, gc=False):
    """The envelope of a fact that named its trace: one more element at the end."""

    traceparent: str | None = None


class EnvelopeMapper(Mapper[str]):
    """The library's mapper interface for ``Recorded`` envelopes."""

    def __init__(self) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._decode: dict[str, Callable[[bytes], TracedArray[Any]]] = {
            cls.TOPIC: msgspec.json.Decoder(TracedArray[cls]).decode  # type: ignore[valid-type]
            for cls in EVENTS
        }

    def topics_of(self, events: Iterable[type[Event]]) -> dict[str, type[Event]]:
        """The topics under which events of the classes are stored, each with its class."""
        return {cls.TOPIC: cls for cls in events}

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """Encode a ``Recorded``. Its position is not in the bytes, but in its own column."""
        e = cast(Recorded, domain_event)
        return StoredEvent(
            e.originator_id, e.originator_version, type(e.body).TOPIC, self.encode(e)
        )

    def encode(self, event: Recorded) -> bytes:
        fact, trace = event.fact, event.traceparent
        make, traced = (StoredArray, ()) if trace is None else (TracedArray, (trace,))
        return self._encode(
            make(
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
                *traced,
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
        try:
            s = self._decode[topic](state)
            occurred_at, recorded_at = instant_of(s.occurred_at), instant_of(s.recorded_at)
            actor, fact = Actor(*s.actor), FactIdentity(*s.fact) if s.fact else None
        except (KeyError, ValueError, OverflowError, msgspec.MsgspecError) as error:
            raise MapperDeserialisationError(
                f"{topic} at position {position} ({originator_id} version {version}): {error!r}"
            ) from error
        return Recorded(
            originator_id,
            version,
            position,
            occurred_at,
            recorded_at,
            actor,
            s.reported_by,
            s.organization_id,
            s.workspace_id,
            s.service_line_id,
            fact,
            s.request_id,
            s.causation_id,
            s.nonce,
            s.body,
            s.traceparent,
        )
