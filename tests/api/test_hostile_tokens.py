"""Tokens that are not to be trusted: each is refused like a key that is unknown (contract 7)."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest

from ledger.postgres.embedded import EmbeddedPostgres
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

KNOWN = ("rsa-1", "ec-1", "ec384-1", "ec521-1", "ed-1", "short-1")
HEADER = {"typ": "JWT", "alg": "RS256", "kid": "rsa-1"}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider(*KNOWN) as provider:
        provider.keys.append(jwk("rsa-3", alg="PS256"))
        yield provider


@pytest.fixture(scope="module")
def edge(server: EmbeddedPostgres, provider: Provider) -> Iterator[Edge]:
    with trusting(server, "edge_hostile_tokens", provider) as edge:
        yield edge


def said(**more: Any) -> str:
    """A token that is well signed, and says this."""
    return signed(claims(**more), HEADER, "rsa-1")


def headed(key: str = "rsa-1", **header: Any) -> str:
    """A token whose header says this instead; ``...`` leaves a member out."""
    members = {n: v for n, v in (HEADER | header).items() if v is not ...}
    return signed(claims(), members, key)


def bare(payload: str) -> str:
    """A token that is well signed, whose payload is this very text."""
    return signed(payload.encode(), HEADER, "rsa-1")


def flipped(place: int) -> str:
    """A good token with one letter changed, counted from its signature's beginning."""
    head, _, signature = said().rpartition(".")
    letter = "A" if signature[place] != "A" else "B"
    return f"{head}.{signature[:place]}{letter}{signature[place + 1 :] if place != -1 else ''}"


