"""A list has every line that matches its filters once, newest record id first, in pages."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from ledger.domain.values import day_of, week_of
from projections.execution import lists
from tests.support.ledger import Ledger
from tests.support.random_lines import RandomLines, asked_at_random, matching

PAGE = 4


def listed(ledger: Ledger, filters: dict[str, Any], past: bool) -> Iterator[int]:
    """The record keys, from the first page to the last."""
    now = ledger.clock()
    more: dict[str, Any] = {"today": day_of(now), "week": week_of(now), "limit": PAGE}
    if past:
        more |= {"as_of": now + timedelta(days=1), "settled": True}
    after: dict[str, int] = {}
    while True:
        parameters = filters | after
        statement = lists.list_statement(parameters, past).encode()
        rows = ledger.reader.execute(statement, parameters | more).fetchall()
        keys = [row["record_key"] for row in rows if row["record_key"] is not None]
        yield from keys
        if len(keys) < PAGE:
            return
        after = {"after": keys[-1]}


@pytest.mark.parametrize("past", [False, True], ids=["present", "past"])
@pytest.mark.parametrize("seed", range(2))
def test_lists_return_exactly_the_matching_lines_after_any_mix_of_facts(
    ledger: Ledger, seed: int, past: bool
) -> None:
    mix = RandomLines(ledger, seed)
    long_lists = 0
    for _ in range(3):
        mix.go_on(15)
        for filters in ({}, *(asked_at_random(mix.dice) for _ in range(100))):
            expected = sorted(
                (row["record_key"] for row in matching(ledger, filters)), reverse=True
            )
            assert list(listed(ledger, filters, past)) == expected, filters
            long_lists += len(expected) > PAGE
    assert long_lists > 60
