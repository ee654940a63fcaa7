"""Watches as sentences with blanks, and the forms of them, converted to the API's own bodies.

Each kind of condition is one entry of ``KINDS``: its sentence, and the blanks of the sentence that
are the condition's fields. The form, the list's plain English and the body are made of the entry.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from pydantic import BaseModel, Field, model_validator

from ledger.engine.http.reading import Identifier, Present
from ledger.engine.page.addresses import with_parameter
from ledger.engine.page.pages import Form, Typed
from ledger.engine.page.showing import words
from ledger.engine.values.values import CAUSES, EXECUTION_MODELS, PRODUCT_LINES
from ledger.features.watches.model import watch as domain
from ledger.features.watches.model.shown import ShownWatch
from ledger.features.watches.model.stretch import length_text
from ledger.features.watches.model.watch import KEEPING, Severity
from ledger.features.watches.model.watch_hours import WEEKDAYS
from ledger.features.watches.routes.settings import AnyCondition

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400

UNITS: Mapping[str, int] = {"s": 1, "min": _MINUTE, "h": _HOUR, "d": _DAY}
"""The units of times, in seconds, and their names on the page."""

_BLANK, _WEEKDAY = "blank:", "day:"
"""Prefixes of the names of fields. A field has one value, so boxes share no name."""


def number_in(text: str) -> Any:
    """The number that was typed; the text itself if it is none."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _split(text: str) -> list[str]:
    return [*dict.fromkeys(word.strip() for word in text.split(",") if word.strip())]


class Blank(NamedTuple):
    """A blank of a sentence, which is a field of the condition."""

    name: str
    label: str
    default: str
    options: Mapping[str, str]
    """Values and the page's words for them; empty: the value is typed."""
    read: Callable[[str], Any]
    """The value that the API takes, of the text of the field."""
    write: Callable[[Any], str]
    hint: str = ""
    offers: str = ""
    """The kind of the values that the field offers while a person types; empty: it offers none."""

    def said(self, text: str) -> str:
        """The text of the field as the sentence has it."""
        return self.options.get(text) or " or ".join(
            self.options.get(word) or words(word) for word in _split(text)
        )


def _words(name: str, label: str, default: str, options: Mapping[str, str], *more: str) -> Blank:
    """A blank for several words; a comma means or. ``more`` are its hint, and what it offers."""
    return Blank(name, label, default, options, _split, lambda value: ",".join(value or ()), *more)


def _word(name: str, label: str, default: str, options: Mapping[str, str]) -> Blank:
    return Blank(name, label, default, options, str, str)


def _number(name: str, label: str, default: str) -> Blank:
    return Blank(name, label, default, {}, number_in, lambda value: f"{number_in(f'{value:.15g}')}")


class WatchKind(NamedTuple):
    """A kind of watches."""

    condition: type[Any]
    name: str
    """The kind as people choose it."""
    sentence: str
    """``{lines}``, ``{time}`` and the names of the blanks stand for what is filled in."""
    at_once: str
    """The sentence of a watch without a time."""
    seconds: int
    """The time that the form suggests."""
    blanks: Sequence[Blank] = ()

    @property
    def kind(self) -> str:
        """The kind as the API names it."""
        return str(self.condition.__struct_config__.tag)

    @property
    def keeps(self) -> bool:
        """Whether an alert may be kept open for a while after its condition has ended."""
        return self.condition in KEEPING

    @property
    def has_past(self) -> bool:
        """Whether a preview can tell of a period."""
        return self.condition in (domain.InState, domain.BlockerOpen)

    @property
    def is_of_lines(self) -> bool:
        return "{lines}" in self.sentence

    @property
    def parts(self) -> Sequence[str | Blank]:
        """The sentence of the form: texts, blanks, and ``{lines}`` and ``{time}``."""
        blanks = {f"{{{blank.name}}}": blank for blank in self.blanks}
        found = re.split(r"(\{\w+\})", self.sentence)
        return [blanks.get(part, part) for part in found if part]


