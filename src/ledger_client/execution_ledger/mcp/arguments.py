"""The arguments of the tools. Their descriptions are all that an assistant knows of them."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

State = Literal["running", "idle", "paused", "blocked", "closed"]
HealthOrNone = Literal["green", "amber", "red", "none"]
RunStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
AlertStatus = Literal["open", "acknowledged", "resolved"]
Severity = Literal["info", "warning", "critical"]

AsOf = Annotated[
    str | None,
    Meta(
        description="Tell what the ledger knew at this instant: 2026-11-27T15:00:00Z, or a date,"
        " which means its first moment in UTC (for the end of a day give the next date). Absent:"
        " now. Never in the future."
    ),
]
Line = Annotated[
    str,
    Meta(pattern="^[A-Z]", description="The id of a service line, such as LIN-26-000042."),
]
Workspace = Annotated[str | None, Meta(description="Only this workspace, such as WS-26-000021.")]
Project = Annotated[str | None, Meta(description="Only lines of this project, PROJ-….")]
Words = Annotated[str | None, Meta(description="Only this one.")]
Limit = Annotated[int, Meta(ge=1, le=50, description="The most rows of the answer.")]
Cursor = Annotated[
    str | None,
    Meta(
        description="The `cursor` of the answer before, to go on behind it. Give the other"
        " arguments again."
    ),
]


class _Arguments(Struct, kw_only=True, forbid_unknown_fields=True):
    """The base of all arguments."""


class ManyArguments(_Arguments, kw_only=True):
    """Of a tool that tells many rows."""

    limit: Limit = 20
    cursor: Cursor = None


class NeedsMeArguments(ManyArguments, kw_only=True):
    """Of ``what_needs_me``."""

    workspace: Workspace = None
    project: Project = None
    assignee: Annotated[
        str | None,
        Meta(description="Only lines with an open blocker of this assignee. Not with as_of."),
    ] = None
    as_of: AsOf = None


class FindArguments(ManyArguments, kw_only=True):
    """Of ``find``."""

    text: Annotated[
        str | None,
        Meta(
            description="Words of a name, or an id or its number. Alone: it goes with no other"
            " argument."
        ),
    ] = None
    state: list[State] | None = None
    workspace: Workspace = None
    project: Project = None
    product_line: Words = None
    execution_model: Words = None
    health: list[HealthOrNone] | None = None
    as_of: AsOf = None


class LineArguments(ManyArguments, kw_only=True):
    """Of ``why`` and ``get_line``."""

    line: Line
    as_of: AsOf = None


Month = Annotated[
    str,
    Meta(pattern="^[0-9]{4}-(0[1-9]|1[0-2])$", description="A month such as 2026-11."),
]


class ChangedArguments(ManyArguments, kw_only=True):
    """Of ``what_changed``."""

    since: Annotated[
        str, Meta(description="The earlier instant: 2026-11-27T15:00:00Z, or a date (00:00 UTC).")
    ]
    until: Annotated[str | None, Meta(description="The later instant. Absent: now.")] = None
    month: Annotated[
        Month | None,
        Meta(
            description="Tell hours, runs and tokens of this month too, as known at each instant."
        ),
    ] = None
    line: Annotated[str | None, Meta(description="Only this line, LIN-….")] = None
    workspace: Workspace = None
    project: Project = None


class HistoryArguments(ManyArguments, kw_only=True):
    """Of ``line_history``."""

    line: Line
    since: Annotated[str | None, Meta(description="Only events recorded after this instant.")] = (
        None
    )
    until: Annotated[str | None, Meta(description="Only events recorded until this instant.")] = (
        None
    )
    as_of: AsOf = None


class RunsArguments(ManyArguments, kw_only=True):
    """Of ``runs``."""

    run: (
        Annotated[
            str,
            Meta(pattern="^[A-Z]", description="One run, RUN-…: with no argument but `as_of`."),
        ]
        | None
    ) = None
    line: Annotated[str | None, Meta(description="Only runs of this line, LIN-….")] = None
    status: list[RunStatus] | None = None
    since: Annotated[str | None, Meta(description="Only runs requested from then on.")] = None
    until: Annotated[str | None, Meta(description="Only runs requested before.")] = None
    name: Annotated[str | None, Meta(description="The name at the reporter (external_id).")] = None
    parent: Annotated[str | None, Meta(description="Only runs that this run, RUN-…, began.")] = None
    workspace: Workspace = None
    as_of: AsOf = None


class UsageArguments(ManyArguments, kw_only=True):
    """Of ``usage``."""

    month: Annotated[
        Month | None,
        Meta(
            description="In place of since and until. Without any of the three: the present month."
        ),
    ] = None
    since: Annotated[str | None, Meta(description="The start, included: date or instant.")] = None
    until: Annotated[str | None, Meta(description="The end, excluded: date or instant.")] = None
    by: Annotated[
        str,
        Meta(
            description="One word or two with a comma between them: service_line, workspace,"
            " project, resource, product_line, execution_model, model, month or day; month or day"
            " comes last. Such as workspace,month."
        ),
    ] = "service_line"
    line: Annotated[str | None, Meta(description="Only this line, LIN-….")] = None
    workspace: Workspace = None
    project: Project = None
    time_zone: Annotated[
        str | None, Meta(description="The zone of dates and months, such as Europe/Lisbon.")
    ] = None
    as_of: AsOf = None


class AlertsArguments(ManyArguments, kw_only=True):
    """Of ``alerts``."""

    status: list[AlertStatus] | None = None
    severity: list[Severity] | None = None
    line: Annotated[str | None, Meta(description="Only alerts about this line, LIN-….")] = None
    workspace: Workspace = None
    since: Annotated[str | None, Meta(description="Only alerts due from then on.")] = None
    until: Annotated[str | None, Meta(description="Only alerts due before.")] = None
    as_of: AsOf = None
