"""A list has every line that matches its filters once, in its order, in pages."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from ledger.engine.values.values import day_of, parse_instant, week_of
from projections.lines import lists, orders
from tests.support.ledger import Ledger
from tests.support.random_lines import (
    OF_NOW,
    RandomLines,
    matching,
    parameters_of,
    random_filters,
    rows_of_lines,
)
from tests.support.soak import repeated

PAGE = 4
SEEDS = repeated([(0, 8), (0, 100), (1, 100)])
"""(seed, number of filters that are requested, each of them three times)"""


def listed(
    own_ledger: Ledger,
    filters: dict[str, Any],
    past: bool = False,
    sort: orders.Sort | None = None,
    back: bool = False,
) -> Iterator[int]:
    """The record keys, from the first page to the last, or ``back`` from the end."""
    now = own_ledger.clock()
    more: dict[str, Any] = {"today": day_of(now), "week": week_of(now), "limit": PAGE}
    if past:
        more |= {"as_of": now + timedelta(days=1), "settled": True}
    after: dict[str, Any] = {}
    while True:
        parameters = parameters_of(own_ledger, filters) | after
        statement = lists.list_read(parameters, past, sort=sort, back=back).sql.encode()
        rows = own_ledger.reader.execute(statement, parameters | more).fetchall()
        rows = [row for row in rows if row["record_key"] is not None]
        keys = [row["record_key"] for row in rows]
        yield from keys
        if len(keys) < PAGE:
            return
        after = {"after": keys[-1]} | ({"after_key": rows[-1]["key"]} if sort else {})


def sort_key(row: dict[str, Any], sort: orders.Sort | None) -> tuple[Any, ...]:
    """A row's place in an order."""
    if sort is None:
        return (-row["record_key"],)
    if sort == "state_since":
        return parse_instant(row["state_since"]), -row["record_key"]
    key = row[sort]
    return key is None, key, -row["record_key"]


@pytest.mark.parametrize(
    ("sort", "past"),
    repeated([
        (None, False), (None, True),
        ("due_at", False), ("state_since", True), ("health_score", False),
        ("state_since", False), ("health_score", True),
    ], 5),
)  # fmt: skip
@pytest.mark.parametrize(("seed", "questions"), SEEDS)
def test_lists_return_exactly_the_matching_lines_in_their_order_after_any_mix_of_facts(
    own_ledger: Ledger, seed: int, questions: int, sort: orders.Sort | None, past: bool
) -> None:
    mix = RandomLines(own_ledger, seed)
    long_lists = 0
    for _ in range(3):
        mix.go_on(15)
        lines = rows_of_lines(own_ledger)
        for filters in ({}, *(random_filters(mix.dice) for _ in range(questions))):
            if past and not OF_NOW.isdisjoint(filters):
                continue
            rows = sorted(matching(lines, filters), key=lambda row: sort_key(row, sort))
            expected = [row["record_key"] for row in rows]
            assert list(listed(own_ledger, filters, past, sort)) == expected, filters
            assert list(listed(own_ledger, filters, past, sort, back=True)) == expected[::-1], (
                filters
            )
            long_lists += len(expected) > PAGE
    assert long_lists > questions * 3 // 5
