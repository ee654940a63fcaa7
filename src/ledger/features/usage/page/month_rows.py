"""The rows of the page "Month": amounts as known then and now, and the links of each row."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import Any, NamedTuple

from ledger.engine.page.addresses import with_parameter
from ledger.engine.page.showing import words
from ledger.engine.values.values import STATES, format_instant
from ledger.features.usage.model.usage import KEYS
from ledger.features.usage.page.periods import Period, month_of
from ledger.features.usage.page.scopes import changed, one
from ledger.features.usage.routes.usage import NAME_KEYS, LinesUsageQuery, UsageRow, UsageSums
from projections.directory.search.words import fold
from projections.lines.shown import ShownLine

HEADS: Mapping[str, str] = {
    "lines": "Lines",
    "hours": "Hours",
    "check_ins": "Check-ins",
    "runs": "Runs",
    "failed": "Failed",
    "tokens_used": "Tokens",
    "blocked": "Blocked",
}
"""The columns of amounts, and their headings."""

_SUMMED: Mapping[str, Callable[[UsageSums], float | None]] = {
    "runs": lambda sums: None if sums.runs is None else sum(sums.runs.values()),
    "failed": lambda sums: None if sums.runs is None else sums.runs["failed"],
    "blocked": lambda sums: (
        None if sums.seconds_by_state is None else sums.seconds_by_state["blocked"]
    ),
}
"""How to compute the amounts that are no field of their own."""

_EVERY = ""
_COUNTED: Mapping[str, str | None] = {
    _EVERY: None,
    "hours": "execution.checked_in",
    "check_ins": "execution.checked_in",
    "runs": "run.started",
}
"""The type of the events that an amount counts, by the time of their occurrence."""

_NOT_OF_EVENTS = ("product_line", "execution_model", "project_tag", "resource_id")
"""The filters and keys that lists of events do not have."""

_BEST = 101
"""A number above every health score."""


class Amount(NamedTuple):
    """An amount as known then and now; None if the grouping does not have it."""

    then: float | None
    now: float | None

    @property
    def change(self) -> float:
        return round((self.now or 0) - (self.then or 0), 6)


class RowKey(NamedTuple):
    """A key of a row, with the address of what the row counts."""

    word: str
    value: str | None
    name: str | None
    path: str | None

    @property
    def label(self) -> str:
        if self.value is not None and self.word in ("product_line", "execution_model"):
            return words(self.value)
        return self.name or self.value or f"no {self.word}"


class MonthRow(NamedTuple):
    """A row of the table."""

    keys: Sequence[RowKey]
    amounts: Mapping[str, Amount]
    shares: Sequence[tuple[str, float, float]]
    """(state, seconds, percent) as known now, without the time after the line was closed."""
    line: ShownLine | None
    """The present state of the line, if the row is about a line."""
    events: Mapping[str, str]
    """By amount, the address of the events that the amount counts."""

    @property
    def workspace_id(self) -> str | None:
        return next((key.value for key in self.keys if key.word == "workspace"), None)

    @property
    def line_id(self) -> str | None:
        return next((key.value for key in self.keys if key.word == "service_line"), None)


class DayBar(NamedTuple):
    """A day in the chart. Numbers are percentages of the drawing."""

    day: str
    amount: Amount
    x: float
    width: float
    same: float
    """The height of the amount that is the same then and now."""
    tip: float
    """The height of the difference, on top of ``same``."""
    path: str


def amounts_of(then: UsageSums | None, now: UsageSums | None) -> Mapping[str, Amount]:
    """The amounts of sums as known then and now. The amounts of a missing row are 0."""

    def read(sums: UsageSums | None, name: str) -> float | None:
        if sums is not None:
            return _SUMMED[name](sums) if name in _SUMMED else getattr(sums, name)
        other = then or now
        return None if other is None or read(other, name) is None else 0

    return {name: Amount(read(then, name), read(now, name)) for name in HEADS}


class Rows(NamedTuple):
    """The rows of an answer, for the page at ``address``."""

    query: LinesUsageQuery
    address: str
    period: Period
    lines: Mapping[str, ShownLine]

    def paired(
        self, then: Sequence[UsageRow] | None, now: Sequence[UsageRow]
    ) -> Sequence[MonthRow]:
        """The rows of both sides. Without ``then``, only the amounts as known now."""
        names = self.query.grouping.keys

        def by_keys(rows: Sequence[UsageRow]) -> dict[tuple[str | None, ...], UsageRow]:
            return {tuple(getattr(row, name) for name in names): row for row in rows}

        before, after = by_keys(then or ()), by_keys(now)
        return [
            self._row(values, before.get(values), after.get(values), compared=then is not None)
            for values in {**after, **before}
        ]

    def _row(
        self,
        values: Sequence[str | None],
        then: UsageRow | None,
        now: UsageRow | None,
        *,
        compared: bool,
    ) -> MonthRow:
        found = now or then
        assert found is not None
        named = {word: getattr(found, NAME_KEYS.get(KEYS[word], ""), None) for word in self._words}
        keys = dict(zip(self._words, values, strict=True))
        spent = (now.seconds_by_state if now is not None else None) or {}
        whole = sum(spent.values()) - spent.get("closed", 0)
        return MonthRow(
            [
                RowKey(word, value, named[word], self._path(word, keys))
                for word, value in keys.items()
            ],
            amounts_of(then, now) if compared else amounts_of(now, now),
            [
                (state, spent[state], 100 * spent[state] / whole)
                for state in STATES
                if state != "closed" and spent.get(state)
            ],
            self.lines.get(keys.get("service_line") or ""),
            self._events(keys),
        )

    @property
    def _words(self) -> Sequence[str]:
        return self.query.grouping.words

    def _days(self, keys: Mapping[str, str | None]) -> Period:
        """The days that a row covers."""
        if day := keys.get("day"):
            first = date.fromisoformat(day)
            return Period(first, first + timedelta(days=1))
        if month := keys.get("month"):
            return month_of(date.fromisoformat(f"{month}-01")).within(self.period)
        return self.period

    def _path(self, word: str, keys: Mapping[str, str | None]) -> str | None:
        """The address of this page for one value of a key. For one line's day, its events."""
        value = keys[word]
        if value is None or "," in value or word == "model":
            return None
        if word == "day" and (one(self.query.service_line_id) or keys.get("service_line")):
            return self._events(keys).get(_EVERY)
        reset: dict[str, Any] = {"group_by": None, "sort": None}
        if word in ("day", "month"):
            days = self._days(keys)
            return changed(self.address, from_=days.first, to=days.beyond, **reset)
        return changed(self.address, **{KEYS[word]: value}, **reset)

    def _events(self, keys: Mapping[str, str | None]) -> Mapping[str, str]:
        """The addresses of a row's events by amount; empty if no list of events matches the row."""
        if any(getattr(self.query, name) for name in _NOT_OF_EVENTS):
            return {}
        if any(KEYS[word] in _NOT_OF_EVENTS or word == "model" for word in keys):
            return {}
        path = "/ui/events"
        for word in ("workspace", "service_line"):
            chosen = keys.get(word) or getattr(self.query, KEYS[word])
            if chosen is not None and one(chosen) is None:
                return {}
            path = with_parameter(path, KEYS[word], chosen)
        path = with_parameter(path, "organization_id", self.query.organization_id)
        days, calendar = self._days(keys), self.query.calendar
        for name, day in (("occurred_from", days.first), ("occurred_to", days.beyond)):
            path = with_parameter(path, name, format_instant(calendar.begin(day)))
        return {name: with_parameter(path, "type", type_) for name, type_ in _COUNTED.items()}


