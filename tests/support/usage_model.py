"""A model of usage across lines (contract, Reading), told by the raw log alone.

The model takes each check-in, each run and each span in a state as an item of its own, and puts
the item into every row to which it belongs. So the model shares no code and no running totals with
the service.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from tests.support.model import CAUSES, STATES, STATUSES, Line, Model, Run, tokens_by_model

KEYS = {
    "workspace": "workspace_id",
    "service_line": "service_line_id",
    "product_line": "product_line",
    "execution_model": "execution_model",
    "project": "project_tag",
    "resource": "resource_id",
    "model": "model",
    "month": "month",
    "day": "day",
}
NAMED = {
    "workspace": "workspace_name",
    "service_line": "service_line_name",
    "project": "project_name",
    "resource": "resource_name",
}
OF_TIME = ("month", "day")
WITH_MODEL = ("workspace", "service_line", "project", *OF_TIME)

_DAY = timedelta(days=1)


def groupings() -> list[tuple[str, ...]]:
    """Every allowed ``group_by``: the words, and the pairs of them."""
    pairs = [(a, b) for a in KEYS for b in KEYS if a != b and a not in OF_TIME]
    return [(word,) for word in KEYS] + [
        pair for pair in pairs if "model" not in pair or {*pair} <= {"model", *WITH_MODEL}
    ]


# The calendar.


@cache
def begin_of(zone: str, day: date) -> datetime:
    """The first instant whose local date is not before this date.

    The offsets of present zones are whole quarters of an hour, and so are their changes.
    """
    at = datetime.combine(day, time(), UTC) - timedelta(hours=15)
    while at.astimezone(ZoneInfo(zone)).date() < day:
        at += timedelta(minutes=15)
    return at


def date_of(zone: str, at: datetime) -> date:
    """The last date that begins no later than the instant."""
    day = at.astimezone(UTC).date() + 2 * _DAY
    while begin_of(zone, day) > at:
        day -= _DAY
    return day


def instant_of(zone: str, text: str) -> datetime:
    if len(text) == 10:
        return begin_of(zone, date.fromisoformat(text))
    return datetime.fromisoformat(text).astimezone(UTC)


def iso(at: datetime) -> str:
    """An instant as answers show it."""
    text = f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}"
    return text.rstrip("0").rstrip(".") + "Z"


def period_of(zone: str, start: str | None, end: str | None, clock: datetime) -> list[datetime]:
    """The start and the end of the period that parameters name."""
    first = start and instant_of(zone, start)
    if end:
        last = instant_of(zone, end)
    elif first:
        last = max(begin_of(zone, date_of(zone, clock) + _DAY), first)
    else:
        month = date_of(zone, clock).replace(day=1)
        last = begin_of(zone, (month + 31 * _DAY).replace(day=1))
    before = date_of(zone, last - timedelta(microseconds=1))
    return [first or begin_of(zone, before.replace(day=1)), last]


# The log.


class UsageModel(Model):
    """The state after some events, with names."""

    def __init__(self, events: Sequence[dict[str, Any]] = ()) -> None:
        self.line_names: dict[str, str | None] = {}
        self.directory: dict[tuple[str, str], str | None] = {}
        """The names of workspaces and projects by organization and id."""
        self.resource_names: dict[tuple[str, str | None, str], str] = {}
        """By organization, workspace (None: in any of them) and id."""
        super().__init__(events)

    def take(self, event: dict[str, Any]) -> None:
        super().take(event)
        state, stream, topic = event["state"], event["originator_id"], event["topic"]
        body, organization = state.get("body", {}), state.get("organization_id", "")
        match topic.split("/")[0]:
            case "execution.activated" | "execution.updated":
                self.line_names[stream] = body.get("name")
                allocated = body.get("resources", [])
            case "resource.allocated":
                allocated = [body["resource"]]
            case "directory.named":
                self.directory[organization, stream.split("/")[1]] = body.get("name")
                return
            case _:
                return
        for each in allocated:
            for workspace in (state["workspace_id"], None):
                if each.get("name"):
                    self.resource_names[organization, workspace, each["id"]] = each["name"]


# The question.


class Query(NamedTuple):
    """The parameters of a question, and the tenant of the credential that asks."""

    params: Mapping[str, str]
    organization: str | None
    """None: an administrator."""
    workspace: str | None

    @property
    def zone(self) -> str:
        return self.params.get("time_zone", "UTC")

    @property
    def words(self) -> list[str]:
        return self.params.get("group_by", "service_line").split(",")

    @property
    def of_check_ins(self) -> bool:
        return "resource_id" in self.params

    def chosen(self, name: str) -> list[str] | None:
        return self.params[name].split(",") if name in self.params else None

    def has(self, line_id: str, line: Line) -> bool:
        """True if the line is in scope."""
        values = {
            "organization_id": [line.organization],
            "workspace_id": [line.workspace],
            "service_line_id": [line_id],
            "execution_model": [line.execution_model],
            "product_line": [line.product_line],
            "project_tag": line.tags,
        }
        is_visible = self.organization in (None, line.organization)
        is_visible = is_visible and self.workspace in (None, line.workspace)
        filters = {name: chosen for name in values if (chosen := self.chosen(name)) is not None}
        return is_visible and all({*values[name]} & {*words} for name, words in filters.items())


# The sums.


@dataclass
class Sums:
    """The items of a row."""

    lines: set[str] = field(default_factory=set)
    hours: Decimal = Decimal(0)
    check_ins: int = 0
    runs: Counter[str] = field(default_factory=Counter)
    ended: list[Run] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    """Microseconds."""

    @property
    def tokens(self) -> int:
        return sum(run.tokens_used or 0 for run in self.ended)

    def __bool__(self) -> bool:
        states = {state for state, micros in self.states.items() if micros}
        return bool(self.check_ins or self.runs.total() or self.tokens or states - {"closed"})

    def add(self, other: "Sums") -> None:
        self.lines |= other.lines
        self.hours += other.hours
        self.check_ins += other.check_ins
        self.runs += other.runs
        self.ended += other.ended
        self.states += other.states
        self.causes += other.causes

    def rendered(self, has: set[str]) -> dict[str, Any]:
        """The sums as the contract shows them: those of ``has``, the others null."""
        found = {
            "lines": len(self.lines),
            "hours": float(self.hours),
            "check_ins": self.check_ins,
            "runs": {status: self.runs[status] for status in STATUSES},
            "tokens_used": self.tokens,
            "tokens_by_model": tokens_by_model(self.ended),
            "seconds_by_state": {state: self.states[state] / 1_000_000 for state in STATES},
            "seconds_by_cause": {cause: self.causes[cause] / 1_000_000 for cause in CAUSES},
        }
        return {name: value if name in has else None for name, value in found.items()}


_CHECK_INS = {"lines", "hours", "check_ins"}
_TOKENS = {"tokens_used", "tokens_by_model"}
_SECONDS = {"seconds_by_state", "seconds_by_cause"}
ALL = _CHECK_INS | _TOKENS | _SECONDS | {"runs"}


def sums_of(words: Sequence[str], of_check_ins: bool) -> set[str]:
    """The sums that rows by these words have."""
    if "model" in words:
        return {"runs", *_TOKENS}
    if "resource" in words or of_check_ins:
        return _CHECK_INS
    return ALL - _SECONDS if {*words} & {*OF_TIME} else ALL


class Usage(NamedTuple):
    """The usage of a period, from the log as it was known then."""

    question: Query
    then: UsageModel
    now: UsageModel
    """The log of now, for names."""
    clock: datetime

    def answer(self) -> dict[str, Any]:
        """The ``data`` of an answer, with the rows of all pages."""
        question = self.question
        start, end = self._period()
        as_of = question.params.get("as_of")
        return {
            "from": iso(start),
            "to": iso(end),
            "time_zone": question.zone,
            "as_of": None if as_of is None else iso(self.clock),
            "total": self.total(),
            "rows": self.rows(),
        }

    def total(self) -> dict[str, Any]:
        grouped = self._grouped(())
        return grouped.get((), Sums()).rendered(sums_of((), self.question.of_check_ins))

    def rows(self) -> list[dict[str, Any]]:
        words = self.question.words
        has = sums_of(words, self.question.of_check_ins)
        grouped = self._grouped(words)
        order = sorted(grouped, key=lambda keys: [*map(_sort_key, words, keys)])
        return [self._keys(keys) | grouped[keys].rendered(has) for keys in order]

    def _period(self) -> list[datetime]:
        params = self.question.params
        return period_of(self.question.zone, params.get("from"), params.get("to"), self.clock)

    def _keys(self, keys: Sequence[str | None]) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for word, key in zip(self.question.words, keys, strict=True):
            found[KEYS[word]] = key
            if word in NAMED:
                found[NAMED[word]] = self._name(word, key) if key else None
        return found

    def _name(self, word: str, key: str) -> str | None:
        if word == "service_line":
            return self.then.line_names[key]
        organization = self.question.organization or self.question.params["organization_id"]
        if word == "resource":
            return self.now.resource_names.get((organization, self.question.workspace, key))
        model = self.then if word == "workspace" else self.now
        return model.directory.get((organization, key))

    def _grouped(self, words: Sequence[str]) -> dict[tuple[str | None, ...], Sums]:
        """The rows by their keys; a line joins a row only with something."""
        rows: dict[tuple[str | None, ...], Sums] = {}
        for line_id, line in self.then.lines.items():
            if not self.question.has(line_id, line):
                continue
            own: dict[tuple[str | None, ...], Sums] = {}
            for keys, item in self._items(line_id, line, words):
                own.setdefault(keys, Sums()).add(item)
            for keys, sums in own.items():
                if sums:
                    sums.lines = {line_id}
                    rows.setdefault(keys, Sums()).add(sums)
        return rows

    def _items(
        self, line_id: str, line: Line, words: Sequence[str]
    ) -> Iterator[tuple[tuple[str | None, ...], Sums]]:
        """Every item of a line in the period, under the keys of each row to which it belongs."""
        start, end = self._period()
        of_line = {
            "workspace": [line.workspace],
            "service_line": [line_id],
            "product_line": [line.product_line],
            "execution_model": [line.execution_model],
            "project": self._projects(line),
        }
        zone = self.question.zone

        def under(at: datetime, **inner: list[str | None]) -> Iterator[tuple[str | None, ...]]:
            day = f"{date_of(zone, at)}"
            values: Mapping[str, Sequence[str | None]] = {"day": [day], "month": [day[:7]]}
            yield from _product([(of_line | values | inner)[word] for word in words])

        def within(at: datetime | None) -> bool:
            return at is not None and start <= at < end

        resources = self.question.chosen("resource_id")
        if "model" not in words:
            for each in line.valid_check_ins:
                chosen = resources is None or each.resource in resources
                if within(each.at) and chosen:
                    item = Sums(hours=Decimal(str(each.hours or 0)), check_ins=1)
                    yield from ((k, item) for k in under(each.at, resource=[each.resource]))
        if resources is not None or "resource" in words:
            return
        for run in self.then.runs.values():
            if run.line != line_id:
                continue
            if within(run.started_at):
                models = [usage[0] for usage in run.token_usage or ()] or [None]
                item = Sums(runs=Counter([run.status]))
                yield from ((k, item) for k in under(_certain(run.started_at), model=models))
            if within(run.completed_at):
                for model, part in _parts(run) if "model" in words else [(None, run)]:
                    at = _certain(run.completed_at)
                    yield from ((k, Sums(ended=[part])) for k in under(at, model=[model]))
        if not {*words} & {"model", *OF_TIME}:
            item = self._seconds(line_id, start, min(end, self.clock))
            yield from ((keys, item) for keys in under(start))

    def _projects(self, line: Line) -> Sequence[str | None]:
        named = self.question.chosen("project_tag")
        if named is not None:
            return [tag for tag in line.tags if tag in named]
        return line.tags or [None]

    def _seconds(self, line_id: str, start: datetime, until: datetime) -> Sums:
        found = Sums()
        if start < until:
            for interval in self.then.timeline(line_id, start, until, self.clock):
                micros = (interval["to"] - interval["from"]) // timedelta(microseconds=1)
                found.states[interval["state"]] += micros
                found.causes.update(dict.fromkeys(interval["causes"], micros))
        return found


def _certain(at: datetime | None) -> datetime:
    assert at is not None
    return at


def _parts(run: Run) -> Iterator[tuple[str | None, Run]]:
    """The run's tokens of each model, and those without a model."""
    rest = run.tokens_used or 0
    for usage in run.token_usage or ():
        tokens = sum(usage[1:3])
        rest -= tokens
        yield usage[0], replace(run, tokens_used=tokens, token_usage=[usage])
    yield None, replace(run, tokens_used=rest, token_usage=None)


def _product(values: Sequence[Sequence[str | None]]) -> Iterator[tuple[str | None, ...]]:
    if not values:
        yield ()
        return
    for first in values[0]:
        yield from ((first, *rest) for rest in _product(values[1:]))


def _sort_key(word: str, key: str | None) -> tuple[bool, Any]:
    if key is None:
        return True, ()
    if word in ("workspace", "service_line"):
        return False, [int(part) for part in key.split("-")[1:]]
    return False, key
