"""The sums of usage as columns of a table, in exports of usage and of statements."""

from collections.abc import Mapping, Sequence
from typing import Any

from ledger.engine.http.exports import Cells, Cut, harmless
from ledger.engine.values.values import CAUSES, RUN_STATUSES, STATES

TOTAL = "TOTAL"
"""The first key of the last row."""

COLUMNS: tuple[str, ...] = (
    "lines",
    "hours",
    "check_ins",
    *(f"runs_{status}" for status in RUN_STATUSES),
    "tokens_used",
    *(f"seconds_{state}" for state in STATES),
    *(f"cause_seconds_{cause}" for cause in CAUSES),
)


def cells(sums: Mapping[str, Any]) -> list[Any]:
    """The cells of ``COLUMNS``, from the result of ``Shows.rendered``. A null is an empty cell."""
    runs = sums["runs"] or {}
    states, causes = sums["seconds_by_state"] or {}, sums["seconds_by_cause"] or {}
    return [
        sums["lines"],
        sums["hours"],
        sums["check_ins"],
        *(runs.get(status) for status in RUN_STATUSES),
        sums["tokens_used"],
        *(states.get(state) for state in STATES),
        *(causes.get(cause) for cause in CAUSES),
    ]


def cut_of_usage(keys: Sequence[str]) -> Cut:
    """The columns of rows with these keys, and of their total under ``TOTAL``."""

    def cells_of(row: Mapping[str, Any]) -> Cells:
        if (total := row.get("total")) is not None:
            return [TOTAL, *[None] * (len(keys) - 1), *cells(total)]
        return [*(harmless(row[key]) for key in keys), *cells(row)]

    return Cut((*keys, *COLUMNS), cells_of)
