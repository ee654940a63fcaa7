"""The positions of the views in a process whose server changes, stands still, or stops."""

import asyncio
import time
from collections.abc import Collection

import psycopg
import pytest

from ledger.app.composition.writing import utc_now
from ledger.app.features import projections
from ledger.engine.reads.positions import Versions, ViewPositions
from ledger.engine.reads.replicated import ReplicatedPositions
from ledger.engine.views.rounds import MovedViews
from ledger.engine.writer.writer import WriterState


def test_a_process_that_stops_follows_no_other_server(conninfo: str) -> None:
    """The writer's last append may have found another PostgreSQL."""

    async def play() -> None:
        positions = ViewPositions(conninfo)
        await positions.start()
        stopping = asyncio.create_task(positions.stop())
        asyncio.get_running_loop().call_soon(positions.leave)
        await stopping
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(play())


def test_a_beat_is_as_old_as_the_check_that_found_it(conninfo: str) -> None:
    """The process stood still for a minute, after the database had answered."""

    async def play() -> None:
        positions, now = ReplicatedPositions(conninfo, utc_now), utc_now()
        row = (True, 0, now, now, now, None, None, None, None)
        await positions._apply(time.monotonic() - 60, [row])
        assert positions.beat_seconds >= 60
        assert positions.why_late is not None
        await positions._apply(time.monotonic(), [(True, 0, utc_now(), *row[3:])])
        assert positions.why_late is None

    asyncio.run(play())


def test_versions_are_judged_once_the_database_has_reported_which_views_can_be_read() -> None:
    tries = []

    def find_unfit() -> frozenset[str]:
        tries.append(len(tries))
        if len(tries) == 1:
            raise psycopg.OperationalError("the connection is lost")
        return frozenset({"run"})

    async def play() -> None:
        versions = Versions({"run": 1}, find_unfit)
        with pytest.raises(psycopg.OperationalError):
            await versions.load({"run": 2})
        await versions.load({"run": 2})
        assert versions.refused == {"run"}

    asyncio.run(play())


def test_a_late_notification_does_not_take_back_what_the_process_has_moved_itself(
    conninfo: str,
) -> None:
    async def play() -> None:
        state, own = WriterState(), {view.name: view.version for view in projections()}
        positions = ViewPositions(conninfo, Versions(own, frozenset))
        positions.share(state)

        def move(views: Collection[str], position: int) -> None:
            state.folded = MovedViews(views, position).packed(own)
            positions.refresh()

        move(["run"], 3)
        assert positions.reached == 0, "without a connection no position is known"
        await positions.start()
        while not positions._positions:
            await asyncio.sleep(0.01)
        views = list(positions._positions)
        move(views, 7)
        assert (positions.reached, positions.due(None)) == (7, 7)
        positions._hear(",".join(views), "5")
        assert (positions.reached, positions.due(None)) == (7, 7)
        positions._hear("run", "stopped")
        move([name for name in views if name != "run"], 9)
        assert (positions.reached, positions.due(frozenset({"run"}))) == (9, 7)
        positions._hear("run", "7")
        assert positions.reached == 7
        await positions.stop()

    asyncio.run(play())