KINDS: Sequence[WatchKind] = (
    WatchKind(
        domain.InState,
        "A line is in a state",
        "{lines} has been {states} for {time}",
        "{lines} is {states}",
        2 * _HOUR,
        (
            _words(
                "states",
                "State",
                "blocked",
                {
                    "blocked": "blocked",
                    "paused": "paused",
                    "paused,blocked": "paused or blocked",
                    "idle": "idle",
                    "running": "running",
                },
            ),
        ),
    ),
    WatchKind(
        domain.BlockerOpen,
        "A blocker is open",
        "{causes} of {lines} has been open for {time}",
        "{causes} of {lines} is open",
        _DAY,
        (
            _words(
                "causes",
                "Blocker",
                "",
                {"": "any blocker"} | {cause: f"a blocker by {words(cause)}" for cause in CAUSES},
            ),
        ),
    ),
    WatchKind(
        domain.PastDue,
        "A blocker is past due",
        "a blocker of {lines} has been past due for {time}",
        "a blocker of {lines} is past due",
        0,
    ),
    WatchKind(
        domain.NoActivity,
        "A line has no activity",
        "{lines} has had no activity for {time}",
        "{lines} has no activity",
        5 * _DAY,
    ),
    WatchKind(
        domain.RunOpen,
        "A run hangs",
        "a run of {lines} has been {statuses} for {time}",
        "a run of {lines} is {statuses}",
        _HOUR,
        (
            _words(
                "statuses",
                "Status",
                "pending,running",
                {
                    "pending,running": "pending or running",
                    "pending": "pending",
                    "running": "running",
                },
            ),
        ),
    ),
    WatchKind(
        domain.RunsFailing,
        "Runs fail one after the other",
        "the last {count} runs of {lines} failed, {time} ago",
        "the last {count} runs of {lines} failed",
        0,
        (_number("count", "Number of runs", "3"),),
    ),
    WatchKind(
        domain.HealthBelow,
        "The health of a line is amber or red",
        "the health of {lines} has been {status} for {time}",
        "the health of {lines} is {status}",
        _HOUR,
        (_word("status", "Health", "red", {"red": "red", "amber": "amber or red"}),),
    ),
    WatchKind(
        domain.SourceSilent,
        "A source is silent",
        "{sources} has been silent for {time}",
        "{sources} is silent",
        _DAY,
        (_words("sources", "Sources", "", {}, "/timesheets, /agents", "source"),),
    ),
    WatchKind(
        domain.UsageOver,
        "A line uses more than a limit",
        "{lines} has used more than {limit} {measure} in a {period}, {time} ago",
        "{lines} has used more than {limit} {measure} in a {period}",
        0,
        (
            _number("limit", "Limit", "1000000"),
            _word(
                "measure",
                "Measure",
                "tokens_used",
                {"tokens_used": "tokens", "hours": "hours", "runs": "runs"},
            ),
            _word("period", "Period", "day", {"day": "day", "week": "week", "month": "month"}),
        ),
    ),
)


def offered() -> Sequence[WatchKind]:
    """The kinds that the API takes."""
    taken = get_args(AnyCondition.model_fields["kind"].annotation)
    return [kind for kind in KINDS if kind.kind in taken]


def kind_of(name: str | None) -> WatchKind:
    """The kind of this name; the first one for a name that the API does not take."""
    kinds = offered()
    return next((kind for kind in kinds if kind.kind == name), kinds[0])


def filled_in(condition: type[Any], **blanks: str) -> str:
    """The address of the form for a new watch with blanks that are filled in."""
    kind = next(kind for kind in KINDS if kind.condition is condition)
    address = with_parameter("/ui/watches/new", "kind", kind.kind)
    for name, value in blanks.items():
        address = with_parameter(address, f"{_BLANK}{name}", value)
    return address


# Sentences.


