"""Usage across lines: sums, their groups, and the order of rows (contract, Usage).

Pure: ``features/usage/reads/usage.py`` reads the numbers. A sum that does not fit a grouping is
null.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from ledger.engine.values.timeline import Amounts
from ledger.engine.values.values import CAUSES, RUN_STATUSES, STATES, sort_key

Word = Literal[
    "workspace",
    "service_line",
    "product_line",
    "execution_model",
    "project",
    "resource",
    "model",
    "month",
    "day",
]
"""A word by which usage may be grouped."""

KEYS: Mapping[str, str] = {
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
"""The key that a row has for each word of a grouping."""

OF_LINES = frozenset({"workspace", "service_line", "product_line", "execution_model", "project"})
"""The words that name attributes of a line."""
OF_TIME = frozenset({"month", "day"})
_WITH_MODEL = frozenset({"workspace", "service_line", "project", *OF_TIME})


class LineInScope(NamedTuple):
    """A line whose usage counts, as it was at the position."""

    key: int
    id: str
    workspace_id: str
    execution_model: str
    product_line: str
    project_tags: Sequence[str]


class Sums(msgspec.Struct):
    """The sums of a row, or of all rows."""

    lines: int = 0
    amounts: Amounts = msgspec.field(default_factory=Amounts)
    micros_by_state: dict[str, int] = {}
    """By state, in microseconds."""
    micros_by_cause: dict[str, int] = {}

    def spend(self, state: str, causes: Iterable[str], micros: int) -> None:
        """Add time in a state, and to each open cause."""
        self.micros_by_state[state] = self.micros_by_state.get(state, 0) + micros
        for cause in causes:
            self.micros_by_cause[cause] = self.micros_by_cause.get(cause, 0) + micros

    @property
    def has_something(self) -> bool:
        """True if a row is needed: time in the state ``closed`` alone gives none."""
        amounts = self.amounts
        return bool(
            any(amounts.hours.values())
            or amounts.check_ins
            or amounts.tokens
            or any(amounts.runs.values())
            or any(micros for state, micros in self.micros_by_state.items() if state != "closed")
        )

    def add(self, other: "Sums") -> None:
        self.lines += other.lines
        self.amounts.add(other.amounts)
        for state, micros in other.micros_by_state.items():
            self.micros_by_state[state] = self.micros_by_state.get(state, 0) + micros
        for cause, micros in other.micros_by_cause.items():
            self.micros_by_cause[cause] = self.micros_by_cause.get(cause, 0) + micros


class Shows(NamedTuple):
    """The sums that a row has. The others are null."""

    lines: bool = True
    check_ins: bool = True
    runs: bool = True
    tokens: bool = True
    seconds: bool = True

    def rendered(self, sums: Sums) -> dict[str, Any]:
        """The sums as the API returns them."""
        amounts, has = sums.amounts, self
        return {
            "lines": sums.lines if has.lines else None,
            "hours": amounts.total_hours if has.check_ins else None,
            "check_ins": amounts.check_ins if has.check_ins else None,
            "runs": {s: amounts.runs[s] for s in RUN_STATUSES} if has.runs else None,
            "tokens_used": amounts.tokens if has.tokens else None,
            "tokens_by_model": amounts.tokens_by_model if has.tokens else None,
            "seconds_by_state": _seconds(STATES, sums.micros_by_state) if has.seconds else None,
            "seconds_by_cause": _seconds(CAUSES, sums.micros_by_cause) if has.seconds else None,
        }


def _seconds(names: Sequence[str], micros: Mapping[str, int]) -> dict[str, float]:
    return {name: micros.get(name, 0) / 1_000_000 for name in names}


OF_ALL = Shows()
OF_CHECK_INS = Shows(runs=False, tokens=False, seconds=False)
"""A grouping by resource counts check-ins and their hours only."""


class Grouping(NamedTuple):
    """The words by which rows are grouped, one or two."""

    words: tuple[Word, ...]

    @property
    def fault(self) -> str | None:
        """What is wrong with the words; None if they are valid."""
        words = self.words
        if not 1 <= len(words) <= 2 or len(set(words)) < len(words):
            return "must be one or two words, none twice"
        if words[0] in OF_TIME and len(words) > 1:
            return "must have month or day last, and one of them at most"
        if "model" in words and not set(words) <= {"model", *_WITH_MODEL}:
            return "must have model alone, or with workspace, service_line, project, month or day"
        return None

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(KEYS[word] for word in self.words)

    @property
    def of_line(self) -> tuple[Word, ...]:
        return tuple(word for word in self.words if word in OF_LINES)

    @property
    def of_time(self) -> Word | None:
        """The word ``month`` or ``day``; None if the grouping has neither."""
        return self.words[-1] if self.words[-1] in OF_TIME else None

    @property
    def within_line(self) -> Word | None:
        """The word ``resource`` or ``model``; None if the grouping has neither."""
        return next((word for word in self.words if word in ("resource", "model")), None)

    def shows(self, *, resources_chosen: bool) -> Shows:
        """The sums that rows of this grouping have."""
        if self.within_line == "model":
            return Shows(lines=False, check_ins=False, seconds=False)
        if self.within_line == "resource" or resources_chosen:
            return OF_CHECK_INS
        return Shows(seconds=self.of_time is None)

    def groups_of(
        self, line: LineInScope, projects: frozenset[str] | None
    ) -> list[tuple[str | None, ...]]:
        """The keys of a line's rows: one row for each of its projects, if projects are grouped.

        ``projects``: only these have rows; None for all.
        """
        found: list[tuple[str | None, ...]] = [()]
        for word in self.of_line:
            values: Sequence[str | None]
            if word == "project":
                tags = line.project_tags
                values = [tag for tag in tags if projects is None or tag in projects] or (
                    [None] if projects is None else []
                )
            else:
                values = [line.id if word == "service_line" else getattr(line, KEYS[word])]
            found = [(*before, value) for before in found for value in values]
        return found

    def order(self, keys: Sequence[str | None]) -> tuple[Any, ...]:
        """The place of a row: ids by year and number, other texts by code points, null last.

        Raises ValueError for an id of another form.
        """
        return tuple(map(_order_key, self.words, keys))


def _order_key(word: Word, value: str | None) -> tuple[bool, Any]:
    if word in ("workspace", "service_line"):
        return False, sort_key(value or "")
    return (True, "") if value is None else (False, value)
