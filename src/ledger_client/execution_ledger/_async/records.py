"""Routes about sums, statements, watches, alerts and proofs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from execution_ledger import _operations as routes
from execution_ledger import types
from execution_ledger._async.part import AsyncRoutes
from execution_ledger._async.transport import AsyncExport, AsyncPages


class AsyncSums(AsyncRoutes):
    """Hours, runs, tokens and times across lines."""

    def list(self, **asked: Unpack[routes.ShowUsageOfLines]) -> AsyncPages[types.UsageRow]:
        """The rows, grouped by ``group_by``."""
        return self._rows(routes.SHOW_USAGE_OF_LINES, asked)

    async def get(self, **asked: Unpack[routes.ShowUsageOfLines]) -> types.UsageOfLines:
        """The total, and the rows of the first page."""
        return (await self._call(routes.SHOW_USAGE_OF_LINES, given=asked)).data

    def month(
        self, month: str, **asked: Unpack[routes.ShowUsageOfLines]
    ) -> AsyncPages[types.UsageRow]:
        """The rows of a month such as ``2026-11``, in ``time_zone`` (by default UTC)."""
        year, number = map(int, month.split("-"))
        after = f"{year + number // 12:04}-{number % 12 + 1:02}-01"
        period: routes.ShowUsageOfLines = {"from_": f"{year:04}-{number:02}-01", "to": after}
        return self._rows(routes.SHOW_USAGE_OF_LINES, {**period, **asked})

    def export(self, **asked: Unpack[routes.ExportUsageOfLines]) -> AsyncExport:
        """All rows as one file."""
        return self._export(routes.EXPORT_USAGE_OF_LINES, given=asked)


class AsyncCompare(AsyncRoutes):
    """Two instants side by side."""

    def list(self, **asked: Unpack[routes.ShowComparison]) -> AsyncPages[types.ComparedLine]:
        """The lines that changed between ``then`` and ``now``."""
        return self._rows(routes.SHOW_COMPARISON, asked)

    async def get(self, **asked: Unpack[routes.ShowComparison]) -> types.ComparedLines:
        """The total, and the lines of the first page."""
        return (await self._call(routes.SHOW_COMPARISON, given=asked)).data

    def export(self, **asked: Unpack[routes.ExportComparison]) -> AsyncExport:
        """All lines as one file."""
        return self._export(routes.EXPORT_COMPARISON, given=asked)


class AsyncStatements(AsyncRoutes):
    """Statements: sealed sums of a period."""

    def list(self, **filters: Unpack[routes.ListStatements]) -> AsyncPages[types.Statement]:
        """Statements, the newest first."""
        return self._pages(routes.LIST_STATEMENTS, given=filters)

    async def get(
        self, statement: str, **asked: Unpack[routes.ShowStatement]
    ) -> types.StatementDocument:
        """The document."""
        return await self._call(routes.SHOW_STATEMENT, statement, given=asked)

    async def issue(self, **command: Unpack[routes.IssueStatement]) -> types.Issued:
        """Issue a statement."""
        return await self._call(routes.ISSUE_STATEMENT, given=command)

    async def withdraw(
        self, statement: str, **command: Unpack[routes.WithdrawStatement]
    ) -> types.Statement:
        """Withdraw a statement."""
        return await self._call(routes.WITHDRAW_STATEMENT, statement, given=command)

    async def changes(
        self, statement: str, **asked: Unpack[routes.ShowStatementChanges]
    ) -> types.Changes:
        """The sums of the same period that have changed since."""
        return await self._call(routes.SHOW_STATEMENT_CHANGES, statement, given=asked)

    async def bundle(
        self, statement: str, **asked: Unpack[routes.ShowStatementBundle]
    ) -> types.Bundle:
        """All that proves the document offline; see ``execution_ledger.verify.statement``."""
        return await self._call(routes.SHOW_STATEMENT_BUNDLE, statement, given=asked)

    def export(self, statement: str, **asked: Unpack[routes.ExportStatement]) -> AsyncExport:
        """The document's rows as a table."""
        return self._export(routes.EXPORT_STATEMENT, statement, given=asked)


