"""Answers questions, from the cache or by PostgreSQL, once the views have the due position.

The answer of a statement, for given parameters and tenant, depends only on the rows of the views.
These rows change only together with their view's tracking, in one transaction: a batch moves the
position, the swap of a rebuild changes the generation. An answer is cached with the tracking of all
views that was known before its statement began. It is used again only if a check of the tracking,
begun after the request arrived, finds the same. Then the answer contains every write that any
worker acknowledged before the request arrived.

    ask ─▶ cached? ─ no ───────────────────────────▶ read ─▶ cache, if no view moved meanwhile
             └ yes ▶ check ─ a view moved: forget all ▲
                        └ the same tracking: the cached answer

A miss needs no check: the tracking is known from the last one, or from a later notification of the
projector (``on_moved``). A notification may come late, but never early. So it invalidates answers
at once, which saves checks under a load of writes; but only a check confirms an answer. Concurrent
requests share a check, and concurrent equal questions share a statement (``SingleFlight``).

All cached answers have the same tracking: when any view moves, all are dropped. The statements also
read the run keys. A run key is destroyed in the transaction that appends the erasure, before any
view folds it, and an erased run must not be shown from this cache while the views are stopped. So
the end of the log belongs to the tracking too. The answer of a question that depends on anything
else (deliveries, credentials, the clock) must not be cached.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from datetime import datetime
from sys import getsizeof
from typing import Any, Generic, TypeVar

from msgspec.structs import replace

from ledger.engine.postgres.pool.scope import Fetch, Planning
from ledger.engine.postgres.timing import ANSWER_SECONDS, OVERDUE_SECONDS, WAIT_SECONDS
from ledger.engine.reads.positions import ViewPositions
from ledger.engine.reads.question import Answer, Question
from ledger.engine.values.errors import Behind, Invalid, Unavailable
from ledger.engine.values.principal import EVERYONE
from ledger.engine.views.statements import AWAIT_APPEND, INSTANT

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs concurrent equal questions one at a time for each key.

    A request that arrives while its question runs cannot use that answer: the statement may have
    begun before the request, and so miss a write that the client knows of. The request waits for
    the next run, which serves all requests that arrived meanwhile. So one question of a key runs at
    a time, however many requests arrive.
    """

    def __init__(self, ask: Callable[..., Awaitable[T]]) -> None:
        self._ask = ask
        self._waiting: dict[Hashable, list[asyncio.Future[T]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def do(self, key: Hashable, *question: Any) -> T:
        """Raises what ``ask`` raises. Questions under one key must be equal: they share a run."""
        waiting = self._waiting.get(key)
        if waiting is not None:
            future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
            waiting.append(future)
            return await future
        sharing = self._waiting[key] = []
        try:
            # Requests that arrived together share a run: it begins after all of them.
            await asyncio.sleep(0)
            self._waiting[key] = []
            return await self._run_for(sharing, question)
        except asyncio.CancelledError:
            if self._waiting[key] is not sharing:
                self._waiting[key][:0] = sharing  # the next run serves them
            raise
        finally:
            self._pass_on(key, question)

    def _pass_on(self, key: Hashable, question: tuple[Any, ...]) -> None:
        """Begin the next run, for the requests that arrived meanwhile and still wait."""
        if waiting := [future for future in self._waiting.pop(key) if not future.done()]:
            self._waiting[key] = waiting
            task = asyncio.create_task(self._run_next(key, question))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run_next(self, key: Hashable, question: tuple[Any, ...]) -> None:
        waiting, self._waiting[key] = self._waiting[key], []
        try:
            await self._run_for(waiting, question)
        except asyncio.CancelledError:
            # The process ends, or the question was cancelled: no request may wait for ever.
            for future in waiting:
                future.cancel()
            raise
        except Exception:
            pass  # the requests have the error
        finally:
            self._pass_on(key, question)

    async def _run_for(self, waiting: Sequence[asyncio.Future[T]], question: tuple[Any, ...]) -> T:
        """Ask, and give the answer or the error to the requests that wait for it."""
        try:
            answered = await self._ask(*question)
        except Exception as error:
            for future in waiting:
                if not future.done():
                    future.set_exception(error)
            raise
        for future in waiting:
            if not future.done():
                future.set_result(answered)
        return answered


class ReadTimeout:
    """Ends what takes longer than ``ANSWER_SECONDS``, within ``OVERDUE_SECONDS`` after that.

    One timer serves all reads: ``asyncio.timeout`` makes one for each, which is 8 % of a detail
    (``docs/architecture.md``).
    """

    def __init__(self) -> None:
        self._ends: dict[asyncio.Task[Any], float] = {}
        """The loop times at which the tasks are overdue, the earliest first."""
        self._overdue: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, answer: Awaitable[T]) -> T:
        """Return the answer. Raises Unavailable; a task waits for one answer at a time."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._ends[task] = loop.time() + ANSWER_SECONDS
        if self._timer is None:
            self._timer = loop.call_later(OVERDUE_SECONDS, self._cancel_overdue)
        try:
            return await answer
        except asyncio.CancelledError as error:
            # The task may have been cancelled by others too: then it must end as cancelled.
            if task in self._overdue and task.uncancel() == 0:
                raise Unavailable("The database does not answer.") from error
            raise
        finally:
            self._ends.pop(task, None)
            self._overdue.discard(task)

    def _cancel_overdue(self) -> None:
        loop = asyncio.get_running_loop()
        while self._ends and next(iter(self._ends.values())) <= loop.time():
            task = next(iter(self._ends))
            del self._ends[task]
            self._overdue.add(task)
            task.cancel()
        self._timer = loop.call_later(OVERDUE_SECONDS, self._cancel_overdue) if self._ends else None


_LOG = "log"

# The tracking of every view, and the end of the log.
_TRACKING = f"""
SELECT name, generation, position FROM ledger.projection
UNION ALL SELECT '{_LOG}', 0, COALESCE(ledger.log_end(), 0)
"""

_BUDGET = 24 * 1024 * 1024
"""Bytes that the answers of a process may take."""

_OVERHEAD = 1500
"""Bytes of an answer besides its text and the words of its key; a high estimate."""

_Key = tuple[Any, ...]
_Tracking = dict[str, tuple[int, int]]
"""The name of a view, or of the log → (generation, position)."""


class Answers:
    """The cached answers of a process; the least recently used answer is dropped first."""

    def __init__(self, fetch: Fetch, budget: int = _BUDGET) -> None:
        self._fetch = fetch
        self._budget = budget
        self._cached: OrderedDict[_Key, tuple[Answer, int]] = OrderedDict()
        self._tracking: _Tracking = {}
        self._checks: SingleFlight[None] = SingleFlight(self._check)
        self.cached_bytes = 0
        self.moves = 0
        """How often the answers were dropped. If it is the same before and after a statement, no
        view is known to have moved meanwhile."""

    async def find(self, question: Question) -> Answer | None:
        """The cached answer if a check confirms it, else None. Raises the read pool's error."""
        key, moves = question.key, self.moves
        if (found := self._cached.get(key)) is None:
            return None
        await self._checks.do(None)
        if moves != self.moves:
            return None
        if key in self._cached:
            self._cached.move_to_end(key)
        return found[0]

    def keep(self, question: Question, answer: Answer, moves: int) -> None:
        """Cache an answer, unless the tracking has changed since its statement began (``moves``).

        An instant of the past becomes known although no view moves. So the answer that it is not
        known yet is not cached.

        A crash of the database may take back commits of the views. An answer that is read then has
        a lower position than this process has seen. When the views have folded the events again, a
        check would confirm it, but it lacks these events: so it is not cached.
        """
        stand = [self._tracking.get(view, (0, 0))[1] for view in question.read.views]
        if question.as_of is None and answer.position < min(stand, default=0):
            return
        if question.as_of is not None and not answer.is_known:
            return
        key = question.key
        size = _size_of_key(key) + _size_of_text(answer)
        if moves != self.moves or size > self._budget // 8:
            return
        while self.cached_bytes + size > self._budget:
            _, (_, dropped) = self._cached.popitem(last=False)
            self.cached_bytes -= dropped
        self._cached[key] = answer, size
        self.cached_bytes += size

    def on_moved(self, views: Sequence[str], position: int) -> None:
        """Note that views have reached a position, as the projector has announced."""
        moved = {}
        for name in (*views, _LOG):
            generation, reached = self._tracking.get(name, (0, 0))
            if position > reached:
                moved[name] = generation, position
        if moved.keys() - {_LOG}:
            self._move({**self._tracking, **moved})

    def forget(self, _run_id: str | None = None) -> None:
        """Drop all answers, because a run was erased: its data must leave the memory soon."""
        self._move(self._tracking)

    async def _check(self) -> None:
        rows = await self._fetch(EVERYONE, _TRACKING, {}, Planning.SHORT)
        tracking = {name: (generation, position) for name, generation, position in rows}
        # A notification may have come since the check began: the cached answers are then newer than
        # the check. All are dropped nevertheless: the next check finds that change too.
        if tracking != self._tracking:
            self._move(tracking)

    def _move(self, tracking: _Tracking) -> None:
        self._tracking = tracking
        self.moves += 1
        self._cached.clear()
        self.cached_bytes = 0


def _size_of_key(key: _Key) -> int:
    """Bytes of an answer besides its text: clients choose the size of the parameters."""
    words = key[2:]
    items = sum([sum(map(getsizeof, word)) for word in words if isinstance(word, tuple)])
    return _OVERHEAD + sum(map(getsizeof, words)) + items


def _size_of_text(answer: Answer) -> int:
    """Bytes of the rows' text, at most: before and after encoding, but not compressed too."""
    size = 0
    for row in answer:
        for cell in row:
            kind = type(cell)
            if kind is str:
                size += len(cell) if cell.isascii() else 4 * len(cell)
            elif kind is bytes:
                size += len(cell)
    return size


_BREATH_SECONDS = 0.01


class Reads:
    """The reads of one process."""

    def __init__(
        self,
        fetch: Fetch,
        positions: ViewPositions,
        answers: Answers,
        clock: Callable[[], datetime],
    ) -> None:
        self._fetch, self._positions, self._clock = fetch, positions, clock
        self.answers = answers
        self._flights: SingleFlight[Answer] = SingleFlight(self._read_once)
        self._timeout = ReadTimeout()

    def ask(self, question: Question, min_position: int | None = None) -> Awaitable[Answer]:
        """Return the rows of a question, which show ``min_position`` at least.

        A crash of the database may take back commits of a view. The read then waits, up to two
        seconds, until the view shows again what it has shown before (``ViewPositions.due``). Then
        it returns the rows as they are. Raises Behind if the views do not reach ``min_position`` or
        the instant in time, Unavailable after ``ANSWER_SECONDS``, and Invalid for an instant in the
        future.
        """
        # A request waits for other runs, for views and for several statements: together no longer
        # than for one statement (contract, Health).
        return self._timeout.wait(self._ask(question, min_position))

    async def _ask(self, question: Question, min_position: int | None) -> Answer:
        positions, read = self._positions, question.read
        if positions.versions.refused:
            self.require_readable(read.views)
        if min_position is not None and not await self._reach(question, min_position):
            raise Behind("The views have not reached the asked position.")
        if question.as_of is not None and question.as_of > self._clock():
            question = await self._settle(question)
        least, time = min_position or 0, asyncio.get_running_loop().time
        due, deadline = 0, time() + WAIT_SECONDS
        if question.as_of is None:  # a statement of the past checks its position by itself
            due = max(least, positions.due(None if read.is_behind_all else read.views))
        while True:
            if not question.read.is_pure:
                answer = Answer(await self._fetch(*question.arguments))
            elif (cached := await self.answers.find(question)) is not None:
                answer = cached
            else:
                answer = await self._flights.do(question.key, question)
            if answer.position >= due and (answer.is_known or question.as_of is None):
                if positions.versions.refused:  # a view may have been rebuilt meanwhile
                    self.require_readable(read.views)
                return answer
            if question.as_of is not None:
                question = await self._settle(question)
            elif time() < deadline:
                # If the announced positions are high enough already, this does not wait.
                await self._reach(question, due)
                await asyncio.sleep(_BREATH_SECONDS)
            elif due > least:
                due = least
            else:
                raise Behind("The views have not reached the asked position.")

    def require_readable(self, views: frozenset[str]) -> None:
        """Raise Behind if a view was made by another version of the code, and cannot be read."""
        if not self._positions.versions.refused.isdisjoint(views):
            raise Behind("Another version of the service has the view: ask another node, or later.")

    async def _read_once(self, question: Question) -> Answer:
        # Most often the previous run has just cached this answer.
        if (cached := await self.answers.find(question)) is not None:
            return cached
        moves = self.answers.moves
        answer = Answer(await self._fetch(*question.arguments))
        self.answers.keep(question, answer, moves)
        return answer

    async def _settle(self, question: Question) -> Question:
        """Wait until every event recorded by the instant is committed and in the views.

        If the instant is near to now, an append may be in flight. A standby has every event by the
        instant once it has a later event or beat. Raises Behind if the views or the standby are
        late, and Invalid for the future.
        """
        as_of = question.as_of
        if as_of is None or question.is_settled:
            raise Behind("The views have not reached the asked instant.")
        fetch, tenant, planning = self._fetch, question.tenant, question.read.planning
        await fetch(tenant, AWAIT_APPEND, {}, planning)
        ((position, latest, is_standby),) = await fetch(tenant, INSTANT, {"as_of": as_of}, planning)
        # Under load ``recorded_at`` may be some microseconds ahead of the clock.
        if as_of > self._clock() and (latest is None or as_of > latest):
            raise Invalid.at("/as_of", "lies in the future")
        if is_standby and (latest is None or as_of >= latest):
            if not await self._positions.wait_for_instant(as_of):
                raise Behind("The standby does not know yet what was recorded by the instant.")
            ((position, _, _),) = await fetch(tenant, INSTANT, {"as_of": as_of}, planning)
        if not await self._reach(question, position):
            raise Behind("The views have not reached the asked instant.")
        return replace(question, is_settled=True)

    async def _reach(self, question: Question, position: int) -> bool:
        """Wait for the question's views. Return True if they reached the position in time."""
        if question.read.is_behind_all and not await self._positions.wait(position):
            return False
        return await self._positions.wait_for(question.read.views, position)
