"""Rebuilding a view beside the live one, and verifying a view against the log.

Both fill a shadow with the same fold. Then they lock the live view's tracking for a moment, in
which the shadow catches up. A snapshot taken in this moment shows both at one position, so they can
be compared while the projector goes on. At the end a rebuild swaps the generations.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import psycopg
from psycopg.rows import TupleRow

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.views.contract import Projection
from ledger.engine.views.rebuilding.apart import differences_apart
from ledger.engine.views.rebuilding.compare import (
    Difference,
    count_differing,
    count_rows,
    differences,
)
from ledger.engine.views.rebuilding.shadow import (
    CannotBuild,
    Live,
    Progress,
    Session,
    Shadow,
    connect,
    live_in,
    shadow,
    shadow_apart,
)
from ledger.engine.views.schema import expose

_LOCK_TIMEOUT = "1s"
_TRIES = 60
"""The most attempts at a swap or a pin. Most readers release their locks within a second."""

T = TypeVar("T")

_logger = logging.getLogger(__name__)

# Move the tracking to the new generation, which queries and the projector then use. Nodes of
# another version learn on their own channel that the view is no longer theirs.
_SWAP = """
UPDATE ledger.projection
SET version = %(version)s, generation = %(generation)s, position = %(position)s,
    stopped_at = NULL, error = NULL
WHERE name = %(name)s
RETURNING pg_notify('ledger_rebuilt', name || ' v' || version),
    pg_notify('ledger_views', name || ' ' || position)
"""


class Verified(NamedTuple):
    """The result of a verification."""

    position: int
    rows: int
    differing: int


class Rebuilt(NamedTuple):
    """The result of a rebuild."""

    position: int
    generation: int
    rows: int
    differing: int | None
    """The old rows that differed from the fold of the log; None if another version made them."""


def verify(
    conninfo: str,
    codec: EnvelopeMapper,
    projection: Projection,
    progress: Progress,
    tell: Callable[[Difference], None],
    scratch: str | None = None,
) -> Verified:
    """Replay the log, compare with the live rows at one position, and ``tell`` each difference.

    Works while the service writes. The copy is written to ``scratch``, a database with our schema
    and without rows; None for the view's own. Raises CannotBuild.
    """
    if scratch is not None:
        return _verify_apart(conninfo, codec, projection, progress, tell, scratch)
    with shadow(conninfo, codec, projection, progress) as made:
        _refuse_other_version(made)
        with _pinned(made) as (connection, live):
            rows = count_rows(connection, projection, made.number)
            differing = 0
            for difference in differences(connection, projection, live.generation, made.number):
                tell(difference)
                differing += 1
            return Verified(live.position, rows, differing)


def _verify_apart(
    conninfo: str,
    codec: EnvelopeMapper,
    projection: Projection,
    progress: Progress,
    tell: Callable[[Difference], None],
    scratch: str,
) -> Verified:
    with shadow_apart(conninfo, scratch, codec, projection, progress) as made:
        _refuse_other_version(made)
        made.approach(lambda: made.live().position)
        with connect(conninfo) as pinned:
            # A view's rows and its position change in one transaction, so a snapshot has both.
            pinned.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            live = live_in(pinned, projection)
            made.fill(live.position)
            rows = count_rows(made.connection, projection, made.number)
            differing, numbers = 0, (live.generation, made.number)
            for found in differences_apart(pinned, made.connection, projection, numbers):
                tell(found)
                differing += 1
            return Verified(live.position, rows, differing)


def _refuse_other_version(made: Shadow) -> None:
    version, projection = made.live().version, made.projection
    if version != projection.version:
        raise CannotBuild(
            f"{projection.name} has version {version}, the code {projection.version}:"
            " rebuild it first."
        )


def rebuild(
    conninfo: str,
    codec: EnvelopeMapper,
    projection: Projection,
    progress: Progress,
    session: Session = None,
) -> Rebuilt:
    """Fill a new generation, compare it with the live one, and swap. Raises CannotBuild."""
    with shadow(conninfo, codec, projection, progress, session) as made:
        live = made.live()
        differing = None
        if live.version == projection.version and live.generation:
            with _pinned(made) as (connection, live):
                differing = count_differing(connection, projection, live.generation, made.number)
        made.approach(made.head)
        made.finish()
        made.approach(made.head)
        _retried(lambda: _swap(made))
        rows = count_rows(made.connection, projection, made.number)
        return Rebuilt(made.position, made.number, rows, differing)


@contextmanager
def _pinned(made: Shadow) -> Iterator[tuple[psycopg.Connection[TupleRow], Live]]:
    """A snapshot in which the live view and its shadow have the same position."""
    made.approach(lambda: made.live().position)
    with connect(made.conninfo) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        live = _retried(lambda: _pin(made, connection))
        yield connection, live


def _pin(made: Shadow, connection: psycopg.Connection[TupleRow]) -> Live:
    with made.holding_live(_LOCK_TIMEOUT) as (_, live):
        made.fill(live.position)
        # A REPEATABLE READ transaction takes its snapshot at its first statement.
        connection.execute("SELECT 1")
        return live


def _swap(made: Shadow) -> None:
    """Swap the generations, in a short transaction that holds the lock on the live tracking."""
    with made.holding_live(_LOCK_TIMEOUT) as (held, live):
        # The new position must not be below a position that readers have seen. (If the view is
        # stopped, its shadow is ahead.)
        made.fill(max(live.position, made.position))
        expose(held, made.projection.tables, made.number)
        held.execute(
            _SWAP,
            {
                "name": made.projection.name,
                "version": made.projection.version,
                "generation": made.number,
                "position": made.position,
            },
        )


def _retried(action: Callable[[], T]) -> T:
    for _ in range(_TRIES):
        try:
            return action()
        except psycopg.errors.LockNotAvailable:
            _logger.info("waiting for readers of the view")
    raise CannotBuild("The view stayed in use: it could not be locked for a moment.")
