"""Views that can be thrown away: rebuilt beside the live one, and verified against the log.

Both fill a shadow with the same fold, then hold the live view still for the moment in which the
shadow catches up with it; a snapshot taken then shows both at one pinned position, and can be
compared at leisure while the projector goes on. A rebuild then swaps.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import psycopg
from psycopg.rows import TupleRow

from ledger.log.codec import EnvelopeMapper
from ledger.views.compare import Difference, count_differing, count_rows, differences
from ledger.views.contract import Projection
from ledger.views.schema import expose
from ledger.views.shadow import CannotBuild, Live, Progress, Shadow, connect, shadow

_LOCK_TIMEOUT = "1s"
_TRIES = 60
"""How often a swap or a pin is tried before it is given up: readers are done within a second."""

T = TypeVar("T")

_logger = logging.getLogger(__name__)

# From here on queries find the new generation, and the projector goes on with it.
_SWAP = """
UPDATE ledger.projection
SET version = %(version)s, generation = %(generation)s, position = %(position)s,
    stopped_at = NULL, error = NULL
WHERE name = %(name)s
RETURNING pg_notify('ledger_views', name || ' ' || position)
"""


class Verified(NamedTuple):
    """What a verification found."""

    position: int
    rows: int
    differing: int


class Rebuilt(NamedTuple):
    """What a rebuild came to."""

    position: int
    generation: int
    rows: int
    differing: int | None
    """Rows that were not what the log says; None where another version made them."""


def verify(
    conninfo: str,
    codec: EnvelopeMapper,
    projection: Projection,
    progress: Progress,
    tell: Callable[[Difference], None],
) -> Verified:
    """Replay the log and compare with the live rows at one position; tell every row that differs.

    Works while the service writes. Raises CannotBuild.
    """
    with shadow(conninfo, codec, projection, progress) as made:
        live = made.live()
        if live.version != projection.version:
            raise CannotBuild(
                f"{projection.name} has version {live.version}, the code {projection.version}:"
                " rebuild it first."
            )
        with _pinned(made) as (connection, live):
            rows = count_rows(connection, projection, made.number)
            differing = 0
            for difference in differences(connection, projection, live.generation, made.number):
                tell(difference)
                differing += 1
            return Verified(live.position, rows, differing)


def rebuild(
    conninfo: str, codec: EnvelopeMapper, projection: Projection, progress: Progress
) -> Rebuilt:
    """Fill a new generation, compare it with the live one, and swap. Raises CannotBuild."""
    with shadow(conninfo, codec, projection, progress) as made:
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
    """A snapshot in which the live view and its shadow stand at one position."""
    made.approach(lambda: made.live().position)
    with connect(made.conninfo) as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        live = _retried(lambda: _pin(made, connection))
        yield connection, live


def _pin(made: Shadow, connection: psycopg.Connection[TupleRow]) -> Live:
    with made.holding_live(_LOCK_TIMEOUT) as (_, live):
        made.fill(live.position)
        # The snapshot is taken by the first statement.
        connection.execute("SELECT 1")
        return live


def _swap(made: Shadow) -> None:
    """Let queries find the shadow, in one short transaction in which the live view stands still."""
    with made.holding_live(_LOCK_TIMEOUT) as (held, live):
        # Never behind what readers have seen. (A stopped view's shadow is ahead of it.)
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
    raise CannotBuild("The view stayed in use: it could not be held still for a moment.")
