"""Moves the views along with the demo, for acts that need the earlier facts."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.app.features import projections
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.postgres import locks
from ledger.engine.postgres.leadership import Candidate
from ledger.engine.reads.as_of import AsOf
from ledger.engine.values.errors import Unavailable
from ledger.engine.views.projector import Projector

_TIMEOUT_SECONDS = 60.0
_POLL_SECONDS = 0.05

# The end of the log with its instant, and the views' position.
_REACHED = """
SELECT max(notification_id), max(recorded_at), (SELECT min(position) FROM ledger.projection)
FROM ledger.ledger_events
"""


@contextmanager
def views_at_end(conninfo: str) -> Iterator[tuple[psycopg.Connection[TupleRow], AsOf]]:
    """A connection, and the end of the log, once the views reach it. Raises Unavailable.

    Without a running service, a projector of this process moves the views until the block ends.
    """
    candidate = Candidate({"projector": locks.FOLLOWING["projector"]})
    projector = Projector(conninfo, EnvelopeMapper(), projections(), candidate)
    projector.start()
    try:
        with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
            yield connection, await_end(connection)
    finally:
        projector.stop()


def await_end(connection: psycopg.Connection[TupleRow]) -> AsOf:
    """The end of the log, once the views reach it. Raises Unavailable."""
    pause, until = threading.Event(), time.monotonic() + _TIMEOUT_SECONDS
    while time.monotonic() < until:
        end, recorded_at, reached = connection.execute(_REACHED).fetchone() or (0, None, 0)
        if recorded_at is not None and reached >= end:
            return AsOf(end, recorded_at.astimezone(UTC))
        pause.wait(_POLL_SECONDS)
    raise Unavailable("The views do not follow the log: the story is told in part.")


def later(as_of: AsOf, at: datetime) -> AsOf:
    """Move ``as_of`` to an instant if that is later."""
    return as_of._replace(clock=max(as_of.clock, at))
