"""Name lookup in which a name server that never answers delays no other name."""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

# A lookup cannot be cancelled. While so many lookups are pending, further names are refused.
_MOST_LOOKUPS = 256

Lookup = Callable[..., list[tuple[Any, ...]]]


class CannotConnect(Exception):
    """No connection to the host is possible; the message says why in a few words."""


class Resolver:
    """Resolves a host to addresses. Safe to share between event loops.

    ``getaddrinfo`` takes half a minute if a name server does not answer, and cannot be stopped. On
    the event loop's few threads a few such names, which anybody can create, would keep every other
    webhook from being sent. So the first caller for a name starts a thread for its lookup, and
    later callers share the result. The threads are daemons: no exit waits for them.
    """

    def __init__(self, lookup: Lookup = socket.getaddrinfo) -> None:
        self._lookup = lookup
        self._lock = threading.Lock()
        self._pending: dict[str, Future[list[str]]] = {}

    async def __call__(self, host: str) -> list[str]:
        """The host's addresses, at least one. Raises CannotConnect if there is none."""
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            return await asyncio.wrap_future(self._begin(host))

    def _begin(self, host: str) -> Future[list[str]]:
        with self._lock:
            pending = self._pending.get(host)
            if pending is None:
                if len(self._pending) >= _MOST_LOOKUPS:
                    raise CannotConnect("too many names are being looked up")
                pending = self._pending[host] = Future()
                # A running future is not cancelled by a caller that gives up while others wait.
                pending.set_running_or_notify_cancel()
                threading.Thread(target=self._resolve, args=(host, pending), daemon=True).start()
            return pending

    def _resolve(self, host: str, pending: Future[list[str]]) -> None:
        try:
            found = self._lookup(host, None, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        except (OSError, UnicodeError):
            addresses = []
        with self._lock:
            del self._pending[host]
        if addresses:
            pending.set_result(addresses)
        else:
            pending.set_exception(CannotConnect("the name does not resolve"))
