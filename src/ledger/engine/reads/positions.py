"""The positions and versions of the views, as last announced to this process.

A write waits for the positions. The projector notifies with each batch, a writer with each append
that moves views; its own node needs no notification (``refresh``). Only a read node polls,
whose server may be a standby (``replicated.py``). Reads and writes do not wait for a stopped view.

A view may lose events that it has shown: its commits do not wait for the disk, so a crash of the
database may take back the last ones. The projector then folds these events again. A client whose
write was acknowledged must not see such a view. So each read learns the position that its rows must
show (``due``), and waits if they show less.
"""

import asyncio
import contextlib
import heapq
import itertools
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeVar

import psycopg

from ledger.engine.background import BackgroundLoop
from ledger.engine.postgres import listening
from ledger.engine.postgres.exchange import SilentServer
from ledger.engine.postgres.pool.scope import FOR_EVERYONE
from ledger.engine.postgres.session import AsyncRoundConnection, options_of
from ledger.engine.postgres.timing import WAIT_SECONDS
from ledger.engine.views.rounds import MovedViews

_logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.25
"""How soon the thread of a ``ViewFollower`` notices that it is to stop."""

T = TypeVar("T")

# The end of the log, and each view.
_ALL = """
SELECT COALESCE(ledger.log_end(), 0), name, position, stopped_at IS NOT NULL, version
FROM ledger.projection
"""


class View(NamedTuple):
    """A view, as the database has it."""

    name: str
    position: int
    is_stopped: bool
    version: int


class Versions:
    """The stored versions of the views, against those of this code: which views it may read.

    A view belongs to the version of the code that made its rows. A node of a newer version rebuilds
    it beside the old rows, and swaps. Until then the older nodes read it, and the newer node too if
    it finds the columns that it needs. After the swap the older nodes read it no more: its columns
    may mean something else (contract, Several nodes).

    ``find_unfit`` asks the database for the views whose columns this code cannot read.
    """

    def __init__(self, own: Mapping[str, int], find_unfit: Callable[[], frozenset[str]]) -> None:
        self._own, self._find_unfit = own, find_unfit
        self._stored: dict[str, int] = {}
        self._had: set[str] = set()
        """Views that had this code's version at some time of this process."""
        self._unfit: frozenset[str] = frozenset()
        self.refused: frozenset[str] = frozenset()
        """The views that may not be read."""

    @property
    def names(self) -> Collection[str]:
        """The views of this code, in the order of their registry."""
        return self._own.keys()

    @property
    def are_outdated(self) -> bool:
        """True if a newer node has rebuilt a view that this process had been able to read."""
        return not self._had.isdisjoint(self._others(self._stored))

    async def load(self, stored: Mapping[str, int]) -> None:
        """Take the stored version of each view. Raises the database's error; nothing is taken."""
        if stored != self._stored:
            if self._others(stored):
                self._unfit = await asyncio.to_thread(self._find_unfit)
            self._stored = dict(stored)
            self._had.update(dict(stored.items() & self._own.items()))
            self._judge()

    def hear(self, view: str, version: int) -> None:
        """Take the version of a view that has just been rebuilt."""
        self._stored[view] = version
        if self._own.get(view) == version:
            self._had.add(view)
        self._judge()

    def _judge(self) -> None:
        self.refused = frozenset(self._others(self._stored) & (self._had | self._unfit))

    def _others(self, stored: Mapping[str, int]) -> set[str]:
        """The views that another version has made. (Version 0: no version has, yet.)"""
        own = self._own.items()
        return {name for name, version in own if stored.get(name, 0) not in {0, version}}


class MovingWriter(Protocol):
    """The state of a writer that moves views."""

    folded: int
    """What it has moved last, as ``MovedViews.packed``."""


class _NoWriter:
    folded = 0


