"""Snapshots: the aggregate of a long stream at a version.

A line that reports its hours has an event for each check-in, for years. A process that loads such a
line for the first time would replay all of its events, under the append lock, while every other
writer waits. So the writer stores each long stream's aggregate from time to time, in the append
transaction itself. A process that loads the stream starts from the snapshot.

A snapshot is a cache, never a source. It is ignored if another version of the folds made it, or if
it cannot be decoded.
"""

import logging
from collections.abc import Callable
from typing import Any

import msgspec
import psycopg

from ledger.engine.log.tables import SnapshotRow
from ledger.engine.values.recorded import Folded
from ledger.records import AGGREGATES

VERSION = 11
"""The folds' version. Raise it with every change of an aggregate's fields or of its fold: old
snapshots are then ignored, and replaced when their streams are next read."""

# Drop the snapshots of other folds, once for each version: no process reads them.
_DROP_OTHERS = """
WITH noted AS (
    INSERT INTO ledger.setting AS s (name, value) VALUES ('snapshot_fold', %(fold)s::text)
    ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE s.value <> excluded.value
    RETURNING name
)
DELETE FROM ledger.snapshot WHERE fold <> %(fold)s::int AND EXISTS (SELECT FROM noted)
"""

EVERY = 200
"""Events between two snapshots of a stream. A process replays about so many at most (one append
more or less), in about a millisecond."""

_logger = logging.getLogger(__name__)

encode = msgspec.json.Encoder().encode
_DECODE: dict[str, Callable[[bytes], Folded]] = {
    prefix: msgspec.json.Decoder(kind).decode for prefix, kind in AGGREGATES.items()
}


def row_of(aggregate: Folded) -> SnapshotRow:
    """The snapshot of an aggregate whose events are written already.

    The append lock is held, so the snapshot written last has the highest version.
    """
    return SnapshotRow(aggregate.id, aggregate.version, VERSION, encode(aggregate))


def drop_others(connection: psycopg.Connection[Any]) -> None:
    """Drop the snapshots of other versions of the folds, at the first start of this one."""
    connection.execute(_DROP_OTHERS, {"fold": VERSION})


def restore(stream: str, version: int, state: bytes) -> Folded | None:
    """Return the aggregate of a stored snapshot, or None if the snapshot is damaged."""
    try:
        aggregate = _DECODE[stream[:3]](state)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        _logger.warning("the snapshot of %s cannot be read: %r", stream, error)
        return None
    if (aggregate.id, aggregate.version) != (stream, version):
        _logger.warning("the snapshot of %s is not of version %d", stream, version)
        return None
    return aggregate
