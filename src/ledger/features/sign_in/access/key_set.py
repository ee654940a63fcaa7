"""The public keys of the identity provider whose tokens are accepted (contract, Access).

The keys come only from one configured address; a token's own hints about keys (``jwk``, ``jku``,
``x5u``) are ignored. A request whose token names a cached key never waits for the provider:

    start ─▶ fetch ─▶ every 5 min ─▶ …      after a failure every 10 s
    unknown key id ─▶ joins a fetch in flight, else begins one, but only every 10 s

So a withdrawn key ends within 5 minutes, a new key works at once, and a client that invents key
ids causes few fetches. While the provider is unreachable, the cached keys stay valid for an hour;
after that no token can be checked.
"""

import asyncio
import contextlib
import logging
import math
import ssl
import time
from collections.abc import AsyncIterable, Callable, Mapping
from typing import Any

import httpx2
import msgspec
from joserfc.jwk import JWKRegistry, Key
from joserfc.jws import JWSRegistry

from ledger import __version__
from ledger.engine.tls import trusting_context
from ledger.engine.values.errors import Unavailable

_logger = logging.getLogger(__name__)

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Only asymmetric algorithms: with HMAC every service that checks tokens could sign them."""

REFRESH_SECONDS = 300.0
"""Between two fetches: a withdrawn key passes no longer than this."""

RETRY_SECONDS = 10.0
"""Between two fetches after a failure, and between two fetches for unknown key ids."""

MAX_AGE_SECONDS = 3600.0
"""How long the cached keys stay valid while they cannot be fetched again."""

DEADLINE_SECONDS = 2.0
"""The time limit of a fetch, and of a request that waits for a fetch."""

LARGEST = 256 * 1024

_ACCEPTED = "application/jwk-set+json, application/json"

_MOST_KEYS = 100
_LONGEST_KEY_ID = 200


class UnusableAnswer(Exception):
    """The provider's answer is no usable key set; the message repeats nothing of it."""


Keys = Mapping[tuple[str, str], Key]
"""Public keys by key id and algorithm; a thumbprint identifies a key under any key id."""


