"""Answers that need not be read again: the memory of ``Reads`` (``asking.py``).

What a statement answers to its parameters, within a tenant, depends on the views' rows alone, and
these change only together with where their view stands: its position with each batch, its
generation with each swap of a rebuild, in the same transaction. So an answer is kept with where the
views stood, at the latest, before its statement began. It is given again where a *look*, begun
after the request came, finds them standing there still: then no write that was acknowledged before
the request came, by whichever worker, is missing from it.

    ask ─▶ kept? ─ no ──────────────────────────▶ read ─▶ keep, if none moved meanwhile
             └ yes ▶ look ─ they have moved: forget all ▲
                       └ they stand: the kept answer

A miss costs no look: the last look showed, or the projector has told since (``heard``), where the
views stand. What is told may come late, never early; so it can outdate answers at once, which saves
looks under a load of writes, but only a look can confirm an answer. Many requests share a look, and
a statement for one answer (``turns.py``).

Everything that is kept belongs to one standing of the views: as soon as any of them moves, all is
forgotten. One table beside the views is read too, that of run keys. It changes in the transaction
that appends an event, before any view: a run that is erased while the views are stopped must not
be shown from here. So where the log ends belongs to the standing as well. A question whose answer
depends on anything else (deliveries, credentials, the clock) must not be kept.
"""

from collections import OrderedDict
from sys import getsizeof
from typing import Any

from ledger.postgres.scope import EVERYONE, Fetch, Planning
from ledger.reads.question import Answer, Question
from ledger.reads.turns import Turns

_LOG = "log"

# Where every view stands, and where the log ends.
_LOOK = f"""
SELECT name, generation, position FROM ledger.projection
UNION ALL SELECT '{_LOG}', 0, COALESCE(max(notification_id), 0) FROM ledger.ledger_events
"""

_BUDGET = 24 * 1024 * 1024
"""Bytes that a process keeps."""

_OVERHEAD = 1500
"""Bytes that an answer takes beside its text and its key's words; an upper guess."""

_Key = tuple[Any, ...]
_Standing = dict[str, tuple[int, int]]
"""view, or the log → (generation, position)."""


class Answers:
    """One process's kept answers, those given longest ago dropped first."""

    def __init__(self, fetch: Fetch, budget: int = _BUDGET) -> None:
        self._fetch = fetch
        self._budget = budget
        self._kept: OrderedDict[_Key, tuple[Answer, int]] = OrderedDict()
        self._standing: _Standing = {}
        self._looks: Turns[None] = Turns(self._look)
        self.bytes_kept = 0
        """How much is kept, as far as it is counted."""
        self.moves = 0
        """How often we learnt that a view has moved: an answer is of the time between two."""

    async def find(self, question: Question) -> Answer | None:
        """What is kept of a question, if it is still true. Raises what the door raises."""
        key = question.key
        if key not in self._kept:
            return None
        await self._looks.take(None)
        if (found := self._kept.get(key)) is None:
            return None
        self._kept.move_to_end(key)
        return found[0]

    def keep(self, question: Question, answer: Answer, moves: int) -> None:
        """Keep an answer, unless a view has moved since ``moves``, when its statement began.

        Rows that a crash of the database took back, after the views were heard to stand further,
        must not be given as those of where they stand once they have folded the rest again.
        """
        stand = (self._standing.get(view, (0, 0))[1] for view in question.views)
        if question.as_of is None and answer.position < min(stand, default=0):
            return
        key = question.key
        size = _size_of_key(key) + _size_of_text(answer)
        if moves != self.moves or size > self._budget // 8:
            return
        while self.bytes_kept + size > self._budget:
            _, (_, dropped) = self._kept.popitem(last=False)
            self.bytes_kept -= dropped
        self._kept[key] = answer, size
        self.bytes_kept += size

    def heard(self, view: str, position: int) -> None:
        """A view is told to have moved on to a position, some time ago."""
        generation, known = self._standing.get(view, (0, 0))
        if position > known:
            end = max(position, self._standing.get(_LOG, (0, 0))[1])
            self._move({**self._standing, view: (generation, position), _LOG: (0, end)})

    def forget(self, _run_id: str | None = None) -> None:
        """Drop what is kept where a run was erased: memory holds it no longer than need be."""
        self._move(self._standing)

    async def _look(self) -> None:
        rows = await self._fetch(EVERYONE, _LOOK, {}, Planning.SHORT)
        standing = {name: (generation, position) for name, generation, position in rows}
        # News of a view may have come since the look began: then the answers kept now are younger
        # than the look. They are forgotten all the same; the next look will show the news too.
        if standing != self._standing:
            self._move(standing)

    def _move(self, standing: _Standing) -> None:
        self._standing = standing
        self.moves += 1
        self._kept.clear()
        self.bytes_kept = 0


def _size_of_key(key: _Key) -> int:
    """Bytes that an answer takes beside its text: its parameters are whatever a client sends."""
    words = key[2:]
    items = sum(sum(map(getsizeof, word)) for word in words if isinstance(word, tuple))
    return _OVERHEAD + sum(map(getsizeof, words)) + items


def _size_of_text(answer: Answer) -> int:
    """Bytes of the rows' text at most, as it is and as it is encoded."""
    size = 0
    for row in answer:
        for cell in row:
            kind = type(cell)
            if kind is str:
                size += len(cell) if cell.isascii() else 4 * len(cell)
            elif kind is bytes:
                size += len(cell)
    return size
