"""Shares: how much a credential may have in hand in a worker (contract, Access, "Shares").

A request is in hand from its head until its answer is written. The part of its body that has
arrived, unpacked, counts with it. A request beyond its credential's share is 429.

There are six shares: writes, reads, and among the reads exports, large pages and lists of pages,
which take most of a worker's time and memory; and calls of tools, which also read. Streams have a
bound of their own (``features/feed/stream.py``).

The sum of a worker's shares is bounded too: an organization with many keys may not hold more than
is left free for the others.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import prometheus_client

from ledger.engine.values.errors import RateLimited
from ledger.engine.values.principal import Principal

_CREDENTIALS = 16
"""All credentials of a worker together may hold so many shares."""

_HEAVY_WAITING = 16
"""Answers about many lines of an organization that may wait while one is made."""

LARGE_PAGE = 50
"""The most rows of a page that does not count as large."""

_LIMITED = prometheus_client.Counter(
    "ledger_rate_limited", "Requests that were refused because too much of their credential waited."
)


class Bound:
    """A bounded sum, in one process, of a credential's requests in progress, or of their bytes."""

    def __init__(self, name: str, most: int) -> None:
        """``most``: the share of a credential."""
        self.name, self.most = name, most
        self.all = 0
        self._credentials: dict[str, int] = {}
        self._tenants: dict[str, int] = {}

    def add(self, credential: str, tenant_key: str, amount: int) -> None:
        """Raises RateLimited, and adds nothing, if it would be too much."""
        own = self._credentials.get(credential, 0) + amount
        organization = self._tenants.get(tenant_key, 0) + amount
        if own > self.most:
            self._refuse("credential")
        if organization > _CREDENTIALS * self.most - self.all:
            self._refuse("organization")
        self._credentials[credential] = own
        self._tenants[tenant_key] = organization
        self.all += amount

    def subtract(self, credential: str, tenant_key: str, amount: int) -> None:
        self.all -= amount
        if self._credentials[credential] == amount:
            del self._credentials[credential]
        else:
            self._credentials[credential] -= amount
        if self._tenants[tenant_key] == amount:
            del self._tenants[tenant_key]
        else:
            self._tenants[tenant_key] -= amount

    def _refuse(self, whose: str) -> None:
        _LIMITED.inc()
        raise RateLimited(f"Too many {self.name} of this {whose} are in hand: send less at a time.")


class Shares:
    """The requests in progress in one process, by kind."""

    def __init__(self) -> None:
        self.writes = Bound("writing requests", 1024)
        self.bodies = Bound("bytes of bodies", 32 * 1024 * 1024)
        self.reads = Bound("reads", 32)
        self.exports = Bound("exports", 4)
        self.calls = Bound("calls of tools", 16)
        self.large_pages = Bound(f"pages of more than {LARGE_PAGE} rows", 4)
        # The 32 pages without cached views that may be in progress need 96.
        self.lists = Bound("lists of pages", 128)


class Heavy:
    """Answers about many lines, one at a time for each organization; administrators are one."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        """The lock of each organization with answers in progress, and their number."""

    @asynccontextmanager
    async def slot(self, tenant_key: str, *, goes_on: bool = False) -> AsyncIterator[None]:
        """Wait for a slot. Raises RateLimited if too many wait, except for a part of an export."""
        lock, in_hand = self._locks.get(tenant_key, (asyncio.Lock(), 0))
        if in_hand > _HEAVY_WAITING and not goes_on:
            _LIMITED.inc()
            raise RateLimited("Too many answers about many lines of this organization wait.")
        self._locks[tenant_key] = lock, in_hand + 1
        try:
            async with lock:
                yield
        finally:
            lock, in_hand = self._locks[tenant_key]
            if in_hand > 1:
                self._locks[tenant_key] = lock, in_hand - 1
            else:
                del self._locks[tenant_key]


class Share:
    """A request in progress, from its head until its answer is written: ``end`` it then."""

    __slots__ = ("_bound", "_credential", "_further", "_tenant_key")

    def __init__(self, bound: Bound, principal: Principal) -> None:
        """Raises RateLimited if too many requests of the credential are in progress."""
        self._credential = credential = principal.credential
        self._tenant_key = tenant_key = principal.tenant_key
        bound.add(credential, tenant_key, 1)
        self._bound = bound
        self._further: dict[Bound, int] | None = None

    def count(self, bound: Bound, amount: int = 1) -> None:
        """Count the request, or a part of it, in a further bound too. Raises RateLimited."""
        bound.add(self._credential, self._tenant_key, amount)
        if self._further is None:
            self._further = {}
        self._further[bound] = self._further.get(bound, 0) + amount

    def end(self) -> None:
        self._bound.subtract(self._credential, self._tenant_key, 1)
        if self._further is not None:
            for bound, amount in self._further.items():
                bound.subtract(self._credential, self._tenant_key, amount)
