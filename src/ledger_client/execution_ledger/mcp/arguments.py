"""The arguments of the tools. An assistant knows only their descriptions."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

State = Literal["running", "idle", "paused", "blocked", "closed"]
HealthOrNone = Literal["green", "amber", "red", "none"]
RunStatus = Literal["pending", "running", "completed", "failed", "cancelled"]
AlertStatus = Literal["open", "acknowledged", "resolved"]
Severity = Literal["info", "warning", "critical"]
ProductLine = Literal[
    "talent", "managed_services", "ods", "infrastructure", "intelligence", "agent_gateway"
]
ExecutionModel = Literal[
    "capacity",
    "ongoing_sla",
    "timeboxed_outcome",
    "infra_managed",
    "observability",
    "agent_runtime",
]

Organization = Annotated[
    str,
    Meta(
        pattern="^ORG-",
        description="An organization, ORG-…; only for a credential of all organizations, which"
        " must name one.",
    ),
]
LineId = Annotated[
    str, Meta(pattern="^LIN-", description="The id of a service line, such as LIN-26-000042.")
]
OnlyLine = Annotated[str, Meta(pattern="^LIN-", description="Only this line, by its id, LIN-….")]
Workspace = Annotated[
    str, Meta(pattern="^WS-", description="Only this workspace, by its id, WS-….")
]
Project = Annotated[str, Meta(description="Only lines of this project, by its id, PROJ-….")]
RunId = Annotated[
    str, Meta(pattern="^RUN-", description="One run, RUN-…: with no argument but `as_of`.")
]
Parent = Annotated[str, Meta(pattern="^RUN-", description="Only runs that this run, RUN-…, began.")]
Month = Annotated[
    str,
    Meta(
        pattern="^(19|20)[0-9]{2}-(0[1-9]|1[0-2])$",
        description="A month such as 2026-11: its sums.",
    ),
]
Zone = Annotated[
    str, Meta(description="The zone of dates and months, such as Europe/Lisbon. Absent: UTC.")
]
INSTANT = "^(19|20)[0-9]{2}-[0-9]{2}-[0-9]{2}([Tt].*)?$"
AN_INSTANT = ": 2026-11-27T15:00:00Z, or a date such as 2026-11-27, which means its 00:00 UTC."
Since = Annotated[str, Meta(pattern=INSTANT, description=f"The start, included{AN_INSTANT}")]
Until = Annotated[str, Meta(pattern=INSTANT, description=f"The end, excluded{AN_INSTANT}")]
After = Annotated[
    str, Meta(pattern=INSTANT, description=f"Only events recorded after this instant{AN_INSTANT}")
]
UpTo = Annotated[
    str, Meta(pattern=INSTANT, description=f"Only events recorded up to this instant{AN_INSTANT}")
]
Earlier = Annotated[str, Meta(pattern=INSTANT, description=f"The earlier instant{AN_INSTANT}")]
Later = Annotated[
    str, Meta(pattern=INSTANT, description=f"The later instant{AN_INSTANT} Absent: now.")
]
AsOf = Annotated[
    str,
    Meta(
        pattern=INSTANT,
        description=f"Tell what was known at this instant{AN_INSTANT} For what was known by the"
        " end of a day give the next date. Absent: now. Never in the future.",
    ),
]
Groups = Annotated[
    str,
    Meta(
        pattern="^[a-z_]+(,[a-z_]+)?$",
        description="One word or two with a comma between them: service_line, workspace, project,"
        " resource, product_line, execution_model, model, month or day; month or day comes last."
        " Such as workspace,month.",
    ),
]
Limit = Annotated[int, Meta(ge=1, le=50, description="The most rows of the answer, 1 to 50.")]
Cursor = Annotated[
    str,
    Meta(
        description="The `cursor` of the answer before, to go on behind it, with the same other"
        " arguments."
    ),
]


class ManyArguments(Struct, kw_only=True, forbid_unknown_fields=True):
    """The base of all arguments."""

    limit: Limit = 20
    cursor: Cursor | None = None


class NeedsMeArguments(ManyArguments, kw_only=True):
    """Of ``what_needs_me``."""

    workspace: Workspace | None = None
    project: Project | None = None
    assignee: (
        Annotated[str, Meta(description="Only lines with an open blocker of this assignee.")] | None
    ) = None
    unassigned: Annotated[
        bool, Meta(description="Only lines with an open blocker that nobody has.")
    ] = False
    overdue: Annotated[
        bool, Meta(description="Only lines with an open blocker past its due time.")
    ] = False
    as_of: AsOf | None = None


class FindArguments(ManyArguments, kw_only=True):
    """Of ``find``."""

    text: (
        Annotated[
            str,
            Meta(
                description="Words of a name, or an id or its number. Goes with no other filter,"
                " and finds by the names of now."
            ),
        ]
        | None
    ) = None
    state: list[State] | None = None
    workspace: Workspace | None = None
    project: Project | None = None
    product_line: ProductLine | None = None
    execution_model: ExecutionModel | None = None
    health: list[HealthOrNone] | None = None
    as_of: AsOf | None = None


class LineArguments(ManyArguments, kw_only=True):
    """Of ``why`` and ``get_line``."""

    line: LineId
    as_of: AsOf | None = None


class ChangedArguments(ManyArguments, kw_only=True):
    """Of ``what_changed``."""

    since: Earlier
    until: Later | None = None
    month: Month | None = None
    line: OnlyLine | None = None
    workspace: Workspace | None = None
    project: Project | None = None
    organization: Organization | None = None


class HistoryArguments(ManyArguments, kw_only=True):
    """Of ``line_history``."""

    line: LineId
    since: After | None = None
    until: UpTo | None = None
    as_of: AsOf | None = None


class RunsArguments(ManyArguments, kw_only=True):
    """Of ``runs``."""

    run: RunId | None = None
    line: OnlyLine | None = None
    status: list[RunStatus] | None = None
    since: Since | None = None
    until: Until | None = None
    name: Annotated[str, Meta(description="The name at the reporter (external_id).")] | None = None
    parent: Parent | None = None
    workspace: Workspace | None = None
    as_of: AsOf | None = None


class UsageArguments(ManyArguments, kw_only=True):
    """Of ``usage``."""

    month: Month | None = None
    since: Since | None = None
    until: Until | None = None
    by: Groups = "service_line"
    line: OnlyLine | None = None
    workspace: Workspace | None = None
    project: Project | None = None
    organization: Organization | None = None
    time_zone: Zone | None = None
    as_of: AsOf | None = None


class AlertsArguments(ManyArguments, kw_only=True):
    """Of ``alerts``."""

    status: list[AlertStatus] | None = None
    severity: list[Severity] | None = None
    line: OnlyLine | None = None
    workspace: Workspace | None = None
    since: Since | None = None
    until: Until | None = None
    as_of: AsOf | None = None
