"""The settings of watches as they are sent (contract, Watches).

The models check what is sent, and describe it in OpenAPI. ``values_of`` gives the values as the
domain has them. An array is a set: its words are put in one order, so equal sets are equal values.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
)

from ledger.engine.http.models import Characters, CommandBody, Label
from ledger.engine.http.reading import Bound, TimeZone
from ledger.engine.values.json_gate import MAX_INTEGER, by_value
from ledger.engine.values.values import (
    CAUSES,
    LABEL,
    ORGANIZATION_ID,
    WORKSPACE_ID,
    Cause,
    ExecutionModel,
    ProductLine,
)
from ledger.features.watches.model.watch import Condition, LineChoice
from ledger.features.watches.model.watch_hours import WEEKDAYS, WatchHours, Weekday

W = TypeVar("W", bound=str)

_YEAR, _MONTH, _DAY, _MINUTES = 31_536_000, 2_592_000, 86_400, 300
"""In seconds; the last is the least time between two reminders."""

_MOST_WORDS = 100
"""The most words of an array of lines."""

_WATCHED_STATES = ("running", "idle", "paused", "blocked")
_OPEN_STATUSES = ("pending", "running")


def _each_once(order: Sequence[str]) -> Callable[[list[W]], list[W]]:
    """Puts words in their order, of which none may be there twice."""

    def check(words: list[W]) -> list[W]:
        if len(set(words)) < len(words):
            raise ValueError("has a word twice")
        return sorted(words, key=order.index)

    return check


def _stuck_or_one(states: list[W]) -> list[W]:
    if len(states) > 1 and states != ["paused", "blocked"]:
        raise ValueError("must be one state, or paused and blocked")
    return states


def _set(words: list[W]) -> list[W]:
    return sorted(set(words))


# Conditions.


class InStateCondition(CommandBody):
    """A line is in a state, or is paused or blocked, without a break."""

    kind: Literal["in_state"]
    states: Annotated[
        list[Literal["running", "idle", "paused", "blocked"]],
        Field(
            min_length=1,
            max_length=2,
            description="One state, or `paused` and `blocked`.",
            json_schema_extra={
                "uniqueItems": True,
                "if": {"minItems": 2},
                "then": {
                    "allOf": [{"contains": {"const": each}} for each in ("paused", "blocked")]
                },
            },
        ),
        AfterValidator(_each_once(_WATCHED_STATES)),
        AfterValidator(_stuck_or_one),
    ]


class BlockerOpenCondition(CommandBody):
    """A blocker is open."""

    kind: Literal["blocker_open"]
    causes: Annotated[
        list[Cause],
        Field(
            default_factory=list,
            max_length=len(CAUSES),
            description="Blockers of these causes. An empty array is like none: of any cause.",
        ),
        AfterValidator(_set),
    ]


class PastDueCondition(CommandBody):
    """A blocker is open, and its `due_at` has passed."""

    kind: Literal["past_due"]


class NoActivityCondition(CommandBody):
    """A line that is neither closed nor paused has no open run and no activity."""

    kind: Literal["no_activity"]


class RunOpenCondition(CommandBody):
    """A run is pending or running."""

    kind: Literal["run_open"]
    statuses: Annotated[
        list[Literal["pending", "running"]],
        Field(min_length=1, max_length=2, json_schema_extra={"uniqueItems": True}),
        AfterValidator(_each_once(_OPEN_STATUSES)),
    ]


class RunsFailingCondition(CommandBody):
    """The latest runs of a line have failed, so many of them."""

    kind: Literal["runs_failing"]
    count: Annotated[int, Field(ge=1, le=20), BeforeValidator(by_value)]


class HealthCondition(CommandBody):
    """The health of a line has this status, or a worse one."""

    kind: Literal["health"]
    status: Literal["amber", "red"]


class SourceSilentCondition(CommandBody):
    """No fact of a source was recorded."""

    kind: Literal["source_silent"]
    sources: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=255), Characters(LABEL)]],
        Field(
            min_length=1,
            max_length=_MOST_WORDS,
            description="Each is watched by itself.",
            examples=[["/timesheets"]],
        ),
        AfterValidator(_set),
    ]


class UsageOverCondition(CommandBody):
    """A line has used more than a limit in the present day, ISO week or month, of UTC."""

    kind: Literal["usage_over"]
    measure: Literal["tokens_used", "hours", "runs"]
    period: Literal["day", "week", "month"]
    limit: Annotated[float, Field(gt=0, le=MAX_INTEGER, allow_inf_nan=False)]


_Sent = (
    InStateCondition
    | BlockerOpenCondition
    | PastDueCondition
    | NoActivityCondition
    | RunOpenCondition
    | RunsFailingCondition
    | HealthCondition
    | SourceSilentCondition
    | UsageOverCondition
)

_MODELS: Mapping[str, type[CommandBody]] = {
    get_args(model.model_fields["kind"].annotation)[0]: model for model in get_args(_Sent)
}


class AnyCondition(BaseModel):
    """The kind of a condition, whatever its other fields are."""

    kind: Literal[tuple(_MODELS)]  # type: ignore[valid-type]  # the kinds that have a model


def _of_its_kind(said: Any) -> Any:
    """The condition as its kind has it. (pydantic would put the kind into the places of faults.)"""
    return _MODELS[AnyCondition.model_validate(said).kind].model_validate(said)


ConditionField = Annotated[
    _Sent,
    Field(discriminator="kind", examples=[{"kind": "in_state", "states": ["blocked"]}]),
    BeforeValidator(_of_its_kind),
]

# Lines, hours, durations.

_Array: Any = Field(default_factory=list, max_length=_MOST_WORDS)


class WatchedLines(CommandBody):
    """The lines that a watch is about, of its organization or workspace.

    Several words of an array mean "or", several arrays "and". An empty array is like none. An id
    that the tenant does not have matches nothing.
    """

    execution_model: Annotated[list[ExecutionModel], _Array, AfterValidator(_set)]
    product_line: Annotated[list[ProductLine], _Array, AfterValidator(_set)]
    project_tag: Annotated[list[Label], _Array, AfterValidator(_set)]
    service_line_id: Annotated[list[Label], _Array, AfterValidator(_set)]


_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]"


class HoursOfWatch(CommandBody):
    """The hours in which the time of a watch counts: of a day, on weekdays, in a time zone."""

    time_zone: Annotated[
        TimeZone, Field(description="An IANA time zone.", examples=["Europe/Berlin"])
    ]
    days: Annotated[
        list[Weekday],
        Field(min_length=1, max_length=7, json_schema_extra={"uniqueItems": True}),
        AfterValidator(_each_once(WEEKDAYS)),
    ]
    from_: Annotated[str, Field(alias="from", pattern=f"^{_CLOCK}$", examples=["09:00"])]
    to: Annotated[
        str,
        Field(
            pattern=f"^({_CLOCK}|24:00)$",
            description="The end, excluded, later than `from`.",
            examples=["17:30"],
        ),
    ]

    @field_validator("to")
    @classmethod
    def _is_later(cls, to: str, info: ValidationInfo) -> str:
        if to <= info.data.get("from_", ""):
            raise ValueError("must be later than from")
        return to


def _none_or_minutes(seconds: int) -> int:
    if 0 < seconds < _MINUTES:
        raise ValueError(f"must be 0, or at least {_MINUTES}")
    return seconds


ForSeconds = Annotated[
    int,
    Field(
        ge=0,
        le=_YEAR,
        description="For how long the condition must hold. At least 300 for `no_activity`.",
        examples=[7200],
    ),
    BeforeValidator(by_value),
]
KeepSeconds = Annotated[
    int,
    Field(
        ge=0,
        le=_DAY,
        description="For how long an alert stays open after its condition has ended. Of"
        " `in_state`, `blocker_open`, `health` and `runs_failing` alone.",
    ),
    BeforeValidator(by_value),
]
RemindSeconds = Annotated[
    int,
    Field(
        ge=0,
        le=_MONTH,
        description="The time between two reminders, at least 300; 0: there are none.",
        json_schema_extra={"if": {"minimum": 1}, "then": {"minimum": _MINUTES}},
    ),
    BeforeValidator(by_value),
    AfterValidator(_none_or_minutes),
]
HoursField = Annotated[HoursOfWatch | None, Field(description="Null: all time counts.")]


class Watching(CommandBody):
    """The condition of a watch, its duration, and the lines that it is about."""

    condition: ConditionField
    for_seconds: ForSeconds
    hours: HoursField = None
    keep_seconds: KeepSeconds = 0
    lines: Annotated[WatchedLines, Field(default_factory=WatchedLines)]
    organization_id: Annotated[
        str | None,
        Field(
            pattern=ORGANIZATION_ID,
            description="By default the credential's organization; required if it has none.",
        ),
    ] = None
    workspace_id: Annotated[
        str | None,
        Field(pattern=WORKSPACE_ID, description="Watch the lines of this workspace only."),
    ] = None


class WatchToTry(Watching):
    """A watch that is not set up: as it would be now, or would have been in a period."""

    from_: Annotated[
        Annotated[Bound, Field(examples=["2026-04-01"])] | None,
        Field(
            alias="from",
            description="With `to`: tell what would have been opened in the period, by effective"
            " time as now known. For `in_state` and `blocker_open`.",
        ),
    ] = None
    to: Annotated[
        Annotated[Bound, Field(examples=["2026-05-01"])] | None,
        Field(description="The end of the period, excluded, at most 92 days later."),
    ] = None


_TYPES: Mapping[str, Any] = {
    "condition": Condition,
    "hours": WatchHours | None,
    "lines": LineChoice,
}
"""Field → the domain's type of its value, where that is no plain value."""


def values_of(body: CommandBody, names: Iterable[str]) -> dict[str, Any]:
    """The fields of these names as the domain has them: an empty array is like none."""
    values = dict[str, Any]()
    for name in names:
        value = getattr(body, name)
        if isinstance(value, BaseModel):
            value = value.model_dump(by_alias=True, exclude_defaults=True)
        values[name] = msgspec.convert(value, _TYPES[name]) if name in _TYPES else value
    return values
