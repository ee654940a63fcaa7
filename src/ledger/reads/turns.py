"""Concurrent equal questions are asked in turns: under each key one question at a time.

A request that arrives while its question is under way cannot use the answer: the statement may have
begun before the request arrived, and so miss a write that the client knows of. The request waits
for the next turn, which begins after its arrival and serves all requests that arrived meanwhile. So
however many requests arrive, one question of a key is under way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """The questions under way, and the requests that wait for the next turn of each key."""

    def __init__(self, ask: Callable[..., Awaitable[T]]) -> None:
        self._ask = ask
        self._waiting: dict[Hashable, list[asyncio.Future[T]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, key: Hashable, *question: Any) -> T:
        """Return the answer of a question that is asked from now on. Raises what ``ask`` raises.

        The question may be another request's: under one key all questions must be equal.
        """
        waiting = self._waiting.get(key)
        if waiting is not None:
            future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            waiting.append(future)
            return await future
        self._waiting[key] = []
        try:
            return await self._ask(*question)
        finally:
            self._pass_on(key, question)

    def _pass_on(self, key: Hashable, question: tuple[Any, ...]) -> None:
        """End the turn. Begin the next for the requests that arrived meanwhile and still wait."""
        if waiting := [future for future in self._waiting.pop(key) if not future.done()]:
            self._waiting[key] = []
            task = asyncio.create_task(self._ask_for(waiting, key, question))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask_for(
        self, waiting: list[asyncio.Future[T]], key: Hashable, question: tuple[Any, ...]
    ) -> None:
        try:
            answered = await self._ask(*question)
        except Exception as error:
            for future in waiting:
                if not future.done():
                    future.set_exception(error)
        except asyncio.CancelledError:
            # The process ends, or the question was cancelled: no request may wait for ever.
            for future in waiting:
                future.cancel()
            raise
        else:
            for future in waiting:
                if not future.done():
                    future.set_result(answered)
        finally:
            self._pass_on(key, question)
