"""The view of all events as the outside sees them: the keys by which they are found.

``event`` has one row per event, in log order, and only grows. A row has the event's tenant, line,
type, actor and kind of write, by which histories, feeds and the audit log find it. It also has the
line's state before and after, which the event lacks. All else is rendered from the stored event
when read (``items.py``). ``event_line`` has the fold of each line, which gives the states.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ledger.engine.postgres.schema.table import BigInt, Index, Octets, Table, Text
from ledger.engine.values.recorded import Recorded
from ledger.engine.views.folds import FoldCache, Packing, Remembering
from ledger.engine.views.generation import Generation
from ledger.features.feed.audited import about_line_of, write_of
from ledger.features.feed.envelopes import line_of
from ledger.features.feed.published import PUBLISHED, UNCHANGED_HEALTH, changes_health
from ledger.features.lines.model.execution import Execution
from ledger.features.lines.model.execution_events import CHECK_INS, Activated, HealthSignalReported
from ledger.records import EVENTS


class FeedRow(NamedTuple):
    """The keys of an event as the outside sees it."""

    position: BigInt
    line_id: Text | None
    """Null: the event belongs to no line."""
    organization_id: Text | None
    """Null: the event belongs to no tenant."""
    workspace_id: Text | None
    type: Text | None
    """The published type; null: the event is not published."""
    state_before: Text | None
    state_after: Text | None
    actor_id: Text
    actor_type: Text
    audit: Text | None
    """``fact``, ``command``, ``refused`` or ``read``; null: the event is not in the audit log."""
    action: Text | None
    """The action, except for facts: their action follows from the type."""
    about_line_id: Text | None
    """The line of a command, refusal or read; null if there is none, and for facts."""


NO_FACTS = "('command', 'refused', 'read')"
"""SQL: the kinds of audit log entries that are not facts."""


def key_of(*words: str) -> str:
    """SQL: a number for the values of some columns, each a text expression; null if one is null.

    An index with the number instead of the texts has half the size. Different values may have the
    same number, so a statement compares the columns too.
    """
    number = "0"
    for word in words:
        number = f"hashtextextended({word}, {number})"
    return number


EVENT = Table(
    "event",
    FeedRow,
    key=("position",),
    tenant=("organization_id", "workspace_id"),
    is_filtered_by_view=True,  # the indexes are of hashes
    is_keyed_late=True,
    indexes=(
        # The history of a line.
        Index(f"{key_of('line_id')}, position"),
        # Feeds and the audit log of a tenant; feeds by type, which may be rare.
        Index(f"{key_of('organization_id')}, position"),
        Index(f"{key_of('organization_id', 'workspace_id')}, position"),
        Index(f"{key_of('organization_id', 'type')}, position"),
        # The events of an actor within an organization.
        Index(f"{key_of('organization_id', 'actor_id')}, position"),
        # Commands, refusals and reads: few among the facts.
        Index(f"{key_of('organization_id')}, position", where=f"audit IN {NO_FACTS}"),
        # The same about a line. Refusals and reads are not events of the line: no history has them.
        Index(
            f"{key_of('organization_id', 'about_line_id')}, position",
            where="about_line_id IS NOT NULL",
        ),
        # Events of no organization, such as those of administrators' keys.
        Index("position", where="organization_id IS NULL"),
    ),
)


class LineRow(NamedTuple):
    """A line's fold."""

    line_id: Text
    fold: Octets
    position: BigInt


LINE = Table(
    "event_line",
    LineRow,
    key=("line_id",),
    is_internal=True,
    replaces=True,
    options="fillfactor = 80",
)

_encode = msgspec.msgpack.Encoder().encode


class LineFold(msgspec.Struct, array_like=True):
    """The fold of one line: the domain's own aggregate."""

    execution: Execution
    position: int = 0


_decode = msgspec.msgpack.Decoder(LineFold).decode


class EventView(Remembering):
    """The projection ``event``."""

    name = "event"
    version = 10
    tables: tuple[Table, ...] = (EVENT, LINE)
    events = frozenset(EVENTS)

    def __init__(self) -> None:
        self._lines: FoldCache[str, LineFold] = FoldCache(
            lambda line_id: LineFold(Execution(line_id)), Packing(_encode, _decode)
        )
        super().__init__(self._lines)

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        self._lines.begin(e.originator_id for e in events if type(e.body) is Activated)
        line_ids = {own: None for e in events if (own := line_of(e))}
        generation.find(self._lines, line_ids, LINE)

    def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
        rows = []
        for event in events:
            line_id = line_of(event)
            if line_id is None:
                rows.append(_row(event, None, None, None))
                continue
            line = self._lines[line_id]
            if event.originator_id != line_id or type(event.body) in CHECK_INS:
                state = line.execution.state
                rows.append(_row(event, line_id, state, state))
            else:
                rows.append(_tell_change(event, line))
                self._lines.change(line_id)
        generation.write(EVENT, rows)

    def store(self, generation: Generation, most: int | None = None) -> None:
        changed = self._lines.pop_changed(most)
        generation.write(LINE, [LineRow(f.execution.id, _encode(f), f.position) for f in changed])


def _tell_change(event: Recorded, line: LineFold) -> FeedRow:
    """Apply an event of the line's own stream; return its row with the states before and after."""
    execution = line.execution
    before = execution.state if execution.version else None
    in_feed = True
    if isinstance(event.body, HealthSignalReported):
        signal = execution.signals.get(event.body.signal)
        in_feed = changes_health(event.body, signal.status if signal is not None else None)
    execution.apply(event)
    line.position = event.position
    return _row(event, execution.id, before, execution.state, in_feed)


def _row(
    event: Recorded,
    line_id: str | None,
    before: str | None,
    after: str | None,
    in_feed: bool = True,
) -> FeedRow:
    published, write = PUBLISHED.get(type(event.body)), write_of(event)
    # Positional arguments: keyword arguments would take three times as long for every event.
    return FeedRow(
        event.position,
        line_id,
        event.organization_id,
        event.workspace_id,
        None if published is None else published.name if in_feed else UNCHANGED_HEALTH,
        before,
        after,
        event.actor.id,
        event.actor.type,
        write and write.kind,
        None if write is None or write.kind == "fact" else write.action,
        None if write is None or write.kind == "fact" else about_line_of(event, line_id),
    )
