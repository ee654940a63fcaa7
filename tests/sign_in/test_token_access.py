"""A provider's token has the rights of a key with its permissions and tenant (contract, Access)."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from joserfc import jwt

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.features.runs.read_notes import ReadNotes
from ledger.features.sign_in.access import json_web_tokens
from ledger.features.sign_in.access.json_web_tokens import TokenVerifier
from ledger.features.sign_in.access.key_set import KeySet
from tests.support.edge import Edge, assert_problem, edge_of
from tests.support.facts import ORGANIZATION, WORKSPACE, fact
from tests.support.provider import AUDIENCE, ISSUER, Provider, claims, signed, trusting
from tests.support.receiver import Answer
from tests.support.streaming import Listener, listening
from tests.support.views import until

OTHER_ORGANIZATION, OTHER_WORKSPACE = "ORG-26-000002", "WS-26-000002"
REASON = {"json": {"reason": "because"}}
EVERYTHING = [
    "read", "write", "service_lines:manage", "webhooks:manage", "audit:read", "runs:erase",
]  # fmt: skip

_names = itertools.count(1)


@pytest.fixture(scope="module")
def edge(server: EmbeddedPostgres, provider: Provider) -> Iterator[Edge]:
    with trusting(server, "edge_token_access", provider) as edge:
        yield edge


@pytest.fixture
def alice(provider: Provider) -> str:
    """A token with every permission that a key of the organization can have."""
    return provider.token("ed-1", permissions=EVERYTHING)


def entries(edge: Edge, token: str, organization: str = ORGANIZATION) -> list[dict[str, Any]]:
    """The whole audit log of an organization."""
    ((end,),) = edge.select("SELECT max(notification_id) FROM ledger.ledger_events")
    path = f"/v1/audit-logs?organization_id={organization}&limit=100"
    found: list[dict[str, Any]] = []
    more = ""
    while True:
        page = edge.get(path + more, token, headers={"ledger-min-position": str(end)}).json()
        found += page["data"]
        if not page["meta"]["has_more"]:
            return found
        more = f"&cursor={page['meta']['cursor']}"


def test_a_persons_reads_of_runs_are_noted_under_each_tenant_of_the_tokens(
    edge: Edge, provider: Provider, alice: str
) -> None:
    line = edge.fresh()
    start = fact("run.started", None, {"service_line_id": line, "input": {"a": 1}})
    (run,) = edge.accept(start)
    narrow = provider.token("ed-1", permissions=["read"], workspace_id=WORKSPACE)
    again = provider.token("ed-1", permissions=["read", "audit:read"])
    for token in (alice, again, narrow, alice):
        assert edge.get(f"/v1/runs/{run['subject']}", token).status_code == 200
    edge.service.app.state.services.of(ReadNotes).run_once()
    found = [entry for entry in entries(edge, alice) if entry["outcome"] == "read"]
    of_line = [entry for entry in found if entry["resource"]["id"] == line]
    assert [entry["reported_by"] for entry in of_line] == ["user:alice"] * 2
    assert [entry["actor"] for entry in of_line] == [{"type": "user", "id": "alice"}] * 2


# Permissions and tenants: the same code as for keys.


@pytest.mark.parametrize("workspace", [None, WORKSPACE])
@pytest.mark.parametrize("organization", [ORGANIZATION, OTHER_ORGANIZATION])
def test_a_token_has_the_tenant_and_the_permissions_of_its_claims(
    edge: Edge, provider: Provider, organization: str, workspace: str | None
) -> None:
    tenant = {"organization_id": organization, "workspace_id": workspace}
    for permissions in (EVERYTHING, *([each] for each in EVERYTHING)):
        named = {name: value for name, value in tenant.items() if value}
        token = provider.token("ed-1", permissions=permissions, **named)
        credential = edge.data("/v1/credential", token)
        assert credential | tenant | {"type": "user"} == credential
        assert sorted(credential["permissions"]) == sorted(permissions)


def test_unknown_permissions_give_nothing(edge: Edge, provider: Provider) -> None:
    token = provider.token("ed-1", permissions=["Read", "read ", "*", "ADMIN", "write:all"])
    assert_problem(edge.get("/v1/execution", token), 403, "forbidden")
    assert_problem(
        edge.get("/v1/execution", provider.token("ed-1", permissions=[])), 403, "forbidden"
    )


@pytest.mark.parametrize(
    "tenant",
    [{}, {"organization_id": ...}, {"organization_id": ORGANIZATION, "workspace_id": WORKSPACE}],
)
def test_a_token_with_admin_may_do_everything_whatever_tenant_it_names(
    edge: Edge, provider: Provider, tenant: dict[str, Any]
) -> None:
    token = provider.token("ed-1", permissions=["admin"], **tenant)
    line = edge.fresh(organization_id=OTHER_ORGANIZATION, workspace_id=OTHER_WORKSPACE, token=token)
    assert edge.data(f"/v1/execution/{line}", token)["service_line_id"] == line
    unnamed = edge.post("/v1/webhooks", token, json={"url": "http://a.test", "event_types": ["*"]})
    assert_problem(unnamed, 422, "invalid_request")


# Actors.


def test_a_user_is_the_actor_and_is_distinct_from_a_key_of_the_same_name(
    edge: Edge, provider: Provider
) -> None:
    """Here the provider's user has the name of one of the ledger's keys."""
    key = edge.token("read", "write", "audit:read")
    ((key_id,),) = edge.select("SELECT key_id FROM ledger.api_key ORDER BY created_at DESC LIMIT 1")
    token = provider.token("ed-1", sub=key_id, permissions=EVERYTHING)
    line = edge.fresh(token=token)
    assert edge.post(f"/v1/execution/{line}/pause", token, **REASON).status_code == 200
    (hold,) = edge.data(f"/v1/execution/{line}", token)["holds"]
    assert hold["by"] == {"type": "user", "id": key_id}
    edge.accept(
        fact("execution.checked_in", line, {"hours": 1}, actortype="agent", actorid="A-1"),
        token=token,
    )
    own = [e for e in entries(edge, key) if e["reported_by"] == f"user:{key_id}"]
    assert [(e["action"], e["actor"]) for e in own] == [
        ("service_line.activated", {"type": "user", "id": key_id}),
        ("execution.pause", {"type": "user", "id": key_id}),
        ("execution.checked_in", {"type": "agent", "id": "A-1"}),
    ]
    assert key_id not in {e["reported_by"] for e in entries(edge, key)}
    path = f"/v1/audit-logs?organization_id={ORGANIZATION}&actor_type=user&actor_id={key_id}"
    assert len(edge.data(path, key)) == 2


def test_refusals_of_a_user_are_in_the_audit_log_of_the_tokens_organization(
    edge: Edge, provider: Provider
) -> None:
    sub = f"user-{next(_names)}|directory"
    for organization in (ORGANIZATION, OTHER_ORGANIZATION):
        token = provider.token(
            "ed-1", sub=sub, permissions=EVERYTHING, organization_id=organization
        )
        answer = edge.post("/v1/execution/LIN-26-999999/pause", token, **REASON)
        assert_problem(answer, 404, "not_found")
        own = [e for e in entries(edge, token, organization) if e["actor"]["id"] == sub]
        assert [(e["outcome"], e["code"], e["reported_by"]) for e in own] == [
            ("refused", "not_found", f"user:{sub}")
        ]
    # The user's refusals have a stream of their own in each tenant.
    streams = edge.select(
        "SELECT DISTINCT originator_id FROM ledger.ledger_events"
        f" WHERE originator_id LIKE 'REF-user:{sub}%'"
    )
    assert len(streams) == 2


def test_an_idempotency_key_belongs_to_one_user_in_one_tenant(
    edge: Edge, provider: Provider
) -> None:
    """A person may have tokens for several tenants: no tenant gets the answer of another."""
    line, name = edge.fresh(), f"once-{next(_names)}"

    def pause(**more: Any) -> Any:
        more = {"permissions": ["service_lines:manage"]} | more
        token = provider.token("ed-1", **more)
        headers = {"idempotency-key": name}
        return edge.post(f"/v1/execution/{line}/pause", token, headers=headers, **REASON)

    first = pause(sub="carol")
    assert first.status_code == 200
    again = pause(sub="carol", exp=int(time.time()) + 60)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert_problem(pause(sub="dave"), 409, "invalid_state")
    for tenant in ({"organization_id": OTHER_ORGANIZATION}, {"workspace_id": OTHER_WORKSPACE}):
        assert_problem(pause(sub="carol", **tenant), 404, "not_found")
    assert_problem(pause(sub="carol", permissions=["admin"]), 409, "invalid_state")


# Lifetime and cache.


def test_a_cached_token_is_refused_after_its_expiry(edge: Edge, provider: Provider) -> None:
    token = provider.token("ed-1", exp=int(edge.clock().timestamp()) + 40)
    for _ in range(2):
        assert edge.get("/v1/execution", token).status_code == 200
    edge.clock.advance(seconds=69)
    assert edge.get("/v1/execution", token).status_code == 200
    edge.clock.advance(seconds=1)
    assert_problem(edge.get("/v1/execution", token), 401, "unauthorized")


def test_the_cache_of_tokens_is_bounded_and_holds_no_token_in_clear(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked, decode = [], jwt.decode

    def noted(token: str, *arguments: Any, **options: Any) -> Any:
        checked.append(token)
        return decode(token, *arguments, **options)

    monkeypatch.setattr(jwt, "decode", noted)
    monkeypatch.setattr(json_web_tokens, "_REMEMBERED", 3)

    async def verify(provider: Provider) -> None:
        verifier = TokenVerifier(KeySet(provider.url), ISSUER, AUDIENCE, lambda: datetime.now(UTC))
        tokens = [provider.token("ed-1", sub=f"user-{n}") for n in range(3)]
        bad = tokens[0][:-8] + "AAAAAAAA"
        for token in (*tokens, *tokens, bad, bad, *tokens):
            assert (await verifier.verify(token) is None) is (token == bad)
        assert checked == [*tokens, bad, bad], "those three are remembered, and no refused one"
        more = [provider.token("ed-1", sub=f"user-{n}") for n in range(3, 8)]
        for token in more:
            assert await verifier.verify(token) is not None
        checked.clear()
        for token in (*more, *tokens):
            assert await verifier.verify(token) is not None
        assert len(checked) >= 8 - 3, "the others were forgotten"
        state = repr(vars(verifier))
        assert not any(token in state for token in (*tokens, *more))

    with Provider("ed-1") as provider:
        asyncio.run(verify(provider))


def test_malformed_tokens_cause_no_fetch_of_keys() -> None:
    """The verifier refuses them before it looks up a key."""

    async def verify(provider: Provider) -> None:
        keys = KeySet(provider.url)
        verifier = TokenVerifier(keys, ISSUER, AUDIENCE, lambda: datetime.now(UTC))
        for header in ({}, {"kid": 1}, {"kid": "ed-1", "alg": "HS256"}, {"kid": "a", "typ": "JWE"}):
            token = signed(claims(), {"typ": "JWT", "alg": "EdDSA"} | header, "ed-1")
            assert await verifier.verify(token) is None
        for token in ("", "a.b.c", "..", provider.token("ed-1") + "=", "x" * 9000):
            assert await verifier.verify(token) is None
        assert provider.requests == []
        assert await verifier.verify(provider.token("ed-1")) is not None

    with Provider("ed-1") as provider:
        asyncio.run(verify(provider))


def test_a_withdrawn_key_ends_its_tokens_and_their_streams(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.features.feed.stream._CHECK_SECONDS", 0.05)
    with (
        Provider("ed-1", "ed-2") as provider,
        trusting(server, "edge_withdrawn_key", provider) as edge,
    ):
        tokens = [provider.token(name) for name in ("ed-1", "ed-2")]
        for token in tokens:
            assert edge.get("/v1/execution", token).status_code == 200
        with (
            listening(edge) as address,
            Listener(address, tokens[0]) as ended,
            Listener(address, tokens[1]) as going_on,
        ):
            ended.opened()
            going_on.opened()
            provider.publish("ed-2", "ed-3")
            # A token of a key that is unknown has the keys fetched.
            assert edge.get("/v1/execution", provider.token("ed-3")).status_code == 200
            assert_problem(edge.get("/v1/execution", tokens[0]), 401, "unauthorized")
            assert edge.get("/v1/execution", tokens[1]).status_code == 200
            assert ended.message() is None
            edge.fresh()
            assert [event["type"] for event in going_on.take(1)] == ["execution.started"]
            # A stream ends with the token that it was opened with.
            edge.clock.advance(seconds=3600 + 60)
            assert going_on.message() is None


def test_while_keys_cannot_be_fetched_a_token_is_a_503_and_an_api_key_works(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.features.sign_in.access.key_set.RETRY_SECONDS", 0.05)
    with Provider("ed-1") as provider:
        provider.fail(Answer(500))
        with trusting(server, "edge_no_provider", provider) as edge:
            token = provider.token("ed-1")
            answer = edge.get("/v1/execution", token)
            assert_problem(answer, 503, "unavailable")
            assert answer.headers["retry-after"]
            assert edge.get("/v1/execution").status_code == 200
            assert_problem(edge.get("/v1/execution", "a.b.c"), 401, "unauthorized")
            provider.fail(None)
            until(lambda: edge.get("/v1/execution", token).status_code == 200, "the keys")


def test_without_a_configured_provider_every_token_is_a_401(
    conninfo: str, settings: Settings
) -> None:
    with Provider("ed-1") as provider, edge_of(settings, conninfo) as edge:
        assert_problem(edge.get("/v1/execution", provider.token("ed-1")), 401, "unauthorized")
        assert provider.requests == []
