"""Routes about lines, and about their runs."""

from __future__ import annotations

from typing import Unpack

from execution_ledger import _operations as routes
from execution_ledger import types
from execution_ledger._async.part import AsyncRoutes
from execution_ledger._async.transport import AsyncExport, AsyncPages
from execution_ledger.why import Why


class AsyncLines(AsyncRoutes):
    """Service lines: reads, the operator's commands, and facts by verb.

    A verb sends its fact at once and raises if it is refused. ``Ledger.report`` never does.
    """

    def list(self, **filters: Unpack[routes.ListExecutions]) -> AsyncPages[types.Line]:
        """Lines, the newest first: ``list(state="blocked")``."""
        return self._pages(routes.LIST_EXECUTIONS, given=filters)

    async def get(self, line: str, **asked: Unpack[routes.ShowExecution]) -> types.LineDetail:
        """A line with its resources, health, blockers and holds, now or ``as_of`` an instant."""
        return await self._call(routes.SHOW_EXECUTION, line, given=asked)

    async def why(self, line: str, **asked: Unpack[routes.ShowExecution]) -> Why:
        """Why a line is in its state, and since when."""
        return Why.of(await self.get(line, **asked))

    async def summary(self, **filters: Unpack[routes.SummarizeExecutions]) -> types.LineCounts:
        """The numbers of lines by state, model, product line and cause."""
        return await self._call(routes.SUMMARIZE_EXECUTIONS, given=filters)

    def export(self, **filters: Unpack[routes.ExportExecutions]) -> AsyncExport:
        """The list as one file."""
        return self._export(routes.EXPORT_EXECUTIONS, given=filters)

    def history(
        self, line: str, **asked: Unpack[routes.ShowHistory]
    ) -> AsyncPages[types.HistoryItem]:
        """Every event of the line and its runs, with the states before and after."""
        return self._pages(routes.SHOW_HISTORY, line, given=asked)

    async def timeline(self, line: str, **asked: Unpack[routes.ShowTimeline]) -> types.Timeline:
        """The line's states and causes as intervals."""
        return await self._call(routes.SHOW_TIMELINE, line, given=asked)

    async def usage(self, line: str, **asked: Unpack[routes.ShowUsage]) -> types.Usage:
        """Hours, runs and tokens of the line, in total and by day."""
        return await self._call(routes.SHOW_USAGE, line, given=asked)

    def runs(self, line: str, **filters: Unpack[routes.ListExecutionRuns]) -> AsyncPages[types.Run]:
        """The line's runs, the newest request first."""
        return self._pages(routes.LIST_EXECUTION_RUNS, line, given=filters)

    async def pause(self, line: str, **command: Unpack[routes.PauseExecution]) -> types.LineDetail:
        """Put the operator's hold on."""
        return await self._call(routes.PAUSE_EXECUTION, line, given=command)

    async def resume(
        self, line: str, **command: Unpack[routes.ResumeExecution]
    ) -> types.LineDetail:
        """Lift the operator's hold."""
        return await self._call(routes.RESUME_EXECUTION, line, given=command)

    async def pause_many(self, **command: Unpack[routes.PauseExecutions]) -> types.LineOutcomes:
        """Put the operator's hold on all lines that match ``filter``."""
        return await self._call(routes.PAUSE_EXECUTIONS, given=command)

    async def resume_many(self, **command: Unpack[routes.ResumeExecutions]) -> types.LineOutcomes:
        """Lift the operator's hold of all lines that match ``filter``."""
        return await self._call(routes.RESUME_EXECUTIONS, given=command)

    async def activate(
        self, line: str, **fact: Unpack[routes.ReportServiceLineActivated]
    ) -> types.FactItem:
        """Report that the line became active."""
        return await self._report("service_line.activated", line, fact)

    async def update(
        self, line: str, **fact: Unpack[routes.ReportServiceLineUpdated]
    ) -> types.FactItem:
        """Report the line's name, or all its project tags."""
        return await self._report("service_line.updated", line, fact)

    async def hold(
        self, line: str, **fact: Unpack[routes.ReportServiceLinePaused]
    ) -> types.FactItem:
        """Report that the service line itself is on hold; the operator's hold is ``pause``."""
        return await self._report("service_line.paused", line, fact)

    async def release_hold(
        self, line: str, **fact: Unpack[routes.ReportServiceLineResumed]
    ) -> types.FactItem:
        """Report that the service line's own hold ended."""
        return await self._report("service_line.resumed", line, fact)

    async def close(
        self, line: str, **fact: Unpack[routes.ReportServiceLineClosed]
    ) -> types.FactItem:
        """Report that the line ended; open runs are cancelled."""
        return await self._report("service_line.closed", line, fact)

    async def check_in(
        self, line: str, **fact: Unpack[routes.ReportExecutionCheckedIn]
    ) -> types.FactItem:
        """Report work."""
        return await self._report("execution.checked_in", line, fact)

    async def void_check_in(
        self, line: str, **fact: Unpack[routes.ReportExecutionCheckInVoided]
    ) -> types.FactItem:
        """Report that the check-in of a ``fact_id`` no longer counts."""
        return await self._report("execution.check_in_voided", line, fact)

    async def block(
        self, line: str, **fact: Unpack[routes.ReportExecutionBlocked]
    ) -> types.FactItem:
        """Report that something stops the line."""
        return await self._report("execution.blocked", line, fact)

    async def unblock(
        self, line: str, **fact: Unpack[routes.ReportExecutionUnblocked]
    ) -> types.FactItem:
        """Report that a blocker is gone."""
        return await self._report("execution.unblocked", line, fact)

    async def allocate(
        self, line: str, resource: str, /, **fact: Unpack[routes.ReportResourceAllocated]
    ) -> types.FactItem:
        """Report that a resource works on the line; under the same id it replaces the earlier."""
        return await self._report("resource.allocated", line, fact, id=resource)

    async def release(
        self, line: str, resource: str, /, **fact: Unpack[routes.ReportResourceReleased]
    ) -> types.FactItem:
        """Report that a resource left the line."""
        return await self._report("resource.released", line, fact, id=resource)

    async def signal(
        self, line: str, **fact: Unpack[routes.ReportHealthSignalReported]
    ) -> types.FactItem:
        """Report a health signal."""
        return await self._report("health.signal_reported", line, fact)


