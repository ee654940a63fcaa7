"""A request and its answer on a connection: uvicorn's cycle, with fewer steps for each message.

A head whose body has a known length waits for the body's first part, so both are one write. The
head is checked as a whole, not header by header: no value may contain a control character, which
could begin another header.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle
from uvicorn.server import ServerState

_CONTROL = bytes({*range(32), 127} - {9})
"""The characters that no header may contain."""


class Cycle(RequestResponseCycle):
    """A request from its head until its answer is written; it runs the application."""

    scope: Any
    disconnected = response_started = response_complete = chunked_encoding = False
    more_body = True
    logger = logging.getLogger("uvicorn.error")
    expected_content_length = 0
    body: bytes = b""  # type: ignore[assignment]

    def __init__(
        self,
        scope: Any,
        transport: asyncio.Transport,
        flow: FlowControl,
        server: ServerState,
        on_response: Callable[[], None],
        *,
        expects_continue: bool,
        keep_alive: bool,
    ) -> None:
        self.scope, self.transport, self.flow = scope, transport, flow
        self.waiting_for_100_continue, self.keep_alive = expects_continue, keep_alive
        self.default_headers = server.default_headers
        self.on_response = on_response
        self._head = b""
        """A head that waits for the first part of its body."""
        self._has_news = False
        """True if something has happened since the application received last."""
        self._waking: asyncio.Event | None = None

    def notify(self) -> None:
        """Wake the application: a part of the body has arrived, or the request has ended."""
        self._has_news = True
        if self._waking is not None:
            self._waking.set()

    async def receive(self) -> Any:
        """Return the part of the body that has arrived, or wait for it."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            if self.flow.read_paused:
                self.flow.resume_reading()
            if not self._has_news:
                if self._waking is None:
                    self._waking = asyncio.Event()
                await self._waking.wait()
            self._has_news = False
            if self._waking is not None:
                self._waking.clear()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        body, self.body = self.body, b""
        return {"type": "http.request", "body": body, "more_body": self.more_body}

    async def send(self, message: Any) -> None:
        """Send a part of the answer. Raises RuntimeError for a part that must not come now."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        is_start = message["type"] == "http.response.start"
        if is_start is self.response_started or self.response_complete:
            raise RuntimeError(f"The answer must not continue with {message['type']}.")
        if is_start:
            self._start(message["status"], message["headers"])
        else:
            self._continue(message.get("body", b""), message.get("more_body", False))

    def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.response_started, self.waiting_for_100_continue = True, False
        named = dict(headers)
        length = named.get(b"content-length")
        closes = b"close" in named.get(b"connection", b"").lower()
        if closes:
            self.keep_alive = False
        self.chunked_encoding = named.get(b"transfer-encoding") == b"chunked"
        lines = [b"%b: %b\r\n" % pair for pair in (*self.default_headers, *headers)]
        if not self.keep_alive and not closes:
            lines.append(b"connection: close\r\n")
        has_body = self.scope["method"] != "HEAD" and status not in (204, 304)
        if length is None and has_body and not self.chunked_encoding:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        text = b"".join(lines)
        if len(text) - len(text.translate(None, _CONTROL)) != 2 * len(lines):
            raise RuntimeError("A header of the answer contains a control character.")
        head = STATUS_LINE[status] + text + b"\r\n"
        self.expected_content_length = int(length) if length and has_body else 0
        if self.expected_content_length:
            self._head = head
        else:
            self.transport.write(head)

    def _continue(self, body: bytes, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            pass
        elif self.chunked_encoding:
            parts = [b"%x\r\n" % len(body), body, b"\r\n"] if body else []
            if not more:
                parts.append(b"0\r\n\r\n")
            self.transport.write(b"".join(parts))
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("The body is longer than its Content-Length.")
            if head_and_body := b"".join((self._head, body)):
                self.transport.write(head_and_body)
            self._head = b""
        if not more:
            if self.expected_content_length:
                raise RuntimeError("The body is shorter than its Content-Length.")
            self.response_complete = True
            self.notify()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()
