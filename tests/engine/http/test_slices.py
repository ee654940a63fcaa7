"""How pages and exports share the event loop: by slices, in rotation of organizations."""

import asyncio
import contextlib

import pytest

from ledger.engine.http import exports
from ledger.engine.http.machinery.loop_slices import LoopSlices
from ledger.engine.page import pages
from tests.support.edge import Edge
from tests.support.facts import activation, fact
from tests.support.visitor import visitor


def test_one_slice_is_rendered_in_a_round_of_the_loop_and_organizations_share_it() -> None:
    order, rounds = list[str](), list[int]()

    async def play() -> None:
        slices, loop = LoopSlices(), asyncio.get_running_loop()
        loop_round = 0

        def count() -> None:
            nonlocal loop_round
            loop_round += 1
            loop.call_soon(count)

        async def render(tenant_key: str, count: int) -> None:
            for _ in range(count):
                await slices.next(tenant_key)
                order.append(tenant_key)
                rounds.append(loop_round)

        count()
        leaving = asyncio.create_task(render("A", 1))
        many = [render("A", 2) for _ in range(3)]
        rendering = asyncio.gather(*many, render("B", 4), render("C", 1))
        await asyncio.sleep(0)
        leaving.cancel()
        await rendering

    asyncio.run(play())
    assert "".join(order) == "BCABABABAAA"
    assert len(set(rounds)) == len(rounds)


@pytest.mark.parametrize("path", ["/ui?limit=200", "/ui/events/export"])
def test_other_requests_go_on_between_the_slices_of_a_page_and_of_an_export(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(pages, "SLICE_SECONDS", 0)
    monkeypatch.setattr(exports, "PORTION", 1)
    line = edge.fresh()
    edge.accept(*(activation(edge.fresh_id()) for _ in range(100)))
    edge.accept(*(fact("execution.checked_in", line, {"hours": 1}) for _ in range(100)))
    guest = visitor(edge)
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0)
            rounds += 1

    async def start() -> "asyncio.Task[None]":
        return asyncio.create_task(count())

    async def stop(counting: "asyncio.Task[None]") -> None:
        counting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await counting

    counting = edge.run(start())
    try:
        page = guest.get(path)
    finally:
        edge.run(stop(counting))
    assert page.status == 200
    assert rounds > 2 * 200