class AsyncRuns(AsyncRoutes):
    """Runs: reads, commands, and facts by verb. ``Ledger.run`` reports a function's own runs.

    A run is named by its RUN id, or by ``external_id``, which is its name at its source.
    """

    def list(self, **filters: Unpack[routes.ListAllRuns]) -> AsyncPages[types.Run]:
        """Runs of all lines, the newest request first."""
        return self._pages(routes.LIST_ALL_RUNS, given=filters)

    async def get(self, run: str, **asked: Unpack[routes.ShowRun]) -> types.Run:
        """A run with its input, output and error, now or ``as_of`` an instant."""
        return await self._call(routes.SHOW_RUN, run, given=asked)

    def export(self, **filters: Unpack[routes.ExportRuns]) -> AsyncExport:
        """Runs without their payloads, as one file."""
        return self._export(routes.EXPORT_RUNS, given=filters)

    async def erase(self, run: str, **command: Unpack[routes.EraseRun]) -> types.Run:
        """Erase the input, output and error of an ended run, for good."""
        return await self._call(routes.ERASE_RUN, run, given=command)

    async def heartbeat(self, run: str) -> None:
        """Begin the run's lease anew."""
        await self._call(routes.SEND_HEARTBEAT, run)

    async def request(
        self, line: str, run: str | None = None, **fact: Unpack[routes.ReportRunRequested]
    ) -> types.FactItem:
        """Report that a run was asked for; the answer's ``subject`` is its RUN id."""
        return await self._report("run.requested", run, fact, service_line_id=line)

    async def start(
        self, line: str, run: str | None = None, **fact: Unpack[routes.ReportRunStarted]
    ) -> types.FactItem:
        """Report that a run began; the answer's ``subject`` is its RUN id."""
        return await self._report("run.started", run, fact, service_line_id=line)

    async def complete(
        self, run: str | None = None, **fact: Unpack[routes.ReportRunCompleted]
    ) -> types.FactItem:
        """Report that a run ended well."""
        return await self._report("run.completed", run, fact)

    async def fail(
        self, run: str | None = None, **fact: Unpack[routes.ReportRunFailed]
    ) -> types.FactItem:
        """Report that a run failed."""
        return await self._report("run.failed", run, fact)

    async def cancel(
        self, run: str | None = None, **fact: Unpack[routes.ReportRunCancelled]
    ) -> types.FactItem:
        """Report that a run was cancelled."""
        return await self._report("run.cancelled", run, fact)

    async def correct_usage(
        self, run: str | None = None, **fact: Unpack[routes.ReportRunUsageCorrected]
    ) -> types.FactItem:
        """Report the right tokens of an ended run."""
        return await self._report("run.usage_corrected", run, fact)
