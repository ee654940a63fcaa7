"""Shares: how much a credential may have in hand in a worker (contract, Access, "Shares").

A request is in hand from its head until its answer is written. The part of its body that has
arrived, as it is unpacked, counts with it. A request beyond the share of its credential is 429.

There are four shares: of writing requests, of reads, and among the reads of exports and of large
pages, which take most of a worker's time and memory. Streams have a bound of their own
(``feed/stream.py``).

The sum of a worker's shares is bounded too: an organization with many keys may not hold more than
is left free for the others.
"""

import prometheus_client

from ledger.domain.errors import RateLimited
from ledger.intake.principal import Principal

_CREDENTIALS = 16
"""The shares of so many credentials are the sum that all credentials of a worker may hold."""

LARGE_PAGE = 50
"""The most rows of a page that does not count as large."""

_LIMITED = prometheus_client.Counter(
    "ledger_rate_limited", "Requests that were refused because too much of their credential waited."
)


class _Held:
    """The requests in hand of a credential, an organization, or all, and the bytes of bodies."""

    __slots__ = ("requests", "size")

    def __init__(self) -> None:
        self.requests = self.size = 0

    def add(self, requests: int, size: int) -> None:
        self.requests += requests
        self.size += size


class Kind:
    """The requests of one kind that one process has in hand."""

    def __init__(self, name: str, most: int, most_bytes: int = 0) -> None:
        """``most`` and ``most_bytes``: the share of a credential."""
        self.name, self.most, self.most_bytes = name, most, most_bytes
        self.all = _Held()
        self._parties: dict[str, _Held] = {}
        self._credentials: dict[str, _Held] = {}

    def add(self, credential: str, party: str, requests: int, size: int) -> None:
        """Add to what is in hand. Raises RateLimited, and adds nothing, if it would be too much."""
        own = self._credentials.get(credential) or _Held()
        organization = self._parties.get(party) or _Held()
        everything = self.all
        if own.requests + requests > self.most or own.size + size > self.most_bytes:
            self._refuse("credential")
        if (
            organization.requests + requests > _CREDENTIALS * self.most - everything.requests
            or organization.size + size > _CREDENTIALS * self.most_bytes - everything.size
        ):
            self._refuse("organization")
        self._credentials[credential] = own
        self._parties[party] = organization
        own.add(requests, size)
        organization.add(requests, size)
        everything.add(requests, size)

    def take_back(self, credential: str, party: str, size: int) -> None:
        """Take back a request that was answered, with the bytes of its body."""
        own, organization = self._credentials[credential], self._parties[party]
        own.add(-1, -size)
        organization.add(-1, -size)
        self.all.add(-1, -size)
        if not own.requests:
            del self._credentials[credential]
        if not organization.requests:
            del self._parties[party]

    def _refuse(self, whose: str) -> None:
        _LIMITED.inc()
        raise RateLimited(f"Too many {self.name} of this {whose} are in hand: send less at a time.")


class Share:
    """One request in hand, from its head until its answer is written: ``end`` it then."""

    __slots__ = ("_credential", "_kind", "_kinds_beside", "_party", "_size")

    def __init__(self, kind: Kind, principal: Principal) -> None:
        """Raises RateLimited if too many requests of the credential are in hand."""
        self._credential, self._party = principal.credential, principal.party
        self._kind, self._kinds_beside = kind, list[Kind]()
        self._size = 0
        kind.add(self._credential, self._party, 1, 0)

    def count_as(self, kind: Kind) -> None:
        """Count the request in a further kind too. Raises RateLimited."""
        kind.add(self._credential, self._party, 1, 0)
        self._kinds_beside.append(kind)

    def grow(self, size: int) -> None:
        """Count bytes of the body that have arrived. Raises RateLimited."""
        self._kind.add(self._credential, self._party, 0, size)
        self._size += size

    def end(self) -> None:
        """Take the request back."""
        self._kind.take_back(self._credential, self._party, self._size)
        for kind in self._kinds_beside:
            kind.take_back(self._credential, self._party, 0)


class Shares:
    """The requests that one process has in hand, by kind."""

    def __init__(self) -> None:
        self.writes = Kind("writing requests, or bytes of their bodies,", 1024, 32 * 1024 * 1024)
        self.reads = Kind("reads", 32)
        self.exports = Kind("exports", 4)
        self.large_pages = Kind(f"pages of more than {LARGE_PAGE} rows", 4)
