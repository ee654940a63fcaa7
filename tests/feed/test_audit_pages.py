"""The audit log's pages: their order, their filters, and who may see them (contract, Feeds)."""

import json
import random
from datetime import datetime

import pytest

from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.values import format_instant
from ledger.features.keys.commands import RevokeApiKey
from tests.support.audits import SIBLING, Entry, Tenant, short
from tests.support.edge import Edge, assert_problem
from tests.support.facts import WORKSPACE, fact


@pytest.fixture(scope="module")
def busy(edge: Edge) -> Tenant:
    """A tenant with two workspaces and a long audit log of many actions."""
    tenant = Tenant(edge)
    lines = [tenant.line(), tenant.line(workspace_id=SIBLING)]
    person = {"actortype": "user", "actorid": "USR-1"}
    dice = random.Random(2)
    for _ in range(30):
        edge.clock.advance(seconds=dice.choice([0, 1, 5_000]))
        line = dice.choice(lines)
        kind = dice.choice(["paused", "resumed", "praised"])
        edge.send(fact(f"service_line.{kind}", line, **dice.choice([{}, person])), tenant.token)
        edge.send(fact("execution.checked_in", line), tenant.token)
        # A report that changes the status of the line's signal, or leaves it as it was.
        signal = {"signal": "sla_compliance", "status": dice.choice(["green", "red"])}
        edge.send(fact("health.signal_reported", line, signal), tenant.token)
        tenant.pause(dice.choice([*lines, "LIN-26-999997"]))
        edge.post(f"/v1/execution/{line}/resume", tenant.token)
    return tenant


def test_entries_are_in_log_order_whatever_the_page_size(busy: Tenant) -> None:
    entries = busy.log()
    positions = [entry["position"] for entry in entries]
    assert positions == sorted(set(positions))
    assert len(entries) > 100
    for limit in (1, 7, 33):
        assert busy.log(limit=limit) == entries
    assert busy.log(after=entries[40]["id"]) == entries[41:]


FILTERS: list[dict[str, str]] = [
    {"outcome": "refused"}, {"outcome": "succeeded"}, {"action": "execution.pause"},
    {"action": "execution.checked_in,execution.resume"}, {"action": "key.create"},
    {"action": "health.signal_reported"}, {"action": "service_line.paused,key.create"},
    {"action": "health.signal_reported,service_line.resumed,execution.pause,write.omitted"},
    {"action": "run.failed"}, {"action": "execution.idle,run.cancelled"},
    {"actor_id": "USR-1"}, {"actor_type": "user"}, {"actor_type": "agent"},
    {"actor_type": "user", "outcome": "refused"},
    {"action": "execution.pause", "outcome": "refused"},
    {"action": "execution.pause,service_line.paused", "outcome": "succeeded"},
    {"action": "key.create", "actor_id": COMMAND_LINE.id},
    {"action": "service_line.paused,execution.pause", "actor_type": "user"},
    {"action": "health.signal_reported,key.create", "outcome": "succeeded"},
]  # fmt: skip


@pytest.mark.parametrize("params", FILTERS, ids=str)
def test_filters_find_exactly_the_matching_entries(busy: Tenant, params: dict[str, str]) -> None:
    def fits(entry: Entry) -> bool:
        actions = params.get("action", entry["action"]).split(",")
        return (
            entry["outcome"] == params.get("outcome", entry["outcome"])
            and entry["action"] in actions
            and entry["actor"]["id"] == params.get("actor_id", entry["actor"]["id"])
            and entry["actor"]["type"] == params.get("actor_type", entry["actor"]["type"])
        )

    fitting = [entry for entry in busy.log() if fits(entry)]
    assert busy.log(**params) == fitting
    assert busy.log(**params, limit=3) == fitting


