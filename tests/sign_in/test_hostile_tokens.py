"""Hostile JSON Web Tokens: each is refused like an unknown API key (contract, Access)."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.edge import Edge, assert_problem
from tests.support.provider import (
    AUDIENCE,
    ISSUER,
    Provider,
    claims,
    encoded,
    jwk,
    private_key,
    public_pem,
    signed,
    trusting,
    with_hmac,
)

KEY_IDS = ("rsa-1", "ec-1", "ec384-1", "ec521-1", "ed-1", "short-1")
HEADER = {"typ": "JWT", "alg": "RS256", "kid": "rsa-1"}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(*KEY_IDS) as provider:
        provider.keys.append(jwk("rsa-3", alg="PS256"))
        yield provider


@pytest.fixture(scope="module")
def edge(server: EmbeddedPostgres, provider: Provider) -> Iterator[Edge]:
    with trusting(server, "edge_hostile_tokens", provider) as edge:
        yield edge


def with_claims(**more: Any) -> str:
    """A well-signed token with these claims changed."""
    return signed(claims(**more), HEADER, "rsa-1")


def with_header(key: str = "rsa-1", **header: Any) -> str:
    """A token with these members of its header changed; ``...`` leaves a member out."""
    members = {n: v for n, v in (HEADER | header).items() if v is not ...}
    return signed(claims(), members, key)


def with_payload(payload: str) -> str:
    """A well-signed token whose payload is this text."""
    return signed(payload.encode(), HEADER, "rsa-1")


def flipped(index: int) -> str:
    """A good token with a changed letter at this place of its signature."""
    head, _, signature = with_claims().rpartition(".")
    letter = "A" if signature[index] != "A" else "B"
    return f"{head}.{signature[:index]}{letter}{signature[index + 1 :] if index != -1 else ''}"


def respelled(token: str) -> str:
    """The same bytes in other letters: the last letter of a signature has unused bits."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


def with_part(number: int, part: str) -> str:
    parts = with_claims().split(".")
    parts[number] = part
    return ".".join(parts)


def now(seconds: float = 0) -> int:
    return int(time.time() + seconds)


