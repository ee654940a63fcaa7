"""The view of all events as they are published: in histories, feeds and the audit log.

``event`` has one row per event, in log order, with the event's tenant and line; rows are only
added. A row has three parts of ready JSON: ``told`` (actor and times) is common to the feed's
envelope and to the audit log's entry, ``said`` completes the envelope, ``audited`` completes the
entry. So one table serves histories, feeds and audit log in one order, and stores their common part
once (contract, Reading and Feeds). ``event_line`` has the fold of each line, from which the view
takes the line's state before and after an event.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from ledger.domain.events import EVENTS
from ledger.domain.execution import Execution
from ledger.domain.execution_events import CHECK_INS, Activated, HealthSignalReported
from ledger.domain.recorded import Recorded
from ledger.language.audited import entry_of
from ledger.language.published import PUBLISHED, SUBJECTS, UNCHANGED_HEALTH, changes_health
from ledger.language.rendering import members, time_text
from ledger.postgres.exchange import Rows
from ledger.postgres.table import BigInt, Bool, Index, Octets, Table, Text
from ledger.views.folds import Folds, Packing
from ledger.views.generation import Generation


class ToldRow(NamedTuple):
    """An event as it is published."""

    position: BigInt
    number: Text
    """The part of the event's ids after the prefix: year and position."""
    line_id: Text | None
    """Null: the event belongs to no line."""
    organization_id: Text | None
    """Null: the event belongs to no tenant."""
    workspace_id: Text | None
    type: Text | None
    """The published type; null: the event is not published."""
    in_feed: Bool
    """Whether feeds carry the event."""
    state_before: Text | None
    """The line's state before the event; null at its first event."""
    state_after: Text | None
    told: Text
    """JSON members: actor and times."""
    said: Text | None
    """JSON members: the rest of the envelope."""
    audit: Text | None
    """``fact``, ``command`` or ``refused``; null: the event is not in the audit log."""
    action: Text | None
    actor_type: Text
    actor_id: Text
    audited: Text | None
    """JSON members: the rest of the audit log's entry."""


EVENT = Table(
    "event",
    ToldRow,
    key=("position",),
    tenant=("organization_id", "workspace_id"),
    is_keyed_late=True,
    indexes=(
        # The history of a line.
        Index("line_id, position"),
        # Feeds and the audit log of a tenant; feeds by type, which may be rare.
        Index("organization_id, position"),
        Index("organization_id, workspace_id, position"),
        Index("organization_id, type, position"),
        # The events of an actor. (If the tenant came first, PostgreSQL would sort the tenant's
        # events instead of walking the index.)
        Index("actor_id, organization_id, position"),
        # Commands and refusals: there are few of them among the facts.
        Index("organization_id, position", where="audit IN ('command', 'refused')"),
    ),
)


class LineRow(NamedTuple):
    """A line's fold."""

    line_id: Text
    fold: Octets
    position: BigInt


LINE = Table("event_line", LineRow, key=("line_id",), replaces=True, options="fillfactor = 80")

# The folds of these lines.
_LOAD = "SELECT fold FROM ledger.event_line_{g} WHERE line_id = ANY($1::text[])"

_encode = msgspec.msgpack.Encoder().encode


class LineFold(msgspec.Struct, array_like=True):
    """The fold of one line: the domain's own aggregate."""

    execution: Execution
    position: int = 0


_decode = msgspec.msgpack.Decoder(LineFold).decode


class EventView:
    """The projection ``event``."""

    name = "event"
    version = 4
    tables: tuple[Table, ...] = (EVENT, LINE)
    events = frozenset(EVENTS)

    def __init__(self) -> None:
        self._lines: Folds[str, LineFold] = Folds(
            lambda line_id: LineFold(Execution(line_id)), Packing(_encode, _decode)
        )

    @property
    def waiting(self) -> int:
        """The number of lines whose fold has changed."""
        return self._lines.waiting

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Ask for the lines' folds."""
        self._lines.begin(e.originator_id for e in events if type(e.body) is Activated)
        line_ids = {own: None for e in events if (own := _line_of(e))}
        generation.ask(self._lines, line_ids, _LOAD, _read)

    def fold(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Write the rows of a batch of events."""
        rows = []
        for event in events:
            line_id = _line_of(event)
            if line_id is None:
                rows.append(_told(event, None, None, None))
                continue
            fold = self._lines[line_id]
            if event.originator_id != line_id or type(event.body) in CHECK_INS:
                state = fold.execution.state
                rows.append(_told(event, line_id, state, state))
            else:
                rows.append(_tell_change(event, fold))
                self._lines.change(line_id)
        generation.write(EVENT, rows)

    def store(self, generation: Generation, most: int | None = None) -> None:
        """Write the folds of the lines that changed."""
        changed = self._lines.take_changed(most)
        generation.write(LINE, [LineRow(f.execution.id, _encode(f), f.position) for f in changed])

    def forget(self) -> None:
        """Drop the rows in memory."""
        self._lines.clear()


def _read(rows: Rows) -> Iterator[tuple[str, LineFold]]:
    for (stored,) in rows:
        fold = _decode(stored)
        yield fold.execution.id, fold


def _line_of(event: Recorded) -> str | None:
    """The line whose history an event belongs to; None for keys, endpoints and refusals."""
    if event.service_line_id is not None:
        return event.service_line_id
    return event.originator_id if event.originator_id.startswith("LIN") else None


def _tell_change(event: Recorded, fold: LineFold) -> ToldRow:
    """Fold an event of the line's own stream; return its row with the state before and after."""
    execution = fold.execution
    before = execution.state if execution.version else None
    in_feed = True
    if isinstance(event.body, HealthSignalReported):
        signal = execution.signals.get(event.body.signal)
        in_feed = changes_health(event.body, signal.status if signal is not None else None)
    execution.evolve(event)
    fold.position = event.position
    return _told(event, execution.id, before, execution.state, in_feed)


def _told(
    event: Recorded,
    line_id: str | None,
    before: str | None,
    after: str | None,
    in_feed: bool = True,
) -> ToldRow:
    published, entry = PUBLISHED.get(type(event.body)), entry_of(event)
    type_ = said = audited = None
    if published is not None:
        type_ = published.name if in_feed else UNCHANGED_HEALTH
        payload = published.tell(event.body)
        if type_.startswith("execution."):
            payload |= {"state_before": before, "state_after": after}
        envelope = {
            "subject": {"type": SUBJECTS[event.originator_id[:3]], "id": event.originator_id},
            "service_line_id": line_id,
            "organization_id": event.organization_id,
            "workspace_id": event.workspace_id,
            "causation_id": event.causation_id,
            "payload": payload,
        }
        said = members(envelope)
    if entry is not None:
        write = {
            "action": entry.action,
            "resource": entry.resource,
            "outcome": entry.outcome,
            "code": entry.code,
            "request_id": event.request_id,
        }
        audited = members(write)
    told = {
        "occurred_at": time_text(event.occurred_at),
        "recorded_at": time_text(event.recorded_at),
        "position": event.position,
        "actor": event.actor,
        "reported_by": event.reported_by,
    }
    # Positional arguments: keyword arguments would take three times as long, for every event.
    return ToldRow(
        event.position,
        event.event_id.removeprefix("EVT-"),
        line_id,
        event.organization_id,
        event.workspace_id,
        type_,
        published is not None and in_feed,
        before,
        after,
        members(told),
        said,
        entry and entry.kind,
        entry and entry.action,
        event.actor.type,
        event.actor.id,
        audited,
    )
