"""Issues the statement by which finance closed a month of the story.

The document is computed by the API's own code, as known at an instant of the story. So the telling
stops there, until the views show all that was told before.
"""

import asyncio
from datetime import UTC, datetime

import msgspec

from ledger.application.commands.statements import IssueStatement, StatementNumbers
from ledger.demo.cast import Closing
from ledger.demo.telling import Stage
from ledger.demo.views import later, views_at_end
from ledger.domain.statement import InstantText, StatementIssued
from ledger.domain.values import format_instant
from ledger.intake.principal import Principal
from ledger.log.documents import Documents
from ledger.postgres.door import Door
from ledger.reads.statement import Document, document, scoped
from ledger.reads.usage import Corner, Summing, UsageScope


class Closer:
    """The act of a story that issues the statement of its closing."""

    def __init__(self, conninfo: str, reading: str, closing: Closing) -> None:
        """``reading`` is the connection string of reads."""
        self._conninfo, self._reading, self._closing = conninfo, reading, closing

    @property
    def at(self) -> datetime:
        return self._closing.at

    def play(self, stage: Stage) -> None:
        """Store the document, and issue the statement. Raises Unavailable if the views stand."""
        stage.execute(self._command())

    def _command(self) -> IssueStatement:
        closing = self._closing
        clerk = Principal(
            closing.clerk, "user", frozenset({"statements:issue"}), closing.organization_id
        )
        with views_at_end(self._conninfo) as (_, end):
            corner = later(end, self.at)
        event = StatementIssued(
            organization_id=closing.organization_id,
            from_=InstantText(format_instant(closing.first)),
            to=InstantText(format_instant(closing.beyond)),
            time_zone="UTC",
            as_of=InstantText(format_instant(corner.clock)),
            position=corner.position,
            document_sha256="",
            reference=f"INV-{closing.first:%Y-%m}",
        )
        made = asyncio.run(self._document(clerk, corner, event))
        Documents(self._conninfo).store(made.row(datetime.now(UTC)))
        return IssueStatement(
            clerk,
            None,
            organization_id=closing.organization_id,
            workspace_id=None,
            replaces=None,
            numbers=StatementNumbers(made.event, corner.clock, msgspec.Raw(made.total)),
        )

    async def _document(self, clerk: Principal, corner: Corner, event: StatementIssued) -> Document:
        closing, door = self._closing, Door(self._reading)
        scope = UsageScope(clerk.tenant, {"organization_id": closing.organization_id})
        period = closing.first, closing.beyond
        await door.open()
        try:
            summing = Summing(door.fetch, scope, corner, *period)
            return document(event, await scoped(summing, *period, by_resource=False))
        finally:
            await door.close()
