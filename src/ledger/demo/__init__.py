"""A realistic story for `ledger demo`: six weeks of six product lines, told as facts.

Pure: `story(now)` takes the clock as an argument, draws every accident from seeded
generators, and gives the same facts, byte for byte, for the same `now`. It knows nothing of
the ledger: what it yields are the CloudEvents that any product line would send.

    cast.py    who there is: the lines, what becomes of each, when it was held
    work.py    what a line reports itself: activation, people, check-ins, holds, health
    runs.py    what happens in runs: agent invocations and ODS cycles
    words.py   the sentences people write and the numbers they measure
    facts.py   the shape of a fact
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from operator import attrgetter
from typing import Any

from ledger.demo.cast import (
    ORGANIZATIONS,
    PRIMARY_ORGANIZATION,
    SECOND_ORGANIZATION,
    WORKSPACES,
    cast,
)
from ledger.demo.runs import run_facts, runs_of
from ledger.demo.work import line_facts

__all__ = ["ORGANIZATIONS", "PRIMARY_ORGANIZATION", "SECOND_ORGANIZATION", "WORKSPACES", "story"]

FIRST_RUN_NUMBER = 100_001
"""Far above the ids that the ledger issues itself for the lines' own records."""


def story(now: datetime) -> Iterator[dict[str, Any]]:
    """Yield the story's facts, oldest first, in an order that the ledger accepts whole."""
    if now.tzinfo is None:
        raise ValueError("the story needs a `now` that knows its offset from UTC")
    now = now.astimezone(UTC).replace(microsecond=0)
    lines = cast(now)
    runs = sorted(chain.from_iterable(map(runs_of, lines)), key=attrgetter("first_at"))
    told = list(chain.from_iterable(map(line_facts, lines)))
    for number, run in enumerate(runs, FIRST_RUN_NUMBER):
        told.extend(run_facts(run, f"RUN-{now:%y}-{number:06d}"))
    # The sort is stable, so facts of one instant stay in the order of their causes.
    told.sort(key=attrgetter("at"))
    return (each.fact for each in told)
