"""The tools. Each reads a few routes of the ledger and summarizes their answers.

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
"""The number of alerts in an answer about lines."""


class ToolLedger(NamedTuple):
    """The ledger for one call."""

    transport: AsyncTransport
    shows_payloads: bool
    """True if answers may have the input, output and error of runs."""

    async def page(
        self, operation: Listing[Any] | Bare[Any], *ids: str, **fields: object
    ) -> "ToolPage":
        """A page of a list. Raises LedgerError."""
        page = await self.transport.call(operation, *ids, arguments=fields)
        cursor = page.meta.cursor if page.meta.has_more else None
        return ToolPage(page.data, {"truncated": page.meta.has_more, "cursor": cursor})


class ToolPage(NamedTuple):
    """A page of a list: its data, and its cursor."""

    data: Any
    end: dict[str, Any]


async def what_needs_me(
    ledger: ToolLedger, wanted: arguments.NeedsMeArguments
) -> answers.NeedsAnswer:
    """Tell what needs somebody.

    Blocked and paused lines, the longest stopped first, each with its holds, the number of its open
    blockers, and cause, reason, assignee and due time of the oldest of these; how many lines are in
    each state; the worst open alerts. With `overdue`, the earliest due time comes first. Begin here
    when no line is named.
    """
    scope = {"workspace_id": wanted.workspace, "as_of": wanted.as_of}
    narrowed = {
        "project_tag": wanted.project,
        "assignee": wanted.assignee,
        "unassigned": "true" if wanted.unassigned else None,
        "overdue": "true" if wanted.overdue else None,
    }
    lines = await ledger.page(
        routes.LIST_EXECUTIONS,
        workspace_id=wanted.workspace,
        **narrowed,
        state=["blocked", "paused"],
        sort="due_at" if wanted.overdue else "state_since",
        **_paged(wanted),
    )
    answer = answers.NeedsAnswer(lines=[], **lines.end)
    for line in lines.data:
        # The list does not have who paused a line, the reason, or more than one blocker.
        detail = await _detail(ledger, line.service_line_id, wanted.as_of)
        answer.lines.append(line_row(detail, wanted.as_of))
    if wanted.cursor is None:
        counts = await ledger.transport.call(
            routes.SUMMARIZE_EXECUTIONS, arguments={**scope, **narrowed}
        )
        answer.lines_by_state = counted(counts.by_state)
        answer.open_alerts = counts.open_alerts
        if counts.open_alerts and not any(narrowed.values()):
            answer.worst_alerts = await _worst_alerts(ledger, **scope)
    return answer


async def find(ledger: ToolLedger, wanted: arguments.FindArguments) -> answers.FindAnswer:
    """Find things by name or number, or lines by filters.

    With `text`: lines, runs, workspaces, projects, resources and open blockers whose name has the
    words, or whose id has the number, as they are now. Without it: the lines that the other
    arguments describe, now or at an instant; the longest in their state first.
    """
    if wanted.text is not None:
        _alone(wanted, "text", "limit", "cursor")
        found = await ledger.transport.call(routes.SEARCH_NAMES, arguments={"q": wanted.text})
        things = [
            answers.ThingRow(
                type=each.type, id=each.id, name=each.name, service_line_id=each.service_line_id
            )
            for each in found
        ]
        rows, end = _from_offset(things, wanted)
        return answers.FindAnswer(things=[*rows], **end)
    lines = await ledger.page(
        routes.LIST_EXECUTIONS,
        state=wanted.state,
        workspace_id=wanted.workspace,
        project_tag=wanted.project,
        product_line=wanted.product_line,
        execution_model=wanted.execution_model,
        health=wanted.health,
        sort="state_since",
        **_paged(wanted),
    )
    return answers.FindAnswer(
        lines=[line_row(each, wanted.as_of) for each in lines.data], **lines.end
    )


async def why(ledger: ToolLedger, wanted: arguments.LineArguments) -> answers.WhyAnswer:
    """Tell why a line is in its state, and since when.

    Open blockers with cause, reason, assignee and due time; holds with who put them on, why and
    until when; bad health signals; alerts that are not resolved. With `as_of` it tells what the
    ledger knew at that instant: ask twice, once without, to see what changed since.
    """
    line = await _detail(ledger, wanted.line, wanted.as_of)
    blockers = sorted(line.blockers, key=lambda blocker: blocker.since)
    rows, end = _from_offset(blockers, wanted)
    return answers.WhyAnswer(
        service_line_id=line.service_line_id,
        name=line.name,
        state=line.state,
        state_since=line.state_since,
        blockers=[blocker_row(each, wanted.as_of) for each in rows],
        holds=hold_rows(line),
        health_status=line.health.status,
        health_score=line.health.score,
        bad_signals=[signal_row(each) for each in line.health.signals if each.status != "green"],
        open_runs=line.open_runs,
        last_activity_at=line.last_activity_at,
        closed_at=line.closed_at,
        open_alerts=line.open_alerts,
        worst_alerts=await _worst_alerts(ledger, service_line_id=wanted.line, as_of=wanted.as_of)
        if line.open_alerts
        else [],
        **end,
    )


async def what_changed(
    ledger: ToolLedger, wanted: arguments.ChangedArguments
) -> answers.ChangesAnswer:
    """Tell which lines changed between two instants, and how.

    States, health and blockers then and now; with `month` also the hours, runs and tokens of that
    month, as known then and now. `line_history` lists the single events.
    """
    begin, end = (None, None) if wanted.month is None else _month(wanted.month)
    compared = await ledger.page(
        routes.SHOW_COMPARISON,
        then=wanted.since,
        now=wanted.until,
        from_=begin,
        to=end,
        organization_id=wanted.organization,
        service_line_id=wanted.line,
        workspace_id=wanted.workspace,
        project_tag=wanted.project,
        **_paged(wanted),
    )
    total = compared.data.total
    return answers.ChangesAnswer(
        then=compared.data.then,
        now=compared.data.now,
        lines_by_change=counted(total and to_builtins(total.states)),
        lines=[changed_row(each) for each in compared.data.rows],
        **compared.end,
    )


async def get_line(ledger: ToolLedger, wanted: arguments.LineArguments) -> answers.LineAnswer:
    """Show a line: state, health, metrics, holds, and the resources allocated to it."""
    line = await _detail(ledger, wanted.line, wanted.as_of)
    resources, end = _from_offset(line.resources, wanted)
    return answers.LineAnswer(
        line=line_row(line, wanted.as_of),
        organization_id=line.organization_id,
        started_at=line.started_at,
        closed_at=line.closed_at,
        metrics={name: value for name, value in line.metrics.items() if value},
        signals=list(map(signal_row, line.health.signals)),
        resources=[as_row(answers.ResourceRow, each) for each in resources],
        **end,
    )


async def line_history(
    ledger: ToolLedger, wanted: arguments.HistoryArguments
) -> answers.EventsAnswer:
    """Tell the events of a line and its runs, the earliest first: what happened, and who did it.

    For the latest events take `last_activity_at` of `get_line`, and give an instant shortly before
    as `since`; for what the ledger learned in a period give both bounds.
    """
    events = await ledger.page(
        routes.SHOW_HISTORY,
        wanted.line,
        recorded_after=wanted.since,
        recorded_until=wanted.until,
        **_paged(wanted),
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


async def runs(ledger: ToolLedger, wanted: arguments.RunsArguments) -> answers.RunsAnswer:
    """List runs, the newest request first, or show one run.

    A run that is repeated under its name has several attempts, each a run of its own. The answer
    has input, output and error only if the operator allows payloads.
    """
    has_payloads = ledger.shows_payloads
    if wanted.run is not None:
        _alone(wanted, "run", "as_of", "limit")
        run = await ledger.transport.call(
            routes.SHOW_RUN, wanted.run, arguments={"as_of": wanted.as_of}
        )
        return answers.RunsAnswer(
            payloads_are_shown=has_payloads, truncated=False, runs=[run_row(run, has_payloads)]
        )
    page = await ledger.page(
        routes.LIST_ALL_RUNS,
        service_line_id=wanted.line,
        status=wanted.status,
        from_=wanted.since,
        to=wanted.until,
        external_id=wanted.name,
        parent_run_id=wanted.parent,
        workspace_id=wanted.workspace,
        **_paged(wanted),
    )
    return answers.RunsAnswer(
        payloads_are_shown=has_payloads,
        runs=[run_row(each, has_payloads) for each in page.data],
        **page.end,
    )


async def usage(ledger: ToolLedger, wanted: arguments.UsageArguments) -> answers.SumsAnswer:
    """Sum up hours, runs, tokens and time in each state over a period, by one or two keys.

    The sums of all rows are in `total`, with the tokens of each model. With `as_of` it tells what
    was known of the period then.
    """
    since, until = wanted.since, wanted.until
    if wanted.month is not None and (since or until):
        raise NotFitting("`month` goes with neither `since` nor `until`.")
    if since is None and until is None:
        since, until = _month(wanted.month or f"{now():%Y-%m}")
    page = await ledger.page(
        routes.SHOW_USAGE_OF_LINES,
        from_=since,
        to=until,
        group_by=wanted.by,
        organization_id=wanted.organization,
        service_line_id=wanted.line,
        workspace_id=wanted.workspace,
        project_tag=wanted.project,
        time_zone=wanted.time_zone,
        **_paged(wanted),
    )
    return answers.SumsAnswer(
        since=page.data.from_,
        until=page.data.to,
        time_zone=page.data.time_zone,
        total=page.data.total and sum_row(answers.SumRow, page.data.total),
        rows=[sum_row(answers.GroupRow, each) for each in page.data.rows],
        **page.end,
    )


async def alerts(ledger: ToolLedger, wanted: arguments.AlertsArguments) -> answers.AlertsAnswer:
    """List alerts, the latest due first: conditions that people watch, and that held too long."""
    page = await ledger.page(
        routes.LIST_ALERTS,
        status=wanted.status,
        severity=wanted.severity,
        service_line_id=wanted.line,
        workspace_id=wanted.workspace,
        from_=wanted.since,
        to=wanted.until,
        **_paged(wanted),
    )
    return answers.AlertsAnswer(alerts=list(map(alert_row, page.data)), **page.end)


class Tool(NamedTuple):
    """A tool: its function, and the classes of its arguments and its answer."""

    call: Callable[[ToolLedger, Any], Awaitable[answers.ToolAnswer]]
    arguments: type[arguments.ManyArguments]
    answer: type[answers.ToolAnswer]
    rows: str
    """The list in the answer that a cursor may continue."""


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


def _paged(wanted: arguments.ManyArguments) -> dict[str, Any]:
    """The arguments that all lists of the API take, if the tool has them."""
    return {"limit": wanted.limit, "cursor": wanted.cursor, "as_of": getattr(wanted, "as_of", None)}


def _alone(wanted: arguments.ManyArguments, *names: str) -> None:
    """Raise NotFitting if the first of the named arguments is used with others."""
    changed = {each.name for each in fields(wanted) if getattr(wanted, each.name) != each.default}
    if changed - set(names):
        also = ", ".join(f"`{name}`" for name in names[1:])
        raise NotFitting(f"`{names[0]}` goes with {also} alone.")


def _month(month: str) -> tuple[str, str]:
    """The first day of a month, and of the next one."""
    year, number = map(int, month.split("-"))
    return f"{month}-01", f"{year + number // 12:04}-{number % 12 + 1:02}-01"


async def _detail(ledger: ToolLedger, line: str, as_of: str | None) -> types.LineDetail:
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


def _from_offset(rows: Sequence[Any], wanted: arguments.ManyArguments) -> tuple[Sequence[Any], Any]:
    """A page of rows that the API answers all at once. The cursor is the index of the next row."""
    cursor = wanted.cursor or "0"
    if not cursor.isdecimal() or len(cursor) > 9:
        raise NotFitting("`cursor` is not one of this tool.")
    end = int(cursor) + wanted.limit
    has_more = end < len(rows)
    return rows[int(cursor) : end], {
        "truncated": has_more,
        "cursor": str(end) if has_more else None,
    }
