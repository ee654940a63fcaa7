"""Stored counts of lines, so that a summary need not count lines (contract, Reading).

A row of ``execution_count`` counts the lines with the same model, product line, state, health
status and set of open causes: within an organization, a workspace, or a project tag. So a summary
without tags adds up some dozens of rows, however many lines there are; a summary by a tag adds up
the tag's rows. A row that all lines have left stays, with a count of 0.
"""

from collections.abc import Iterator, Sequence
from sys import intern
from typing import NamedTuple

import msgspec

from ledger.engine.postgres.schema.table import BigInt, Table, Text, Texts
from ledger.engine.views.folds import FoldCache, Remembering
from ledger.engine.views.generation import Generation
from ledger.features.lines.model.execution import Execution
from projections.lines.line import Interval
from projections.lines.rank import status_of


class Kind(NamedTuple):
    """The key of a row: lines with an equal key are counted together."""

    per: str
    """The scope of the count: ``organization``, ``workspace`` or ``project_tag``."""
    project_tag: str
    """Empty in counts per organization or workspace."""
    workspace_id: str
    """Empty in counts per organization."""
    organization_id: str
    execution_model: str
    product_line: str
    state: str
    health_status: str
    """``none`` for lines without signals."""
    causes: tuple[str, ...]
    """Distinct and sorted."""


class CountRow(NamedTuple):
    """The number of lines of a kind; the fields of the kind come first."""

    per: Text
    project_tag: Text
    workspace_id: Text
    organization_id: Text
    execution_model: Text
    product_line: Text
    state: Text
    health_status: Text
    causes: Texts
    lines: BigInt
    """0 after all lines have left the kind."""
    position: BigInt


# The changing columns are not indexed, so that an update stays within its page (HOT). The key
# begins with the columns that a summary always filters by.
COUNT = Table(
    "execution_count",
    CountRow,
    key=Kind._fields,
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    options="fillfactor = 70",
)


class _Count(msgspec.Struct):
    kind: Kind
    lines: int = 0
    position: int = 0


class Move(NamedTuple):
    """The counts that a line leaves and enters at a position."""

    position: int
    left: set[Kind]
    entered: set[Kind]


class Counts(Remembering):
    """The fold of moves into counts."""

    def __init__(self) -> None:
        self._counts: FoldCache[Kind, _Count] = FoldCache(_Count)
        super().__init__(self._counts)

    def apply(self, generation: Generation, moves: Sequence[Move]) -> None:
        kinds = (kind for move in moves for kind in (*move.left, *move.entered))
        touched = {_sharing(kind): None for kind in kinds}
        generation.find(self._counts, touched, COUNT, _count_of)
        generation.load()
        for move in moves:
            for kind in move.left:
                self._add(kind, -1, move.position)
            for kind in move.entered:
                self._add(kind, 1, move.position)

    def rows(self, most: int | None = None) -> list[CountRow]:
        return [CountRow(*c.kind, c.lines, c.position) for c in self._counts.pop_changed(most)]

    def _add(self, kind: Kind, lines: int, position: int) -> None:
        count = self._counts[kind]
        count.lines += lines
        count.position = position
        self._counts.change(kind)


def _sharing(kind: Kind) -> Kind:
    """An equal kind with interned strings.

    Memory holds many thousands of kinds made of a few hundred distinct strings.
    """
    return Kind._make((*map(intern, kind[:-1]), kind.causes))


def _count_of(row: CountRow) -> tuple[Kind, _Count]:
    kind = _sharing(Kind._make((*row[:-3], tuple(row.causes))))
    return kind, _Count(kind, row.lines, row.position)


def move(execution: Execution, before: Interval | None, after: Interval, position: int) -> Move:
    """The change of counts by a new interval; empty if only the order of the causes changed."""
    old = set(_kinds(execution, before)) if before is not None else set[Kind]()
    new = set(_kinds(execution, after))
    return Move(position, old - new, new - old)


def _kinds(execution: Execution, interval: Interval) -> Iterator[Kind]:
    organization, workspace = execution.organization_id, execution.workspace_id
    what = (
        execution.execution_model,
        execution.product_line,
        interval.state,
        status_of(interval.health_score),
        tuple(sorted(interval.causes)),
    )
    yield Kind("organization", "", "", organization, *what)
    yield Kind("workspace", "", workspace, organization, *what)
    for tag in interval.project_tags:
        yield Kind("project_tag", tag, workspace, organization, *what)
