"""The settings of watches as they are sent (contract, Watches).

The models check what is sent, and describe it in OpenAPI; those of conditions are made of the kinds
of watches. ``values_of`` gives the values as the domain has them. An array is a set: its words are
put in one order, so equal sets are equal values.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import or_
from types import GenericAlias
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    GetPydanticSchema,
    ValidationInfo,
    create_model,
    field_validator,
)

from ledger.engine.http.models import Characters, CommandBody, Label, camel
from ledger.engine.http.reading import Bound, TimeZone
from ledger.engine.values.json_gate import by_value
from ledger.engine.values.values import ORGANIZATION_ID, WORKSPACE_ID, ExecutionModel, ProductLine
from ledger.features.watches.kinds import KINDS, AnyKind
from ledger.features.watches.kinds.base import Checks, Condition, as_set, each_once
from ledger.features.watches.model.watch import LineChoice
from ledger.features.watches.model.watch_hours import WEEKDAYS, WatchHours, Weekday

WITH_PAST = [kind for kind in KINDS if kind.past is not None]
_LEAST_SECONDS = "".join(
    f" At least {kind.least_seconds} for `{kind.kind()}`."
    for kind in KINDS
    if kind.least_seconds and kind.about != "source"
)
# The kinds of lines first, then those of their runs.
_KEEPING = sorted((kind for kind in KINDS if kind.keeps), key=lambda kind: kind.about != "line")

_YEAR, _MONTH, _DAY, _MINUTES = 31_536_000, 2_592_000, 86_400, 300
"""In seconds; the last is the least time between two reminders."""


def listed(kinds: Sequence[type[Condition]], quote: str = "") -> str:
    """The names of kinds as a sentence has them: ``one, two and three``."""
    *names, last = (f"{quote}{kind.kind()}{quote}" for kind in kinds)
    return " and ".join([", ".join(names), last] if names else [last])


# Conditions.


def _sent(type_: Any) -> Any:
    """The type of a condition's field as it is sent, with its checks: an array is a list."""
    if get_origin(type_) is Annotated:
        of, *notes = get_args(type_)
        note = next((each for each in notes if isinstance(each, Checks)), Checks())
        checks: list[Any] = [AfterValidator(check) for check in note.checks]
        checks += [BeforeValidator(by_value)] if of is int else []
        checks += [Characters(note.characters)] if note.characters else []
        return Annotated[_sent(of), Field(**note.field), *checks]
    arrays = (each for each in (type_, *get_args(type_)) if get_origin(each) is tuple)
    array = next(arrays, None)
    return type_ if array is None else GenericAlias(list, _sent(get_args(array)[0]))


def _model(kind: type[Condition]) -> type[CommandBody]:
    """The model of a kind, made of its fields. An array without words is like none."""
    fields: dict[str, Any] = {"kind": (Literal[kind.kind()], ...)}
    for field in msgspec.structs.fields(kind):
        default = Field(default_factory=list) if field.default is None else field.default
        fields[field.name] = (_sent(field.type), ... if field.required else default)
    doc = kind.as_sent or kind.__doc__
    name = camel(kind.kind(), "condition")
    return create_model(name, __base__=CommandBody, __module__=__name__, __doc__=doc, **fields)


MODELS: Mapping[str, type[CommandBody]] = {kind.kind(): _model(kind) for kind in KINDS}


class AnyCondition(BaseModel):
    """The kind of a condition, whatever its other fields are."""

    kind: Literal[tuple(MODELS)]  # type: ignore[valid-type]  # the kinds that have a model


def _of_its_kind(value: Any) -> Any:
    """The condition as its kind has it. (pydantic would put the kind into the places of faults.)"""
    return MODELS[AnyCondition.model_validate(value).kind].model_validate(value)


_ANY_MODEL: Any = reduce(or_, MODELS.values())

ConditionField = Annotated[
    CommandBody,
    GetPydanticSchema(lambda _, handler: handler(_ANY_MODEL)),
    Field(discriminator="kind", examples=[KINDS[0].suggested()]),
    BeforeValidator(_of_its_kind),
]

# Lines, hours, durations.

_Array: Any = Field(default_factory=list, max_length=100)


class WatchedLines(CommandBody):
    """The lines that a watch is about, of its organization or workspace.

    Several words of an array mean "or", several arrays "and". An empty array is like none. An id
    that the tenant does not have matches nothing.
    """

    execution_model: Annotated[list[ExecutionModel], _Array, AfterValidator(as_set)]
    product_line: Annotated[list[ProductLine], _Array, AfterValidator(as_set)]
    project_tag: Annotated[list[Label], _Array, AfterValidator(as_set)]
    service_line_id: Annotated[list[Label], _Array, AfterValidator(as_set)]


_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]"


class HoursOfWatch(CommandBody):
    """The hours in which the time of a watch counts: of a day, on weekdays, in a time zone."""

    time_zone: Annotated[
        TimeZone, Field(description="An IANA time zone.", examples=["Europe/Berlin"])
    ]
    days: Annotated[
        list[Weekday],
        Field(min_length=1, max_length=7, json_schema_extra={"uniqueItems": True}),
        AfterValidator(each_once(WEEKDAYS)),
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
        description=f"For how long the condition must hold.{_LEAST_SECONDS}",
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
        f" {listed(_KEEPING, '`')} alone.",
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
            f" time as now known. For {listed(WITH_PAST, '`')}.",
        ),
    ] = None
    to: Annotated[
        Annotated[Bound, Field(examples=["2026-05-01"])] | None,
        Field(description="The end of the period, excluded, at most 92 days later."),
    ] = None


_TYPES: Mapping[str, Any] = {
    "condition": AnyKind,
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
