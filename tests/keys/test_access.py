"""Permissions, and tenants: for a credential, other tenants do not exist (contract, Access)."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from ledger.engine.values.principal import COMMAND_LINE
from ledger.features.keys.commands import RevokeApiKey
from ledger.features.keys.tokens import create_token, is_well_formed
from tests.support.edge import PLAIN, Edge, assert_problem
from tests.support.facts import WORKSPACE, activation, encode, fact
from tests.support.service import STRUCTURED

OTHER_ORGANIZATION, OTHER_WORKSPACE = "ORG-26-000002", "WS-26-000002"
MANAGING = ("read", "write", "service_lines:manage", "runs:erase")


def other_activation(line: str, **more: Any) -> dict[str, Any]:
    tenant = {"organization_id": OTHER_ORGANIZATION, "workspace_id": OTHER_WORKSPACE}
    return activation(line, **(tenant | more))


@pytest.fixture(scope="module")
def admin(edge: Edge) -> str:
    return edge.token("admin", organization_id=None)


@pytest.fixture(scope="module")
def of_other_organization(edge: Edge, admin: str) -> tuple[str, str]:
    """A line and a run of another organization."""
    line = edge.fresh_id()
    edge.accept(other_activation(line), token=admin)
    (begun,) = edge.accept(fact("run.started", None, {"service_line_id": line}), token=admin)
    return line, begun["subject"]


@pytest.fixture(scope="module")
def of_other_workspace(edge: Edge) -> tuple[str, str]:
    """A line and a run of the caller's organization, in another workspace."""
    line = edge.fresh(workspace_id=OTHER_WORKSPACE)
    (begun,) = edge.accept(fact("run.started", None, {"service_line_id": line}))
    return line, begun["subject"]


@pytest.fixture(scope="module")
def narrow(edge: Edge) -> str:
    """A token that is narrowed to WORKSPACE."""
    return edge.token(*MANAGING, workspace_id=WORKSPACE)


# Tokens.


def mistyped(token: str) -> str:
    return token[:-1] + ("a" if token[-1] != "a" else "b")


