"""The tools: each asks a few routes of the ledger, and tells their answers in few words.

The first line of a function is the title of its tool, and its whole docstring the description.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from msgspec import to_builtins
from msgspec.structs import fields

from execution_ledger import _operations as routes
from execution_ledger import types
from execution_ledger._async.transport import AsyncTransport
from execution_ledger._operation import Bare, Listing
from execution_ledger.mcp import answers, arguments
from execution_ledger.mcp.rows import (
    alert_row,
    as_row,
    blocker_row,
    changed_row,
    counted,
    hold_rows,
    line_row,
    now,
    payload_of,
    run_row,
    signal_row,
    sum_row,
    who_row,
)
from execution_ledger.mcp.texts import NotFitting

WORST_ALERTS = 5
"""So many alerts are told beside lines."""


class ToolLedger(NamedTuple):
    """The ledger of one call."""

    transport: AsyncTransport
    shows_payloads: bool
    """Whether answers may hold the input, output and error of runs."""

    async def page(
        self, operation: Listing[Any] | Bare[Any], *ids: str, **given: object
    ) -> "ToolPage":
        """A page of a list. Raises LedgerError."""
        page = await self.transport.call(operation, *ids, arguments=given)
        cursor = page.meta.cursor if page.meta.has_more else None
        return ToolPage(page.data, {"truncated": page.meta.has_more, "cursor": cursor})


class ToolPage(NamedTuple):
    """A page of a list: its data, and where it ends."""

    data: Any
    end: dict[str, Any]


async def what_needs_me(
    ledger: ToolLedger, asked: arguments.NeedsMeArguments
) -> answers.NeedsAnswer:
    """Tell what needs somebody.

    Blocked and paused lines, the longest stopped first, each with its holds, the number of its open
    blockers, and cause, reason, assignee and due time of the oldest of these; how many lines are in
    each state; the worst open alerts. With `overdue`, the earliest due time comes first. Begin here
    when no line is named.
    """
    scope = {"workspace_id": asked.workspace, "as_of": asked.as_of}
    narrowed = {
        "project_tag": asked.project,
        "assignee": asked.assignee,
        "unassigned": "true" if asked.unassigned else None,
        "overdue": "true" if asked.overdue else None,
    }
    lines = await ledger.page(
        routes.LIST_EXECUTIONS,
        workspace_id=asked.workspace,
        **narrowed,
        state=["blocked", "paused"],
        sort="due_at" if asked.overdue else "state_since",
        **_paged(asked),
    )
    told = answers.NeedsAnswer(lines=[], **lines.end)
    for line in lines.data:
        # The list tells neither who paused a line and why, nor more than one blocker.
        shown = await _shown(ledger, line.service_line_id, asked.as_of)
        told.lines.append(line_row(shown, asked.as_of))
    if asked.cursor is None:
        counts = await ledger.transport.call(
            routes.SUMMARIZE_EXECUTIONS, arguments={**scope, **narrowed}
        )
        told.lines_by_state = counted(counts.by_state)
        told.open_alerts = counts.open_alerts
        if counts.open_alerts and not any(narrowed.values()):
            told.worst_alerts = await _worst_alerts(ledger, **scope)
    return told


async def find(ledger: ToolLedger, asked: arguments.FindArguments) -> answers.FindAnswer:
    """Find things by name or number, or lines by filters.

    With `text`: lines, runs, workspaces, projects, resources and open blockers whose name has the
    words, or whose id has the number, as they are now. Without it: the lines that the other
    arguments describe, now or at an instant; the longest in their state first.
    """
    if asked.text is not None:
        _alone(asked, "text", "limit", "cursor")
        found = await ledger.transport.call(routes.SEARCH_NAMES, arguments={"q": asked.text})
        things = [
            answers.ThingRow(
                type=each.type, id=each.id, name=each.name, service_line_id=each.service_line_id
            )
            for each in found
        ]
        shown, end = _from_offset(things, asked)
        return answers.FindAnswer(things=[*shown], **end)
    lines = await ledger.page(
        routes.LIST_EXECUTIONS,
        state=asked.state,
        workspace_id=asked.workspace,
        project_tag=asked.project,
        product_line=asked.product_line,
        execution_model=asked.execution_model,
        health=asked.health,
        sort="state_since",
        **_paged(asked),
    )
    return answers.FindAnswer(
        lines=[line_row(each, asked.as_of) for each in lines.data], **lines.end
    )


async def why(ledger: ToolLedger, asked: arguments.LineArguments) -> answers.WhyAnswer:
    """Tell why a line is in its state, and since when.

    Open blockers with cause, reason, assignee and due time; holds with who put them on, why and
    until when; bad health signals; alerts that are not resolved. With `as_of` it tells what the
    ledger knew at that instant: ask twice, once without, to see what changed since.
    """
    line = await _shown(ledger, asked.line, asked.as_of)
    blockers = sorted(line.blockers, key=lambda blocker: blocker.since)
    shown, end = _from_offset(blockers, asked)
    return answers.WhyAnswer(
        service_line_id=line.service_line_id,
        name=line.name,
        state=line.state,
        state_since=line.state_since,
        blockers=[blocker_row(each, asked.as_of) for each in shown],
        holds=hold_rows(line),
        health_status=line.health.status,
        health_score=line.health.score,
        bad_signals=[signal_row(each) for each in line.health.signals if each.status != "green"],
        open_runs=line.open_runs,
        last_activity_at=line.last_activity_at,
        closed_at=line.closed_at,
        open_alerts=line.open_alerts,
        worst_alerts=await _worst_alerts(ledger, service_line_id=asked.line, as_of=asked.as_of)
        if line.open_alerts
        else [],
        **end,
    )


async def what_changed(
    ledger: ToolLedger, asked: arguments.ChangedArguments
) -> answers.ChangesAnswer:
    """Tell which lines changed between two instants, and how.

    States, health and blockers then and now; with `month` also the hours, runs and tokens of that
    month, as known then and now. The single events are told by `line_history`.
    """
    begin, end = (None, None) if asked.month is None else _month(asked.month)
    compared = await ledger.page(
        routes.SHOW_COMPARISON,
        then=asked.since,
        now=asked.until,
        from_=begin,
        to=end,
        organization_id=asked.organization,
        service_line_id=asked.line,
        workspace_id=asked.workspace,
        project_tag=asked.project,
        **_paged(asked),
    )
    total = compared.data.total
    return answers.ChangesAnswer(
        then=compared.data.then,
        now=compared.data.now,
        lines_by_change=counted(total and to_builtins(total.states)),
        lines=[changed_row(each) for each in compared.data.rows],
        **compared.end,
    )


async def get_line(ledger: ToolLedger, asked: arguments.LineArguments) -> answers.LineAnswer:
    """Show a line: state, health, metrics, holds, and the resources allocated to it."""
    line = await _shown(ledger, asked.line, asked.as_of)
    resources, end = _from_offset(line.resources, asked)
    return answers.LineAnswer(
        line=line_row(line, asked.as_of),
        organization_id=line.organization_id,
        started_at=line.started_at,
        closed_at=line.closed_at,
        metrics={name: value for name, value in line.metrics.items() if value},
        signals=list(map(signal_row, line.health.signals)),
        resources=[as_row(answers.ResourceRow, each) for each in resources],
        **end,
    )


async def line_history(
    ledger: ToolLedger, asked: arguments.HistoryArguments
) -> answers.EventsAnswer:
    """Tell the events of a line and its runs, the earliest first: what happened, and who did it.

    For the latest events take `last_activity_at` of `get_line`, and give an instant shortly before
    as `since`; for what the ledger learned in a period give both bounds.
    """
    events = await ledger.page(
        routes.SHOW_HISTORY,
        asked.line,
        recorded_after=asked.since,
        recorded_until=asked.until,
        **_paged(asked),
    )
    rows = [
        answers.EventRow(
            id=each.id,
            type=each.type,
            occurred_at=each.occurred_at,
            recorded_at=each.recorded_at,
            actor=who_row(each.actor),
            reported_by=each.reported_by,
            subject=each.subject.id,
            state_before=each.state_before,
            state_after=each.state_after,
            payload=payload_of(each.payload),
        )
        for each in events.data
    ]
    return answers.EventsAnswer(events=rows, **events.end)


async def runs(ledger: ToolLedger, asked: arguments.RunsArguments) -> answers.RunsAnswer:
    """List runs, the newest request first, or show one run.

    A run that is tried again under its name has several attempts, each a run of its own. Input,
    output and error are told only where the operator allows payloads.
    """
    shown = ledger.shows_payloads
    if asked.run is not None:
        _alone(asked, "run", "as_of", "limit")
        run = await ledger.transport.call(
            routes.SHOW_RUN, asked.run, arguments={"as_of": asked.as_of}
        )
        return answers.RunsAnswer(
            payloads_are_shown=shown, truncated=False, runs=[run_row(run, shown)]
        )
    page = await ledger.page(
        routes.LIST_ALL_RUNS,
        service_line_id=asked.line,
        status=asked.status,
        from_=asked.since,
        to=asked.until,
        external_id=asked.name,
        parent_run_id=asked.parent,
        workspace_id=asked.workspace,
        **_paged(asked),
    )
    return answers.RunsAnswer(
        payloads_are_shown=shown, runs=[run_row(each, shown) for each in page.data], **page.end
    )


async def usage(ledger: ToolLedger, asked: arguments.UsageArguments) -> answers.SumsAnswer:
    """Sum up hours, runs, tokens and time in each state over a period, by one or two keys.

    The sums of all rows are in `total`, with the tokens of each model. With `as_of` it tells what
    was known of the period then.
    """
    since, until = asked.since, asked.until
    if asked.month is not None and (since or until):
        raise NotFitting("`month` goes with neither `since` nor `until`.")
    if since is None and until is None:
        since, until = _month(asked.month or f"{now():%Y-%m}")
    page = await ledger.page(
        routes.SHOW_USAGE_OF_LINES,
        from_=since,
        to=until,
        group_by=asked.by,
        organization_id=asked.organization,
        service_line_id=asked.line,
        workspace_id=asked.workspace,
        project_tag=asked.project,
        time_zone=asked.time_zone,
        **_paged(asked),
    )
    return answers.SumsAnswer(
        since=page.data.from_,
        until=page.data.to,
        time_zone=page.data.time_zone,
        total=page.data.total and sum_row(answers.SumRow, page.data.total),
        rows=[sum_row(answers.GroupRow, each) for each in page.data.rows],
        **page.end,
    )


async def alerts(ledger: ToolLedger, asked: arguments.AlertsArguments) -> answers.AlertsAnswer:
    """List alerts, the latest due first: conditions that people watch, and that held too long."""
    page = await ledger.page(
        routes.LIST_ALERTS,
        status=asked.status,
        severity=asked.severity,
        service_line_id=asked.line,
        workspace_id=asked.workspace,
        from_=asked.since,
        to=asked.until,
        **_paged(asked),
    )
    return answers.AlertsAnswer(alerts=list(map(alert_row, page.data)), **page.end)


class Tool(NamedTuple):
    """A tool: its function, and the forms of its arguments and of its answer."""

    call: Callable[[ToolLedger, Any], Awaitable[answers.ToolAnswer]]
    arguments: type[arguments.ManyArguments]
    answer: type[answers.ToolAnswer]
    rows: str
    """The list of the answer that may go on behind a cursor."""


TOOLS = {
    each.call.__name__: each
    for each in (
        Tool(what_needs_me, arguments.NeedsMeArguments, answers.NeedsAnswer, "lines"),
        Tool(find, arguments.FindArguments, answers.FindAnswer, "lines"),
        Tool(why, arguments.LineArguments, answers.WhyAnswer, "blockers"),
        Tool(what_changed, arguments.ChangedArguments, answers.ChangesAnswer, "lines"),
        Tool(get_line, arguments.LineArguments, answers.LineAnswer, "resources"),
        Tool(line_history, arguments.HistoryArguments, answers.EventsAnswer, "events"),
        Tool(runs, arguments.RunsArguments, answers.RunsAnswer, "runs"),
        Tool(usage, arguments.UsageArguments, answers.SumsAnswer, "rows"),
        Tool(alerts, arguments.AlertsArguments, answers.AlertsAnswer, "alerts"),
    )
}


def _paged(asked: arguments.ManyArguments) -> dict[str, Any]:
    """The arguments that all lists of the API take, as far as the tool has them."""
    return {"limit": asked.limit, "cursor": asked.cursor, "as_of": getattr(asked, "as_of", None)}


def _alone(asked: arguments.ManyArguments, *names: str) -> None:
    """Raises NotFitting if the first of the named arguments has others beside it."""
    given = {each.name for each in fields(asked) if getattr(asked, each.name) != each.default}
    if given - set(names):
        also = ", ".join(f"`{name}`" for name in names[1:])
        raise NotFitting(f"`{names[0]}` goes with {also} alone.")


def _month(month: str) -> tuple[str, str]:
    """The first day of a month, and of the next."""
    year, number = map(int, month.split("-"))
    return f"{month}-01", f"{year + number // 12:04}-{number % 12 + 1:02}-01"


async def _shown(ledger: ToolLedger, line: str, as_of: str | None) -> types.LineDetail:
    return await ledger.transport.call(routes.SHOW_EXECUTION, line, arguments={"as_of": as_of})


async def _worst_alerts(ledger: ToolLedger, **scope: str | None) -> list[answers.AlertRow]:
    page = await ledger.page(
        routes.LIST_ALERTS,
        **scope,
        status=["open", "acknowledged"],
        sort="severity",
        limit=WORST_ALERTS,
    )
    return list(map(alert_row, page.data))


def _from_offset(rows: Sequence[Any], asked: arguments.ManyArguments) -> tuple[Sequence[Any], Any]:
    """Some rows of an answer that the API gives whole. Their cursor is the number of the next."""
    cursor = asked.cursor or "0"
    if not cursor.isdecimal() or len(cursor) > 9:
        raise NotFitting("`cursor` is not one of this tool.")
    end = int(cursor) + asked.limit
    has_more = end < len(rows)
    return rows[int(cursor) : end], {
        "truncated": has_more,
        "cursor": str(end) if has_more else None,
    }