def test_from_and_to_are_instants_of_recording(busy: Tenant) -> None:
    entries = busy.log()
    for at in (1, len(entries) // 2, len(entries) - 1):
        when = datetime.fromisoformat(entries[at]["recorded_at"])
        later = [e for e in entries if datetime.fromisoformat(e["recorded_at"]) >= when]
        assert busy.log(**{"from": format_instant(when)}) == later
        assert busy.log(to=format_instant(when)) == entries[: len(entries) - len(later)]


def test_another_organization_is_an_empty_list_but_administrators_may_name_any(
    busy: Tenant, tenant: Tenant
) -> None:
    assert tenant.log(organization_id=busy.organization) == []
    admin = busy.edge.token("admin", organization_id=None)
    assert busy.log(admin) == busy.log()
    assert [entry["action"] for entry in tenant.log(admin)] == ["key.create"]


def test_administrators_without_an_organization_read_what_belongs_to_none(tenant: Tenant) -> None:
    edge, unknown = tenant.edge, "LIN-26-999993"
    admin = edge.token("admin", organization_id=None, name="chief")
    ((chief,),) = edge.select("SELECT key_id FROM ledger.api_key WHERE name = 'chief'")
    ((before,),) = edge.select("SELECT max(notification_id) FROM ledger.ledger_events")
    own = tenant.line()
    tenant.pause(unknown, token=admin)
    tenant.pause(own, token=admin)
    edge.send(fact("service_line.paused", unknown), admin)
    tenant.pause(unknown)
    writer = edge.service.app.state.services.writer
    writer.execute(RevokeApiKey(chief, COMMAND_LINE))
    admin = edge.token("admin", organization_id=None)

    def unowned(path: str = "", **params: str) -> list[Entry]:
        ((end,),) = edge.select("SELECT max(notification_id) FROM ledger.ledger_events")
        params = {"after": f"AUD-26-{before:06d}"} | params
        headers = {"ledger-min-position": str(end)}
        answer = edge.get(f"/v1/audit-logs{path}", admin, params=params, headers=headers)
        assert answer.status_code == 200, answer.text
        return [*map(json.loads, answer.text.splitlines())] if path else answer.json()["data"]

    expected = [
        ("execution.pause", unknown, "refused", "not_found"),
        ("service_line.paused", unknown, "refused", "not_found"),
        ("key.revoke", chief, "succeeded", None),
    ]
    found = unowned()
    assert [short(entry) for entry in found][:3] == expected
    assert found[3]["action"] == "key.create"
    assert unowned("/export") == found
    for params, wanted in (
        ({"outcome": "refused"}, found[:2]),
        ({"outcome": "succeeded", "actor_id": COMMAND_LINE.id}, found[2:]),
        ({"actor_id": chief}, found[:2]),
        ({"actor_type": "system"}, found[2:]),
        ({"action": "service_line.paused,key.revoke"}, found[1:3]),
        ({"service_line_id": unknown}, found[:2]),
        ({"service_line_id": unknown, "action": "service_line.paused"}, found[1:2]),
        ({"service_line_id": own}, []),
        ({"workspace_id": WORKSPACE}, []),
        ({"after": found[1]["id"]}, found[2:]),
    ):
        assert unowned(**params) == wanted, params
    created = unowned(after=f"AUD-26-{before - 1:06d}", action="key.create")
    assert chief in [entry["resource"]["id"] for entry in created], "an administrator's key"
    assert not {entry["id"] for entry in tenant.log(admin)} & {entry["id"] for entry in found}


@pytest.mark.parametrize("path", ["", "/export"])
@pytest.mark.parametrize("workspace_id", [None, WORKSPACE])
def test_anyone_but_an_administrator_must_name_the_organization(
    tenant: Tenant, path: str, workspace_id: str | None
) -> None:
    token = tenant.new_token("audit:read", workspace_id=workspace_id)
    for query in ("", "?outcome=refused"):
        answer = tenant.edge.get(f"/v1/audit-logs{path}{query}", token)
        problem = assert_problem(answer, 422, "invalid_request")
        assert [error["pointer"] for error in problem["errors"]] == ["/organization_id"]


@pytest.mark.parametrize(
    "query",
    [
        "", "x=1", "organization_id=", "outcome=done", "actor_type=nobody", "limit=0", "action=",
        "action=service_line.praised", "action=nothing.of_the_kind",
        "from=2026-04-16&to=2026-04-15", "as_of=2026-04-15", "after=EVT-26-000001",
        "type=run.started", "actor_id=%00",
    ],
)  # fmt: skip
def test_a_missing_organization_and_unknown_parameters_or_values_are_a_422(
    tenant: Tenant, query: str
) -> None:
    query = query if "organization_id" in query or not query else f"organization_id=O&{query}"
    answer = tenant.edge.get(f"/v1/audit-logs?{query}", tenant.token)
    assert_problem(answer, 422, "invalid_request")
