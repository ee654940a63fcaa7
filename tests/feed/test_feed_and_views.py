"""A feed is never ahead of a live view, and no stopped view holds it back (contract, Feeds)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from ledger.app.composition.api import create_api
from ledger.app.composition.writing import writing
from ledger.app.features import projections
from ledger.app.settings import Settings
from ledger.engine.reads import positions
from ledger.engine.views.contract import Projection
from ledger.engine.writer.writer import Writer
from projections.feed.view import EventView
from tests.support.edge import assert_problem
from tests.support.facts import LINE, ORGANIZATION, activation, fact
from tests.support.service import Clock, Service
from tests.support.views import (
    HandProjector,
    PoisonedRunView,
    head,
    insert_raw,
    projecting,
    query,
    report,
)

POISON = "RUN-26-900666"
FEED = "/v1/events?limit=100"
AUDIT = f"/v1/audit-logs?organization_id={ORGANIZATION}&limit=100"


class Bare:
    """An API without its background loops: a view moves only when the test moves it."""

    def __init__(self, http: httpx.AsyncClient, writer: Writer, conninfo: str) -> None:
        self.http, self.conninfo, self._writer = http, conninfo, writer

    def report(self, *events: dict[str, Any]) -> int:
        """Report the facts. Return the position of the last fact."""
        return report(self._writer, *events)[-1]

    def check_in(self, count: int = 1) -> int:
        return self.report(*(fact("execution.checked_in", LINE) for _ in range(count)))

    async def feed(self, path: str = FEED, **headers: str) -> tuple[list[int], int]:
        """(positions of the events shown, the answer's own position)."""
        answer = await self.http.get(path, headers=headers)
        assert answer.status_code == 200, answer.text
        positions = [event["position"] for event in answer.json()["data"]]
        return positions, int(answer.headers["ledger-position"])


@asynccontextmanager
async def bare(settings: Settings, conninfo: str) -> AsyncIterator[Bare]:
    app = create_api(settings, conninfo, clock := Clock())
    with writing(settings, conninfo, clock) as writer:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://ledger.test"
            ) as http,
        ):
            service = Service(app, None, clock, http)  # type: ignore[arg-type]
            token = await service.token("read", "audit:read")
            http.headers["authorization"] = f"Bearer {token}"
            yield Bare(http, writer, conninfo)


_STOPPED = "SELECT name FROM ledger.projection WHERE stopped_at IS NOT NULL"
_STOP = "UPDATE ledger.projection SET stopped_at = now(), error = 'x' WHERE name = 'event'"

Story = Callable[[Bare], Awaitable[None]]


def play(settings: Settings, conninfo: str, story: Story) -> None:
    async def playing() -> None:
        async with bare(settings, conninfo) as service:
            await story(service)

    asyncio.run(playing())


def catch_up(conninfo: str, views: Sequence[Projection]) -> HandProjector:
    """Bring these views to the log's end. The other views lag, but they are not stopped."""
    with projecting(conninfo, *views) as projector:
        projector.catch_up()
    query(
        conninfo,
        "UPDATE ledger.projection SET stopped_at = NULL, error = NULL"
        " WHERE error LIKE 'is not known%'"
        " RETURNING pg_notify('ledger_views', name || ' ' || position)",
    )
    return projector


def others_than(name: str) -> list[Projection]:
    return [view for view in projections() if view.name != name]


@pytest.mark.parametrize("name", [view.name for view in projections() if view.name != "event"])
def test_the_feed_is_not_ahead_of_a_live_view_that_lags(
    settings: Settings, conninfo: str, name: str
) -> None:
    async def story(service: Bare) -> None:
        first = service.report(activation(), fact("execution.checked_in", LINE))
        catch_up(conninfo, projections())
        second = service.check_in(3)
        catch_up(conninfo, others_than(name))
        assert await service.feed() == ([first - 1, first], first)
        # A single event and the audit log wait for one view only: a history may name the event.
        event = await service.http.get(f"/v1/events/EVT-26-{second:06d}")
        assert event.status_code == 200
        positions, position = await service.feed(AUDIT)
        assert (positions[-1], position) == (second, second)
        catch_up(conninfo, projections())
        assert (await service.feed())[1] == second

    play(settings, conninfo, story)


