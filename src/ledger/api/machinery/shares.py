"""Shares: how much may wait in a worker for one credential (contract, Access, "Shares").

A writing request waits from its head until its answer; the part of its body that has arrived, as it
is unpacked, counts with it. A request beyond the share of its credential is 429.

A worker's memory bounds the sum of all shares. An organization with many keys may not hold more of
it than is left free for the others.
"""

from typing import Self

import prometheus_client

from ledger.domain.errors import RateLimited
from ledger.intake.principal import Principal

MOST_REQUESTS, MOST_BYTES = 1024, 32 * 1024 * 1024
"""The share of a credential in each worker."""

_ALL_REQUESTS, _ALL_BYTES = 16 * MOST_REQUESTS, 16 * MOST_BYTES
"""The sum of all shares in a worker."""

_LIMITED = prometheus_client.Counter(
    "ledger_rate_limited", "Requests that were refused because too much of their credential waited."
)


class _Held:
    """The waiting requests of a credential, an organization, or all, and the bytes of bodies."""

    __slots__ = ("requests", "size")

    def __init__(self) -> None:
        self.requests = self.size = 0


class Shares:
    """The waiting requests of one process."""

    def __init__(self) -> None:
        self._all = _Held()
        self._parties: dict[str, _Held] = {}
        self._credentials: dict[str, _Held] = {}

    def hold(self, principal: Principal) -> "Share":
        """A request of the credential, which waits as long as the share is entered."""
        return Share(self, principal.credential, principal.party)

    def add(self, credential: str, party: str, requests: int, size: int) -> None:
        """Add to what waits. Raises RateLimited, and adds nothing, if that would be too much."""
        own = self._credentials.get(credential) or _Held()
        organization = self._parties.get(party) or _Held()
        if own.requests + requests > MOST_REQUESTS or own.size + size > MOST_BYTES:
            _refuse("Too much of this credential waits already: send less at a time.")
        if (
            organization.requests + requests > _ALL_REQUESTS - self._all.requests
            or organization.size + size > _ALL_BYTES - self._all.size
        ):
            _refuse("Too much of this organization waits already: send less at a time.")
        self._credentials[credential] = own
        self._parties[party] = organization
        _change((self._all, organization, own), requests, size)

    def take_back(self, credential: str, party: str, size: int) -> None:
        """Take back a request that was answered, with the bytes of its body."""
        own, organization = self._credentials[credential], self._parties[party]
        _change((self._all, organization, own), -1, -size)
        if not own.requests:
            del self._credentials[credential]
        if not organization.requests:
            del self._parties[party]


class Share:
    """One waiting request: a context manager, from its head until its answer."""

    __slots__ = ("_credential", "_party", "_shares", "_size")

    def __init__(self, shares: Shares, credential: str, party: str) -> None:
        self._shares, self._credential, self._party = shares, credential, party
        self._size = 0

    def __enter__(self) -> Self:
        """Raises RateLimited if too many requests of the credential wait already."""
        self._shares.add(self._credential, self._party, 1, 0)
        return self

    def __exit__(self, *_: object) -> None:
        self._shares.take_back(self._credential, self._party, self._size)

    def grow(self, size: int) -> None:
        """Count bytes of the body that have arrived. Raises RateLimited."""
        self._shares.add(self._credential, self._party, 0, size)
        self._size += size


def _change(held: tuple[_Held, ...], requests: int, size: int) -> None:
    for each in held:
        each.requests += requests
        each.size += size


def _refuse(detail: str) -> None:
    _LIMITED.inc()
    raise RateLimited(detail)
