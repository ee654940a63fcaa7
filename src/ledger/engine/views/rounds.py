"""A round: events are applied to views in the transaction that also moves their tracking.

The projector and the writer (``inline.py``) apply rounds. Both change a tracking only from the
position and generation that they know, so no event is applied twice or skipped, whoever comes
first. The database checks this: the statement fails, and with it the whole transaction.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from psycopg.errors import DivisionByZero

from ledger.engine.postgres.binary import array
from ledger.engine.postgres.pipeline import Statement, Transaction, Value, named
from ledger.engine.values.recorded import Recorded
from ledger.engine.views.contract import Projection
from ledger.engine.views.generation import Generation, Writes

Elsewhere = DivisionByZero
"""The error of a transaction with a round, if a view is not where the caller left it."""

TRACKING = Statement(
    b"SELECT name, version, generation, position, stopped_at FROM ledger.projection"
)

# Move the tracking of all these views, or fail: dividing by zero needs no round trip for the check.
# The writer must not wait for a row while it holds the append lock, so it skips locked rows: of a
# rebuild that swaps, of a verification, or of a projector. (So the two never deadlock either.)
_TRACK = """
WITH held AS (
    SELECT p.name
    FROM unnest(%(names)s::text[], %(generations)s::int[]) AS view (name, generation)
    JOIN ledger.projection AS p ON p.name = view.name
    WHERE p.generation = view.generation AND p.position = %(start)s::bigint {}
), moved AS (
    UPDATE ledger.projection AS p SET position = %(end)s::bigint
    FROM held WHERE p.name = held.name RETURNING p.name
)
SELECT 1 / (count(*) = cardinality(%(names)s::text[]))::int FROM moved
"""
_WAITING = _TRACK.format("FOR NO KEY UPDATE OF p")
_SKIPPING = _TRACK.format("AND p.stopped_at IS NULL FOR NO KEY UPDATE OF p SKIP LOCKED")


_MASK = 16
"""The bits of a view's mask in ``MovedViews.packed``: more than there are views."""


class LiveView(NamedTuple):
    """A view and the generation of its tables."""

    projection: Projection
    generation: int


class MovedViews(NamedTuple):
    """Views that a committed append has moved, and their position."""

    views: Collection[str]
    position: int

    def packed(self, names: Iterable[str]) -> int:
        """Both as a number, which processes share without a lock. ``names`` are of all views."""
        mask = sum(1 << bit for bit, name in enumerate(names) if name in self.views)
        return self.position << _MASK | mask

    @classmethod
    def unpacked(cls, number: int, names: Iterable[str]) -> "MovedViews":
        views = [name for bit, name in enumerate(names) if number & 1 << bit]
        return cls(views, number >> _MASK)


def apply_round(
    transaction: Transaction,
    views: Sequence[LiveView],
    events: Sequence[Recorded],
    start: int,
    end: int,
    *,
    waits: bool = True,
) -> None:
    """Apply events to views that stand at ``start``, and move them to ``end``, with the commit.

    Raises the error of a view. The transaction raises Elsewhere, at its commit at the latest, if a
    view is not at ``start``. A round that does not wait (``waits``) also raises it if a view's row
    is locked, or if the view was stopped.
    """
    tracking: dict[str, Value] = {
        "names": array("text", [view.projection.name for view in views]),
        "generations": array("int", [view.generation for view in views]),
        "start": start,
        "end": end,
    }
    transaction.defer(named(_WAITING if waits else _SKIPPING, tracking))
    writes = Writes(transaction)
    batches = []
    for projection, number in views:
        wanted = [event for event in events if type(event.body) in projection.events]
        if wanted:
            generation = Generation(writes, number)
            projection.prepare(generation, wanted)
            batches.append((projection, generation, wanted))
    transaction.load()
    for projection, generation, wanted in batches:
        projection.apply(generation, wanted)
        projection.store(generation)
    writes.flush()


def announcement(names: Iterable[str], position: int) -> Statement:
    """The notification that views have reached a position.

    One announces all views: receiving one costs a listener more than parsing it.
    """
    text = f"{','.join(names)} {position}"
    return named("SELECT pg_notify('ledger_views', %(text)s)", {"text": text})
