"""Views are rebuilt while the service answers and records: no error, no stale read, no lost row."""

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import pytest

from ledger.app.settings import Settings
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.values.principal import EVERYONE
from ledger.engine.views.rebuilding.compare import Difference
from ledger.engine.views.rebuilding.rebuild import verify
from tests.support.facts import LINE, RUN, activation, fact
from tests.support.rebuilding import (
    NAMES,
    leftover_tables,
    listening,
    rebuild,
    rows_from_log,
    rows_of,
    tracking,
    view,
)
from tests.support.service import Service, serving
from tests.support.views import head, query, until

PREPARED = "SELECT count(*) FROM pg_prepared_statements WHERE statement ~ 'ledger.projection'"

PATHS = (
    "/v1/execution",
    "/v1/execution?state=running&project_tag=PROJ-26-000001",
    "/v1/execution/summary",
    f"/v1/execution/{LINE}",
    f"/v1/execution/{LINE}/runs",
    f"/v1/runs/{RUN}",
    f"/v1/execution/{LINE}/history?limit=100",
    f"/v1/execution/{LINE}/timeline",
    f"/v1/execution/{LINE}/usage",
)


class Traffic:
    """Readers of every GET, now and at an instant, and writers that read their own writes."""

    def __init__(self, service: Service, as_of: str) -> None:
        self.service, self.faults = service, list[str]()
        self.answers: Counter[str] = Counter()
        self.past = [f"{path}{'&' if '?' in path else '?'}as_of={as_of}" for path in PATHS]
        self._pasts: dict[str, bytes] = {}
        self._runs = itertools.count(500_001)
        self._ending = asyncio.Event()

    @asynccontextmanager
    async def flowing(self, *paths: str) -> AsyncIterator[None]:
        """Read the paths, by default all of them, and write until the block ends."""
        loops = [self._read(path) for path in paths or (*PATHS, *self.past)]
        tasks = [asyncio.create_task(loop) for loop in (*loops, self._write(), self._write())]
        try:
            yield
        finally:
            self._ending.set()
            await asyncio.gather(*tasks)

    async def _read(self, path: str) -> None:
        position = 0
        while not self._ending.is_set():
            answer = await self._get(path)
            reached = int(answer.headers["ledger-position"])
            if reached < position:
                self.faults.append(f"{path}: position {reached} after {position}")
            position = reached
            if path in self.past and self._pasts.setdefault(path, answer.content) != answer.content:
                self.faults.append(f"{path}: the past has changed: {answer.text}")
            await asyncio.sleep(0)

    async def _get(self, path: str) -> httpx.Response:
        answer = await self.service.http.get(path)
        self.answers[path] += 1
        if answer.status_code != 200:
            self.faults.append(f"{path}: {answer.status_code} {answer.text}")
        return answer

    async def _write(self) -> None:
        while not self._ending.is_set():
            run = f"RUN-26-{next(self._runs):06d}"
            for kind, data, status in (
                ("run.started", {"service_line_id": LINE}, "running"),
                ("run.completed", {"tokens_used": 1}, "completed"),
            ):
                (item,) = await self.service.accept(fact(kind, run, data))
                await self.check_views(run, status, item["position"])
            self.answers["writes"] += 2

    async def go_on(self, writes: int, answers: int) -> None:
        """Wait for more than ``writes`` writes and for ``answers`` answers, mostly to reads."""
        async with asyncio.timeout(15):
            while not self.faults and (
                self.answers["writes"] <= writes or self.answers.total() < answers
            ):
                await asyncio.sleep(0.001)

    async def check_views(self, run: str, status: str, position: int) -> None:
        """Note a fault for each view that does not show the event at once."""
        run_answer = await self._get(f"/v1/runs/{run}")
        detail = await self._get(f"/v1/execution/{LINE}")
        listed = await self._get(f"/v1/execution/{LINE}/runs?status={status}&limit=100")
        history = await self._get(f"/v1/execution/{LINE}/history")
        for answer in (run_answer, detail, listed, history):
            if int(answer.headers["ledger-position"]) < position:
                self.faults.append(f"{answer.url} does not know {position} of {run}")
        if run_answer.json().get("data", {}).get("status") != status:
            self.faults.append(f"{run} is not {status}: {run_answer.text}")


