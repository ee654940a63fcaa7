"""Watches as sentences with blanks, and the forms of them, converted to the API's own bodies.

Each kind gives its sentence, and the blanks of the sentence that are the condition's fields. The
form, the list's plain English and the body are made of these.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_origin, get_type_hints

import msgspec
from pydantic import BaseModel, Field, model_validator

from ledger.engine.http.reading import Identifier, Present
from ledger.engine.page.addresses import with_parameter
from ledger.engine.page.pages import Form, Typed
from ledger.engine.page.showing import words
from ledger.engine.values.values import EXECUTION_MODELS, PRODUCT_LINES
from ledger.features.watches.kinds import KINDS
from ledger.features.watches.kinds.base import DAY, HOUR, Blank, Condition
from ledger.features.watches.kinds.wording import length_text
from ledger.features.watches.model.views import ShownWatch
from ledger.features.watches.model.watch import Severity
from ledger.features.watches.model.watch_hours import WEEKDAYS

UNITS: Mapping[str, int] = {"s": 1, "min": 60, "h": HOUR, "d": DAY}
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


def kind_of(name: str | None) -> type[Condition]:
    """The kind of this name; the first one for a name that the API does not take."""
    return next((kind for kind in KINDS if kind.kind() == name), KINDS[0])


def parts_of(kind: type[Condition]) -> Sequence[str]:
    """The sentence of the form: texts, and names in braces."""
    return [part for part in re.split(r"(\{\w+\})", kind.sentence) if part]


def filled_in(type_: str, value: str) -> str:
    kind, name = next(
        (k, name) for k in KINDS for name, blank in k.blanks().items() if blank.offers == type_
    )
    address = with_parameter("/ui/watches/new", "kind", kind.kind())
    return with_parameter(address, f"{_BLANK}{name}", value)


# Blanks: fields of a condition as texts. A comma means or.


def _read(kind: type[Condition], name: str, text: str) -> Any:
    """The value that the API takes, of the text of a blank."""
    of = get_type_hints(kind)[name]
    if of in (int, float):
        return number_in(text)
    return text if get_origin(of) is Literal else _split(text)


def _written(condition: Condition) -> dict[str, str]:
    """The texts of the blanks of a condition, by name."""
    return {name: _text(getattr(condition, name)) for name in condition.blanks()}


def _text(value: Any) -> str:
    if isinstance(value, int | float):
        return f"{number_in(f'{value:.15g}')}"
    return value if isinstance(value, str) else ",".join(value or ())


def _wording(blank: Blank, text: str) -> str:
    """The text of a blank as the sentence has it."""
    return blank.options.get(text) or " or ".join(
        blank.options.get(word) or words(word) for word in _split(text)
    )


# Sentences.


def sentence_of(watch: ShownWatch) -> str:
    """The condition of a watch in plain English: ``any line has been blocked for 2 h``."""
    of, blanks = watch.condition, watch.condition.blanks()
    texts = {name: _wording(blanks[name], text) for name, text in _written(of).items()}
    texts |= {"lines": _lines(watch), "time": length_text(watch.for_seconds)}
    sentence = (of.sentence if watch.for_seconds else of.at_once).format_map(texts)
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
    """True if only some hours count."""
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
        """True if something is set that the form shows behind *more*."""
        more = (self.product_line, self.project_tag, self.service_line_id, self.hours)
        return any(more) or any(map(number_in, (self.keep or "", self.remind or "")))

    def filled(self, zone: str) -> "Draft":
        """The draft with its kind, and with the kind's defaults for fields that nobody chose."""
        kind = kind_of(self.kind)
        blanks = {name: _text(blank.default) for name, blank in kind.blanks().items()}
        more: dict[str, Any] = {"kind": kind.kind(), "blanks": blanks | self.blanks}
        if self.time is None:
            more["time"], more["unit"] = in_unit(kind.seconds, "h")
        if self.hours is None:
            more |= {"days": "mon,tue,wed,thu,fri", "begin": "09:00", "end": "17:30"}
        return self.model_copy(update=more | {"time_zone": self.time_zone or zone})

    def watching(self) -> dict[str, Any]:
        """The condition and its lines, as the API takes them."""
        kind = kind_of(self.kind)
        condition: dict[str, Any] = {"kind": kind.kind()}
        for name in kind.blanks():
            condition[name] = _read(kind, name, self.blanks.get(name, ""))
        tenant = {"organization_id": self.organization_id, "workspace_id": self.workspace_id}
        return {
            "condition": condition,
            "for_seconds": seconds_in(self.time, self.unit),
            "hours": self._hours(),
            "keep_seconds": seconds_in(self.keep, self.keep_unit) if kind.keeps else 0,
            "lines": {} if kind.about == "source" else self.lines,
            **{name: value for name, value in tenant.items() if value is not None},
        }

    def settings(self) -> dict[str, Any]:
        """All settings as the API takes them. A watch without a name gets the name of its kind."""
        kind = kind_of(self.kind)
        return self.watching() | {
            "name": (self.name or "").strip() or kind.choice,
            "severity": self.severity,
            "remind_seconds": seconds_in(self.remind, self.remind_unit),
        }

    @property
    def lines(self) -> dict[str, list[str]]:
        """The words of each filter of lines that has any."""
        names = ("execution_model", "product_line", "project_tag", "service_line_id")
        chosen = {name: _split(getattr(self, name) or "") for name in names}
        return {name: found for name, found in chosen.items() if found}

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
    values: dict[str, Any] = {
        "kind": watch.condition.kind(),
        "severity": watch.severity,
        "name": watch.name,
    }
    values["time"], values["unit"] = in_unit(watch.for_seconds, "h")
    values["keep"], values["keep_unit"] = in_unit(watch.keep_seconds, "min")
    values["remind"], values["remind_unit"] = in_unit(watch.remind_seconds, "h")
    values |= {name: ",".join(found) for name, found in msgspec.to_builtins(watch.lines).items()}
    if watch.hours is not None:
        hours = watch.hours
        values |= {"hours": "on", "days": ",".join(hours.days), "time_zone": hours.time_zone}
        values |= {"begin": hours.from_, "end": hours.to}
    return Draft.model_construct(**values, blanks=_written(watch.condition))


LINES_BY_MODEL: Mapping[str, str] = {"": "any line"} | {
    model: f"any {words(model)} line" for model in EXECUTION_MODELS
}
"""The blank for lines: execution models, and the page's words for their lines."""

PRODUCT_LINE_NAMES: Mapping[str, str] = {"": "Any"} | {name: words(name) for name in PRODUCT_LINES}


def in_unit(seconds: int, usual: str) -> tuple[str, str]:
    """A time in the largest unit that has it in whole numbers; 0 in the usual unit."""
    unit = next((unit for unit in reversed([*UNITS]) if seconds % UNITS[unit] == 0), "s")
    return (str(seconds // UNITS[unit]), unit) if seconds else ("0", usual)


def seconds_in(text: str | None, unit: str) -> Any:
    """A typed time in seconds; the text itself, which the API refuses, if it is no whole number."""
    amount = number_in(text or "0")
    return amount * UNITS[unit] if isinstance(amount, int) else text
