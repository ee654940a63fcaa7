"""What every answer carries, whichever route gave it: request id, position, a line of metrics."""

import re
import time
import uuid
from typing import Any

from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.api.positions import ViewPositions

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")

REQUESTS = Counter("ledger_http_requests", "Requests answered.", ["route", "method", "status"])
SECONDS = Histogram(
    "ledger_http_request_seconds",
    "Time to answer.",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)


class EveryAnswer:
    """ASGI middleware. The request id comes from ``X-Request-Id`` when that is a plain token."""

    def __init__(self, app: ASGIApp, positions: ViewPositions) -> None:
        self._app = app
        self._positions = positions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; add the headers as the answer starts."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                if "ledger-position" not in headers:
                    headers["Ledger-Position"] = str(self._positions.last_heard)
                self._count(scope, message["status"], time.perf_counter() - started)
            await send(message)

        await self._app(scope, receive, send_with_headers)

    @staticmethod
    def _count(scope: Scope, status: int, seconds: float) -> None:
        route: Any = scope.get("route")
        path = getattr(route, "path", "none")
        REQUESTS.labels(path, scope["method"], status).inc()
        SECONDS.labels(path).observe(seconds)