def sentence_of(watch: ShownWatch) -> str:
    """The condition of a watch in plain English: ``any line has been blocked for 2 h``."""
    kind = next(kind for kind in KINDS if isinstance(watch.condition, kind.condition))
    said = {
        blank.name: blank.said(blank.write(getattr(watch.condition, blank.name)))
        for blank in kind.blanks
    }
    said |= {"lines": _lines(watch), "time": length_text(watch.for_seconds)}
    sentence = (kind.sentence if watch.for_seconds else kind.at_once).format_map(said)
    if watch.hours is None:
        return sentence
    days = ", ".join(day.capitalize() for day in watch.hours.days)
    hours = f"{watch.hours.from_}–{watch.hours.to}"
    return f"{sentence} (within {days} {hours} {watch.hours.time_zone})"


def _lines(watch: ShownWatch) -> str:
    chosen = msgspec.to_builtins(watch.lines)
    if ids := chosen.get("service_line_id"):
        return f"line {_either(ids)}"
    adjectives = [
        _either(chosen[name]) for name in ("product_line", "execution_model") if name in chosen
    ]
    projects = chosen.get("project_tag")
    return " ".join(["any", *adjectives, "line"]) + (
        f" of project {_either(projects)}" if projects else ""
    )


def _either(names: Sequence[str]) -> str:
    return " or ".join(map(words, names))


# The form.


class Draft(BaseModel):
    """A watch as the fields of the form have it: texts that a person chose or typed."""

    kind: Annotated[str | None, Field(max_length=40)] = None
    blanks: dict[str, Annotated[str, Field(max_length=30_000)]] = Field(default_factory=dict)
    """The fields of the condition, by name."""
    time: Typed = None
    unit: Literal["s", "min", "h", "d"] = "h"
    severity: Severity = "warning"
    name: Typed = None
    execution_model: Typed = None
    product_line: Typed = None
    project_tag: Typed = None
    service_line_id: Typed = None
    hours: Literal["on"] | None = None
    """Whether only some hours count."""
    days: Typed = None
    begin: Typed = None
    end: Typed = None
    time_zone: Typed = None
    keep: Typed = None
    keep_unit: Literal["s", "min", "h", "d"] = "min"
    remind: Typed = None
    remind_unit: Literal["s", "min", "h", "d"] = "h"
    organization_id: Identifier = None
    workspace_id: Identifier = None

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        rest = {n: v for n, v in values.items() if not n.startswith((_BLANK, _WEEKDAY))}
        blanks = {n.removeprefix(_BLANK): v for n, v in values.items() if n.startswith(_BLANK)}
        days = [day for day in WEEKDAYS if values.get(f"{_WEEKDAY}{day}")]
        if blanks:
            rest["blanks"] = blanks
        if days:
            rest["days"] = ",".join(days)
        return rest

    @property
    def is_more(self) -> bool:
        """Whether something is set that the form shows behind *more*."""
        more = (self.product_line, self.project_tag, self.service_line_id, self.hours)
        return any(more) or any(map(number_in, (self.keep or "", self.remind or "")))

    def filled(self, zone: str) -> "Draft":
        """The draft with its kind, and the defaults of what the kind has and nobody chose."""
        kind = kind_of(self.kind)
        blanks = {blank.name: blank.default for blank in kind.blanks} | self.blanks
        more: dict[str, Any] = {"kind": kind.kind, "blanks": blanks}
        if self.time is None:
            more["time"], more["unit"] = in_unit(kind.seconds, "h")
        if self.hours is None:
            more |= {"days": "mon,tue,wed,thu,fri", "begin": "09:00", "end": "17:30"}
        return self.model_copy(update=more | {"time_zone": self.time_zone or zone})

    def watching(self) -> dict[str, Any]:
        """The condition and its lines, as the API takes them."""
        kind = kind_of(self.kind)
        condition: dict[str, Any] = {"kind": kind.kind}
        for blank in kind.blanks:
            condition[blank.name] = blank.read(self.blanks.get(blank.name, ""))
        given = {"organization_id": self.organization_id, "workspace_id": self.workspace_id}
        return {
            "condition": condition,
            "for_seconds": seconds_in(self.time, self.unit),
            "hours": self._hours(),
            "keep_seconds": seconds_in(self.keep, self.keep_unit) if kind.keeps else 0,
            "lines": self.lines if kind.is_of_lines else {},
            **{name: value for name, value in given.items() if value is not None},
        }

    def settings(self) -> dict[str, Any]:
        """All settings as the API takes them; a watch without a name is called as it says."""
        kind = kind_of(self.kind)
        return self.watching() | {
            "name": (self.name or "").strip() or kind.name,
            "severity": self.severity,
            "remind_seconds": seconds_in(self.remind, self.remind_unit),
        }

    @property
    def lines(self) -> dict[str, list[str]]:
        """The words of each filter of lines that has any."""
        names = ("execution_model", "product_line", "project_tag", "service_line_id")
        given = {name: _split(getattr(self, name) or "") for name in names}
        return {name: found for name, found in given.items() if found}

    def _hours(self) -> dict[str, Any] | None:
        if self.hours is None:
            return None
        return {
            "time_zone": self.time_zone or "",
            "days": _split(self.days or ""),
            "from": self.begin or "",
            "to": self.end or "",
        }


