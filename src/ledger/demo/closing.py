"""Issues the statement by which finance closed a month of the story.

The document is computed by the API's own code, as known at an instant of the story. So the telling
stops there, until the views show all that was told before. Where no service runs, a projector of
this process moves them.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec
import psycopg
from psycopg.rows import tuple_row

from ledger.application.commands.statements import IssueStatement, StatementNumbers
from ledger.demo.cast import Closing
from ledger.domain.errors import Unavailable
from ledger.intake.principal import Principal
from ledger.log.codec import EnvelopeMapper
from ledger.log.documents import Documents
from ledger.postgres import locks
from ledger.postgres.door import Door
from ledger.postgres.leadership import Candidate
from ledger.reads.statement import Document, compose, scope_of
from ledger.reads.usage import Corner
from ledger.views.projector import Projector
from projections import projections

_PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.05

# The end of the log with its instant, and how far the views are of which usage is made.
_REACHED = """
SELECT max(notification_id), max(recorded_at),
    (SELECT min(position) FROM ledger.projection WHERE name IN ('execution', 'run'))
FROM ledger.ledger_events
"""


class Closer:
    """The act of a story that issues the statement of its closing."""

    def __init__(self, conninfo: str, reading: str, closing: Closing) -> None:
        """``reading`` is the connection string of reads."""
        self._conninfo, self._reading, self._closing = conninfo, reading, closing

    @property
    def at(self) -> datetime:
        return self._closing.at

    def command(self) -> IssueStatement:
        """Store the document, and make the command. Raises Unavailable if the views do not move."""
        closing = self._closing
        clerk = Principal(
            closing.clerk, "user", frozenset({"statements:issue"}), closing.organization_id
        )
        with self._projected():
            corner = self._corner()
        made = asyncio.run(self._document(clerk, corner))
        Documents(self._conninfo).store(made.row(datetime.now(UTC)))
        return IssueStatement(
            clerk,
            None,
            organization_id=closing.organization_id,
            workspace_id=None,
            replaces=None,
            numbers=StatementNumbers(made.event, corner.clock, msgspec.Raw(made.total)),
        )

    async def _document(self, clerk: Principal, corner: Corner) -> Document:
        closing, door = self._closing, Door(self._reading)
        await door.open()
        try:
            return await compose(
                door.fetch,
                scope_of(clerk.tenant, closing.organization_id, None),
                corner,
                (closing.first, closing.beyond),
                by_resource=False,
                organization_id=closing.organization_id,
                time_zone="UTC",
                reference=f"INV-{closing.first:%Y-%m}",
            )
        finally:
            await door.close()

    @contextmanager
    def _projected(self) -> Iterator[None]:
        """Move the views meanwhile, unless a service leads the projector."""
        candidate = Candidate({"projector": locks.FOLLOWING["projector"]})
        projector = Projector(self._conninfo, EnvelopeMapper(), projections(), candidate)
        projector.start()
        try:
            yield
        finally:
            projector.stop()

    def _corner(self) -> Corner:
        """The end of the log, once the views show it. Raises Unavailable."""
        pause, until = threading.Event(), time.monotonic() + _PATIENCE_SECONDS
        with psycopg.connect(self._conninfo, autocommit=True, row_factory=tuple_row) as connection:
            while time.monotonic() < until:
                end, recorded_at, shown = connection.execute(_REACHED).fetchone() or (0, None, 0)
                if recorded_at is not None and shown >= end:
                    return Corner(end, max(recorded_at.astimezone(UTC), self.at))
                pause.wait(_LOOK_SECONDS)
        raise Unavailable("The views do not follow the log: the story is told in part.")
