"""Questions that many ask at once, asked one at a time under each key.

Whoever comes while a question is being asked cannot use its answer: that may be of a time before
he came, and miss a write that he knows of. He waits for the next turn, which begins after he came
and serves all that came meanwhile. So however many ask, one question is under way.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """The questions under way, and who waits for the next turn of each; ``ask`` asks one."""

    def __init__(self, ask: Callable[..., Awaitable[T]]) -> None:
        self._ask = ask
        self._waiting: dict[Hashable, list[asyncio.Future[T]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, key: Hashable, *question: Any) -> T:
        """What is answered to a question that is asked from now on. Raises what ``ask`` raises.

        The question may be that of anyone: under one key all must ask the same.
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
        """The turn is over: the next one is for those who have come since it began, and stayed."""
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
            # The process ends, or what we asked was given up: nobody is left to wait for ever.
            for future in waiting:
                future.cancel()
            raise
        else:
            for future in waiting:
                if not future.done():
                    future.set_result(answered)
        finally:
            self._pass_on(key, question)