def sort_key_of(sort: str, row: MonthRow) -> Any:
    """The sort key of a row in an order. Texts ascend, amounts descend."""
    name = sort.removeprefix("-")
    if name == "name":
        return [(key.value is None, fold(key.label)) for key in row.keys]
    if name == "health":
        score = None if row.line is None else row.line.health_score
        return -_BEST if score is None else -score
    if name == "change":
        return [abs(row.amounts[each].change) for each in HEADS if each != "lines"]
    return row.amounts[name].now or 0


def bars_of(rows: Sequence[MonthRow], amount: str, days: Sequence[date]) -> Sequence[DayBar]:
    """The chart of an amount by day. ``days`` are all days of the period."""
    by_day = {row.keys[-1].value: row for row in rows}
    sides = {day: row.amounts[amount] for day, row in by_day.items()}
    most = max((max(side or 0 for side in amounts) for amounts in sides.values()), default=0) or 1
    share, found = 100 / max(len(days), 1), list[DayBar]()
    for number, day in enumerate(map(str, days)):
        if day in sides:
            low, high = sorted(side or 0 for side in sides[day])
            x, width = share * (number + 0.1), share * 0.8
            heights = 100 * low / most, 100 * (high - low) / most
            path = by_day[day].keys[-1].path or ""
            found.append(DayBar(day, sides[day], x, width, *heights, path))
    return found
