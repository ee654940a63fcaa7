"""A dispatcher begins no request before the database has confirmed its lead lately."""

import asyncio
import threading

import pytest

from ledger.features.webhooks.delivery import lead
from ledger.features.webhooks.delivery.lead import Confirmation


def test_a_lead_is_certain_for_a_while_after_it_was_confirmed() -> None:
    async def play() -> None:
        confirmed = Confirmation(asyncio.get_running_loop(), lambda: False)
        assert await asyncio.wait_for(confirmed.holds(), 30)

    asyncio.run(play())


def test_a_process_that_stood_still_waits_for_the_next_answer_of_the_database(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play() -> None:
        confirmed = Confirmation(asyncio.get_running_loop(), lambda: False)
        monkeypatch.setattr(lead, "CERTAIN_SECONDS", -1.0)
        begins = asyncio.create_task(confirmed.holds())
        await asyncio.sleep(0)
        confirmed.confirm(confirmed.now())  # of a statement sent before the process stood still
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(begins), 0.1)
        monkeypatch.setattr(lead, "CERTAIN_SECONDS", 4.0)
        confirmed.confirm(confirmed.now())
        assert await asyncio.wait_for(begins, 30)

    asyncio.run(play())


def test_a_dispatcher_that_stops_begins_no_request_that_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def play() -> None:
        stopping = threading.Event()
        confirmed = Confirmation(asyncio.get_running_loop(), stopping.is_set)
        monkeypatch.setattr(lead, "CERTAIN_SECONDS", -1.0)
        begins = asyncio.create_task(confirmed.holds())
        await asyncio.sleep(0)
        stopping.set()
        confirmed.wake()
        assert not await asyncio.wait_for(begins, 30)

    asyncio.run(play())
