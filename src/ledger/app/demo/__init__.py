"""A realistic story for `ledger demo`: six weeks of six product lines, told as facts.

`story(now)` is a pure function: it takes the time as an argument, draws every random choice from
seeded generators, and gives the same facts, byte for byte, for the same `now`. The story knows
nothing of the ledger: its facts are CloudEvents that any product line could send.

    cast.py    the lines, the fate of each, and when it was held; the keys of programs
    work.py    the facts that a line reports: activation, people, check-ins, holds, health
    runs.py    the facts of runs: agent invocations and ODS cycles
    words.py   the sentences people write and the numbers they measure
    facts.py   the shape of a fact, and the names of lines, workspaces and projects

`telling.py` records the facts. `closing.py` issues the statement of finance in between.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from operator import attrgetter
from typing import Any

from ledger.app.demo.cast import (
    ORGANIZATIONS,
    PRIMARY_ORGANIZATION,
    SECOND_ORGANIZATION,
    WORKSPACES,
    cast,
    closing_of,
)
from ledger.app.demo.facts import directory_facts
from ledger.app.demo.runs import run_facts, runs_of
from ledger.app.demo.work import late_reports, line_facts

__all__ = ["ORGANIZATIONS", "PRIMARY_ORGANIZATION", "SECOND_ORGANIZATION", "WORKSPACES", "story"]

FIRST_RUN_NUMBER = 100_001
"""The story's first run, far above the ids that the ledger itself issues."""


def story(now: datetime) -> Iterator[dict[str, Any]]:
    """Yield the demo's facts in the order of their reports. The ledger accepts them all.

    A fact that is older than the previous one was reported late.
    """
    if now.tzinfo is None:
        raise ValueError("the story needs a `now` that knows its offset from UTC")
    now = now.astimezone(UTC).replace(microsecond=0)
    lines = cast(now)
    runs = sorted(chain.from_iterable(map(runs_of, lines)), key=attrgetter("first_at"))
    facts = [*directory_facts(lines), *chain.from_iterable(map(line_facts, lines))]
    for number, run in enumerate(runs, FIRST_RUN_NUMBER):
        facts.extend(run_facts(run, f"RUN-{now:%y}-{number:06d}"))
    facts.extend(late_reports(lines, facts, closing_of(now)))
    # The sort is stable, so facts of one instant stay in the order of their causes.
    facts.sort(key=attrgetter("at"))
    return (each.fact for each in facts)