def respelled(token: str) -> str:
    """The same bytes in other letters: the last of a signature has bits that mean nothing."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + alphabet[alphabet.index(token[-1]) + 1]


def with_part(number: int, part: str) -> str:
    parts = said().split(".")
    parts[number] = part
    return ".".join(parts)


def now(seconds: float = 0) -> int:
    return int(time.time() + seconds)


HOSTILE: dict[str, Callable[[], str]] = {
    # How it is signed.
    "alg none": lambda: f"{encoded(HEADER | {'alg': 'none'})}.{encoded(claims())}.",
    "alg None, any case": lambda: f"{encoded(HEADER | {'alg': 'nOnE'})}.{encoded(claims())}.AA",
    "no signature": lambda: said().rpartition(".")[0] + ".",
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
    "another kind of key": lambda: headed(alg="ES256"),
    "ES256 by a key for ES384": lambda: headed("ec384-1", alg="ES256", kid="ec384-1"),
    "an algorithm nobody knows": lambda: headed(alg="RS257"),
    "no algorithm": lambda: headed(alg=...),
    "an algorithm that is a list": lambda: headed(alg=["RS256"]),
    "somebody else's key": lambda: signed(claims(), HEADER, "rsa-2"),
    "somebody else's key by its own name": lambda: headed("rsa-2", kid="rsa-2"),
    "a key that is too short": lambda: headed("short-1", kid="short-1"),
    "its key beside it": lambda: headed("rsa-2", kid="rsa-2", jwk=jwk("rsa-2")),
    "its key in place of ours": lambda: headed("rsa-2", jwk=jwk("rsa-2")),
    "where its key is": lambda: headed("rsa-2", jku="https://evil.example.com/keys"),
    "where its certificate is": lambda: headed("rsa-2", x5u="https://evil.example.com/x"),
    "no key id": lambda: headed(kid=...),
    "a key id that is no text": lambda: headed(kid=1),
    "an empty key id": lambda: headed(kid=""),
    "a key id with a path": lambda: headed(kid="../../etc/passwd"),
    # What the header demands.
    "an extension that must be understood": lambda: headed(crit=["exp"], exp=now(3600)),
    "extensions that are none": lambda: headed(crit=[]),
    "a payload elsewhere": lambda: headed(crit=["b64"], b64=False),
    "another type": lambda: headed(typ="JOSE"),
    "an encrypted token's type": lambda: headed(typ="JWE"),
    "a logout token's type": lambda: headed(typ="logout+jwt"),
    "a type that is no text": lambda: headed(typ=["JWT"]),
    "a type that is null": lambda: headed(typ=None),
    # When.
    "expired": lambda: said(exp=now(-31)),
    "expired long ago": lambda: said(exp=1),
    "exp as text": lambda: said(exp=str(now(3600))),
    "exp is true": lambda: said(exp=True),
    "exp is null": lambda: said(exp=None),
    "exp is a list": lambda: said(exp=[now(3600)]),
    "no exp": lambda: said(exp=...),
    "exp in years": lambda: said(exp=now(10 * 365 * 86_400)),
    "exp a little over a day": lambda: said(exp=now(86_400 + 60)),
    "huge exp": lambda: said(exp=10**300),
    "exp beyond numbers": lambda: said(exp=10**400),
    "exp of 5,000 digits": lambda: bare('{"exp": 1' + "0" * 5000 + "}"),
    "infinite exp": lambda: said(exp=float("inf")),
    "exp that is no number": lambda: said(exp=float("nan")),
    "negative exp": lambda: said(exp=-1),
    "not yet valid": lambda: said(nbf=now(120)),
    "nbf as text": lambda: said(nbf=str(now(-10))),
    "nbf is false": lambda: said(nbf=False),
    "issued in the future": lambda: said(iat=now(120)),
    "iat as text": lambda: said(iat=str(now())),
    # Whose, by whom, for whom.
    "no sub": lambda: said(sub=...),
    "sub is null": lambda: said(sub=None),
    "sub is a number": lambda: said(sub=7),
    "empty sub": lambda: said(sub=""),
    "blank sub": lambda: said(sub=" "),
    "sub with a space before": lambda: said(sub=" alice"),
    "sub with a line break": lambda: said(sub="alice\n"),
    "sub with NUL": lambda: said(sub="a\0b"),
    "sub with a surrogate": lambda: said(sub="a\ud800b"),
    "sub in look-alike letters": lambda: said(sub="аlice"),
    "sub of 201 characters": lambda: said(sub="a" * 201),
    "no iss": lambda: said(iss=...),
    "another issuer": lambda: said(iss="https://id.example.com"),
    "issuers": lambda: said(iss=[ISSUER]),
    "no aud": lambda: said(aud=...),
    "another audience": lambda: said(aud="execution-ledger-2"),
    "other audiences": lambda: said(aud=["a", "b"]),
    "no audiences": lambda: said(aud=[]),
    "an audience that is an object": lambda: said(aud={AUDIENCE: True}),
    "audiences that are not all text": lambda: said(aud=[AUDIENCE, 1]),
    # What it gives.
    "no organization": lambda: said(organization_id=...),
    "organization is null": lambda: said(organization_id=None),
    "organization is a list": lambda: said(organization_id=["ORG-26-000001"]),
    "organization of another shape": lambda: said(organization_id="WS-26-000001"),
    "organization and a line break": lambda: said(organization_id="ORG-26-000001\n"),
    "organization with leading zeros": lambda: said(organization_id="ORG-26-0000001"),
    "organization in other digits": lambda: said(organization_id="ORG-26-00000١"),
    "every organization": lambda: said(organization_id="*"),
    "empty workspace": lambda: said(workspace_id=""),
    "workspace of another shape": lambda: said(workspace_id="ORG-26-000001"),
    "workspaces": lambda: said(workspace_id=["WS-26-000001"]),
    "admin with an organization of another shape": lambda: said(
        permissions=["admin"], organization_id="x"
    ),
    "no permissions": lambda: said(permissions=...),
    "permissions are null": lambda: said(permissions=None),
    "permissions in one text": lambda: said(permissions="read write"),
    "permissions as an object": lambda: said(permissions={"read": True}),
    "a permission that is no text": lambda: said(permissions=["read", 1]),
    # How it is written.
    "no object": lambda: bare("[]"),
    "no JSON": lambda: bare("{"),
    "no UTF-8": lambda: signed(b'{"sub": "\xff"}', HEADER, "rsa-1"),
    "a deep payload": lambda: bare("[" * 5000),
    "a deep header": lambda: f"{encoded(b'[' * 5000)}.{encoded(claims())}.AAAA",
    "a header that is no object": lambda: f"{encoded([1])}.{encoded(claims())}.AAAA",
    "a header that is no JSON": lambda: f"{encoded(b'{')}.{encoded(claims())}.AAAA",
    "too long": lambda: said(more="x" * 8000),
    "the first letter of the signature": lambda: flipped(0),
    "one in the middle": lambda: flipped(100),
    "the last whole one": lambda: flipped(-2),
    "the last": lambda: flipped(-1),
    "the signature cut": lambda: said()[:-4],
    "the signature longer": lambda: said() + "AAAA",
    "other letters for the same signature": lambda: respelled(said()),
    "padded": lambda: said() + "==",
    "a space within": lambda: said().replace(".", ". ", 1),
    "letters of the other alphabet": lambda: with_part(2, "+/" + said().split(".")[2][2:]),
    "junk in the signature": lambda: said()[:-3] + "!!!" + said()[-3:],
    "another payload": lambda: with_part(1, encoded(claims(permissions=["admin"]))),
    "another header": lambda: with_part(0, encoded(HEADER | {"typ": "at+jwt"})),
    "two parts": lambda: said().rpartition(".")[0],
    "four parts": lambda: said() + ".AAAA",
    "five parts, as if encrypted": lambda: said() + ".AAAA.AAAA",
    "only dots": lambda: "..",
    "JSON instead": lambda: json.dumps({"payload": "AA", "protected": "AA", "signature": "AA"}),
    "a key before it": lambda: "elk_" + said(),
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
    "as it should be": lambda: said(),
    "RFC 9068": lambda: headed(typ="at+JWT"),
    "a media type": lambda: headed(typ="application/at+jwt"),
    "no type": lambda: headed(typ=...),
    "half a second in exp": lambda: said(exp=now(3600) + 0.5),
    "just expired, by another clock": lambda: said(exp=now(-10)),
    "just issued, by another clock": lambda: said(iat=now(10), nbf=now(10)),
    "a day long": lambda: said(exp=now(86_400)),
    "for others too": lambda: said(aud=["billing", AUDIENCE]),
    "for one workspace": lambda: said(workspace_id="WS-26-000001"),
    "for no workspace in particular": lambda: said(workspace_id=None),
    "sub as directories name it": lambda: said(sub="CN=Alice Example,OU=Ops"),
    "sub of 200 characters": lambda: said(sub="a" * 200),
    "with permissions of other services": lambda: said(permissions=["read", "billing:pay", ""]),
    "with claims of other services": lambda: said(scope="openid", roles=[1, {"a": None}]),
    "for a key beside it": lambda: headed(jku="https://evil.example.com/keys"),
    "not quite too long": lambda: said(more="x" * 4000),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_token_passes(edge: Edge, name: str) -> None:
    answer = edge.get("/v1/execution", GOOD[name]())
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("key", ["rsa-1", "ec-1", "ec384-1", "ec521-1", "ed-1"])
def test_each_kind_of_key_may_sign(edge: Edge, provider: Provider, key: str) -> None:
    assert edge.get("/v1/execution", provider.token(key)).status_code == 200


def test_so_may_one_for_another_padding(edge: Edge) -> None:
    token = jwt.encode(claims(), private_key("rsa-3"), "PS256", {"kid": "rsa-3"})
    assert edge.get("/v1/execution", token).status_code == 200


def test_nobody_is_asked_for_keys_but_the_provider(edge: Edge, provider: Provider) -> None:
    elsewhere = f"{provider.url}-of-mine"
    for header in ({"jku": elsewhere}, {"x5u": elsewhere}, {"jku": elsewhere, "kid": "mine"}):
        assert_problem(edge.get("/v1/execution", headed("rsa-2", **header)), 401, "unauthorized")
    assert {request.path for request in provider.requests} == {"/keys"}
