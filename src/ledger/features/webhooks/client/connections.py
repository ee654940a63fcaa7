"""Connections to receivers, kept for a while for the next delivery of the same organization.

This HTTP client does one thing: it posts a request and reads the beginning of the answer. This file
limits how many connections and reads a receiver may cost. ``answer.py`` limits the answer.
"""

import asyncio
import select
import ssl
from collections.abc import Callable
from typing import NamedTuple, cast

from ledger.engine.tls import trusting_context
from ledger.features.webhooks.client.answer import NoAnswer, ReceiverAnswer
from ledger.features.webhooks.client.target import CannotConnect, Connector, Target

# Shorter than the usual 5 s of servers. So a server seldom closes a connection just when a request
# is sent on it.
KEEPALIVE_SECONDS = 4.0

_MOST_IDLE = 128

# After this many reads, an answer is read only once per pause. Each read costs the event loop an
# iteration, and a receiver could otherwise send an answer in 100,000 single bytes.
_FREE_READS = 16
_PAUSE_SECONDS = 0.05


class Origin(NamedTuple):
    """The receiver and the organization that a connection belongs to.

    Organizations share no connection. What a receiver does to the connections of one organization
    must not affect the deliveries of another.
    """

    scheme: str
    host: str
    port: int
    organization_id: str | None


class ReceiverConnection(asyncio.Protocol):
    """A connection that sends one request after the other and reads their answers."""

    def __init__(self, origin: Origin, forget: Callable[["ReceiverConnection"], object]) -> None:
        self.origin, self._forget = origin, forget
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._plain: asyncio.Transport
        """The transport below TLS. Only a pause of this one leaves the data in the system."""
        self._answer: ReceiverAnswer | None = None
        """The answer that is awaited."""
        self._ended: asyncio.Future[None]
        self._reads = 0
        self._resuming: asyncio.TimerHandle | None = None

    async def secure(self, context: ssl.SSLContext, name: str) -> None:
        """Start TLS on the connection and verify ``name``. Raises CannotConnect."""
        try:
            secured = await self._loop.start_tls(
                self._transport, self, context, server_hostname=name
            )
        except OSError as error:
            raise CannotConnect("TLS failed") from error
        self._transport = cast(asyncio.Transport, secured)

    async def exchange(self, request: bytes, answer: ReceiverAnswer) -> None:
        """Send a request, and return when its answer has ended. Raises NoAnswer or OSError."""
        if self._transport.is_closing():
            raise NoAnswer("no HTTP answer came")
        self._answer, self._ended, self._reads = answer, self._loop.create_future(), 0
        self._transport.write(request)
        await self._ended

    def abort(self) -> None:
        """Close the connection at once, even if its peer reads nothing."""
        self._plain.abort()

    def is_quiet(self) -> bool:
        """True if the connection is open, and has no bytes to read.

        The receiver may have closed the connection, or may have sent bytes without a request.
        """
        if self._transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self._plain.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)

    def is_settled(self) -> bool:
        """True if the connection is open, and the operating system has taken the whole request.

        An answer may come before all of the request is sent.
        """
        return not self._transport.is_closing() and not (
            self._transport.get_write_buffer_size() or self._plain.get_write_buffer_size()
        )

    # The event loop's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = self._plain = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            # These bytes answer no request. The next request must not take them for its answer.
            self.abort()
            return
        try:
            self._answer.feed(data)
        except NoAnswer as error:
            self._end(error)
        else:
            if self._answer.is_over:
                self._end(None)
            else:
                self._slow_down()

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or NoAnswer("no HTTP answer came"))
        self._forget(self)

    def _slow_down(self) -> None:
        self._reads += 1
        if self._reads > _FREE_READS:
            self._plain.pause_reading()
            self._resuming = self._loop.call_later(_PAUSE_SECONDS, self._plain.resume_reading)

    def _end(self, error: Exception | None) -> None:
        if self._resuming is not None:
            self._resuming.cancel()
        if self._answer is None:
            return
        self._answer = None
        if self._ended.done():  # the request was cancelled
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)


class Connections:
    """Opens as many connections as are needed at once, and keeps up to 128 idle ones for 4 s."""

    def __init__(
        self, connector: Connector, ssl_context: ssl.SSLContext | None, phase_seconds: float
    ) -> None:
        """``phase_seconds`` limits each of the phases of connecting: TCP with the lookup, TLS."""
        self._connector, self._phase_seconds = connector, phase_seconds
        self._ssl_context = ssl_context or trusting_context()
        self._ssl_context.set_alpn_protocols(["http/1.1"])
        self._idle: dict[ReceiverConnection, asyncio.TimerHandle] = {}
        """The idle connections, the longest idle first, and what ends them."""

    async def exchange(
        self, target: Target, organization_id: str | None, request: bytes, answer: ReceiverAnswer
    ) -> None:
        """Send a request, and return when its answer has ended.

        Raises NoAnswer, CannotConnect, ForbiddenTarget or OSError. Even then the answer may have a
        status: it broke off in its body.
        """
        origin = Origin(target.scheme, target.host, target.port, organization_id)
        idle = self._pop(origin)
        if idle is not None:
            try:
                return await self._use(idle, request, answer)
            except (NoAnswer, OSError):
                # The receiver may have closed the idle connection at this moment. That says nothing
                # about its health, so try a new connection.
                if answer.has_begun:
                    raise
        await self._use(await self._open(origin), request, answer)

    def close(self) -> None:
        self._drop_idle(0)

    async def _use(
        self, connection: ReceiverConnection, request: bytes, answer: ReceiverAnswer
    ) -> None:
        try:
            await connection.exchange(request, answer)
        finally:
            if answer.keeps_connection and connection.is_settled():
                self._keep(connection)
            else:
                connection.abort()

    async def _open(self, origin: Origin) -> ReceiverConnection:
        _, connection = await self._connector.connect(
            origin.host,
            origin.port,
            lambda: ReceiverConnection(origin, self._forget),
            self._phase_seconds,
        )
        if origin.scheme == "https":
            try:
                async with asyncio.timeout(self._phase_seconds):
                    await connection.secure(self._ssl_context, origin.host)
            except BaseException:
                connection.abort()
                raise
        return connection

    def _pop(self, origin: Origin) -> ReceiverConnection | None:
        """Take the last used connection to an origin; None if none is usable."""
        for connection in [one for one in reversed(self._idle) if one.origin == origin]:
            if connection.is_quiet():
                self._forget(connection)
                return connection
            self._drop(connection)
        return None

    def _keep(self, connection: ReceiverConnection) -> None:
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.call_later(KEEPALIVE_SECONDS, self._drop, connection)
        self._drop_idle(_MOST_IDLE)

    def _drop_idle(self, most: int) -> None:
        while len(self._idle) > most:
            self._drop(next(iter(self._idle)))

    def _drop(self, connection: ReceiverConnection) -> None:
        self._forget(connection)
        connection.abort()

    def _forget(self, connection: ReceiverConnection) -> None:
        timer = self._idle.pop(connection, None)
        if timer is not None:
            timer.cancel()
