"""Parsing in slices: how organizations share the time in which bodies are parsed.

A small body is parsed at once, on the event loop. A large one may take seconds, so a thread parses
it while other requests go on. The thread serves the organizations in rotation: a slice ends after
``SLOT_FACTS`` steps or ``SLOT_SECONDS``. A step is a fact at most. Traces, whose steps take longer,
have a thread of their own.

A parsed fact takes many times the memory of its text. So an organization's bodies stay text until
its earlier parsed facts are answered, except for a few bodies, which keep the writer busy.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.types import Receive

from ledger.engine.background import BackgroundLoop
from ledger.engine.http.machinery.bodies import while_connected
from ledger.engine.postgres.pool.round_robin import RoundRobin
from ledger.engine.writer.fair_queue import SLOT_FACTS, SLOT_SECONDS

SMALL_BYTES = 16 * 1024
"""The largest body that is parsed at once, which usually takes a millisecond or two."""

_MOST_PARSED, _MOST_PARSED_BYTES = 4, 8 * 1024 * 1024
"""The number and the bytes of an organization's bodies that may be parsed and not answered yet. A
first body may always be parsed."""

_LONG_STEP_SECONDS = 0.004
"""A longer step of a separate thread (``is_apart``) may hold the interpreter all that time. The
thread then rests for as long, so that other threads have half of the time."""

T = TypeVar("T")

Steps = Generator[None, None, T]
"""The parsing of a body: yields between two steps, and returns the result."""


class _Job:
    __slots__ = ("future", "loop", "size", "steps", "tenant_key")

    def __init__(self, tenant_key: str, size: int, steps: Steps[Any]) -> None:
        self.tenant_key, self.size, self.steps = tenant_key, size, steps
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


class Parsing(BackgroundLoop):
    """Parses the bodies of one process."""

    def __init__(self, name: str = "parser", *, is_apart: bool = False) -> None:
        """``is_apart``: no other request may wait for these bodies, so none is parsed at once."""
        super().__init__(name)
        self._is_apart = is_apart
        self._changed = threading.Condition()
        self._unparsed: RoundRobin[str, _Job] = RoundRobin()
        self._held: dict[str, set[_Job]] = {}
        """By organization: bodies that are being parsed, or are parsed and not answered yet."""

    @asynccontextmanager
    async def parsed(
        self, tenant_key: str, size: int, steps: Steps[T], receive: Receive | None = None
    ) -> AsyncIterator[T]:
        """Lasts until the facts are answered. Raises ClientDisconnect, or the error of a step."""
        if size <= SMALL_BYTES and not self._is_apart:
            yield run(steps)
            return
        job = _Job(tenant_key, size, steps)
        with self._changed:
            self._unparsed.add(tenant_key, job)
            self._changed.notify()
        try:
            yield await (job.future if receive is None else while_connected(job.future, receive))
        finally:
            with self._changed:
                self._unparsed.remove(tenant_key, job)
                held = self._held.get(tenant_key, set())
                held.discard(job)
                if not held:
                    self._held.pop(tenant_key, None)
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
            if self._parse_part(job):
                with self._changed:
                    self._unparsed.remove(job.tenant_key, job)

    def _parse_part(self, job: _Job) -> bool:
        """Parse a part of a body. Return True once the request has the result or the error."""
        began = time.monotonic()
        for _ in range(SLOT_FACTS):
            step_began = time.monotonic()
            try:
                next(job.steps)
            except StopIteration as end:
                job.tell(end.value)
                return True
            except Exception as error:
                job.tell(None, error)
                return True
            ended = time.monotonic()
            if self._is_apart and ended - step_began > _LONG_STEP_SECONDS:
                self._stopping.wait(ended - step_began)
            if ended - began >= SLOT_SECONDS:
                break
        return False

    def _next(self) -> _Job | None:
        """The next job; None if there is none, or if too much is parsed already."""
        for tenant_key, queue in self._unparsed.items():
            job, held = next(iter(queue)), self._held.get(tenant_key, set())
            size = job.size + sum(each.size for each in held)
            has_room = len(held) < _MOST_PARSED and size <= _MOST_PARSED_BYTES
            if has_room or not held or job in held:
                self._held[tenant_key] = held | {job}
                self._unparsed.serve(tenant_key)
                return job
        return None


def run(steps: Steps[T]) -> T:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