def test_the_feed_ends_where_its_own_view_lags_or_has_stopped(
    settings: Settings, conninfo: str
) -> None:
    async def story(service: Bare) -> None:
        first = service.report(activation())
        catch_up(conninfo, projections())
        service.check_in(2)
        catch_up(conninfo, others_than("event"))
        assert await service.feed() == ([first], first)
        query(conninfo, _STOP)
        assert await service.feed() == ([first], first)
        assert (await service.feed(AUDIT))[1] == first

    play(settings, conninfo, story)


def test_a_stopped_view_does_not_hold_the_feed_back(settings: Settings, conninfo: str) -> None:
    views = [PoisonedRunView(POISON), *others_than("run")]

    async def story(service: Bare) -> None:
        service.report(activation(), fact("run.started", POISON, {"service_line_id": LINE}))
        last = service.check_in(2)
        with projecting(conninfo, *views) as projector:
            projector.catch_up()
            assert query(conninfo, _STOPPED) == [("run",)]
            positions, position = await service.feed()
            assert (positions[-1], position) == (last, last)

    play(settings, conninfo, story)


@pytest.mark.usefixtures("waits_without_end")
def test_the_feed_waits_for_a_minimum_position_until_every_live_view_has_it(
    settings: Settings, conninfo: str
) -> None:
    async def story(service: Bare) -> None:
        service.report(activation())
        catch_up(conninfo, projections())
        last = service.check_in()
        catch_up(conninfo, [EventView()])
        waiting = asyncio.create_task(service.feed(**{"Ledger-Min-Position": str(last)}))
        assert (await asyncio.wait([waiting], timeout=0.2))[1] == {waiting}
        await asyncio.to_thread(catch_up, conninfo, projections())
        positions, position = await waiting
        assert (positions[-1], position) == (last, last)

    play(settings, conninfo, story)


def test_a_minimum_position_that_a_live_view_does_not_reach_in_time_is_a_503(
    settings: Settings, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "WAIT_SECONDS", 0.1)

    async def story(service: Bare) -> None:
        service.report(activation())
        catch_up(conninfo, projections())
        last = service.check_in()
        catch_up(conninfo, [EventView()])
        minimum = {"ledger-min-position": str(last)}
        assert_problem(await service.http.get(FEED, headers=minimum), 503, "behind")

    play(settings, conninfo, story)


def test_a_minimum_position_beyond_the_feeds_stopped_view_is_a_503(
    settings: Settings, conninfo: str
) -> None:
    async def story(service: Bare) -> None:
        first = service.report(activation())
        insert_raw(conninfo, "execution.updated/1", b"{half")
        service.check_in()
        catch_up(conninfo, projections())
        assert ("event",) in query(conninfo, _STOPPED)
        assert await service.feed(**{"Ledger-Min-Position": str(first)}) == ([first], first)
        minimum = {"ledger-min-position": str(head(conninfo))}
        for path in (FEED, AUDIT):
            assert_problem(await service.http.get(path, headers=minimum), 503, "behind")

    play(settings, conninfo, story)


@pytest.mark.parametrize("path", [FEED, AUDIT, "/v1/events/EVT-26-000001"])
@pytest.mark.parametrize("sent", ["", "abc", "-1", "9" * 19])
def test_a_minimum_position_that_is_no_number_is_a_422(
    settings: Settings, conninfo: str, path: str, sent: str
) -> None:
    async def story(service: Bare) -> None:
        answer = await service.http.get(path, headers={"ledger-min-position": sent})
        assert_problem(answer, 422, "invalid_request")

    play(settings, conninfo, story)