async def prepared(service: Service) -> str:
    """Record events to be read; return the instant of the last one."""
    line = activation(project_tags=["PROJ-26-000001"])
    await service.accept(line, fact("run.started", RUN, {"service_line_id": LINE, "input": 1}))
    await service.accept(*(activation(f"LIN-26-00{number}") for number in range(1000, 1060)))
    await service.accept(fact("run.completed", RUN, {"output": {"a": 1}, "tokens_used": 5}))
    events = (await service.get(f"/v1/execution/{LINE}/history"))["data"]
    return str(events[-1]["recorded_at"])


async def rebuilding(conninfo: str, name: str, traffic: Traffic | None = None) -> None:
    """Rebuild a view; with ``traffic``, go on only while answers come."""

    def progress(position: int, end: int) -> None:
        if traffic is not None:
            wanted = traffic.answers.total() + 30
            until(lambda: traffic.answers.total() >= wanted, "answers while a view is filled")

    built = await asyncio.to_thread(rebuild, conninfo, view(name), progress)
    assert built.differing == 0
    assert built.generation == tracking(conninfo)[name][1]


@pytest.mark.soak
def test_every_read_and_write_goes_on_while_views_are_rebuilt(
    settings: Settings, conninfo: str
) -> None:
    async def play() -> None:
        async with serving(settings, conninfo) as service:
            traffic = Traffic(service, await prepared(service))
            async with traffic.flowing():
                for name in (*NAMES, *NAMES, "execution", "execution"):
                    before = traffic.answers.copy()
                    await rebuilding(conninfo, name, traffic)
                    # The old generation is gone, and every request is still answered.
                    await traffic.go_on(before["writes"], traffic.answers.total() + 60)
                    assert traffic.answers["writes"] > before["writes"] or traffic.faults
            assert traffic.faults == []
            assert min(traffic.answers[path] for path in traffic.past) > 10
            position = head(conninfo)
            await service.get("/v1/execution", headers={"ledger-min-position": str(position)})

    with listening(conninfo) as notifications:
        asyncio.run(play())
    assert notifications.stops == []
    expected = dict.fromkeys(NAMES, 3) | {"execution": 5}
    assert {name: row[1] for name, row in tracking(conninfo).items()} == expected
    assert leftover_tables(conninfo) == []
    assert rows_of(conninfo) == rows_from_log(conninfo)


@pytest.mark.usefixtures("waits_without_end")
def test_a_write_after_a_rebuild_without_other_traffic_is_seen_at_once(
    settings: Settings, conninfo: str
) -> None:
    async def play() -> None:
        async with serving(settings, conninfo) as service:
            traffic = Traffic(service, await prepared(service))
            runs = itertools.count(800_001)
            for name in NAMES:
                await rebuilding(conninfo, name)
                for _ in range(2):
                    run = f"RUN-26-{next(runs)}"
                    async with asyncio.timeout(30):
                        started = fact("run.started", run, {"service_line_id": LINE})
                        (item,) = await service.accept(started)
                    await traffic.check_views(run, "running", item["position"])
                assert traffic.faults == [], name

    asyncio.run(play())


async def paged(service: Service, path: str, limit: int) -> list[str]:
    """The lines of a whole list, page by page."""
    ids: list[str] = []
    cursor = None
    while True:
        query_ = f"{path}{'&' if '?' in path else '?'}limit={limit}"
        page = await service.get(query_ + (f"&cursor={cursor}" if cursor else ""))
        ids += [row["service_line_id"] for row in page["data"]]
        cursor = page["meta"]["cursor"]
        if not page["meta"]["has_more"]:
            return ids


