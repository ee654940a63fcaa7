"""Reads: lines, runs, sums, alerts, statements, keys, and exports."""

import re
import sys
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from execution_ledger import _operations as routes
from execution_ledger._operation import File, Operation
from execution_ledger._requests import request_of
from execution_ledger._sync.transport import Export
from execution_ledger.cli.asking import parameters
from execution_ledger.cli.grammar import command, options_of, when
from execution_ledger.cli.session import connected
from execution_ledger.cli.showing import Columns, Show, ago, clean, columns, value_at
from execution_ledger.types import LineDetail
from execution_ledger.why import Why

LINES = columns(
    "LINE=service_line_id STATE=state SINCE=state_since NAME=name BLOCKED_BY=oldest_blocker.cause "
    "HEALTH=health_score RUNS=open_runs ALERTS=open_alerts WORKSPACE=workspace_id"
)
LINE = columns(
    "LINE=service_line_id NAME=name STATE=state SINCE=state_since HEALTH=health_status "
    "SCORE=health_score OPEN_RUNS=open_runs OPEN_ALERTS=open_alerts MODEL=execution_model "
    "PRODUCT_LINE=product_line PROJECTS=project_tags WORKSPACE=workspace_id "
    "ORGANIZATION=organization_id STARTED=started_at LAST_ACTIVITY=last_activity_at "
    "CLOSED=closed_at"
)
WHY = columns(
    "line=service_line_id name=name state=state since=state_since blockers=blockers holds=holds "
    "health=health"
)
REASONS = columns("KIND=kind ID=id SINCE=since CAUSE=cause REASON=reason WHO=who UNTIL=until")
RUNS = columns(
    "RUN=id STATUS=status REQUESTED=requested_at LINE=service_line_id ERROR=error.code "
    "TOKENS=tokens_used MS=duration_ms TRY=attempt NAME=external_id"
)
RUN = RUNS | columns(
    "STARTED=started_at ENDED=completed_at TRIGGERED_BY=triggered_by.actor_id PARENT=parent_run_id "
    "RETRY_OF=retry_of LEASE_SECONDS=lease_seconds INPUT=input OUTPUT=output MESSAGE=error.message "
    "ERASED=erased_at"
)
ALERTS = columns(
    "ALERT=id STATUS=status SEVERITY=severity LINE=service_line_id TEXT=text DUE=due "
    "ASSIGNEE=acknowledged.assignee WATCH=watch_name"
)
STATEMENTS = columns(
    "STATEMENT=id FROM=from TO=to ISSUED=issued_at HOURS=total.hours TOKENS=total.tokens_used "
    "REPLACED_BY=replaced_by WITHDRAWN=withdrawn_at WORKSPACE=workspace_id REFERENCE=reference"
)
KEYS = columns(
    "KEY=id NAME=name PERMISSIONS=permissions LAST_USED=last_used_at EXPIRES=expires_at "
    "REVOKED=revoked_at ORGANIZATION=organization_id WORKSPACE=workspace_id CREATED=created_at"
)
GROUPS = columns(
    "WORKSPACE=workspace_id LINE=service_line_id PRODUCT_LINE=product_line MODEL=execution_model "
    "PROJECT=project_tag RESOURCE=resource_id LANGUAGE_MODEL=model MONTH=month DAY=day"
)
SUMS = columns(
    "HOURS=hours CHECK-INS=check_ins COMPLETED=runs.completed FAILED=runs.failed "
    "TOKENS=tokens_used NAME=service_line_name|workspace_name|project_name|resource_name"
)
CHANGED = columns(
    "LINE=service_line_id STATE=state HEALTH=health_score BLOCKERS=open_blockers HOURS=hours "
    "RUNS=runs FAILED=runs_failed TOKENS=tokens_used NAME=service_line_name "
    "WORKSPACE=workspace_id"
)
WHERE = "workspace organization as-of limit"
PAGE = 100
"""The largest page that the service gives."""
OF_LINES = "model product-line project resource"


class List(NamedTuple):
    """A command that lists rows."""

    name: str
    sentence: str
    operation: Operation[Any]
    columns: Columns
    options: str
    examples: list[str]


