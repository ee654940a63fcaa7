"""Parsing in turns: how organizations share the time in which bodies are parsed.

A small body is parsed at once, on the event loop. A large one may take seconds, depending on its
content, so a thread parses it while other requests go on. The thread goes round the organizations:
a turn ends after ``TURN_FACTS`` steps or ``TURN_SECONDS``. A step is a fact at most.

A parsed fact takes many times the memory of its text. So bodies stay text until the facts of the
same organization that were parsed before are answered, but for a few bodies, which keep the writer
busy.
"""

import asyncio
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from ledger.application.turns import TURN_FACTS, TURN_SECONDS
from ledger.background import BackgroundLoop

SMALL_BYTES = 16 * 1024
"""The largest body that is parsed at once, which usually takes a millisecond or two."""

_MOST_PARSED, _MOST_PARSED_BYTES = 4, 8 * 1024 * 1024
"""The bodies of an organization that may be parsed and not answered yet: their number, and their
bytes. A first body may always be parsed."""

T = TypeVar("T")

Steps = Generator[None, None, T]
"""The parsing of a body: yields between two steps, and returns the result."""


class _Job:
    """A large body that waits to be parsed."""

    __slots__ = ("future", "loop", "size", "steps")

    def __init__(self, size: int, steps: Steps[Any]) -> None:
        self.size, self.steps = size, steps
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()

    def tell(self, result: Any, error: Exception | None = None) -> None:
        """Give the result, or the error, to the request. Called on the parser's thread."""
        self.loop.call_soon_threadsafe(self._tell, result, error)

    def _tell(self, result: Any, error: Exception | None) -> None:
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


class _Party:
    """The large bodies of an organization."""

    __slots__ = ("begun", "count", "size", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Job] = deque()
        self.begun: _Job | None = None
        """The job that is being parsed."""
        self.count = self.size = 0
        """Bodies, and their bytes, that are being parsed, or are parsed and not answered yet."""

    def next(self) -> _Job | None:
        """The job to go on with; None: there is none, or too much is parsed already."""
        if self.begun is None and self.waiting and self._has_room(self.waiting[0].size):
            self.begun = self.waiting.popleft()
            self.count += 1
            self.size += self.begun.size
        return self.begun

    def _has_room(self, size: int) -> bool:
        is_little = self.count < _MOST_PARSED and self.size + size <= _MOST_PARSED_BYTES
        return is_little or not self.count

    def release(self, job: _Job) -> None:
        """Take back what an answered job holds, or one whose request has ended before."""
        if job in self.waiting:
            self.waiting.remove(job)
            return
        if self.begun is job:
            self.begun = None
        self.count -= 1
        self.size -= job.size


class Parsing(BackgroundLoop):
    """Parses the bodies of one process."""

    def __init__(self) -> None:
        super().__init__("parser")
        self._changed = threading.Condition()
        self._parties: OrderedDict[str, _Party] = OrderedDict()
        """The organizations in the order of their turns."""

    @asynccontextmanager
    async def parsed(self, party: str, size: int, steps: Steps[T]) -> AsyncIterator[T]:
        """The parsed body of an organization; the block lasts until its facts are answered.

        Raises the error of a step.
        """
        if size <= SMALL_BYTES:
            yield run(steps)
            return
        job = _Job(size, steps)
        with self._changed:
            self._parties.setdefault(party, _Party()).waiting.append(job)
            self._changed.notify()
        try:
            yield await job.future
        finally:
            with self._changed:
                holder = self._parties[party]
                holder.release(job)
                if not (holder.count or holder.waiting):
                    del self._parties[party]
                self._changed.notify()

    def _interrupt(self) -> None:
        with self._changed:
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while (job := self._next()) is None and not self._stopping.is_set():
                    self._changed.wait()
            if job is None:
                return
            if _take_turn(job):
                self._end(job)

    def _next(self) -> _Job | None:
        """The job whose turn it is; its organization is the last now."""
        for name, party in self._parties.items():
            if (job := party.next()) is not None:
                self._parties.move_to_end(name)
                return job
        return None

    def _end(self, job: _Job) -> None:
        """Let the next body of the organization begin."""
        with self._changed:
            for party in self._parties.values():
                if party.begun is job:
                    party.begun = None


def _take_turn(job: _Job) -> bool:
    """Parse a part of a body. Return whether it is parsed, or refused, and the request told."""
    began = time.monotonic()
    for _ in range(TURN_FACTS):
        try:
            next(job.steps)
        except StopIteration as end:
            job.tell(end.value)
            return True
        except Exception as error:
            job.tell(None, error)
            return True
        if time.monotonic() - began >= TURN_SECONDS:
            break
    return False


def run(steps: Steps[T]) -> T:
    """Parse a body at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