class AsyncWatches(AsyncRoutes):
    """Watches: conditions with a clock."""

    def list(self, **filters: Unpack[routes.ListWatches]) -> AsyncPages[types.Watch]:
        """Watches, the newest first."""
        return self._pages(routes.LIST_WATCHES, given=filters)

    async def get(self, watch: str, **asked: Unpack[routes.ShowWatch]) -> types.Watch:
        """A watch."""
        return await self._call(routes.SHOW_WATCH, watch, given=asked)

    async def create(self, **command: Unpack[routes.CreateWatch]) -> types.Watch:
        """Set up a watch."""
        return await self._call(routes.CREATE_WATCH, given=command)

    async def update(self, watch: str, **command: Unpack[routes.UpdateWatch]) -> types.Watch:
        """Change the fields that are given."""
        return await self._call(routes.UPDATE_WATCH, watch, given=command)

    async def delete(self, watch: str) -> None:
        """Delete a watch; its alerts are resolved."""
        await self._call(routes.DELETE_WATCH, watch)

    async def preview(self, **command: Unpack[routes.PreviewWatch]) -> types.WatchPreview:
        """The alerts that a watch would have open."""
        return await self._call(routes.PREVIEW_WATCH, given=command)


class AsyncAlerts(AsyncRoutes):
    """Alerts, which watches open."""

    def list(self, **filters: Unpack[routes.ListAlerts]) -> AsyncPages[types.Alert]:
        """Alerts, the newest first."""
        return self._pages(routes.LIST_ALERTS, given=filters)

    async def get(self, alert: str, **asked: Unpack[routes.ShowAlert]) -> types.Alert:
        """An alert."""
        return await self._call(routes.SHOW_ALERT, alert, given=asked)

    async def acknowledge(
        self, alert: str, **command: Unpack[routes.AcknowledgeAlert]
    ) -> types.Alert:
        """Say that somebody takes care of it."""
        return await self._call(routes.ACKNOWLEDGE_ALERT, alert, given=command)

    async def acknowledge_many(
        self, **command: Unpack[routes.AcknowledgeAlerts]
    ) -> Sequence[types.AlertOutcome]:
        """Acknowledge the alerts of ``ids``; each has an outcome of its own."""
        return await self._call(routes.ACKNOWLEDGE_ALERTS, given=command)

    def export(self, **filters: Unpack[routes.ExportAlerts]) -> AsyncExport:
        """Alerts as one file."""
        return self._export(routes.EXPORT_ALERTS, given=filters)


class AsyncProofs(AsyncRoutes):
    """The sealed log. ``execution_ledger.verify`` checks offline what these routes give."""

    async def checkpoint(self, **asked: Unpack[routes.ShowCheckpoint]) -> str:
        """The latest checkpoint: a signed note."""
        return await self._call(routes.SHOW_CHECKPOINT, given=asked)

    async def key(self, **asked: Unpack[routes.ShowKey]) -> str:
        """The log's keys, a line each, the present one first. Keep it to verify by."""
        return await self._call(routes.SHOW_KEY, given=asked)

    async def entry(self, position: int, **asked: Unpack[routes.ShowEntry]) -> bytes:
        """The leaf of the event at a position: the bytes that are hashed."""
        return await self._call(routes.SHOW_ENTRY, position, given=asked)

    async def get(self, **asked: Unpack[routes.ShowProof]) -> types.Proof:
        """All that proves the event at ``position``, and its content."""
        return await self._call(routes.SHOW_PROOF, given=asked)

    async def inclusion(self, **asked: Unpack[routes.ProveInclusion]) -> types.Inclusion:
        """The hashes from a leaf to the root."""
        return await self._call(routes.PROVE_INCLUSION, given=asked)

    async def consistency(self, **asked: Unpack[routes.ProveConsistency]) -> types.Consistency:
        """The hashes that show that a tree begins with an earlier one."""
        return await self._call(routes.PROVE_CONSISTENCY, given=asked)
