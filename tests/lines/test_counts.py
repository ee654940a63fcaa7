"""Stored counts equal the number of rows, after any mix of facts."""

from collections import Counter
from typing import Any

import pytest

from ledger.engine.values.values import STATES
from projections.lines import statements
from tests.support.ledger import Ledger
from tests.support.random_lines import (
    RandomLines,
    Row,
    matching,
    parameters_of,
    random_filters,
    rows_of_lines,
)
from tests.support.rebuilding import rebuild, verify, view
from tests.support.soak import repeated
from tests.support.views import query

Counted = Counter[tuple[str, str, str, frozenset[str]]]
"""Lines by state, model, product line and causes."""


def summarized(own_ledger: Ledger, filters: dict[str, Any]) -> Counted:
    statement = statements.summary_read(frozenset(filters)).sql.encode()
    counted: Counted = Counter()
    for row in own_ledger.reader.execute(statement, parameters_of(own_ledger, filters)).fetchall():
        if row["state"] is not None:
            kind = row["execution_model"], row["product_line"], frozenset(row["causes"])
            counted[row["state"], *kind] += row["lines"]
    return +counted


def recounted(lines: list[Row], filters: dict[str, Any]) -> Counted:
    """The same counts from the row of each line."""
    return Counter(
        (row["state"], row["execution_model"], row["product_line"], frozenset(row["causes"]))
        for row in matching(lines, filters)
    )


@pytest.mark.parametrize(("seed", "questions"), repeated([(0, 50), (0, 150), (1, 150), (2, 150)]))
def test_summaries_equal_a_count_of_the_rows_after_any_mix_of_facts(
    own_ledger: Ledger, seed: int, questions: int
) -> None:
    mix = RandomLines(own_ledger, seed)
    matches, states = 0, set[str]()
    for _ in range(4):
        mix.go_on(15)
        lines = rows_of_lines(own_ledger)
        states |= {state for state, *_ in recounted(lines, {})}
        for filters in ({}, *(random_filters(mix.dice) for _ in range(questions))):
            expected = recounted(lines, filters)
            assert summarized(own_ledger, filters) == expected, filters
            matches += bool(expected)
    assert (matches > questions * 5 // 3, states) == (True, set(STATES))


def test_stored_counts_do_not_depend_on_how_the_log_is_cut_into_batches(own_ledger: Ledger) -> None:
    """A replay folds batches of another size, and stores its rows less often."""
    RandomLines(own_ledger, 7).go_on(40)
    counts = "SELECT * FROM ledger.execution_count ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9"
    live = query(own_ledger.conninfo, counts)
    assert len(live) > 100
    assert min(row[9] for row in live) == 0
    assert verify(own_ledger.conninfo, view("execution"))[1] == []
    assert rebuild(own_ledger.conninfo, view("execution")).differing == 0
    assert query(own_ledger.conninfo, counts) == live


def test_a_verification_names_a_wrong_count(own_ledger: Ledger) -> None:
    own_ledger.line(project_tags=["PROJ-26-000001"])
    own_ledger.catch_up()
    query(
        own_ledger.conninfo,
        "UPDATE ledger.execution_count_g1 SET lines = 2 WHERE per = 'workspace'",
    )
    _, (named,) = verify(own_ledger.conninfo, view("execution"))
    assert (named.table, named.kind, named.columns) == ("execution_count", "differs", ("lines",))
