"""A running service behind a synchronous client, shared by the tests of one module.

Most tests of the HTTP edge send a few requests: starting a service for each test would cost more
than the test itself. Tests stay apart by using lines of their own (``fresh``).
"""

import asyncio
import itertools
import json
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import Any, TypeVar

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from ledger.app.settings import Settings
from ledger.engine.values.principal import COMMAND_LINE
from ledger.features.keys.commands import RevokeApiKey
from ledger.features.runs.read_notes import ReadNotes
from tests.support.databases import query
from tests.support.facts import activation, encode
from tests.support.service import BATCH, STRUCTURED, Clock, Service, serving

T = TypeVar("T")
Loop = asyncio.AbstractEventLoop

PLAIN = {"content-type": "application/json"}
PROBLEM_KEYS = {"type", "title", "status", "detail", "code", "request_id"}


class Edge:
    """The service, its clock and its database, one call at a time."""

    def __init__(
        self,
        service: Service,
        loop: asyncio.AbstractEventLoop,
        conninfo: str,
        lines: Iterator[int] | None = None,
    ) -> None:
        self.service, self.clock, self.conninfo = service, service.clock, conninfo
        self._loop = loop
        self._lines = lines or itertools.count(100_001)

    @contextmanager
    def second_worker(self, app: FastAPI) -> Iterator["Edge"]:
        """Another worker of the service, for the same clients; fresh lines are new to both."""
        http = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False),
            base_url="http://ledger.test",
            headers=self.service.http.headers,
        )
        stack = AsyncExitStack()
        for context in (app.router.lifespan_context(app), http):
            self.run(stack.enter_async_context(context))
        try:
            service = Service(app, self.service.loops, self.clock, http)
            worker = Edge(service, self._loop, self.conninfo, self._lines)
            worker.hold_read_notes()
            yield worker
        finally:
            self.run(stack.aclose())

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine on the service's loop; return its result."""
        return run_on(self._loop, coroutine)

    def request(
        self, method: str, path: str, token: str | None = None, **options: Any
    ) -> httpx.Response:
        """Send a request with a token; by default with the organization's own."""
        headers: Any = options.pop("headers", {})
        pairs = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        if token is not None:
            pairs.append(("authorization", f"Bearer {token}"))
        return self.run(self.service.http.request(method, path, headers=pairs, **options))

    @property
    def at_end(self) -> dict[str, str]:
        """The header of a read that shows all that is recorded: a sign-in waits for no view."""
        ((end,),) = self.select("SELECT max(notification_id) FROM ledger.ledger_events")
        return {"ledger-min-position": str(end)}

    def get(self, path: str, token: str | None = None, **options: Any) -> httpx.Response:
        return self.request("GET", path, token, **options)

    def data(self, path: str, token: str | None = None, **options: Any) -> Any:
        answer = self.get(path, token, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def post(self, path: str, token: str | None = None, **options: Any) -> httpx.Response:
        return self.request("POST", path, token, **options)

    def send(self, event: Any, token: str | None = None) -> httpx.Response:
        """Send a single structured fact: a CloudEvent, or the bytes of a body."""
        body = event if isinstance(event, bytes) else encode(event)
        return self.post("/v1/facts", token, content=body, headers=STRUCTURED)

    def send_batch(self, *items: Any, token: str | None = None) -> httpx.Response:
        """Send a batch of CloudEvents or of their bytes."""
        raw = [item if isinstance(item, bytes) else encode(item) for item in items]
        body = b"[" + b",".join(raw) + b"]"
        return self.post("/v1/facts", token, content=body, headers=BATCH)

    def accept(self, *events: dict[str, Any], token: str | None = None) -> list[dict[str, Any]]:
        """Send facts that must all be recorded; return their outcomes."""
        items: list[dict[str, Any]] = self.send_batch(*events, token=token).json()["data"]
        assert [item["error"] for item in items if item["outcome"] != "recorded"] == []
        return items

    def fresh_id(self) -> str:
        """A LIN id that no line has."""
        return f"LIN-26-{next(self._lines)}"

    def fresh(self, model: str = "agent_runtime", **more: Any) -> str:
        """A new active line."""
        line_id, token = self.fresh_id(), more.pop("token", None)
        self.accept(activation(line_id, model, **more), token=token)
        return line_id

    def token(self, *permissions: Any, **tenant: str | None) -> str:
        """A new key's token."""
        return self.run(self.service.token(*permissions, **tenant))

    def run_watches(self) -> None:
        """Let watches open and resolve alerts, as ``Service.look``."""
        self.run(self.service.run_watches())

    def revoke(self, token: str) -> None:
        """Revoke the key of a token; its streams end at once."""
        services = self.service.app.state.services
        principal = self.run(services.authenticator.authenticate(token, None))
        services.writer.execute(RevokeApiKey(principal.id, COMMAND_LINE))
        # The check of open streams, every two seconds, also drops the revoked key from the cache.
        assert self.run(services.authenticator.lapsed([principal])) == {principal}

    @contextmanager
    def frozen_views(self) -> Iterator[None]:
        """The projector waits for a lock, so that the views stand still; then they follow again."""
        self._catch_up()
        with psycopg.connect(self.conninfo) as connection, self.views_left_to_the_projector():
            connection.execute("SELECT FROM ledger.projection FOR UPDATE")
            yield
            connection.rollback()
        self._catch_up()

    @contextmanager
    def views_left_to_the_projector(self) -> Iterator[None]:
        """No append moves the views: only the projector does."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.service.app.state.services.writer, "views", None)
            yield

    def _catch_up(self) -> None:
        """Wait until the views have all that the log has by now."""
        ((end,),) = self.select("SELECT max(notification_id) FROM ledger.ledger_events")
        positions = self.service.app.state.services.positions
        assert any(self.run(positions.wait(end)) for _ in range(30))

    def hold_read_notes(self) -> None:
        """Record reads of runs no more: positions then rise by the test's own writes alone."""
        services = self.service.app.state.services
        if not services.only_reads:
            services.of(ReadNotes).stop()

    def log(self) -> list[tuple[Any, ...]]:
        """(last position, number of events) of the log, without those of keys, refusals, reads."""
        return self.select(
            "SELECT max(notification_id), count(*) FROM ledger.ledger_events"
            " WHERE originator_id !~ '^(KEY|REF|READ)-'"
        )

    def select(self, statement: str) -> list[tuple[Any, ...]]:
        return query(self.conninfo, statement)


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert that the answer is this refusal, in the form and with the headers of every refusal."""
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    expected = PROBLEM_KEYS | {"errors"} if status == 422 else PROBLEM_KEYS
    assert set(problem) == expected
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["type"]
    assert answer.headers["x-request-id"] == problem["request_id"]
    assert answer.headers["ledger-position"].isdigit()
    return problem


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


@contextmanager
def entered(context: AbstractAsyncContextManager[T]) -> Iterator[tuple[T, Loop]]:
    """Enter an asynchronous context on the loop of a new thread; its value, and the loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="edge")
    thread.start()
    stack = AsyncExitStack()
    try:
        yield run_on(loop, stack.enter_async_context(context)), loop
    finally:
        run_on(loop, stack.aclose())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def run_on(loop: Loop, coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of another thread; return its result."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)


@contextmanager
def edge_of(
    settings: Settings, conninfo: str, clock: Clock | None = None, *, records_reads: bool = False
) -> Iterator[Edge]:
    """A service running on a thread of its own; ``records_reads`` as in ``serving``."""
    served = serving(settings, conninfo, clock, records_reads=records_reads)
    with entered(served) as (service, loop):
        yield Edge(service, loop, conninfo)
