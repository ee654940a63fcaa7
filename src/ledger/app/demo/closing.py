"""Issues the statement by which finance closed a month of the demo.

The API's own code computes the document, as of an instant of the demo. So the demo waits there
until the views have all earlier facts.
"""

import asyncio
from datetime import datetime

import msgspec

from ledger.app.demo.cast import Closing
from ledger.app.demo.telling import Stage
from ledger.app.demo.views import later, views_at_end
from ledger.engine.postgres.pool.read_pool import ReadPool
from ledger.engine.reads.as_of import AsOf
from ledger.engine.values.principal import Principal
from ledger.features.usage.commands import IssueStatement, StatementNumbers
from ledger.features.usage.reads.statement import Document, compose, scope_of
from ledger.features.usage.tables import Documents


class Closer:
    """The act of a story that issues the statement of its closing."""

    def __init__(self, conninfo: str, reading: str, closing: Closing) -> None:
        self._conninfo, self._reading, self._closing = conninfo, reading, closing

    @property
    def at(self) -> datetime:
        return self._closing.at

    def play(self, stage: Stage) -> None:
        """Store the document and issue the statement. Raises Unavailable if the views stall."""
        stage.execute(self._command())

    def _command(self) -> IssueStatement:
        closing = self._closing
        clerk = Principal(
            closing.clerk, "user", frozenset({"statements:issue"}), closing.organization_id
        )
        with views_at_end(self._conninfo) as (_, end):
            as_of = later(end, self.at)
        made = asyncio.run(self._document(clerk, as_of))
        Documents(self._conninfo).store(made.row(as_of.clock))
        return IssueStatement(
            clerk,
            None,
            organization_id=closing.organization_id,
            workspace_id=None,
            replaces=None,
            numbers=StatementNumbers(made.event, as_of.clock, msgspec.Raw(made.total)),
        )

    async def _document(self, clerk: Principal, as_of: AsOf) -> Document:
        closing, pool = self._closing, ReadPool(self._reading)
        await pool.open()
        try:
            return await compose(
                pool.fetch,
                scope_of(clerk.tenant, closing.organization_id, None),
                as_of,
                (closing.first, closing.beyond),
                by_resource=False,
                organization_id=closing.organization_id,
                time_zone="UTC",
                reference=f"INV-{closing.first:%Y-%m}",
            )
        finally:
            await pool.close()
