"""How many lines are what: counts that are kept, so that a summary need not count (contract 4).

A row of ``execution_count`` says how many lines of one model and product line are in one state with
just these causes open: of those of an organization, of a workspace, or with a project tag. So a
summary by anything but tags adds up some dozens of rows, however many lines there are, and one by a
tag those of the tag. A row whose lines have all moved on stays, with none.
"""

from collections.abc import Iterator, Sequence
from sys import intern
from typing import NamedTuple

from ledger.domain.execution import Execution
from ledger.postgres.exchange import Rows
from ledger.postgres.table import BigInt, Table, Text, Texts
from ledger.views.folds import Folds
from ledger.views.generation import Generation
from projections.execution.line import Interval

# These counts, each looked up by its whole key.
_LOAD = """
SELECT asked.per, asked.project_tag, asked.workspace_id, asked.organization_id,
       asked.execution_model, asked.product_line, asked.state,
       found.causes, found.lines, found.position
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
            $8::text[])
    AS asked (per, project_tag, workspace_id, organization_id, execution_model, product_line,
              state, causes)
CROSS JOIN LATERAL (
    SELECT causes, lines, position FROM ledger.execution_count_{g} AS c
    WHERE c.per = asked.per AND c.project_tag = asked.project_tag
      AND c.workspace_id = asked.workspace_id AND c.organization_id = asked.organization_id
      AND c.execution_model = asked.execution_model AND c.product_line = asked.product_line
      AND c.state = asked.state AND c.causes = asked.causes::text[]
    LIMIT 1
) AS found
"""


class Kind(NamedTuple):
    """The key of a row: lines that are alike in it are counted together."""

    per: str
    """What they share: ``organization``, ``workspace`` or ``project_tag``."""
    project_tag: str
    """Empty where they are counted per organization or workspace."""
    workspace_id: str
    """Empty where they are counted per organization."""
    organization_id: str
    execution_model: str
    product_line: str
    state: str
    causes: tuple[str, ...]
    """Sorted, each once."""


class CountRow(NamedTuple):
    """How many lines are of a kind, whose fields come first."""

    per: Text
    project_tag: Text
    workspace_id: Text
    organization_id: Text
    execution_model: Text
    product_line: Text
    state: Text
    causes: Texts
    lines: BigInt
    """None are left where all have moved on."""
    position: BigInt


# Nothing that is counted is indexed, so that an update stays within its page (HOT); the key begins
# with what a summary always gives.
COUNT = Table(
    "execution_count",
    CountRow,
    key=Kind._fields,
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    options="fillfactor = 70",
)


class _Count:
    """How many lines are of a kind, and the position at which that changed last."""

    __slots__ = ("kind", "lines", "position")

    def __init__(self, kind: Kind, lines: int = 0, position: int = 0) -> None:
        self.kind, self.lines, self.position = kind, lines, position


class Move(NamedTuple):
    """A line that is of other kinds from a position on."""

    position: int
    left: set[Kind]
    entered: set[Kind]


class Counts:
    """The fold of moves."""

    def __init__(self) -> None:
        self._counts: Folds[Kind, _Count] = Folds(_Count)

    @property
    def waiting(self) -> int:
        """Counts that have changed."""
        return self._counts.waiting

    def fold(self, generation: Generation, moves: Sequence[Move]) -> None:
        """Count a batch's moves."""
        kinds = (kind for move in moves for kind in (*move.left, *move.entered))
        touched = {_sharing(kind): None for kind in kinds}
        generation.ask(self._counts, touched, _LOAD, _read)
        generation.load()
        for move in moves:
            for kind in move.left:
                self._add(kind, -1, move.position)
            for kind in move.entered:
                self._add(kind, 1, move.position)

    def rows(self, most: int | None = None) -> list[CountRow]:
        """The changed rows of the table, to be stored now."""
        return [CountRow(*c.kind, c.lines, c.position) for c in self._counts.take_changed(most)]

    def forget(self) -> None:
        """Drop the rows in memory."""
        self._counts.clear()

    def _add(self, kind: Kind, lines: int, position: int) -> None:
        count = self._counts[kind]
        count.lines += lines
        count.position = position
        self._counts.change(kind)


def _sharing(kind: Kind) -> Kind:
    """The same, with words that kinds share: many thousands are kept, of a few hundred words."""
    return Kind._make((*map(intern, kind[:-1]), kind.causes))


def _read(rows: Rows) -> Iterator[tuple[Kind, _Count]]:
    for *names, causes, lines, position in rows:
        kind = _sharing(Kind._make((*names, tuple(causes))))
        yield kind, _Count(kind, lines, position)


def move(execution: Execution, before: Interval | None, after: Interval, position: int) -> Move:
    """What a line's new interval changes. (Where it only reorders its causes, nothing.)"""
    old = set(_kinds(execution, before)) if before is not None else set[Kind]()
    new = set(_kinds(execution, after))
    return Move(position, old - new, new - old)


def _kinds(execution: Execution, interval: Interval) -> Iterator[Kind]:
    """Every kind that a line is of."""
    organization, workspace = execution.organization_id, execution.workspace_id
    what = (
        execution.execution_model,
        execution.product_line,
        interval.state,
        tuple(sorted(interval.causes)),
    )
    yield Kind("organization", "", "", organization, *what)
    yield Kind("workspace", "", workspace, organization, *what)
    for tag in interval.project_tags:
        yield Kind("project_tag", tag, workspace, organization, *what)