LISTS = (
    List(
        "lines",
        "List lines with their states, and since when.",
        routes.LIST_EXECUTIONS,
        LINES,
        options_of(routes.ListExecutions, f"state cause assignee * health sort {OF_LINES} {WHERE}"),
        ["elk lines --state blocked --sort state_since", "elk lines --as-of 2026-11-01 --csv"],
    ),
    List(
        "runs",
        "List runs of all lines, newest request first.",
        routes.LIST_ALL_RUNS,
        RUNS,
        "line run:status external-id parent from to workspace as-of limit",
        ["elk runs --status failed --from 1d", "elk runs --line LIN-26-000042 --limit 5"],
    ),
    List(
        "alerts",
        "List alerts, the latest due first.",
        routes.LIST_ALERTS,
        ALERTS,
        f"alert:status severity watch line assignee {WHERE}",
        ["elk alerts --status open", "elk alerts --severity critical --json"],
    ),
    List(
        "statements",
        "List statements of usage, newest first.",
        routes.LIST_STATEMENTS,
        STATEMENTS,
        "from to workspace organization limit",
        ["elk statements", "elk api GET /v1/statements/STM-26-000001/bundle >statement.json"],
    ),
    List(
        "keys",
        "List API keys, newest first. No secret is ever shown.",
        routes.LIST_API_KEYS,
        KEYS,
        "limit",
        ["elk keys", "elk keys --json"],
    ),
)


def _list(described: List) -> click.Command:
    def listed(show: Show, limit: int | None, **options: Any) -> None:
        size = {"limit": min(limit or PAGE, PAGE)}
        rows = connected().rows(described.operation, **parameters(options), **size)
        show.rows(rows, described.columns, limit)

    listed.__doc__ = described.sentence
    return command(described.name, described.examples, (), described.options)(listed)


@command(
    "line",
    ["elk line LIN-26-000042", "elk line LIN-26-000042 --as-of '3h ago'"],
    [click.Argument(["line"])],
    "as-of",
)
def line(show: Show, line: str, **options: Any) -> None:
    """Show a line."""
    detail = connected().ask(routes.SHOW_EXECUTION, line, **parameters(options))
    show.one(detail, LINE)
    if show.form == "table":
        for part in ("holds", "blockers"):
            if detail.get(part):
                click.echo()
                show.rows(map(_reason, detail[part]), REASONS)


@command(
    "why",
    ["elk why LIN-26-000042", "elk why LIN-26-000042 --as-of 2026-11-01T09:00:00Z"],
    [click.Argument(["line"])],
    "as-of",
)
def why(show: Show, line: str, **options: Any) -> None:
    """Say why a line is in its state, and since when."""
    detail = connected().ask(routes.SHOW_EXECUTION, line, **parameters(options))
    if show.form == "table":
        for sentence in str(Why.of(msgspec.convert(detail, LineDetail))).split("\n"):
            click.echo(_with_ages(clean(sentence)))
    elif show.form == "json":
        show.one({name: value_at(detail, path) for name, path in WHY.items()}, {})
    else:
        state = {
            "kind": detail["state"],
            "id": detail["service_line_id"],
            "since": detail["state_since"],
        }
        show.rows(map(_reason, [state, *detail["holds"], *detail["blockers"]]), REASONS)


def _with_ages(sentence: str) -> str:
    """A sentence, with an age added to each of its instants."""
    now = datetime.now(UTC)
    return re.sub(
        r"\d{4}-\d\d-\d\d \d\d:\d\dZ", lambda at: f"{at[0]} ({ago(at[0], now)})", sentence
    )


def _reason(detail: dict[str, Any]) -> dict[str, Any]:
    """A state, a hold or a blocker as a row."""
    kind = detail.get("kind") or ("hold" if "hold" in detail else "blocker")
    return {
        "kind": kind,
        "id": detail.get("hold") or detail["id"],
        "since": detail["since"],
        "until": detail.get("until") or detail.get("due_at"),
        "cause": detail.get("cause"),
        "who": detail.get("assignee") or (detail.get("by") or {}).get("id"),
        "reason": detail.get("reason"),
    }


