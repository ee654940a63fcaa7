"""The pages of the board: lines by state, in one order within each state, forwards and back.

The board's cursor is a state and the API's cursor among the lines of that state. A page read
backwards ends before its cursor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

from ledger.engine.http.problems import InvalidCursor
from ledger.engine.http.reading import ReadRequest, split_words
from ledger.engine.http.replies import AnswerOf, PageOf
from ledger.engine.page.pages import read_answer
from ledger.engine.values.values import State
from ledger.features.lines.routes import executions
from ledger.features.lines.routes.executions import Filters, LineCounts, LongLinesQuery
from projections.lines.orders import Sort
from projections.lines.shown import LineDetail

BOARD_ORDER: tuple[State, ...] = ("blocked", "paused", "running", "idle", "closed")
"""The order of the board: lines that need a human come first."""

CURSOR = r"^(?:" + "|".join(BOARD_ORDER) + r")~"

MOST = 200


@dataclass(frozen=True)
class BoardPage:
    """The requested page."""

    order: str
    limit: int
    cursor: str | None
    before: str | None
    start: int


class StateGroup(NamedTuple):
    """The lines of one state on a page."""

    state: str
    lines: Sequence[LineDetail]
    first: int
    """The number of the first line among all lines of this state."""
    total: int

    @property
    def last(self) -> int:
        return self.first + len(self.lines) - 1


class FoundPage(NamedTuple):
    """A page of the board, and where it is in the list."""

    groups: Sequence[StateGroup]
    first: int
    last: int
    total: int
    before: str | None
    """The cursor of the page before; None if that is the first page, or if there is none."""
    after: str | None


async def read_page(
    request: ReadRequest, filters: Filters, wanted: BoardPage, matching: LineCounts
) -> FoundPage | None:
    """A page of the board; ``matching`` counts the lines that match the filters.

    Returns None if the page before a cursor is the first, which has no cursor. Raises
    InvalidCursor.
    """
    states = split_words(filters.state) or BOARD_ORDER
    scan = _Scan(request, filters, wanted, [s for s in BOARD_ORDER if s in states])
    is_back = wanted.before is not None
    cursor = wanted.before if is_back else wanted.cursor
    found, beyond = await scan.go(matching, cursor, back=is_back)
    if is_back and beyond is None:
        return None
    counts = {state: matching.by_state[state] for state in scan.states}
    groups: list[StateGroup] = []
    first = wanted.start if cursor else 1
    for state, lines in found:
        skipped = sum(counts[other] for other in scan.states[: scan.states.index(state)])
        begin = 1 if groups else max(1, first - skipped)
        total = max(counts[state], begin + len(lines) - 1)
        groups.append(StateGroup(state, lines, begin, total))
    last = first + sum(len(group.lines) for group in groups) - 1
    has_more = beyond is not None or is_back
    return FoundPage(
        groups,
        first,
        last,
        max(sum(counts.values()), last),
        scan.cursor_of(groups[0].state, groups[0].lines[0]) if groups else None,
        scan.cursor_of(groups[-1].state, groups[-1].lines[-1]) if groups and has_more else beyond,
    )


class AdjacentPages(NamedTuple):
    """A cursor in the board's list, and the lines next to it now."""

    cursor: str
    previous: LineDetail | None
    next: LineDetail | None


async def neighbours(
    request: ReadRequest, filters: Filters, order: str, line: LineDetail, cursor: str | None
) -> AdjacentPages | None:
    """The lines next to a line in the list of these filters, or next to its earlier ``cursor``.

    A paused line moves in the list, or leaves it: its neighbours are those at its earlier cursor.
    Returns None if the line is not in the list, or if the cursor is of another list.
    """
    states = split_words(filters.state) or BOARD_ORDER
    wanted = BoardPage(order, 1, None, None, 1)
    scan = _Scan(request, filters, wanted, [s for s in BOARD_ORDER if s in states])
    cursor = cursor or scan.cursor_of(line.state, line)
    answer = executions.summarize_executions(request, filters)
    matching = (await read_answer(answer, AnswerOf[LineCounts])).data
    try:
        found = [(await scan.go(matching, cursor, back=back))[0] for back in (True, False)]
    except InvalidCursor:
        return None
    previous, following = (lines[0][1][0] if lines else None for lines in found)
    return AdjacentPages(cursor, previous, following)


class _Scan:
    def __init__(
        self, request: ReadRequest, filters: Filters, wanted: BoardPage, states: list[State]
    ) -> None:
        self._request = request
        self._wanted, self.states = wanted, states
        self._query = LongLinesQuery.model_construct(
            **filters.values(),
            sort=wanted.order if wanted.order in get_args(Sort) else None,
            cursor=None,
            limit=wanted.limit,
        )

    def cursor_of(self, state: str, line: LineDetail) -> str:
        return f"{state}~{executions.cursor_at(self._of(state), line)}"

    async def go(
        self, matching: LineCounts, cursor: str | None, *, back: bool
    ) -> tuple[list[tuple[State, list[LineDetail]]], str | None]:
        """The lines of a page by state, and a cursor if the list goes on in this direction."""
        beyond = self.states[::-1] if back else self.states
        begin, _, after = (cursor or "").partition("~")
        if cursor is not None:
            if begin not in beyond:
                raise InvalidCursor("The cursor is not valid for these filters.")
            beyond = beyond[beyond.index(begin) :]
        # Always read the cursor's own state: the API then validates the rest of the cursor.
        wanted = [state for state in beyond if state == begin or matching.by_state[state]]
        groups: list[tuple[State, list[LineDetail]]] = []
        left, more = self._wanted.limit, None
        for state in wanted:
            if left == 0:
                more = f"{state}~"
                break
            part = self._of(state, cursor=after or None, limit=left)
            reply = executions.lines_page(self._request, part, whole=True, back=back)
            page = await read_answer(reply, PageOf[LineDetail])
            after = ""
            if page.data:
                groups.append((state, page.data[::-1] if back else page.data))
            if page.meta.has_more:
                more = f"{state}~{page.meta.cursor}"
                break
            left -= len(page.data)
        return (groups[::-1] if back else groups), more

    def _of(self, state: str, **more: object) -> LongLinesQuery:
        return self._query.model_copy(update={"state": state, **more})
