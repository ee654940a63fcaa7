"""What a provider's token may do: what a key of its permissions and tenant may (contract 7)."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from ledger.api.access import json_web_tokens
from ledger.api.access.json_web_tokens import TokenVerifier
from ledger.api.access.key_set import KeySet
from ledger.postgres.embedded import EmbeddedPostgres
from ledger.settings import Settings
from tests.api.test_access import PERMISSIONS, ROUTES, attempts, same_but_for_the_request
from tests.support.edge import PLAIN, Edge, assert_problem, edge_of
from tests.support.facts import ORGANIZATION, WORKSPACE, encode, fact
from tests.support.provider import AUDIENCE, ISSUER, Provider, claims, signed, trusting
from tests.support.receiver import Answer
from tests.support.streaming import Listener, listening

OTHER_ORGANIZATION, OTHER_WORKSPACE = "ORG-26-000002", "WS-26-000002"
REASON = {"json": {"reason": "because"}}
EVERYTHING = [
    "read", "write", "service_lines:manage", "webhooks:manage", "audit:read", "runs:erase",
]  # fmt: skip

_names = itertools.count(1)


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider("ed-1") as provider:
        yield provider


@pytest.fixture(scope="module")
def edge(server: EmbeddedPostgres, provider: Provider) -> Iterator[Edge]:
    with trusting(server, "edge_token_access", provider) as edge:
        yield edge


@pytest.fixture
def alice(provider: Provider) -> str:
    """A token that may do all that a key of the organization may."""
    return provider.token("ed-1", permissions=EVERYTHING)


def entries(edge: Edge, token: str, organization: str = ORGANIZATION) -> list[dict[str, Any]]:
    """The whole audit log."""
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


# Permissions and tenants: the same code as for keys.


@pytest.mark.parametrize("permission", [*PERMISSIONS, "runs:erase", "admin"])
def test_each_permission_opens_its_routes_and_no_other(
    edge: Edge, provider: Provider, permission: str
) -> None:
    token = provider.token("ed-1", permissions=[permission])
    for (method, path), needed in ROUTES.items():
        body = {"content": b'{"reason": "x"}', "headers": PLAIN} if method == "POST" else {}
        answer = edge.request(method, path, token, **body)
        if permission in (needed, "admin"):
            assert answer.status_code in (200, 404, 422), (path, answer.text)
        else:
            assert_problem(answer, 403, "forbidden")


def test_permissions_that_are_not_ours_give_nothing(edge: Edge, provider: Provider) -> None:
    token = provider.token("ed-1", permissions=["Read", "read ", "*", "ADMIN", "write:all"])
    assert_problem(edge.get("/v1/execution", token), 403, "forbidden")
    assert_problem(
        edge.get("/v1/execution", provider.token("ed-1", permissions=[])), 403, "forbidden"
    )


@pytest.mark.parametrize("narrowed", [False, True])
def test_what_is_not_its_own_is_like_what_nobody_has(
    edge: Edge, provider: Provider, narrowed: bool
) -> None:
    admin = edge.token("admin", organization_id=None)
    tenant = {"organization_id": ORGANIZATION if narrowed else OTHER_ORGANIZATION}
    line = edge.fresh(workspace_id=OTHER_WORKSPACE, token=admin, **tenant)
    (begun,) = edge.accept(fact("run.started", None, {"service_line_id": line}), token=admin)
    scope: dict[str, Any] = {"workspace_id": WORKSPACE} if narrowed else {}
    token = provider.token("ed-1", permissions=EVERYTHING, **scope)
    unknown = attempts("LIN-26-999999", "RUN-26-999999")
    for real, empty in zip(attempts(line, begun["subject"]), unknown, strict=True):
        answers = [
            edge.request(
                method,
                path,
                token,
                **({} if body is None else {"content": encode(body), "headers": PLAIN}),
            )
            for method, path, body in (real, empty)
        ]
        assert_problem(answers[0], 404, "not_found")
        assert same_but_for_the_request(*answers), real
    assert line not in edge.get("/v1/execution?limit=100", token).text
    assert edge.data(f"/v1/execution/{line}", admin)["state"] == "running"


def test_an_activation_elsewhere_is_a_403(edge: Edge, provider: Provider) -> None:
    token = provider.token("ed-1", permissions=["write"], workspace_id=WORKSPACE)
    for more in ({"organization_id": OTHER_ORGANIZATION}, {"workspace_id": OTHER_WORKSPACE}):
        data = {"organization_id": ORGANIZATION, "workspace_id": WORKSPACE} | more
        data |= {"product_line": "ods", "execution_model": "capacity"}
        refused = edge.send(fact("service_line.activated", edge.fresh_id(), data), token)
        assert_problem(refused, 403, "forbidden")


@pytest.mark.parametrize(
    "tenant",
    [{}, {"organization_id": ...}, {"organization_id": ORGANIZATION, "workspace_id": WORKSPACE}],
)
def test_admin_is_everything_everywhere_whatever_tenant_it_names(
    edge: Edge, provider: Provider, tenant: dict[str, Any]
) -> None:
    token = provider.token("ed-1", permissions=["admin"], **tenant)
    line = edge.fresh(organization_id=OTHER_ORGANIZATION, workspace_id=OTHER_WORKSPACE, token=token)
    assert edge.data(f"/v1/execution/{line}", token)["service_line_id"] == line
    unnamed = edge.post("/v1/webhooks", token, json={"url": "http://a.test", "event_types": ["*"]})
    assert_problem(unnamed, 422, "invalid_request")


# Who it was.


def test_a_user_is_the_actor_and_told_apart_from_keys_as_the_credential(
    edge: Edge, provider: Provider
) -> None:
    """Even one whom the provider calls like a key of ours."""
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
    mine = [e for e in entries(edge, key) if e["reported_by"] == f"user:{key_id}"]
    assert [(e["action"], e["actor"]) for e in mine] == [
        ("service_line.activated", {"type": "user", "id": key_id}),
        ("execution.pause", {"type": "user", "id": key_id}),
        ("execution.checked_in", {"type": "agent", "id": "A-1"}),
    ]
    assert key_id not in {e["reported_by"] for e in entries(edge, key)}
    path = f"/v1/audit-logs?organization_id={ORGANIZATION}&actor_type=user&actor_id={key_id}"
    assert len(edge.data(path, key)) == 2


def test_what_a_user_was_refused_is_in_the_audit_log_of_his_organization(
    edge: Edge, provider: Provider
) -> None:
    sub = f"user-{next(_names)}|directory"
    for organization in (ORGANIZATION, OTHER_ORGANIZATION):
        token = provider.token(
            "ed-1", sub=sub, permissions=EVERYTHING, organization_id=organization
        )
        answer = edge.post("/v1/execution/LIN-26-999999/pause", token, **REASON)
        assert_problem(answer, 404, "not_found")
        mine = [e for e in entries(edge, token, organization) if e["actor"]["id"] == sub]
        assert [(e["outcome"], e["code"], e["reported_by"]) for e in mine] == [
            ("refused", "not_found", f"user:{sub}")
        ]
    # Each tenant's refusals are counted for themselves.
    streams = edge.select(
        "SELECT DISTINCT originator_id FROM ledger.ledger_events"
        f" WHERE originator_id LIKE 'REF-user:{sub}%'"
    )
    assert len(streams) == 2


def test_an_idempotency_key_is_one_users_in_one_tenant(edge: Edge, provider: Provider) -> None:
    """The same person may have tokens for several: what one was answered is told to no other."""
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


# For how long.


def test_a_token_that_was_remembered_ends_when_it_is_over(edge: Edge, provider: Provider) -> None:
    token = provider.token("ed-1", exp=int(edge.clock().timestamp()) + 40)
    for _ in range(2):
        assert edge.get("/v1/execution", token).status_code == 200
    edge.clock.advance(seconds=69)
    assert edge.get("/v1/execution", token).status_code == 200
    edge.clock.advance(seconds=1)
    assert_problem(edge.get("/v1/execution", token), 401, "unauthorized")


def test_so_many_are_remembered_and_none_in_clear(
    edge: Edge, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_web_tokens, "_REMEMBERED", 3)
    verifier = edge.service.app.state.services.authenticator._verifier
    tokens = [provider.token("ed-1", sub=f"user-{n}") for n in range(8)]
    for token in tokens:
        assert edge.get("/v1/execution", token).status_code == 200
        assert 1 <= len(verifier._known) <= 3
    assert not any(token in repr(vars(verifier)) for token in tokens)
    for bad in ("x.y.z", tokens[0][:-8] + "AAAAAAAA"):
        edge.get("/v1/execution", bad)
    assert len(verifier._known) <= 3


def test_what_cannot_be_a_token_causes_no_fetch() -> None:
    """Nor does it go on to whatever is behind."""

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


def test_a_withdrawn_key_takes_its_tokens_and_streams_with_it(
    server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.feed.stream._CHECK_SECONDS", 0.05)
    with (
        Provider("ed-1", "ed-2") as provider,
        trusting(server, "edge_withdrawn_key", provider) as edge,
    ):
        tokens = [provider.token(name) for name in ("ed-1", "ed-2")]
        keys = edge.service.app.state.services.authenticator._verifier.keys
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
            edge.run(keys.refresh())
            assert_problem(edge.get("/v1/execution", tokens[0]), 401, "unauthorized")
            assert edge.get("/v1/execution", tokens[1]).status_code == 200
            assert edge.get("/v1/execution", provider.token("ed-3")).status_code == 200
            assert ended.message() is None
            edge.fresh()
            assert [event["type"] for event in going_on.take(1)] == ["execution.started"]
            # Nor does one outlive the token that it was opened with.
            edge.clock.advance(seconds=3600 + 60)
            assert going_on.message() is None


def test_while_no_key_can_be_had_a_token_is_a_503_and_a_key_works(
    server: EmbeddedPostgres,
) -> None:
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
            edge.run(edge.service.app.state.services.authenticator._verifier.keys.refresh())
            assert edge.get("/v1/execution", token).status_code == 200


def test_without_a_provider_no_token_passes(conninfo: str, settings: Settings) -> None:
    with Provider("ed-1") as provider, edge_of(settings, conninfo) as edge:
        assert_problem(edge.get("/v1/execution", provider.token("ed-1")), 401, "unauthorized")
        assert provider.requests == []