@command(
    "show",
    ["elk run show RUN-26-000007", "elk run show RUN-26-000007 --json"],
    [click.Argument(["run"])],
    "as-of",
)
def show_run(show: Show, run: str, **options: Any) -> None:
    """Show a run with its input, output and error."""
    show.one(connected().ask(routes.SHOW_RUN, run, **parameters(options)), RUN)


def _month(_: click.Context, __: click.Parameter, month: str | None) -> dict[str, str]:
    """Parse a month into its period; empty without a month."""
    if month is None:
        return {}
    found = re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", month)
    if found is None:
        raise click.BadParameter("a month is written 2026-11")
    year, number = int(found[1]), int(found[2])
    after = f"{year + number // 12:04}-{number % 12 + 1:02}-01"
    return {"from_": f"{month}-01", "to": after}


@command(
    "usage",
    ["elk usage --month 2026-11", "elk usage --month 2026-11 --by workspace,resource --csv"],
    [
        click.Option(
            ["--month"], callback=_month, help="A month, such as 2026-11; else this month."
        ),
    ],
    f"by line {OF_LINES} from to time-zone {WHERE}",
)
def usage(show: Show, month: dict[str, str], limit: int | None, **options: Any) -> None:
    """Show hours, runs and tokens by line, or as --by says. A terminal has the total first."""
    options = {"group_by": "service_line", **parameters(options), **month}
    pages = connected().pages(routes.SHOW_USAGE_OF_LINES, **options, limit=PAGE)
    first = next(pages)
    more = (row for page in pages for row in page["rows"])
    key = next((path for row in first["rows"] for path in GROUPS.values() if path in row), "")
    total = [{**first["total"], key: "total"}] if show.form == "table" else []
    show.rows(chain(total, first["rows"], more), {**GROUPS, **SUMS}, limit)


@command(
    "changed",
    ["elk changed --since 24h", "elk changed --since 2026-11-01 --as-of 2026-12-01 --json"],
    [
        click.Option(["--since", "then"], required=True, type=when, help="The earlier instant."),
        click.Option(["--as-of", "now"], type=when, help="The later instant, by default now."),
    ],
    f"line {OF_LINES} from to time-zone workspace organization limit",
)
def changed(show: Show, limit: int | None, **options: Any) -> None:
    """Show the lines that changed between two instants. Sums are of the period --from … --to."""
    rows = connected().rows(routes.SHOW_COMPARISON, **parameters(options), limit=PAGE)
    show.rows(rows, CHANGED, limit)


EXPORTS: dict[str, File[Any]] = {
    "lines": routes.EXPORT_EXECUTIONS,
    "runs": routes.EXPORT_RUNS,
    "events": routes.EXPORT_EVENTS,
    "alerts": routes.EXPORT_ALERTS,
    "audit": routes.EXPORT_AUDIT_LOG,
    "usage": routes.EXPORT_USAGE_OF_LINES,
}


@command(
    "export",
    [
        "elk export events --from 2026-11-01 --csv -o november.csv",
        "elk export runs --line LIN-26-000042 --json | jq .status",
    ],
    [
        click.Argument(["what"], type=click.Choice(list(EXPORTS))),
        click.Option(
            ["-o", "--output"], type=click.Path(path_type=Path), help="The file to write."
        ),
        click.Option(["--after"], help="Continue after this id, the last that arrived."),
    ],
    "line type from to time-zone workspace organization as-of",
)
def export(show: Show, what: str, output: Path | None, **options: Any) -> None:
    """Write all of a list as one file: CSV, or with --json a JSON object a line."""
    ledger = connected()
    ledger.attempt(request_of(routes.CHECK_HEALTH, (), {}))
    arguments = {**parameters(options), "format": "jsonl" if show.form == "json" else "csv"}
    file = Export(ledger, EXPORTS[what], (), arguments)
    if output is not None:
        file.save(output)
    elif sys.stdout.isatty():
        for row in file:
            click.echo(clean(row.removesuffix("\r")))
    else:
        for piece in file.pieces():
            sys.stdout.buffer.write(piece)


COMMANDS = (*map(_list, LISTS), line, why, usage, changed, export)
