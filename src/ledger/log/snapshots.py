"""Snapshots of folds: where the aggregate of a long stream stood.

A line that reports its hours has an event for each check-in, for years. A process that meets it
for the first time would replay them all, and it would do so under the append lock, while everybody
else waits. So the writer keeps each long stream's aggregate beside the log now and then, in the
append transaction itself, and whoever reads the stream starts there.

A snapshot is an aid, never a source: one that another fold made, or that cannot be read, is as
good as none.
"""

import logging
from collections.abc import Callable, Collection

import msgspec

from ledger.domain.api_key import ApiKey
from ledger.domain.endpoint import Endpoint
from ledger.domain.execution import Execution
from ledger.domain.refusals import Refusals
from ledger.domain.run import Run
from ledger.log.tables import SNAPSHOT, SnapshotRow
from ledger.postgres.pipeline import Transaction
from ledger.postgres.rows import insert

Aggregate = Execution | Run | ApiKey | Endpoint | Refusals

KINDS: dict[str, type[Aggregate]] = {
    "LIN": Execution,
    "RUN": Run,
    "KEY": ApiKey,
    "WHK": Endpoint,
    "REF": Refusals,
}
"""What a stream's prefix says its events fold into."""

FOLD = 3
"""The folds' version. Raise it with every change of an aggregate's fields or of its fold: old
snapshots are then ignored, and replaced when their streams are next read."""

EVERY = 200
"""Events from one snapshot of a stream to the next: what a process replays at the most, give or
take one append, in about a millisecond."""

_logger = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode
_DECODE: dict[str, Callable[[bytes], Aggregate]] = {
    prefix: msgspec.json.Decoder(kind).decode for prefix, kind in KINDS.items()
}


def keep(transaction: Transaction, aggregates: Collection[Aggregate]) -> None:
    """Write the snapshots of these aggregates, at least one, whose events are written.

    The append lock is held, so what is written last stands farthest.
    """
    rows = [SnapshotRow(a.id, a.version, FOLD, _encode(a)) for a in aggregates]
    transaction.defer(insert({SNAPSHOT: rows}))


def restore(stream: str, version: int, state: bytes) -> Aggregate | None:
    """The aggregate of a stored snapshot, or None where its bytes are not what was written."""
    try:
        aggregate = _DECODE[stream[:3]](state)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        _logger.warning("the snapshot of %s cannot be read: %r", stream, error)
        return None
    if (aggregate.id, aggregate.version) != (stream, version):
        _logger.warning("the snapshot of %s is not of version %d", stream, version)
        return None
    return aggregate
