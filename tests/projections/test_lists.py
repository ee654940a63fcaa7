"""A list gives the lines that are as asked for, each once, newest record id first, page by page."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from ledger.domain.values import day_of, week_of
from projections.execution import lists
from tests.support.ledger import Ledger
from tests.support.mix import Mix, asked_at_random, matching

PAGE = 4


def listed(ledger: Ledger, asked: dict[str, Any], past: bool) -> Iterator[int]:
    """The record keys, from the first page to the last."""
    now = ledger.clock()
    more: dict[str, Any] = {"today": day_of(now), "week": week_of(now), "limit": PAGE}
    if past:
        more |= {"as_of": now + timedelta(days=1), "settled": True}
    after: dict[str, int] = {}
    while True:
        filters = asked | after
        statement = lists.list_statement(filters, past).encode()
        rows = ledger.reader.execute(statement, filters | more).fetchall()
        keys = [row["record_key"] for row in rows if row["record_key"] is not None]
        yield from keys
        if len(keys) < PAGE:
            return
        after = {"after": keys[-1]}


@pytest.mark.parametrize("past", [False, True], ids=["present", "past"])
@pytest.mark.parametrize("seed", range(2))
def test_after_any_mix_of_facts_lists_give_the_lines_that_are_as_asked_for(
    ledger: Ledger, seed: int, past: bool
) -> None:
    mix = Mix(ledger, seed)
    found = 0
    for _ in range(3):
        mix.go_on(15)
        for asked in ({}, *(asked_at_random(mix.dice) for _ in range(100))):
            expected = sorted((row["record_key"] for row in matching(ledger, asked)), reverse=True)
            assert list(listed(ledger, asked, past)) == expected, asked
            found += len(expected) > PAGE
    assert found > 60