@pytest.mark.parametrize(
    "lines",
    [300, pytest.param(50_000, marks=pytest.mark.crash)],
)
def test_paging_through_a_list_during_swaps_misses_no_row_and_repeats_none(
    settings: Settings, conninfo: str, lines: int
) -> None:
    """``pytest -m crash -k paging`` reads 50,000 rows."""

    async def play() -> None:
        async with serving(settings, conninfo) as service:
            expected = [f"LIN-26-{number:06d}" for number in range(100_000, 100_000 + lines)]
            for start in range(0, lines, 1000):
                chunk = expected[start : start + 1000]
                await service.accept(*(activation(each, "capacity", "talent") for each in chunk))
            instant = query(conninfo, "SELECT max(recorded_at) FROM ledger.ledger_events")[0][0]
            # The newest line is listed first: a line that comes during a walk is on no later page.
            await service.accept(activation("LIN-26-000001", "agent_runtime"))
            swaps, ending = [0], threading.Event()

            def rebuild_repeatedly() -> None:
                while not ending.is_set():
                    rebuild(conninfo, view("execution"))
                    swaps[0] += 1

            rebuilder = asyncio.create_task(asyncio.to_thread(rebuild_repeatedly))
            try:
                reads_across_a_swap = 0
                past = f"&as_of={instant.isoformat().replace('+00:00', 'Z')}"
                async with asyncio.timeout(300):
                    while swaps[0] < 3 or reads_across_a_swap < 2:
                        for more in ("", past):
                            before = swaps[0]
                            path = f"/v1/execution?product_line=talent{more}"
                            ids = await paged(service, path, min(100, lines // 10))
                            assert len(ids) == len(set(ids)), "a row came twice"
                            assert sorted(ids) == expected
                            reads_across_a_swap += swaps[0] > before
                            assert not rebuilder.done(), rebuilder.exception()
            finally:
                ending.set()
                await rebuilder
            assert leftover_tables(conninfo) == []

    asyncio.run(play())


def test_statements_prepared_on_pooled_connections_survive_swaps(
    settings: Settings, conninfo: str
) -> None:
    async def play() -> None:
        async with serving(settings, conninfo) as service:
            await prepared(service)
            pool = service.app.state.services.pool
            # Often enough, on several connections, for the server to keep the plans.
            for _ in range(10):
                answers = await asyncio.gather(*(service.http.get(path) for path in PATHS))
                assert {answer.status_code for answer in answers} == {200}
            for name in (*NAMES, NAMES[0]):
                (row,) = await pool.fetch(EVERYONE, PREPARED, {})
                assert row[0] > 0
                await rebuilding(conninfo, name)
                answers = await asyncio.gather(*(service.http.get(path) for path in PATHS))
                assert {answer.status_code for answer in answers} == {200}

    asyncio.run(play())


DAMAGED = "LIN-26-001000"

SPOIL = f"""UPDATE ledger.execution_g1 SET position = position + 1 WHERE line_id = '{DAMAGED}'"""


@pytest.mark.usefixtures("waits_without_end")
@pytest.mark.parametrize(
    "names", [("execution", "run"), pytest.param(NAMES, marks=pytest.mark.soak)]
)
def test_writes_are_answered_while_a_view_is_replayed_and_while_its_rows_are_compared(
    settings: Settings, conninfo: str, names: Sequence[str]
) -> None:
    """A write waits for its views: a verification that held a view would hold the write too."""
    written = [0]

    def await_writes() -> None:
        wanted = written[0] + 3
        until(lambda: written[0] >= wanted, "writes beside a verification", 30.0)

    def verified(name: str) -> list[str]:
        replayed_to, named = list[int](), list[str]()

        def progress(position: int, end: int) -> None:
            # The view stands still only for the last steps, in which the shadow catches up with it.
            if not replayed_to:
                await_writes()
            replayed_to.append(position)

        def tell(difference: Difference) -> None:
            await_writes()
            named.append(difference.key)

        verify(conninfo, EnvelopeMapper(), view(name), progress, tell)
        assert replayed_to
        return named

    async def play() -> None:
        async with serving(settings, conninfo) as service:
            traffic = Traffic(service, await prepared(service))
            query(conninfo, SPOIL)
            async with traffic.flowing(PATHS[0], f"/v1/runs/{RUN}"):
                for name in names:
                    verifying = asyncio.create_task(asyncio.to_thread(verified, name))
                    while not verifying.done():
                        await service.accept(fact("execution.checked_in", LINE, {"hours": 1}))
                        written[0] += 1
                    assert await verifying == ([DAMAGED] if name == "execution" else []), name
            assert traffic.faults == []
            assert leftover_tables(conninfo) == []

    asyncio.run(play())
