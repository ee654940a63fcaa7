"""The targets that a webhook may have: public addresses only, unless the operator allows others.

The owner of an endpoint chooses the address that this server connects to. A URL could therefore
reach hosts that only this server can reach: loopback, the private network, a cloud's metadata
service (server-side request forgery).

A check of the URL alone proves nothing, since a name may resolve to another address a moment later
(DNS rebinding). So the connector resolves the name once for each connection, and connects to an
address that it has checked.
"""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeVar

import msgspec
from pydantic import AnyHttpUrl, TypeAdapter, ValidationError

LONGEST_URL = 2000

# How long the creation of an endpoint waits for a lookup. Each send checks the target again.
_CHECK_SECONDS = 2.0

# A lookup cannot be cancelled. While this many lookups are pending, further names are refused.
_MOST_LOOKUPS = 256

# A name may have any number of addresses. The backend tries only the first few.
_MOST_ADDRESSES = 3

_URL = TypeAdapter(AnyHttpUrl)
_DEFAULT_PORTS = {"http": 80, "https": 443}

# ``is_global`` is not enough: it holds for multicast, NAT64 and, depending on Python's version,
# other networks.
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6 = [
    ipaddress.IPv6Network("2001::/23"),  # protocol assignments, such as Teredo and ORCHID
    ipaddress.IPv6Network("2002::/16"),  # 6to4: carries any IPv4 address
    ipaddress.IPv6Network("3fff::/20"),  # documentation
]
_NOT_PUBLIC_4 = [
    ipaddress.IPv4Network("192.0.0.0/24"),  # protocol assignments; a cloud's metadata service
    ipaddress.IPv4Network("192.88.99.0/24"),  # 6to4 relays
    ipaddress.IPv4Network("168.63.129.16/32"),  # looks public, but is another cloud's host agent
]

Lookup = Callable[..., list[tuple[Any, ...]]]
Resolve = Callable[[str], Awaitable[list[str]]]
"""Resolves a host to its addresses; raises CannotConnect."""

AnyProtocol = TypeVar("AnyProtocol", bound=asyncio.Protocol)


class CannotConnect(Exception):
    """No connection to the host is possible; the message says why in a few words."""


class ForbiddenTarget(Exception):
    """A webhook may not have this target.

    The message continues a sentence that begins with the field's name, and repeats no input.
    """


class Target(msgspec.Struct, frozen=True):
    """A URL's parts. It is parsed once, by one parser, so all code agrees on its host."""

    url: str
    """The canonical spelling."""
    scheme: str
    host: str
    """A name in ASCII, or an address; IPv6 without brackets."""
    port: int
    authority: str
    """The value of the ``Host`` header."""
    resource: str
    """Path and query."""


def parse_url(text: str) -> Target:
    """Parse a URL and return its canonical form. Raises ForbiddenTarget.

    The parser follows WHATWG, as browsers do. It turns ``0x7f.1`` and full-width digits into the
    address that the system's resolver would find.
    """
    if " " in text or not text.isprintable():
        raise ForbiddenTarget("must not contain spaces or control characters")
    try:
        url = _URL.validate_python(text)
    except ValidationError:
        raise ForbiddenTarget("must be an http or https URL with a host") from None
    host, port = url.host, url.port
    if not host or not port:
        raise ForbiddenTarget("must be an http or https URL with a host")
    if url.username is not None or url.password is not None:
        raise ForbiddenTarget("must not name a user or a password")
    # The canonical form may be longer than the text. Each send checks its length too.
    if max(len(text), len(str(url))) > LONGEST_URL:
        raise ForbiddenTarget(f"must have at most {LONGEST_URL} characters")
    return Target(
        url=str(url),
        scheme=url.scheme,
        host=host.strip("[]"),
        port=port,
        authority=host if port == _DEFAULT_PORTS[url.scheme] else f"{host}:{port}",
        resource=(url.path or "/") + (f"?{url.query}" if url.query else ""),
    )


def is_public(address: str) -> bool:
    """Return True if everybody on the internet could reach an address, given as text."""
    try:
        # Remove the scope id: only addresses that are not public have one.
        parsed = ipaddress.ip_address(address.split("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            is_unicast = parsed in _GLOBAL_UNICAST and parsed.is_global
            return is_unicast and not any(parsed in network for network in _NOT_PUBLIC_6)
        parsed = parsed.ipv4_mapped
    special = parsed.is_multicast or parsed.is_reserved or not parsed.is_global
    return not special and not any(parsed in network for network in _NOT_PUBLIC_4)


class Resolver:
    """Resolves a host to addresses. Safe to share between event loops.

    If a name server does not answer, ``getaddrinfo`` takes half a minute, and cannot be stopped.
    Anybody can create such names. On the event loop's few threads, some of them would stop all
    other webhooks. So the first caller for a name starts a thread for its lookup, and later callers
    share the result. The threads are daemons, so no exit waits for them.
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
                # A running future stays alive if one caller gives up while others wait.
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


resolve_host: Resolve = Resolver()


async def check_target(
    url: str, allow_private: bool, resolve: Resolve = resolve_host, seconds: float = _CHECK_SECONDS
) -> None:
    """Raise ForbiddenTarget for a URL that now leads to an address that is not public.

    A name that does not resolve in time passes: each send checks again.
    """
    target = parse_url(url)
    if allow_private:
        return
    try:
        async with asyncio.timeout(seconds):
            addresses = await resolve(target.host)
    except (TimeoutError, CannotConnect):
        return
    _require_public(addresses)


class Targets(NamedTuple):
    """The operator's rule for the targets of webhooks."""

    allow_private: bool

    async def check(self, url: str) -> None:
        """Check a URL as ``check_target`` does."""
        await check_target(url, self.allow_private)


def _require_public(addresses: Iterable[str]) -> None:
    """Raise if any address is not public: another connection might use that address."""
    if not all(is_public(address) for address in addresses):
        raise ForbiddenTarget("must not lead to an address that is not public")


class Connector:
    """Opens connections to addresses that were checked, never to names."""

    def __init__(self, allow_private: bool, resolve: Resolve = resolve_host) -> None:
        self._allow_private, self._resolve = allow_private, resolve

    async def connect(
        self, host: str, port: int, create: Callable[[], AnyProtocol], seconds: float
    ) -> tuple[asyncio.Transport, AnyProtocol]:
        """Resolve, check, connect. Raises ForbiddenTarget, CannotConnect or TimeoutError."""
        failure = CannotConnect("the name does not resolve")
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with asyncio.timeout_at(end):
            addresses = await self._resolve(host)
            if not self._allow_private:
                _require_public(addresses)
            addresses = addresses[:_MOST_ADDRESSES]
            for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
                # If this address is dead, enough time remains for the next ones.
                share = (end - loop.time()) / left
                try:
                    async with asyncio.timeout(share):
                        return await loop.create_connection(create, address, port)
                except TimeoutError:
                    failure = CannotConnect("timed out")
                except ConnectionRefusedError:
                    failure = CannotConnect("connection refused")
                except OSError:
                    failure = CannotConnect("the host cannot be reached")
        raise failure
