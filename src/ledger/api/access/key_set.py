"""The public keys of the identity provider whose tokens we take (contract 7).

Fetched from one configured address and from nowhere else: what a token's header says about keys
(``jwk``, ``jku``, ``x5u``) is not looked at. No request waits for the provider as long as it names
a key that we hold:

    start ─▶ fetch ─▶ every 5 min ─▶ …      after a failure every 10 s
    unknown key id ─▶ joins a fetch in flight, else begins one, but only each 10 s

So a withdrawn key ends within 5 minutes, a new one works at once, and whoever invents key ids
troubles the provider little. While the provider is away, the keys that we hold go on for an hour;
after that no token can be checked.
"""

import asyncio
import contextlib
import hashlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpcore
import httpx
import jwt
import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ledger import __version__
from ledger.domain.errors import Unavailable

_logger = logging.getLogger(__name__)

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""Those with a private and a public key: with HMAC whoever checks a token could make one too."""

REFRESH_SECONDS = 300.0
"""How often the keys are fetched: a withdrawn one passes no longer than this."""

RETRY_SECONDS = 10.0
"""The same after a failure; and how often an unknown key id may cause a fetch."""

KEPT_SECONDS = 3600.0
"""How long keys go on that cannot be fetched again."""

DEADLINE_SECONDS = 2.0
"""A fetch takes no longer, and nobody waits for one longer."""

LARGEST = 256 * 1024
"""Bytes of a key set."""

_MOST_KEYS = 100
_LONGEST_KEY_ID = 200


class UnusableKeySet(Exception):
    """What the provider answered is no set of keys; the sentence repeats none of it."""


class SigningKey(msgspec.Struct, frozen=True):
    """One key, for one algorithm."""

    jwk: jwt.PyJWK
    fingerprint: bytes
    """SHA-256 of the key itself, by which it is known again whatever it is called."""


Keys = Mapping[tuple[str, str], SigningKey]
"""By key id and algorithm."""


class KeySet:
    """The provider's keys in one process; ``start`` and ``stop`` belong to one event loop."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._clock = url, clock
        # Made once: loading the certificates that are trusted would hold up the loop each time.
        self._ssl_context = httpcore.default_ssl_context()
        self._keys: Keys = {}
        self._fingerprints: frozenset[bytes] = frozenset()
        self._fetched_at = self._asked_at = -math.inf
        self._has_failed = False
        """Whether the latest fetch did not succeed."""
        self._fetching: asyncio.Task[None] | None = None
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Fetch the keys, and again and again. Nobody waits for the first: the provider may be
        away while we start."""
        self._loop = asyncio.create_task(self._keep_fresh())

    async def stop(self) -> None:
        """Fetch no more."""
        tasks = [task for task in (self._loop, self._fetching) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def holds(self, fingerprint: bytes) -> bool:
        """Whether a key is still the provider's, as far as is known."""
        return fingerprint in self._fingerprints and self._is_known_now()

    async def find(self, key_id: str, algorithm: str) -> SigningKey | None:
        """The key that is called so; None: the provider has no such key.

        Raises Unavailable where that cannot be told, since it did not answer.
        """
        name = (key_id, algorithm)
        if (known := self._get(name)) is not None:
            return known
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await self._look_again(name)
        except TimeoutError:
            pass
        else:
            if (known := self._get(name)) is not None or not self._has_failed:
                return known
        raise Unavailable("The keys that tokens are checked with cannot be fetched.")

    async def _look_again(self, name: tuple[str, str]) -> None:
        if self._fetching is not None:
            await asyncio.wait([self._fetching])
        if self._get(name) is None and self._clock() - self._asked_at >= RETRY_SECONDS:
            self._asked_at = self._clock()
            await self.refresh()

    def _get(self, name: tuple[str, str]) -> SigningKey | None:
        return self._keys.get(name) if self._is_known_now() else None

    def _is_known_now(self) -> bool:
        return self._clock() - self._fetched_at < KEPT_SECONDS

    async def _keep_fresh(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(RETRY_SECONDS if self._has_failed else REFRESH_SECONDS)

    async def refresh(self) -> None:
        """Fetch the keys; whoever comes meanwhile waits for the same answer."""
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._fetch())
        # Not the task itself: who leaves must not take it away from the others.
        await asyncio.wait([self._fetching])

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                keys = parse_keys(await self._download())
        except Exception as error:
            # Whatever it is, the next try must come.
            self._note_failure(error)
        else:
            if self._has_failed:
                _logger.info("the key set can be fetched again")
            self._has_failed = False
            self._keys, self._fetched_at = keys, self._clock()
            self._fingerprints = frozenset(key.fingerprint for key in keys.values())
        finally:
            self._fetching = None

    async def _download(self) -> bytes:
        """The answer's body. Raises what httpx does, or UnusableKeySet."""
        headers = {
            "Accept": "application/jwk-set+json, application/json",
            # Unpacked, an answer of any size could be a hundred times as large.
            "Accept-Encoding": "identity",
            "User-Agent": f"execution-ledger/{__version__}",
        }
        # A redirect is not followed: the operator said whom to trust.
        client = httpx.AsyncClient(
            verify=self._ssl_context,
            trust_env=False,
            follow_redirects=False,
            timeout=DEADLINE_SECONDS,
        )
        async with client, client.stream("GET", self._url, headers=headers) as answer:
            if answer.status_code != 200:
                raise UnusableKeySet(f"the answer's status is {answer.status_code}")
            body = bytearray()
            async for part in answer.aiter_raw():
                body += part
                if len(body) > LARGEST:
                    raise UnusableKeySet(f"it has more than {LARGEST} bytes")
            return bytes(body)

    def _note_failure(self, error: Exception) -> None:
        """Say so once: an outage may last."""
        foreseen = isinstance(error, UnusableKeySet | httpx.HTTPError | OSError | TimeoutError)
        if not self._has_failed or not foreseen:
            why = str(error) or type(error).__name__
            _logger.warning("cannot fetch the key set: %s", why, exc_info=not foreseen)
        self._has_failed = True


class _Document(msgspec.Struct):
    keys: list[Any]


def parse_keys(document: bytes) -> Keys:
    """The keys of a JWK Set that tokens can be checked with, by id and algorithm; others are passed
    over, and of two that are called alike the second.

    Raises UnusableKeySet where there are none: rather the keys of before than no tokens at all.
    """
    try:
        said = msgspec.json.decode(document, type=_Document)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UnusableKeySet("it is no JWK Set") from error
    keys: dict[tuple[str, str], SigningKey] = {}
    for one in said.keys[:_MOST_KEYS]:
        with contextlib.suppress(Exception):  # what makes a library stumble is no key
            if _is_for_checking(one):
                jwk = jwt.PyJWK(one)
                if jwk.algorithm_name in ALGORITHMS:
                    key = SigningKey(jwk, _fingerprint(jwk))
                    keys.setdefault((one["kid"], jwk.algorithm_name), key)
    if not keys:
        raise UnusableKeySet("it has no key that tokens can be checked with")
    return keys


def _is_for_checking(one: Any) -> bool:
    """Whether it is a public key with a name, made for signatures."""
    return (
        isinstance(one, dict)
        and isinstance(one.get("kid"), str)
        and 1 <= len(one["kid"]) <= _LONGEST_KEY_ID
        and one.get("use") in (None, "sig")
        and (one.get("key_ops") is None or "verify" in one["key_ops"])
        # What has its secret part beside it is no secret any more.
        and not {"d", "k"} & one.keys()
    )


def _fingerprint(jwk: jwt.PyJWK) -> bytes:
    encoded: bytes = jwk.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).digest()
