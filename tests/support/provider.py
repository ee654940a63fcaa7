"""An identity provider: a real key server on loopback, and tokens that are signed by its keys."""

import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import Edge, edge_of
from tests.support.facts import ORGANIZATION
from tests.support.receiver import Answer, Receiver, Request
from tests.support.service import Clock

ISSUER, AUDIENCE = "https://id.example.com/", "execution-ledger"


@cache
def private_key(name: str) -> Any:
    """The private key of a name, always the same; the name's prefix is the kind of key."""
    kind = name.split("-")[0]
    makers: dict[str, Callable[[], Any]] = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "short": lambda: rsa.generate_private_key(65537, 1024),
        "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ec384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ec521": lambda: ec.generate_private_key(ec.SECP521R1()),
        "k1": lambda: ec.generate_private_key(ec.SECP256K1()),
        "ed": ed25519.Ed25519PrivateKey.generate,
    }
    return makers[kind]()


OWN = {
    "rsa": "RS256", "short": "RS256", "ec": "ES256", "ec384": "ES384", "ec521": "ES512",
    "k1": "ES256K", "ed": "EdDSA",
}  # fmt: skip
"""The algorithm of each kind of key."""


def public_pem(name: str) -> bytes:
    key = private_key(name).public_key()
    pem: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def jwk(name: str, **more: Any) -> dict[str, Any]:
    """A public key as the key server publishes it; a member that is None is left out."""
    algorithm = more.get("alg") or OWN[name.split("-")[0]]
    key = get_default_algorithms()[algorithm].to_jwk(private_key(name).public_key(), as_dict=True)
    key = {**key, "kid": name, "use": "sig", "alg": algorithm} | more
    return {member: value for member, value in key.items() if value is not None}


def encoded(part: Any) -> str:
    """A part of a token: bytes as they are, anything else as JSON."""
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims(**more: Any) -> dict[str, Any]:
    """The claims of a valid token; a claim that is given as ``...`` is left out."""
    now = int(time.time())
    values = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "alice",
        "iat": now,
        "exp": now + 3600,
        "organization_id": ORGANIZATION,
        "permissions": ["read"],
    } | more
    return {name: value for name, value in values.items() if value is not ...}


def signed(payload: Any, header: dict[str, Any], key: str) -> str:
    """A token with any header and payload, signed by the algorithm that is the key's own."""
    text = f"{encoded(header)}.{encoded(payload)}"
    algorithm = get_default_algorithms()[OWN[key.split("-")[0]]]
    return f"{text}.{encoded(algorithm.sign(text.encode(), private_key(key)))}"


def with_hmac(payload: Any, header: dict[str, Any], secret: bytes) -> str:
    """A token signed by an HMAC, which a caller who knows only the public key can make."""
    text = f"{encoded(header)}.{encoded(payload)}"
    return f"{text}.{encoded(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


class Provider(Receiver):
    """A key server: serves the published keys, unless ``fail`` sets another answer."""

    def __init__(self, *names: str) -> None:
        super().__init__(self._answer)
        self.keys = [jwk(name) for name in names]

    @property
    def url(self) -> str:
        return f"{super().url}/keys"

    def publish(self, *names: str) -> None:
        """Replace the published keys."""
        self.keys = [jwk(name) for name in names]

    def fail(self, answer: Answer | None) -> None:
        """Give this answer from now on; None restores the keys."""
        self.script = self._answer if answer is None else lambda _: answer

    def _answer(self, request: Request) -> Answer:
        return Answer(body=json.dumps({"keys": self.keys}).encode())

    def token(self, key: str = "rsa-1", header: dict[str, Any] | None = None, **more: Any) -> str:
        """A token as a library makes it; ``more`` are claims."""
        algorithm = OWN[key.split("-")[0]]
        headers = {"kid": key} | (header or {})
        return jwt.encode(claims(**more), private_key(key), algorithm, headers)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a service that trusts this provider."""
        return {"jwks_url": self.url, "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}


@contextlib.contextmanager
def trusting(server: EmbeddedPostgres, name: str, provider: Provider) -> Iterator[Edge]:
    """A running service that takes the provider's tokens, with a database of its own.

    The service's clock starts at the present, since the tokens carry real times.
    """
    settings = Settings(master_key=MASTER_KEY, idle_sweep_seconds=3600, **provider.settings)
    with (
        copied(server.url, name) as conninfo,
        edge_of(settings, conninfo, Clock(datetime.now(UTC))) as edge,
    ):
        yield edge
