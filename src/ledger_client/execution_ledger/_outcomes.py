"""Outcomes of reported facts: their numbers, and flushes that wait for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from execution_ledger._sending import Result
from execution_ledger._wait import Changed


class Flushed(NamedTuple):
    """The outcomes of reported facts. True if none is refused and none waits."""

    recorded: int
    """Facts recorded since the last flush, including duplicates."""
    refused: int
    """Facts refused since the last flush, by the ledger or by the client."""
    waiting: int
    """Facts reported before the flush that have no outcome yet."""

    def __bool__(self) -> bool:
        return not (self.refused or self.waiting)


class _Flush:
    """A caller that waits for the outcomes of all facts up to a number."""

    def __init__(self, last: int, waiting: int, telling: int, before: tuple[int, int]) -> None:
        self.last, self.waiting = last, waiting
        self.left = waiting + telling
        """The facts without an outcome, and those whose outcome is being told."""
        self.before = before
        """The numbers that an earlier flush has counted: recorded and refused facts."""
        self.flushed = Flushed(0, 0, waiting)

    def among(self, results: Sequence[Result], are_left: bool) -> int:
        """How many results this flush waits for; ``are_left`` marks facts of another process."""
        return sum(are_left or each.fact.number <= self.last for each in results)


class Outcomes:
    """Counts facts, under the reporter's lock."""

    def __init__(self, changed: Changed) -> None:
        self._changed = changed
        self._flushes: list[_Flush] = []
        self.last = 0
        """The number of the newest fact."""
        self.offered: set[int] = set()
        """The numbers of the facts that the queue has not taken yet."""
        self._left = 0
        """The facts that other processes have left, without an outcome."""
        self._judged = self._telling = self._recorded = 0
        self.refused = 0
        self._counted = (0, 0)
        """The recorded and the refused facts when the last flush returned."""
        self.are_final = False
        """True if no more facts are sent."""

    @property
    def waiting(self) -> int:
        """The number of facts without an outcome."""
        return self.last - self._judged + self._left

    @property
    def queued(self) -> int:
        """The number of facts in the queue without an outcome."""
        return self.waiting - len(self.offered)

    def offer(self) -> int:
        """Count a new fact without an outcome, and return its number."""
        with self._changed:
            self.last += 1
            self.offered.add(self.last)
            return self.last

    def adopt(self, left: int) -> None:
        """Add facts that another process left; a negative number removes them."""
        with self._changed:
            self._left += left
            for flush in self._flushes:
                flush.waiting += left
                flush.left += left
            self._changed.notify_all()

    def refuse(self) -> None:
        """Count a fact that cannot be sent as refused."""
        with self._changed:
            self.refused += 1

    @contextmanager
    def counting(self, results: Sequence[Result], are_left: bool) -> Iterator[None]:
        """Count outcomes; when the block has reported them, wake the flushes that wait."""
        refused = sum(each.problem is not None for each in results)
        with self._changed:
            self.refused += refused
            self._recorded += sum(not (each.problem or each.item is None) for each in results)
            if are_left:
                self._left -= len(results)
            else:
                self._judged += len(results)
                self.offered.difference_update(each.fact.number for each in results)
            self._telling += len(results)
            for flush in self._flushes:
                flush.waiting -= flush.among(results, are_left)
        try:
            yield
        finally:
            with self._changed:
                self._telling -= len(results)
                for flush in self._flushes:
                    flush.left -= flush.among(results, are_left)
                self._changed.notify_all()

    def flush(self, timeout: float, counts: bool) -> Flushed:
        """Wait until all facts have an outcome that was reported."""
        with self._flushing(counts) as flush, self._changed:
            self._changed.wait_for(lambda: self._is_over(flush), timeout)
        return flush.flushed

    async def flush_async(self, timeout: float) -> Flushed:
        """Wait without blocking the event loop. A cancelled flush counts nothing."""
        with self._flushing() as flush:
            await self._changed.wait_for_async(lambda: self._is_over(flush), timeout)
        return flush.flushed

    def _is_over(self, flush: _Flush) -> bool:
        return flush.left <= 0 or self.are_final

    @contextmanager
    def _flushing(self, counts: bool = True) -> Iterator[_Flush]:
        with self._changed:
            flush = _Flush(self.last, self.waiting, self._telling, self._counted)
            self._flushes.append(flush)
        try:
            yield flush
            with self._changed:
                (recorded, refused), now = flush.before, (self._recorded, self.refused)
                flush.flushed = Flushed(now[0] - recorded, now[1] - refused, flush.waiting)
                self._counted = now if counts else self._counted
        finally:
            with self._changed:
                self._flushes.remove(flush)