@pytest.mark.parametrize(
    "authorization",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer garbage",
        b"Basic Zm9vOmJhcg==",
        b"Bearer elk_\xc3\xa9\xff",
        b"Bearer elk_" + b"0" * 49,
        b"Bearer elk_" + b"x" * 100_000,
        b"Bearer \x01",
        b"Bearer null",
        create_token().encode(),
        f"Bearer {create_token()}".encode(),
        f"Bearer {mistyped(create_token())}".encode(),
        f"Bearer {create_token()[4:]}".encode(),
        f"Bearer {create_token().lower()}".encode(),
        f"Bearer {create_token()},{create_token()}".encode(),
    ],
    ids=range(16),  # not the tokens, which differ from process to process
)
def test_every_route_is_a_401_without_a_valid_token(edge: Edge, authorization: bytes) -> None:
    for method, path in (
        ("GET", "/v1/execution"),
        ("GET", "/v1/execution/LIN-26-999999/runs"),
        ("POST", "/v1/facts"),
        ("POST", "/v1/runs/RUN-26-999999/erase"),
    ):
        answer = edge.request(method, path, headers=[(b"authorization", authorization)])
        assert_problem(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert b"elk_" not in answer.content


def test_an_invalid_token_is_a_401_before_any_other_fault_of_the_request(edge: Edge) -> None:
    for path in ("/v1/execution?limit=0", "/v1/execution?nothing=1", "/v1/runs/x?y=z"):
        assert_problem(edge.get(path, "garbage"), 401, "unauthorized")
    headers = {"ledger-min-position": "abc"}
    assert_problem(edge.get("/v1/execution", "garbage", headers=headers), 401, "unauthorized")
    answer = edge.post("/v1/facts", "garbage", content=b"{", headers=STRUCTURED)
    assert_problem(answer, 401, "unauthorized")


def test_the_authorization_scheme_is_case_insensitive(edge: Edge) -> None:
    token = edge.token("read")
    for scheme in ("bearer", "BEARER", "BeArEr"):
        headers = {"authorization": f"{scheme} {token}"}
        assert edge.get("/v1/execution", headers=headers).status_code == 200


def test_a_token_has_a_checksum_and_is_stored_only_hashed(edge: Edge) -> None:
    token = edge.token("read")
    assert is_well_formed(token)
    assert not is_well_formed(mistyped(token))
    assert token.startswith("elk_")
    dump = repr(edge.select("SELECT * FROM ledger.api_key")).encode()
    assert token.encode() not in dump
    assert token[4:47].encode() not in dump


def test_a_new_key_works_at_once_and_a_revoked_key_is_refused_within_5_s(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("ledger.features.sign_in.access.authentication.time", clock)
    token = edge.token("read")
    assert edge.get("/v1/execution", token).status_code == 200
    ((key_id,),) = edge.select("SELECT key_id FROM ledger.api_key ORDER BY created_at DESC LIMIT 1")
    command = RevokeApiKey(key_id, COMMAND_LINE)
    edge.service.app.state.services.writer.execute(command)
    now += 5
    assert_problem(edge.get("/v1/execution", token), 401, "unauthorized")


# Other tenants.


def equal_except_for_request_id(first: Any, second: Any) -> bool:
    documents = [{**answer.json(), "request_id": None} for answer in (first, second)]
    headers = [
        {k: v for k, v in answer.headers.items() if k not in ("x-request-id", "ledger-position")}
        for answer in (first, second)
    ]
    return (
        first.status_code == second.status_code
        and documents[0] == documents[1]
        and (headers[0] == headers[1])
    )


def attempts(line: str, run: str) -> list[tuple[str, str, Any]]:
    """Every request about a line or a run, as (method, path, body)."""
    reads = [f"/v1/execution/{line}", f"/v1/execution/{line}/runs", f"/v1/runs/{run}"]
    tries: list[tuple[str, str, Any]] = [("GET", path, None) for path in reads]
    manage = {"reason": "r"}
    tries += [("POST", f"/v1/execution/{line}/{action}", manage) for action in ("pause", "resume")]
    tries.append(("POST", f"/v1/runs/{run}/erase", manage))
    facts = [
        fact("service_line.updated", line, {"project_tags": []}),
        fact("service_line.paused", line),
        fact("service_line.closed", line),
        fact("execution.checked_in", line, {"hours": 1}),
        fact("execution.check_in_voided", line, {"fact_id": "x"}),
        fact("execution.blocked", line, {"blocker_id": "b", "cause": "approval_gap"}),
        fact("resource.allocated", line, {"id": "r", "type": "t"}),
        fact("health.signal_reported", line, {"signal": "sla_compliance", "status": "red"}),
        fact("execution.checked_in", line, {"nonsense": 1}),
        fact("execution.checked_in", line, time="2026-04-15T13:00:00Z"),
        fact("run.requested", None, {"service_line_id": line}),
        fact("run.started", None, {"service_line_id": line}),
        fact("run.completed", run),
        fact("run.failed", run, {"nonsense": 1}),
        fact("run.cancelled", run),
    ]
    return tries + [("POST", "/v1/facts", event) for event in facts]


@pytest.mark.parametrize("whose", ["of_other_organization", "of_other_workspace"])
def test_lines_and_runs_of_another_tenant_are_answered_like_unknown_ids(
    edge: Edge, narrow: str, whose: str, request: pytest.FixtureRequest
) -> None:
    line, run = request.getfixturevalue(whose)
    token = narrow if whose == "of_other_workspace" else edge.token(*MANAGING)
    before = edge.log()
    unknown = attempts("LIN-26-999999", "RUN-26-999999")
    for real, empty in zip(attempts(line, run), unknown, strict=True):
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
        assert equal_except_for_request_id(*answers), real
    assert edge.log() == before


def test_ids_of_another_organization_cannot_be_activated_started_or_reused(
    edge: Edge, of_other_organization: tuple[str, str], admin: str
) -> None:
    line, run = of_other_organization
    record = edge.data(f"/v1/execution/{line}", admin)["id"]
    own_line, before = edge.fresh(), edge.log()
    for event in (
        activation(line),
        activation(edge.fresh_id(), execution_id=run),
        activation(edge.fresh_id(), execution_id=record),
        fact("run.requested", run, {"service_line_id": own_line}),
        fact("run.started", run, {"service_line_id": own_line}),
        fact("run.started", record, {"service_line_id": own_line}),
    ):
        assert_problem(edge.send(event), 409, "id_taken")
    assert edge.log() == before


def test_an_id_of_another_tenant_is_taken_once_no_field_is_at_fault(
    edge: Edge, of_other_organization: tuple[str, str]
) -> None:
    line, run = of_other_organization
    existing = edge.fresh()
    assert_problem(edge.send(activation(existing, execution_id=run)), 409, "id_taken")
    for event in (
        activation(edge.fresh_id(), execution_id=run, product_line="nonsense"),
        activation(edge.fresh_id(), execution_id=run) | {"time": "2099-01-01T00:00:00Z"},
        activation(line, product_line="nonsense"),
    ):
        assert_problem(edge.send(event), 422, "invalid_request")
    unknown_line = fact("run.started", run, {"service_line_id": edge.fresh_id()})
    assert_problem(edge.send(unknown_line), 404, "not_found")


def test_ids_of_another_workspace_are_in_use_for_a_narrow_key_and_visible_to_a_wide_key(
    edge: Edge, of_other_workspace: tuple[str, str], narrow: str
) -> None:
    line, run = of_other_workspace
    record, own_line, before = edge.data(f"/v1/execution/{line}")["id"], edge.fresh(), edge.log()
    for event in (
        activation(edge.fresh_id(), execution_id=run),
        activation(edge.fresh_id(), execution_id=record),
        fact("run.requested", run, {"service_line_id": own_line}),
        fact("run.requested", record, {"service_line_id": own_line}),
        fact("run.started", run, {"service_line_id": own_line}),
        fact("run.started", record, {"service_line_id": own_line}),
    ):
        assert_problem(edge.send(event, narrow), 409, "id_taken")
        assert_problem(edge.send(event), 409, "invalid_state")
    assert edge.log() == before


def test_a_body_that_names_another_tenant_is_a_403(edge: Edge, narrow: str) -> None:
    own = edge.token("write")
    before = edge.log()
    for token, more in (
        (own, {"organization_id": OTHER_ORGANIZATION}),
        (narrow, {"organization_id": OTHER_ORGANIZATION}),
        (narrow, {"workspace_id": OTHER_WORKSPACE}),
        (own, {"organization_id": OTHER_ORGANIZATION, "product_line": "nonsense"}),
    ):
        event = activation(edge.fresh_id(), **more)
        assert_problem(edge.send(event, token), 403, "forbidden")
        (item,) = edge.send_batch(event, token=token).json()["data"]
        assert (item["error"]["status"], item["error"]["code"]) == (403, "forbidden")
    assert edge.log() == before


def test_a_filter_that_names_another_tenant_is_an_empty_list(edge: Edge, narrow: str) -> None:
    edge.fresh(workspace_id=OTHER_WORKSPACE)
    edge.fresh(workspace_id=WORKSPACE)
    path = f"?workspace_id={OTHER_WORKSPACE}"
    assert edge.data(f"/v1/execution{path}") != []
    answer = edge.get(f"/v1/execution{path}", narrow)
    assert answer.json() == {"data": [], "meta": {"cursor": None, "has_more": False}}
    assert edge.data(f"/v1/execution/summary{path}", narrow)["total"] == 0
    both = edge.data(f"/v1/execution{path},{WORKSPACE}", narrow)
    assert {row["workspace_id"] for row in both} == {WORKSPACE}


def test_an_administrator_sees_and_manages_everything(
    edge: Edge, of_other_organization: tuple[str, str], admin: str
) -> None:
    line, run = of_other_organization
    assert edge.data(f"/v1/runs/{run}", admin)["service_line_id"] == line
    pause = edge.post(f"/v1/execution/{line}/pause", admin, json={"reason": "audit"})
    assert pause.status_code == 200
    assert edge.post(f"/v1/execution/{line}/resume", admin).status_code == 200


def test_a_repeated_fact_of_another_workspace_is_a_404_like_its_line(
    edge: Edge, of_other_workspace: tuple[str, str], narrow: str
) -> None:
    event = fact("execution.checked_in", of_other_workspace[0], {"hours": 1})
    edge.accept(event)
    assert_problem(edge.send(event, narrow), 404, "not_found")


def test_assistants_are_not_served_unless_the_operator_says_so(edge: Edge) -> None:
    for path in ("/mcp", "/.well-known/oauth-protected-resource/mcp"):
        assert_problem(edge.post(path, edge.token("read"), json={}), 404, "not_found")
        assert_problem(edge.get(path), 404, "not_found")