class ViewPositions:
    """Follows the projector's notifications on a connection of its own."""

    def __init__(
        self,
        conninfo: str,
        versions: Versions | None = None,
        *,
        name: str = "ledger api listener",
    ) -> None:
        """``name`` is the connection's, as the database shows it."""
        self._conninfo, self._name = conninfo, name
        self.versions = versions or Versions({}, frozenset)
        self._listeners: list[Callable[[Sequence[str], int], None]] = []
        self._followers: list[Callable[[int], None]] = []
        self._forgetters: list[Callable[[str | None], None]] = []
        self._renewers: list[Callable[[], None]] = []
        self._positions: dict[str, int] = {}
        """The announced position of each view; empty while the process is not listening."""
        self._stopped: set[str] = set()
        self._state: MovingWriter = _NoWriter()
        self._applied = 0
        """What ``refresh`` has taken last."""
        self._owed: dict[str, int] | None = None
        """The positions that views must reach after an interruption; None: all are reached."""
        self._owed_timer: asyncio.TimerHandle | None = None
        self._waiting: list[tuple[int, int, float, asyncio.Future[Any], Any, Any]] = []
        """A heap of (position, order of arrival, deadline, future, value, value when late)."""
        self._expiry: asyncio.TimerHandle | None = None
        self._order = itertools.count()
        self._task: asyncio.Task[None] | None = None
        self.reached = 0
        """The position that every live view has reached."""
        self.last_announced = 0
        """The highest announced position, for responses that read no rows."""
        self.clock_skew = 0.0
        """How many seconds the machine's clock is ahead of the database's. Only a process without a
        writer measures it here."""

    @property
    def why_late(self) -> str | None:
        """Why the server, a standby, is too far behind for any read; None if it is not."""
        return None

    @property
    def beat_seconds(self) -> float | None:
        """The age of the log's last beat; None in a process that does not read it."""
        return None

    async def wait_for_instant(self, instant: datetime) -> bool:
        """Wait until a standby has every event by the instant. Return False if it is late.

        A primary need not wait, and only a primary takes the LISTEN of this class.
        """
        return False

    def due(self, views: frozenset[str] | None) -> int:
        """The position that a read of these views (None: of all live views) must show now."""
        self.refresh()
        required = self._positions if self._owed is None else self._owed
        names = required.keys() - self._stopped if views is None else views
        return min([required.get(name, 0) for name in names], default=0)

    def on_moved(self, listener: Callable[[Sequence[str], int], None]) -> None:
        """Call the listener with the views that reach a position, before waiters are resolved."""
        self._listeners.append(listener)

    def on_reached(self, follower: Callable[[int], None]) -> None:
        """Call the follower with each position that every live view has reached."""
        self._followers.append(follower)

    def on_silence(self, renew: Callable[[], None]) -> None:
        """Call ``renew`` when the database has fallen silent: idle connections cannot notice it."""
        self._renewers.append(renew)

    def on_erased(self, forget: Callable[[str | None], None]) -> None:
        """Call ``forget`` before a view shows a run's erasure; with None if some were missed."""
        self._forgetters.append(forget)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._follow())

    def leave(self) -> None:
        """Follow on a new connection, which leads to another server."""
        if self._task is not None:
            self._task.cancel()
            self._lose()
            self._task = asyncio.create_task(self._follow(self._task))

    async def stop(self) -> None:
        """End the follower. ``leave`` does nothing any more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def after(self, position: int, future: asyncio.Future[T], value: T, late: T) -> None:
        """Set the future to ``value`` at the position, or to ``late`` after ``WAIT_SECONDS``."""
        if position <= self.reached:
            _set(future, value)
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + WAIT_SECONDS
        waiter = (position, next(self._order), deadline, future, value, late)
        heapq.heappush(self._waiting, waiter)
        if self._expiry is None:
            self._expiry = loop.call_at(deadline, self._expire)

    async def wait(self, position: int) -> bool:
        """Wait for the position. Return True if every live view reached it in time."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.after(position, future, True, False)
        return await future

    async def wait_for(self, views: frozenset[str], position: int) -> bool:
        """Return True if all views reached the position; wait only if none of them is stopped."""
        if position > self._least(views) and not self._stopped & views:
            await self.wait(position)
        return position <= self._least(views)

    def _least(self, views: frozenset[str]) -> int:
        return min((self._positions.get(name, 0) for name in views), default=0)

    def _settle(self) -> None:
        alive = [p for name, p in self._positions.items() if name not in self._stopped]
        # If every view is stopped, there is nothing to wait for.
        reached = min(alive) if alive else (2**63 if self._stopped else 0)
        if reached != self.reached:
            self.reached = reached
            for follower in self._followers:
                follower(reached)
        self.last_announced = max(self._positions.values(), default=self.last_announced)
        if self._owed is not None and self._positions and self._is_paid(self._owed):
            self._owe(None)
        while self._waiting and self._waiting[0][0] <= self.reached:
            _, _, _, future, value, _ = heapq.heappop(self._waiting)
            _set(future, value)

    def _expire(self) -> None:
        """Resolve the waiters whose time is over. The timer serves all waiters."""
        loop = asyncio.get_running_loop()
        now, left = loop.time(), []
        for waiter in self._waiting:
            if waiter[2] <= now or waiter[3].done():
                _set(waiter[3], waiter[5])
            else:
                left.append(waiter)
        heapq.heapify(left)
        self._waiting = left
        soonest = min((waiter[2] for waiter in left), default=None)
        self._expiry = None if soonest is None else loop.call_at(soonest, self._expire)

    async def _follow(self, former: asyncio.Task[None] | None = None) -> None:
        if former is not None:
            await asyncio.wait([former])
        while True:
            try:
                await self.listen()
            except (psycopg.Error, OSError) as error:
                _logger.warning("cannot follow the views: %s", error)
                self._lose()
                if isinstance(error, SilentServer):
                    for renew in self._renewers:
                        renew()
                await asyncio.sleep(0.5)

    async def listen(self, begun: Callable[[], None] = lambda: None) -> None:
        """Follow until the connection is lost; ``begun`` is called with the first positions."""
        connection = await AsyncRoundConnection.connect(
            self._conninfo,
            autocommit=True,
            application_name=self._name,
            options=options_of(self._conninfo, FOR_EVERYONE),
        )
        async with connection:
            await connection.execute("LISTEN ledger_views")
            await connection.execute("LISTEN ledger_erased")
            await connection.execute("LISTEN ledger_rebuilt")
            self._announce_erased(None)
            self._applied = self._state.folded  # of another server, perhaps
            cursor = await connection.execute(_ALL)
            rows = await cursor.fetchall()
            views = [View(*row) for _, *row in rows]
            await self.versions.load({view.name: view.version for view in views})
            self._show(views, rows[0][0] if rows else 0)
            begun()
            await listening.listen(connection, lambda payload: self._hear(*payload.split(" ")))

    def _show(self, views: Sequence[View], owed: int | None = None) -> None:
        """Take and announce the positions; reads wait for ``owed``, the log's end at the start."""
        self._stopped = {view.name for view in views if view.is_stopped}
        for view in views:
            if self._positions.get(view.name) != view.position:
                self._positions[view.name] = view.position
                self._announce([view.name], view.position)
        if owed is not None:
            self._expect({view.name: view.position if view.is_stopped else owed for view in views})
        self._settle()

    def _lose(self) -> None:
        """Forget the positions, except as owed ones."""
        self._owe(self._positions if self._owed is None else self._owed)
        self._positions, self._stopped = {}, set()
        self._settle()

    def _expect(self, owed: dict[str, int]) -> None:
        """Make reads wait for ``WAIT_SECONDS``: a later view was not taken back by a crash."""
        loop = asyncio.get_running_loop()
        self._owe(owed, loop.call_later(WAIT_SECONDS, self._owe, None))

    def _is_paid(self, owed: dict[str, int]) -> bool:
        return all(self._positions.get(name, 0) >= position for name, position in owed.items())

    def _owe(self, owed: dict[str, int] | None, timer: asyncio.TimerHandle | None = None) -> None:
        if self._owed_timer is not None:
            self._owed_timer.cancel()
        self._owed, self._owed_timer = owed, timer

    def share(self, state: MovingWriter) -> None:
        """Take the positions of views that the node's writer moves from its state."""
        self._state = state

    def refresh(self) -> None:
        """Take what the node's writer has moved since, of which no notification need tell.

        Without a connection the process knows no positions, and learns all with the next one.
        """
        number = self._state.folded
        if number != self._applied:
            self._applied = number
            views, position = MovedViews.unpacked(number, self.versions.names)
            if self._positions and position > self._least(frozenset(views)):
                self._reach(views, position)

    def _reach(self, views: Collection[str], position: int) -> None:
        """Note that views have reached a position, unless they were further already."""
        moved = [name for name in views if self._positions.get(name, 0) <= position]
        self._positions.update(dict.fromkeys(moved, position))
        self._announce(moved, position)
        self._settle()

    def _hear(self, names: str, what: str) -> None:
        """Take a notification: views, separated by commas, have stopped or reached a position.

        Or a run was erased, or a view was rebuilt by a version of the code (``v13``). PostgreSQL
        delivers notifications in the order of the commits.
        """
        if what == "erased":
            self._announce_erased(names)
            return
        if what.startswith("v"):
            self.versions.hear(names, int(what[1:]))
            return
        views = names.split(",")
        if what == "stopped":
            self._stopped.update(views)
            self._settle()
        else:
            self._stopped.difference_update(views)
            self._reach(views, int(what))

    def _announce(self, views: Sequence[str], position: int) -> None:
        for listener in self._listeners:
            listener(views, position)

    def _announce_erased(self, run_id: str | None) -> None:
        for forget in self._forgetters:
            forget(run_id)


def _set(future: asyncio.Future[T], value: T) -> None:
    """Set the future's value, unless its waiter was cancelled."""
    if not future.done():
        future.set_result(value)


class ViewFollower(BackgroundLoop):
    """Announces each position that every live view has reached, from the first movement on.

    For a process without an event loop, such as an import. Without a service nobody moves the
    views, so nothing is announced; nor after the connection is lost.
    """

    def __init__(self, conninfo: str, tell: Callable[[int], None]) -> None:
        super().__init__("view-follower")
        self._positions = ViewPositions(conninfo, name="ledger view follower")
        self._tell = tell

    def _serve(self) -> None:
        with contextlib.suppress(psycopg.Error, OSError):
            asyncio.run(self._follow())

    async def _follow(self) -> None:
        listening = asyncio.create_task(self._positions.listen(self._begin))
        while not (self._stopping.is_set() or listening.done()):
            await asyncio.wait([listening], timeout=_POLL_SECONDS)
        listening.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await listening

    def _begin(self) -> None:
        self._positions.on_reached(self._tell)
