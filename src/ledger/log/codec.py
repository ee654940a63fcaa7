"""Events to stored bytes and back: stable topics, one decoder for each topic, readable JSON.

A stored event is (stream id, version, topic, state). The topic is the event class's ``TOPIC``,
``name/version``; the state is one JSON object, the envelope with the event's own fields under
``body``. PostgreSQL can read it: ``convert_from(state, 'UTF8')::jsonb``.

An event's schema changes in one of two ways. A new field gets a default, and old bytes decode as
they are. Any other change needs a new class with the next version in its topic. The old class then
stays in the table of events, and an upcaster in ``decode`` must turn it into the new class, so that
folds see one schema. So far no event has needed an upcaster.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Generic, TypeVar, cast

import msgspec
from eventsourcing.persistence import Mapper, MapperDeserialisationError, StoredEvent

from ledger.domain.events import EVENTS
from ledger.domain.recorded import Actor, Event, FactIdentity, Recorded

B = TypeVar("B")


class _State(msgspec.Struct, Generic[B], frozen=True, omit_defaults=True, kw_only=True):
    """The stored JSON object: the envelope, with the event's own fields under ``body``."""

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
        self._decode: dict[str, Callable[[bytes], _State[Any]]] = {
            cls.TOPIC: msgspec.json.Decoder(_State[cls]).decode  # type: ignore[valid-type]
            for cls in EVENTS
        }

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        """Encode a ``Recorded``. Its position is not in the bytes, but in a column of its own."""
        e = cast(Recorded, domain_event)
        state: _State[Event] = _State(
            occurred_at=e.occurred_at,
            recorded_at=e.recorded_at,
            actor=e.actor,
            reported_by=e.reported_by,
            organization_id=e.organization_id,
            workspace_id=e.workspace_id,
            service_line_id=e.service_line_id,
            fact=e.fact,
            request_id=e.request_id,
            causation_id=e.causation_id,
            nonce=e.nonce,
            body=e.body,
        )
        return StoredEvent(
            e.originator_id, e.originator_version, type(e.body).TOPIC, self._encode(state)
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
        except (KeyError, ValueError, msgspec.MsgspecError) as error:
            raise MapperDeserialisationError(
                f"{topic} at position {position} ({originator_id} version {version}): {error!r}"
            ) from error
        return Recorded(
            originator_id=originator_id,
            originator_version=version,
            position=position,
            occurred_at=s.occurred_at,
            recorded_at=s.recorded_at,
            actor=s.actor,
            reported_by=s.reported_by,
            organization_id=s.organization_id,
            workspace_id=s.workspace_id,
            service_line_id=s.service_line_id,
            fact=s.fact,
            request_id=s.request_id,
            causation_id=s.causation_id,
            nonce=s.nonce,
            body=s.body,
        )
