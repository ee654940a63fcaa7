"""The rows of usage and of comparisons in a table (contract, Usage)."""

from collections.abc import Mapping, Sequence
from typing import Any

from ledger.api.exports import Cells, Cut, harmless
from ledger.domain.values import CAUSES, RUN_STATUSES, STATES

TOTAL = "TOTAL"
"""The first key of the last row, which has the total."""

_SPREAD: Mapping[str, tuple[str, Sequence[str]]] = {
    "runs": ("runs_", RUN_STATUSES),
    "seconds_by_state": ("seconds_", STATES),
    "seconds_by_cause": ("cause_seconds_", CAUSES),
}
"""The sums by word: each word has a column."""

_SUMS = (
    "lines",
    "hours",
    "check_ins",
    "runs",
    "tokens_used",
    "seconds_by_state",
    "seconds_by_cause",
)


def cut_of_usage(keys: Sequence[str]) -> Cut:
    """The columns of rows with these keys, and of their total under ``TOTAL``."""
    columns = [*keys]
    for name in _SUMS:
        prefix, words = _SPREAD.get(name, (name, ("",)))
        columns += [f"{prefix}{word}" for word in words]

    def cells(row: Mapping[str, Any]) -> Cells:
        total = row.get("total")
        sums: Mapping[str, Any] = row if total is None else total
        found: list[Any] = [harmless(row.get(key)) for key in keys]
        if total is not None:
            found[0] = TOTAL
        for name in _SUMS:
            value = sums[name]
            if name in _SPREAD:
                found += [None if value is None else value[word] for word in _SPREAD[name][1]]
            else:
                found.append(value)
        return found

    return Cut(tuple(columns), cells)
