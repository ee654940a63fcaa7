"""Failed authentications: counted for operators, and logged by network (contract, Access).

Neither the metric nor the log names a token or a tenant.
"""

import asyncio
import ipaddress
import logging
from collections import Counter

import prometheus_client

from ledger.engine.telemetry.lines import for_nobody

_logger = logging.getLogger(__name__)

_FAILED = prometheus_client.Counter(
    "ledger_authentication_failures", "Requests whose token was refused."
)

_TELL_SECONDS = 60.0

_NAMED = 20
"""The most frequent networks are named; the rest is a number."""

_NETWORKS = 10_000
"""The most networks that are distinguished in a minute."""

_OTHERS = "other networks"


class Failures:
    """The failed authentications of one process since the last line in the log."""

    def __init__(self, every_seconds: float = _TELL_SECONDS) -> None:
        self._every_seconds = every_seconds
        self._by_network: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def note(self, peer: str | None) -> None:
        """Count a failure of a client with this address; it is logged within a minute."""
        _FAILED.inc()
        network = network_of(peer)
        if network not in self._by_network and len(self._by_network) >= _NETWORKS:
            network = _OTHERS
        self._by_network[network] += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._every_seconds, self.tell, context=for_nobody())

    def tell(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        counts, self._by_network = self._by_network, Counter()
        others = counts.pop(_OTHERS, 0)
        named = counts.most_common(_NAMED)
        others += counts.total() - sum(count for _, count in named)
        if others:
            named.append((_OTHERS, others))
        if named:
            text = ", ".join(f"{count} from {network}" for network, count in named)
            # The counts are part of the message, so that no similar line suppresses it.
            _logger.warning(f"failed authentications in a minute: {text}")


def network_of(peer: str | None) -> str:
    """The network of an address: its first 24 bits, or 64 bits of an IPv6 address."""
    try:
        address = ipaddress.ip_address((peer or "").partition("%")[0])
    except ValueError:
        return "an unknown address"
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    return str(ipaddress.ip_network((address, 24 if address.version == 4 else 64), strict=False))
