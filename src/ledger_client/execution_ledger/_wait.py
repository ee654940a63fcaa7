"""Waiting and blocking calls, for asyncio and for threads; the generated twin uses the latter."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def pause(seconds: float) -> None:
    time.sleep(seconds)


async def pause_async(seconds: float) -> None:
    await asyncio.sleep(seconds)


def call(function: Callable[..., T], *arguments: object) -> T:
    """Call a function that blocks."""
    return function(*arguments)


async def call_async(function: Callable[..., T], *arguments: object) -> T:
    """Call a blocking function in a thread, so that the event loop continues."""
    return await asyncio.to_thread(function, *arguments)


class Changed(threading.Condition):
    """A condition that both threads and tasks of event loops can wait for.

    A waiting task occupies no thread, and a cancelled one leaves nothing behind.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tasks: set[Callable[[], object]] = set()

    def notify_all(self) -> None:
        """Wake all threads and tasks."""
        super().notify_all()
        for wake in tuple(self._tasks):
            wake()

    async def wait_for_async(self, predicate: Callable[[], bool], timeout: float | None) -> bool:
        """Wait as ``wait_for``. The caller does not hold the lock; ``predicate`` runs with it."""
        loop, change = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(change.set)

        with self:
            self._tasks.add(wake)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    while True:
                        change.clear()
                        with self:
                            if predicate():
                                return True
                        await change.wait()
            return False
        finally:
            with self:
                self._tasks.discard(wake)


class _Done(Coroutine[Any, Any, None]):
    """An awaitable that is already done. Nobody has to await it."""

    def send(self, _: object) -> None:
        raise StopIteration

    def throw(self, *error: Any) -> None:
        super().throw(*error)

    def close(self) -> None:
        pass

    def __await__(self) -> Generator[Any, Any, None]:
        yield from ()


DONE = _Done()
