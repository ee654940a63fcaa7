"""The view of sources: when each CloudEvents source last reported (contract, Watches).

A source has a row for each workspace that it reports about, written at most once a minute: so a
fact costs next to nothing here. An organization has at most ``MOST`` rows: a new source takes the
slot of the source that has been silent longest.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ledger.engine.postgres.exchange import Rows
from ledger.engine.postgres.schema.table import BigInt, Index, Instant, Int, Table, Text
from ledger.engine.values.recorded import Recorded
from ledger.engine.views.folds import FoldCache, Remembering
from ledger.engine.views.generation import Generation
from ledger.features.directory.model import id_of
from ledger.features.feed.audited import write_of
from ledger.records import EVENT_TABLE

MOST = 5_000


class SourceRow(NamedTuple):
    """A source, as of its first report in a minute."""

    organization_id: Text
    slot: Int
    workspace_id: Text
    """Empty if its facts are about no workspace."""
    source: Text
    reported_by: Text
    first_seen: Instant
    last_seen: Instant
    """When the last fact was recorded, rounded down to the minute."""
    fact_type: Text
    subject: Text
    position: BigInt


SOURCE = Table(
    "source",
    SourceRow,
    key=("organization_id", "slot"),
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    options="fillfactor = 80",
    indexes=(Index("organization_id, source"),),
)

# In the order of the latest reports, like the fold in memory.
_LOAD = """
SELECT organization_id, slot, workspace_id, source, reported_by, first_seen, last_seen, fact_type,
       subject, position
FROM ledger.source_{g} WHERE organization_id = ANY($1::text[]) ORDER BY position
"""

_Key = tuple[str, str]
"""(workspace, source)"""


class _Sources:
    def __init__(self) -> None:
        self.rows: OrderedDict[_Key, SourceRow] = OrderedDict()
        self.changed: dict[int, SourceRow] = {}

    def hear(self, event: Recorded) -> bool:
        """Apply an event that records a fact; return True if a row changed."""
        assert event.fact is not None
        key = event.workspace_id or "", event.fact.source
        minute = event.recorded_at.replace(second=0, microsecond=0)
        stored = self.rows.get(key)
        if stored is not None and stored.last_seen == minute:
            return False
        slot, first_seen = len(self.rows), event.recorded_at
        if stored is not None:
            slot, first_seen = stored.slot, stored.first_seen
        elif slot >= MOST:
            slot = self.rows.popitem(last=False)[1].slot
        write = write_of(event)
        row = SourceRow(
            organization_id=event.organization_id or "",
            slot=slot,
            workspace_id=key[0],
            source=key[1],
            reported_by=event.reported_by,
            first_seen=first_seen,
            last_seen=minute,
            fact_type=write.action if write is not None else "",
            subject=id_of(event.originator_id),
            position=event.position,
        )
        self.rows[key] = self.changed[slot] = row
        self.rows.move_to_end(key)
        return True


class SourceView(Remembering):
    """The projection ``source``."""

    name = "source"
    version = 1
    tables: tuple[Table, ...] = (SOURCE,)
    events = frozenset(row.event for row in EVENT_TABLE if row.fact is not None)

    def __init__(self) -> None:
        self._organizations: FoldCache[str, _Sources] = FoldCache(lambda _: _Sources())
        super().__init__(self._organizations)

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        organizations = {e.organization_id: None for e in events if e.fact and e.organization_id}
        generation.ask(self._organizations, organizations, _LOAD, _read)

    def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
        for event in events:
            organization_id = event.organization_id
            if event.fact is None or organization_id is None:
                continue
            if self._organizations[organization_id].hear(event):
                self._organizations.change(organization_id)

    def store(self, generation: Generation, most: int | None = None) -> None:
        for sources in self._organizations.pop_changed(most):
            generation.write(SOURCE, sources.changed.values())
            sources.changed.clear()


def _read(rows: Rows) -> Iterable[tuple[str, _Sources]]:
    found: dict[str, _Sources] = {}
    for values in rows:
        row = SourceRow(*values)
        sources = found.setdefault(row.organization_id, _Sources())
        sources.rows[row.workspace_id, row.source] = row
    return found.items()
