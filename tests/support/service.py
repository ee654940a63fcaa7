"""The whole service in this process: writer, projector, HTTP application, with a clock to set."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import httpx

from ledger.app.composition.api import create_api
from ledger.app.composition.loops import Loops
from ledger.app.settings import Settings
from ledger.engine.http.gauges import SharedText
from ledger.engine.values.principal import COMMAND_LINE, EVERYONE
from ledger.engine.writer.periodic import Periodic
from ledger.engine.writer.request import Receipt
from ledger.features.keys.commands import CreateApiKey
from ledger.features.keys.model import Permission
from ledger.features.keys.tokens import create_token
from ledger.features.lines.loops import Sweeper
from ledger.features.runs.read_notes import ReadNotes
from ledger.features.watches.loops.loop import WatchLoop
from tests.support.facts import ORGANIZATION, encode

# The HTTP client tries to import this package at each request, in vain; that took half its time.
sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]

L = TypeVar("L", bound=Periodic)

BATCH = {"content-type": "application/cloudevents-batch+json"}
STRUCTURED = {"content-type": "application/cloudevents+json"}
ALL: tuple[Permission, ...] = (
    "read", "write", "service_lines:manage", "webhooks:manage", "audit:read", "runs:erase",
    "keys:manage", "watches:manage",
)  # fmt: skip


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or datetime(2026, 4, 15, 12, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **duration: float) -> None:
        self.now += timedelta(**duration)


class Service:
    """A running service and an HTTP client with a token for one organization."""

    def __init__(self, app: Any, loops: Loops, clock: Clock, http: httpx.AsyncClient) -> None:
        self.app, self.loops, self.clock, self.http = app, loops, clock, http

    async def token(
        self, *permissions: Permission, name: str | None = "test", **tenant: str | None
    ) -> str:
        """The token of a new key, for ORGANIZATION unless a tenant is given."""
        token = create_token()
        tenant = {"organization_id": ORGANIZATION, "workspace_id": None} | tenant
        command = CreateApiKey(
            COMMAND_LINE,
            token,
            name=name,
            permissions=permissions,
            **tenant,  # type: ignore[arg-type]
        )
        outcomes = await asyncio.wrap_future(self.app.state.services.writer.submit([command]))
        assert isinstance(outcomes[0], Receipt)
        return token

    async def report(self, *events: dict[str, Any]) -> list[dict[str, Any]]:
        """Report a batch; return the outcomes."""
        body = b"[" + b",".join(map(encode, events)) + b"]"
        answer = await self.http.post("/v1/facts", content=body, headers=BATCH)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["data"]
        return items

    async def accept(self, *events: dict[str, Any]) -> list[dict[str, Any]]:
        """Report a batch. All its facts must be recorded. Return the outcomes."""
        items = await self.report(*events)
        assert [item["error"] for item in items if item["outcome"] != "recorded"] == []
        return items

    async def refuse(self, event: dict[str, Any]) -> tuple[int, str]:
        """Report a single fact that must be refused; return (status, code)."""
        answer = await self.http.post("/v1/facts", content=encode(event), headers=STRUCTURED)
        assert answer.status_code >= 400, answer.text
        return answer.status_code, answer.json()["code"]

    async def get(self, path: str, **options: Any) -> Any:
        """The JSON of a 200."""
        answer = await self.http.get(path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def line(self, line_id: str) -> dict[str, Any]:
        """A line's detail."""
        data: dict[str, Any] = (await self.get(f"/v1/execution/{line_id}"))["data"]
        return data

    def loop(self, kind: type[L]) -> L:
        (loop,) = (each for each in self.loops.housekeeper.attached if isinstance(each, kind))
        return loop

    async def run_watches(self) -> None:
        """Let the loop of watches do rounds until there is nothing more to do."""
        has_more = True
        while has_more:
            done, has_more = await asyncio.to_thread(self.loop(WatchLoop)._round)
            has_more = has_more or done > 0
            await self.await_views()

    async def await_views(self) -> None:
        """Wait until the views show the end of the log; longer than a read on a busy machine."""
        positions = self.app.state.services.positions
        rows = await self.app.state.services.pool.fetch(EVERYONE, "SELECT ledger.log_end()", {})
        for _ in range(20):
            if await positions.wait(rows[0][0]):
                return
        raise AssertionError("the views do not reach the end of the log")

    async def sweep(self) -> int:
        """Run the idle sweeper once; return the number of lines that became idle."""
        return await asyncio.to_thread(self.loop(Sweeper).run_once)


@asynccontextmanager
async def serving(
    settings: Settings,
    conninfo: str,
    clock: Clock | None = None,
    *,
    records_reads: bool = False,
) -> AsyncIterator[Service]:
    """A running service, stopped at the end.

    Reads of runs are recorded if ``records_reads``. Otherwise positions rise by the test's own
    writes alone: the notes of reads wait until the test records them. No request for the metrics
    waits for the next second.
    """
    clock = clock or Clock()
    loops = Loops(settings, conninfo, clock)
    loops.start()
    app = create_api(settings, conninfo, clock)
    app.state.services.metrics = SharedText(every_seconds=0)
    try:
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app, raise_app_exceptions=False),
                base_url="http://ledger.test",
            ) as http,
        ):
            if not records_reads:
                app.state.services.of(ReadNotes).stop()
            service = Service(app, loops, clock, http)
            http.headers["authorization"] = f"Bearer {await service.token(*ALL)}"
            yield service
    finally:
        loops.stop()