class KeySet:
    """The provider's keys in one process; ``start`` and ``stop`` belong to one event loop."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._clock = url, clock
        # Made once: loading the trusted certificates would block the loop at each fetch.
        self._ssl_context = trusting_context()
        self._keys: Keys = {}
        self._thumbprints: frozenset[str] = frozenset()
        self._fetched_at = self._retried_at = -math.inf
        self._has_failed = False
        self._fetching: asyncio.Task[None] | None = None
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to fetch the keys periodically, without waiting for the first fetch.

        The provider may be unreachable while the service starts.
        """
        self._loop = asyncio.create_task(self._keep_fresh())

    async def stop(self) -> None:
        tasks = [task for task in (self._loop, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def holds(self, thumbprint: str) -> bool:
        """True if the provider still publishes a key, as far as this process knows."""
        return thumbprint in self._thumbprints and self._is_fresh()

    async def renew(self) -> None:
        """Fetch the keys if older than ``REFRESH_SECONDS``: for callers that rarely need them."""
        if self._clock() - self._fetched_at >= REFRESH_SECONDS:
            await self.refresh()

    async def find(self, key_id: str, algorithm: str) -> Key | None:
        """The key of this id and algorithm; None if the provider has no such key.

        Raises Unavailable if the key is unknown and the keys cannot be fetched.
        """
        name = (key_id, algorithm)
        if (key := self._get(name)) is not None:
            return key
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self._refetch(name)
        except TimeoutError:
            pass
        else:
            if (key := self._get(name)) is not None or not self._has_failed:
                return key
        raise Unavailable("The identity provider's keys cannot be fetched to check the token.")

    async def _refetch(self, name: tuple[str, str]) -> None:
        if self._fetching is not None:
            await asyncio.wait([self._fetching])
        if self._get(name) is None and self._clock() - self._retried_at >= RETRY_SECONDS:
            self._retried_at = self._clock()
            await self.refresh()

    def _get(self, name: tuple[str, str]) -> Key | None:
        return self._keys.get(name) if self._is_fresh() else None

    def _is_fresh(self) -> bool:
        return self._clock() - self._fetched_at < MAX_AGE_SECONDS

    async def _keep_fresh(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(RETRY_SECONDS if self._has_failed else REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Fetch the keys; all callers during a fetch wait for the same fetch."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())
        # Do not await the task itself: a cancelled caller must not cancel it for the others.
        await asyncio.wait([self._fetching])

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                body = await download(self._url, self._ssl_context, _ACCEPTED)
                keys = parse_keys(body)
        except Exception as error:
            # No error may end the periodic fetches.
            self._note_failure(error)
        else:
            if self._has_failed:
                _logger.info("the key set can be fetched again")
            self._has_failed = False
            self._keys, self._fetched_at = keys, self._clock()
            self._thumbprints = frozenset(key.thumbprint() for key in keys.values())
        finally:
            self._fetching = None

    def _note_failure(self, error: Exception) -> None:
        """Log the failure, but an expected error only once per outage, which may last."""
        foreseen = isinstance(error, UnusableAnswer | httpx2.HTTPError | OSError | TimeoutError)
        if not self._has_failed or not foreseen:
            why = str(error) or type(error).__name__
            _logger.warning("cannot fetch the key set: %s", why, exc_info=not foreseen)
        self._has_failed = True


async def download(
    url: str, ssl_context: ssl.SSLContext, accepted: str, token: str | None = None
) -> bytes:
    """The body of a provider's answer. Raises the errors of httpx2, or UnusableAnswer."""
    headers = {
        "Accept": accepted,
        # A compressed answer could be a hundred times as large once decompressed.
        "Accept-Encoding": "identity",
        "User-Agent": f"execution-ledger/{__version__}",
    }
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    # Follow no redirect: the operator configured the address to trust.
    client = httpx2.AsyncClient(
        verify=ssl_context, trust_env=False, follow_redirects=False, timeout=DEADLINE_SECONDS
    )
    async with client, client.stream("GET", url, headers=headers) as answer:
        if answer.status_code != 200:
            raise UnusableAnswer(f"the answer's status is {answer.status_code}")
        return await read_bounded(answer.aiter_raw())


async def read_bounded(parts: AsyncIterable[bytes]) -> bytes:
    """Read a provider's answer. Raises UnusableAnswer if it is too large."""
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > LARGEST:
            raise UnusableAnswer(f"the answer has more than {LARGEST} bytes")
    return bytes(body)


class _Document(msgspec.Struct):
    keys: list[Any]


def parse_keys(document: bytes) -> Keys:
    """The keys of a JWK Set that can check tokens, by key id and algorithm.

    Other keys are skipped; the first of two keys with the same id and algorithm counts. Raises
    UnusableAnswer if no key is left: the cached keys then stay valid, since without keys no token
    would pass.
    """
    try:
        key_set = msgspec.json.decode(document, type=_Document)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UnusableAnswer("the answer is no JWK Set") from error
    keys: dict[tuple[str, str], Key] = {}
    for entry in key_set.keys[:_MOST_KEYS]:
        with contextlib.suppress(Exception):  # the library fails at entries that are no keys
            if _is_for_checking(entry):
                keys.setdefault(*_named_key(entry))
    if not keys:
        raise UnusableAnswer("the JWK Set has no key that can check tokens")
    return keys


def _is_for_checking(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("kid"), str)
        and 1 <= len(entry["kid"]) <= _LONGEST_KEY_ID
        and entry.get("use") in (None, "sig")
        and (entry.get("key_ops") is None or "verify" in entry["key_ops"])
        # A key published with its private part is no longer secret.
        and not {"d", "k"} & entry.keys()
        and entry.get("crv") not in ("X25519", "X448")
    )


def _named_key(entry: Mapping[str, Any]) -> tuple[tuple[str, str], Key]:
    """The key of an entry by id and algorithm. Raises any error if there is none."""
    kind: Any = JWKRegistry.key_types[entry["kty"]]
    # Only the key's own members: the library would judge the rest. Some providers pad numbers.
    members = {name: entry[name].rstrip("=") for name in kind.value_registry if name in entry}
    public = kind.binding.import_public_key(members)
    key: Key = kind(public, public)
    usable = JWSRegistry.filter_algorithms(key, list(ALGORITHMS))
    algorithm = next(one.name for one in usable if one.name == (entry.get("alg") or one.name))
    return (entry["kid"], algorithm), key