class NewWatchQuery(Draft, Present):
    """The parameters of the form for a new watch: what is filled in already."""


class WatchForm(Draft, Form):
    """The form that sets up a watch, or replaces all its settings."""


class SwitchWatchForm(Form):
    """The form that enables or disables a watch."""

    enabled: Literal["true", "false"]


class StartersForm(Form):
    """The form that sets up the starter watches."""

    organization_id: Identifier = None


def draft_of(watch: ShownWatch) -> Draft:
    """A watch as the form shows it."""
    kind = next(kind for kind in KINDS if isinstance(watch.condition, kind.condition))
    time, unit = in_unit(watch.for_seconds, "h")
    keep, keep_unit = in_unit(watch.keep_seconds, "min")
    remind, remind_unit = in_unit(watch.remind_seconds, "h")
    values: dict[str, Any] = {
        "kind": kind.kind,
        "time": time,
        "unit": unit,
        "severity": watch.severity,
        "name": watch.name,
        "keep": keep,
        "keep_unit": keep_unit,
        "remind": remind,
        "remind_unit": remind_unit,
    }
    values |= {name: ",".join(found) for name, found in msgspec.to_builtins(watch.lines).items()}
    if watch.hours is not None:
        hours = watch.hours
        values |= {"hours": "on", "days": ",".join(hours.days), "time_zone": hours.time_zone}
        values |= {"begin": hours.from_, "end": hours.to}
    blanks = {
        blank.name: blank.write(getattr(watch.condition, blank.name)) for blank in kind.blanks
    }
    return Draft.model_construct(**values, blanks=blanks)


LINES_BY_MODEL: Mapping[str, str] = {"": "any line"} | {
    model: f"any {words(model)} line" for model in EXECUTION_MODELS
}
"""The blank for lines: execution models, and the page's words for their lines."""

PRODUCT_LINES_SAID: Mapping[str, str] = {"": "Any"} | {name: words(name) for name in PRODUCT_LINES}


def in_unit(seconds: int, usual: str) -> tuple[str, str]:
    """A time in the largest unit that has it in whole numbers; 0 in the usual unit."""
    unit = next((unit for unit in reversed([*UNITS]) if seconds % UNITS[unit] == 0), "s")
    return (str(seconds // UNITS[unit]), unit) if seconds else ("0", usual)


def seconds_in(text: str | None, unit: str) -> Any:
    """A typed time in seconds; the text itself, which the API refuses, if it is no whole number."""
    amount = number_in(text or "0")
    return amount * UNITS[unit] if isinstance(amount, int) else text