HOSTILE: dict[str, Callable[[], str]] = {
    # Signature and key.
    "alg none": lambda: f"{encoded(HEADER | {'alg': 'none'})}.{encoded(claims())}.",
    "alg None, any case": lambda: f"{encoded(HEADER | {'alg': 'nOnE'})}.{encoded(claims())}.AA",
    "no signature": lambda: with_claims().rpartition(".")[0] + ".",
    "HS256 by the public key": lambda: with_hmac(
        claims(), HEADER | {"alg": "HS256"}, public_pem("rsa-1")
    ),
    "HS256 by the published key": lambda: with_hmac(
        claims(), HEADER | {"alg": "HS256"}, json.dumps(jwk("rsa-1")).encode()
    ),
    "HMAC that says RS256": lambda: with_hmac(claims(), HEADER, public_pem("rsa-1")),
    "another algorithm of the same key": lambda: jwt.encode(
        claims(), private_key("rsa-1"), "RS512", {"kid": "rsa-1"}
    ),
    "an algorithm that the key is not for": lambda: jwt.encode(
        claims(), private_key("rsa-3"), "RS256", {"kid": "rsa-3"}
    ),
    "another kind of key": lambda: with_header(alg="ES256"),
    "ES256 by a key for ES384": lambda: with_header("ec384-1", alg="ES256", kid="ec384-1"),
    "an algorithm nobody knows": lambda: with_header(alg="RS257"),
    "no algorithm": lambda: with_header(alg=...),
    "an algorithm that is a list": lambda: with_header(alg=["RS256"]),
    "somebody else's key": lambda: signed(claims(), HEADER, "rsa-2"),
    "somebody else's key by its own name": lambda: with_header("rsa-2", kid="rsa-2"),
    "a key that is too short": lambda: with_header("short-1", kid="short-1"),
    "its own key in the header": lambda: with_header("rsa-2", kid="rsa-2", jwk=jwk("rsa-2")),
    "its own key under the name of a known key": lambda: with_header("rsa-2", jwk=jwk("rsa-2")),
    "the address of its own key": lambda: with_header("rsa-2", jku="https://evil.example.com/keys"),
    "the address of its own certificate": lambda: with_header(
        "rsa-2", x5u="https://evil.example.com/x"
    ),
    "no key id": lambda: with_header(kid=...),
    "a key id that is no text": lambda: with_header(kid=1),
    "an empty key id": lambda: with_header(kid=""),
    "a key id with a path": lambda: with_header(kid="../../etc/passwd"),
    # Header.
    "an extension that must be understood": lambda: with_header(crit=["exp"], exp=now(3600)),
    "extensions that are none": lambda: with_header(crit=[]),
    "a payload elsewhere": lambda: with_header(crit=["b64"], b64=False),
    "another type": lambda: with_header(typ="JOSE"),
    "an encrypted token's type": lambda: with_header(typ="JWE"),
    "a logout token's type": lambda: with_header(typ="logout+jwt"),
    "a type that is no text": lambda: with_header(typ=["JWT"]),
    "a type that is null": lambda: with_header(typ=None),
    # Times.
    "expired": lambda: with_claims(exp=now(-31)),
    "expired long ago": lambda: with_claims(exp=1),
    "exp as text": lambda: with_claims(exp=str(now(3600))),
    "exp is true": lambda: with_claims(exp=True),
    "exp is null": lambda: with_claims(exp=None),
    "exp is a list": lambda: with_claims(exp=[now(3600)]),
    "no exp": lambda: with_claims(exp=...),
    "exp in years": lambda: with_claims(exp=now(10 * 365 * 86_400)),
    "exp a little over a day": lambda: with_claims(exp=now(86_400 + 60)),
    "huge exp": lambda: with_claims(exp=10**300),
    "exp beyond numbers": lambda: with_claims(exp=10**400),
    "exp of 5,000 digits": lambda: with_payload('{"exp": 1' + "0" * 5000 + "}"),
    "infinite exp": lambda: with_claims(exp=float("inf")),
    "exp that is no number": lambda: with_claims(exp=float("nan")),
    "negative exp": lambda: with_claims(exp=-1),
    "not yet valid": lambda: with_claims(nbf=now(120)),
    "nbf as text": lambda: with_claims(nbf=str(now(-10))),
    "nbf is false": lambda: with_claims(nbf=False),
    "issued in the future": lambda: with_claims(iat=now(120)),
    "iat as text": lambda: with_claims(iat=str(now())),
    # Subject, issuer, audience.
    "no sub": lambda: with_claims(sub=...),
    "sub is null": lambda: with_claims(sub=None),
    "sub is a number": lambda: with_claims(sub=7),
    "empty sub": lambda: with_claims(sub=""),
    "blank sub": lambda: with_claims(sub=" "),
    "sub with a space before": lambda: with_claims(sub=" alice"),
    "sub with a line break": lambda: with_claims(sub="alice\n"),
    "sub with NUL": lambda: with_claims(sub="a\0b"),
    "sub with a surrogate": lambda: with_claims(sub="a\ud800b"),
    "sub in look-alike letters": lambda: with_claims(sub="аlice"),
    "sub of 201 characters": lambda: with_claims(sub="a" * 201),
    "no iss": lambda: with_claims(iss=...),
    "another issuer": lambda: with_claims(iss="https://id.example.com"),
    "issuers": lambda: with_claims(iss=[ISSUER]),
    "no aud": lambda: with_claims(aud=...),
    "another audience": lambda: with_claims(aud="execution-ledger-2"),
    "other audiences": lambda: with_claims(aud=["a", "b"]),
    "no audiences": lambda: with_claims(aud=[]),
    "an audience that is an object": lambda: with_claims(aud={AUDIENCE: True}),
    "audiences that are not all text": lambda: with_claims(aud=[AUDIENCE, 1]),
    # Tenant and permissions.
    "no organization": lambda: with_claims(organization_id=...),
    "organization is null": lambda: with_claims(organization_id=None),
    "organization is a list": lambda: with_claims(organization_id=["ORG-26-000001"]),
    "organization of another shape": lambda: with_claims(organization_id="WS-26-000001"),
    "organization and a line break": lambda: with_claims(organization_id="ORG-26-000001\n"),
    "organization with leading zeros": lambda: with_claims(organization_id="ORG-26-0000001"),
    "organization in other digits": lambda: with_claims(organization_id="ORG-26-00000١"),
    "every organization": lambda: with_claims(organization_id="*"),
    "empty workspace": lambda: with_claims(workspace_id=""),
    "workspace of another shape": lambda: with_claims(workspace_id="ORG-26-000001"),
    "workspaces": lambda: with_claims(workspace_id=["WS-26-000001"]),
    "admin with an organization of another shape": lambda: with_claims(
        permissions=["admin"], organization_id="x"
    ),
    "no permissions": lambda: with_claims(permissions=...),
    "permissions are null": lambda: with_claims(permissions=None),
    "permissions in one text": lambda: with_claims(permissions="read write"),
    "permissions as an object": lambda: with_claims(permissions={"read": True}),
    "a permission that is no text": lambda: with_claims(permissions=["read", 1]),
    # Encoding.
    "no object": lambda: with_payload("[]"),
    "no JSON": lambda: with_payload("{"),
    "no UTF-8": lambda: signed(b'{"sub": "\xff"}', HEADER, "rsa-1"),
    "a deep payload": lambda: with_payload("[" * 5000),
    "a deep header": lambda: f"{encoded(b'[' * 5000)}.{encoded(claims())}.AAAA",
    "a header that is no object": lambda: f"{encoded([1])}.{encoded(claims())}.AAAA",
    "a header that is no JSON": lambda: f"{encoded(b'{')}.{encoded(claims())}.AAAA",
    "too long": lambda: with_claims(more="x" * 8000),
    "the first letter of the signature": lambda: flipped(0),
    "a letter in the middle of the signature": lambda: flipped(100),
    "the last whole letter of the signature": lambda: flipped(-2),
    "the last letter of the signature": lambda: flipped(-1),
    "the signature cut": lambda: with_claims()[:-4],
    "the signature longer": lambda: with_claims() + "AAAA",
    "other letters for the same signature": lambda: respelled(with_claims()),
    "padded": lambda: with_claims() + "==",
    "a space within": lambda: with_claims().replace(".", ". ", 1),
    "letters of the other alphabet": lambda: with_part(2, "+/" + with_claims().split(".")[2][2:]),
    "junk in the signature": lambda: with_claims()[:-3] + "!!!" + with_claims()[-3:],
    "another payload": lambda: with_part(1, encoded(claims(permissions=["admin"]))),
    "another header": lambda: with_part(0, encoded(HEADER | {"typ": "at+jwt"})),
    "two parts": lambda: with_claims().rpartition(".")[0],
    "four parts": lambda: with_claims() + ".AAAA",
    "five parts, as if encrypted": lambda: with_claims() + ".AAAA.AAAA",
    "only dots": lambda: "..",
    "JSON instead": lambda: json.dumps({"payload": "AA", "protected": "AA", "signature": "AA"}),
    "an API key's prefix before it": lambda: "elk_" + with_claims(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_is_a_401_that_repeats_nothing(
    edge: Edge, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    token = HOSTILE[name]()
    answer = edge.get("/v1/execution", token)
    problem = assert_problem(answer, 401, "unauthorized")
    assert problem["detail"] == "The bearer token is not valid."
    assert answer.headers["www-authenticate"] == "Bearer"
    unknown = edge.get("/v1/execution", "elk_unknown")
    assert problem | {"request_id": ""} == unknown.json() | {"request_id": ""}
    assert caplog.text == ""


GOOD: dict[str, Callable[[], str]] = {
    "as it should be": lambda: with_claims(),
    "RFC 9068": lambda: with_header(typ="at+JWT"),
    "a media type": lambda: with_header(typ="application/at+jwt"),
    "no type": lambda: with_header(typ=...),
    "half a second in exp": lambda: with_claims(exp=now(3600) + 0.5),
    "just expired, by another clock": lambda: with_claims(exp=now(-10)),
    "just issued, by another clock": lambda: with_claims(iat=now(10), nbf=now(10)),
    "a day long": lambda: with_claims(exp=now(86_400)),
    "for others too": lambda: with_claims(aud=["billing", AUDIENCE]),
    "for one workspace": lambda: with_claims(workspace_id="WS-26-000001"),
    "for no workspace in particular": lambda: with_claims(workspace_id=None),
    "sub as directories name it": lambda: with_claims(sub="CN=Alice Example,OU=Ops"),
    "sub of 200 characters": lambda: with_claims(sub="a" * 200),
    "with permissions of other services": lambda: with_claims(
        permissions=["read", "billing:pay", ""]
    ),
    "with claims of other services": lambda: with_claims(scope="openid", roles=[1, {"a": None}]),
    "with the address of another key": lambda: with_header(jku="https://evil.example.com/keys"),
    "not quite too long": lambda: with_claims(more="x" * 4000),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_token_passes(edge: Edge, name: str) -> None:
    answer = edge.get("/v1/execution", GOOD[name]())
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("key", ["rsa-1", "ec-1", "ec384-1", "ec521-1", "ed-1"])
def test_tokens_that_are_signed_by_each_kind_of_key_pass(
    edge: Edge, provider: Provider, key: str
) -> None:
    assert edge.get("/v1/execution", provider.token(key)).status_code == 200


def test_tokens_that_are_signed_by_an_rsa_key_for_pss_pass(edge: Edge) -> None:
    token = jwt.encode(claims(), private_key("rsa-3"), "PS256", {"kid": "rsa-3"})
    assert edge.get("/v1/execution", token).status_code == 200


def test_keys_are_fetched_from_the_provider_alone(edge: Edge, provider: Provider) -> None:
    elsewhere = f"{provider.url}-of-mine"
    for header in ({"jku": elsewhere}, {"x5u": elsewhere}, {"jku": elsewhere, "kid": "mine"}):
        assert_problem(
            edge.get("/v1/execution", with_header("rsa-2", **header)), 401, "unauthorized"
        )
    assert {request.path for request in provider.requests} == {"/keys"}
