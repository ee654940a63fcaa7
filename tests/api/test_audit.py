"""The audit log: one entry for each fact and command, refused ones too (contract 5)."""

import itertools
import json
import random
from datetime import datetime
from typing import Any

import httpx
import pytest

from ledger.api.feed_models import AuditPage
from ledger.application.commands import RevokeApiKey
from ledger.application.principal import COMMAND_LINE
from ledger.domain.values import format_instant
from tests.support.edge import PLAIN, Edge, assert_problem
from tests.support.facts import WORKSPACE, activation, fact
from tests.support.service import BATCH, STRUCTURED
from tests.support.stories import Life

KEYS = {
    "id", "action", "actor", "reported_by", "resource", "outcome", "code", "occurred_at",
    "recorded_at", "request_id", "position",
}  # fmt: skip
COMMANDS = {"execution.pause", "execution.resume", "key.create"}
BESIDE = "WS-26-000002"
REASON = {"json": {"reason": "because"}}

Entry = dict[str, Any]
_organizations = itertools.count(100)


class Tenant:
    """An organization of a test's own, with tokens and the audit log that they see."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.organization = f"ORG-26-{next(_organizations):06d}"
        self.token = self.new_token("read", "write", "service_lines:manage", "audit:read")

    def new_token(self, *permissions: str, **tenant: str) -> str:
        return self.edge.token(*permissions, **({"organization_id": self.organization} | tenant))

    def line(self, **more: Any) -> str:
        more = {"organization_id": self.organization, "token": self.token} | more
        return self.edge.fresh(**more)

    def log(self, token: str | None = None, **params: Any) -> list[Entry]:
        """The whole audit log, page by page."""
        entries: list[Entry] = []
        params = {"organization_id": self.organization, "limit": 100} | params
        ((end,),) = self.edge.select("SELECT max(notification_id) FROM ledger.ledger_events")
        far = {"ledger-min-position": str(end)}
        while True:
            token = token or self.token
            answer = self.edge.get("/v1/audit-logs", token, params=params, headers=far)
            assert answer.status_code == 200, answer.text
            page = answer.json()
            assert entries[-1:] != page["data"][-1:] or not entries, "it goes on"
            entries += page["data"]
            if not page["meta"]["has_more"]:
                return entries
            params["cursor"] = page["meta"]["cursor"]

    def told(self, *before: Entry) -> list[tuple[Any, ...]]:
        """What came after these, in short."""
        return [short(entry) for entry in self.log()[len(before) :]]

    def pause(self, line: str, query: str = "", **options: Any) -> httpx.Response:
        path = f"/v1/execution/{line}/pause{query}"
        token = options.pop("token", self.token)
        return self.edge.post(path, token, **(options or REASON))


def short(entry: Entry) -> tuple[Any, ...]:
    about = entry["resource"] and entry["resource"]["id"]
    return entry["action"], about, entry["outcome"], entry["code"]


@pytest.fixture
def tenant(edge: Edge) -> Tenant:
    return Tenant(edge)


def test_each_fact_of_a_life_has_exactly_one_entry_accepted_or_refused(edge: Edge) -> None:
    tenant = Tenant(edge)
    life = Life(edge, 5, tenant.token, organization_id=tenant.organization)
    sent: list[tuple[str, str, str | None]] = []
    send = edge.send_batch

    def noting(*items: Any, token: str | None = None) -> httpx.Response:
        answer = send(*items, token=token)
        for event, item in zip(items, answer.json()["data"], strict=True):
            code = item["error"] and item["error"]["code"]
            sent.append((event["type"], item["subject"], code))
        return answer

    edge.send_batch = noting  # type: ignore[method-assign]
    try:
        life.live(40)
        life.close()
    finally:
        del edge.send_batch
    entries = tenant.log()
    commands = [e for e in entries if e["action"] in COMMANDS]
    facts = [e for e in entries if e["action"] not in COMMANDS]
    assert (facts[0]["action"], facts[0]["resource"]["id"]) == ("service_line.activated", life.line)
    named = [(e["action"], e["resource"] and e["resource"]["id"], e["code"]) for e in facts[1:]]
    assert named == sent
    assert {code for *_, code in sent} >= {None, "not_found", "invalid_state"}
    assert {e["outcome"] for e in commands} == {"succeeded", "refused"}


def test_what_a_write_only_causes_has_no_entry(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line()
    edge.accept(fact("run.requested", None, {"service_line_id": line}), token=tenant.token)
    (run,) = edge.accept(fact("run.started", None, {"service_line_id": line}), token=tenant.token)
    edge.accept(fact("run.cancelled", run["subject"]), token=tenant.token)
    edge.accept(fact("service_line.closed", line), token=tenant.token)
    actions = [action for action, *_ in tenant.told()]
    assert actions == [
        "key.create", "service_line.activated", "run.requested", "run.started", "run.cancelled",
        "service_line.closed",
    ]  # fmt: skip


def test_a_duplicate_and_what_is_merely_read_leave_none(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line()
    event = fact("service_line.paused", line)
    edge.accept(event, token=tenant.token)
    before = tenant.log()
    assert edge.send(event, tenant.token).status_code == 200
    assert edge.get("/v1/execution/LIN-26-999999", tenant.token).status_code == 404
    assert edge.get(f"/v1/execution/{line}?x=1", tenant.token).status_code == 422
    assert tenant.log() == before


def test_each_command_has_one_entry_with_its_code(tenant: Tenant) -> None:
    edge, line, before = tenant.edge, tenant.line(), tenant.log()
    manage = f"/v1/execution/{line}"
    for path, options in (
        ("resume", {}), ("pause", REASON), ("pause", REASON), ("pause", {"json": {}}),
        ("resume", {}),
    ):  # fmt: skip
        answer = edge.post(f"{manage}/{path}", tenant.token, **options)
        # As soon as it is answered it is in the log, refused or not.
        assert tenant.log()[-1]["position"] == int(answer.headers["ledger-position"])
    assert tenant.told(*before) == [
        ("execution.resume", line, "refused", "invalid_state"),
        ("execution.pause", line, "succeeded", None),
        ("execution.pause", line, "refused", "invalid_state"),
        ("execution.pause", line, "refused", "invalid_request"),
        ("execution.resume", line, "succeeded", None),
    ]


def test_keys_that_are_created_and_revoked_have_entries(tenant: Tenant) -> None:
    key_of = "SELECT key_id FROM ledger.api_key ORDER BY created_at DESC LIMIT 1"
    tenant.new_token("read")
    ((key_id,),) = tenant.edge.select(key_of)
    tenant.new_token("read", workspace_id=BESIDE)
    before = tenant.log()[:-2]
    writer = tenant.edge.service.app.state.services.writer
    for _ in range(2):
        writer.execute(RevokeApiKey(COMMAND_LINE, key_id))
    told = tenant.log()[len(before) :]
    assert [short(entry) for entry in told[:1] + told[2:]] == [
        ("key.create", key_id, "succeeded", None),
        ("key.revoke", key_id, "succeeded", None),
        ("key.revoke", key_id, "refused", "invalid_state"),
    ]
    assert {entry["resource"]["type"] for entry in told} == {"api_key"}
    assert {(e["actor"]["type"], e["actor"]["id"], e["reported_by"]) for e in told} == {
        ("system", "cli", "cli")
    }


# What is refused before anybody decides.


def test_a_batch_without_the_permission_leaves_an_entry_for_each_fact(tenant: Tenant) -> None:
    reader, line, before = tenant.new_token("read"), tenant.line(), tenant.log()
    events = [
        fact("execution.checked_in", line),
        fact("run.started", None, {"service_line_id": line}),
        fact("service_line.praised", line),
        b'{"a": 1, "a": 2}',
        activation("LIN-26-999998"),
    ]
    assert_problem(tenant.edge.send_batch(*events, token=reader), 403, "forbidden")
    assert tenant.told(*before) == [
        ("execution.checked_in", line, "refused", "forbidden"),
        ("run.started", line, "refused", "forbidden"),
        ("service_line.praised", line, "refused", "forbidden"),
        ("service_line.activated", "LIN-26-999998", "refused", "forbidden"),
    ]


def test_so_does_a_single_fact_and_one_with_an_unknown_parameter(tenant: Tenant) -> None:
    reader, line, before = tenant.new_token("read"), tenant.line(), tenant.log()
    event = fact("execution.checked_in", line)
    assert_problem(tenant.edge.send(event, reader), 403, "forbidden")
    binary = {"content-type": "application/json", "ce-specversion": "1.0", "ce-id": "i",
              "ce-source": "/s", "ce-type": "service_line.paused", "ce-subject": line}  # fmt: skip
    answer = tenant.edge.post("/v1/facts", reader, content=b"{}", headers=binary)
    assert_problem(answer, 403, "forbidden")
    body = json.dumps(event).encode()
    answer = tenant.edge.post("/v1/facts?x=1", tenant.token, content=body, headers=STRUCTURED)
    assert_problem(answer, 422, "invalid_request")
    assert tenant.told(*before) == [
        ("execution.checked_in", line, "refused", "forbidden"),
        ("service_line.paused", line, "refused", "forbidden"),
        ("execution.checked_in", line, "refused", "invalid_request"),
    ]


def test_a_pause_that_is_refused_before_it_is_read_leaves_an_entry(tenant: Tenant) -> None:
    reader, line, before = tenant.new_token("read"), tenant.line(), tenant.log()
    assert_problem(tenant.pause(line, token=reader), 403, "forbidden")
    assert_problem(tenant.pause(line, "?force=true"), 422, "invalid_request")
    assert_problem(tenant.pause("LIN-26-999997"), 404, "not_found")
    assert tenant.told(*before) == [
        ("execution.pause", line, "refused", "forbidden"),
        ("execution.pause", line, "refused", "invalid_request"),
        ("execution.pause", "LIN-26-999997", "refused", "not_found"),
    ]


@pytest.mark.parametrize("line", ["LIN-26-1", "LIN-26-0000001", "RUN-26-000001", "KEY-26-000001"])
def test_what_is_no_lines_id_is_not_repeated(tenant: Tenant, line: str) -> None:
    reader, before = tenant.new_token("read"), tenant.log()
    assert_problem(tenant.pause(line), 404, "not_found")
    assert_problem(tenant.pause(line, token=reader), 403, "forbidden")
    assert tenant.told(*before) == [
        ("execution.pause", None, "refused", "not_found"),
        ("execution.pause", None, "refused", "forbidden"),
    ]


def test_unparsable_bodies_other_content_types_and_401s_leave_none(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line()
    reader, before = tenant.new_token("read"), tenant.log()
    for raw in (b"{", b"", b"\xff", b'{"reason": NaN}'):
        assert tenant.pause(line, content=raw, headers=PLAIN).status_code == 400
        assert edge.send(raw, tenant.token).status_code == 400
        assert edge.send(raw, reader).status_code == 403
    large = b'{"reason": "' + b"x" * 70_000 + b'"}'
    assert tenant.pause(line, content=large, headers=PLAIN).status_code == 413
    assert tenant.pause(line, content=b"{}", headers=STRUCTURED).status_code == 415
    assert edge.post("/v1/facts", tenant.token, content=b"{}").status_code == 415
    many = b"[" + b",".join([b"{}"] * 1_001) + b"]"
    for token, status in ((tenant.token, 413), (reader, 403)):
        answer = edge.post("/v1/facts", token, content=many, headers=BATCH)
        assert answer.status_code == status
    assert tenant.pause(line, token="garbage").status_code == 401
    assert edge.send(fact("service_line.paused", line), "garbage").status_code == 401
    assert tenant.log() == before


# What an entry says.


def test_an_entry_has_exactly_the_contracts_keys(tenant: Tenant) -> None:
    line = tenant.line()
    tenant.pause(line)
    tenant.pause(line)
    tenant.edge.send(fact("service_line.paused", "LIN-26-1"), tenant.token)
    path = f"/v1/audit-logs?organization_id={tenant.organization}"
    answer = tenant.edge.get(path, tenant.token)
    AuditPage.model_validate_json(answer.content)
    for entry in answer.json()["data"]:
        assert set(entry) == KEYS
        assert set(entry["actor"]) == {"type", "id"}
        assert entry["resource"] is None or set(entry["resource"]) == {"type", "id"}
        assert (entry["code"] is None) == (entry["outcome"] == "succeeded")
        year = datetime.fromisoformat(entry["recorded_at"]).year % 100
        assert entry["id"] == f"AUD-{year}-{entry['position']:06d}"


def test_an_entry_names_actor_credential_times_and_request(tenant: Tenant) -> None:
    edge, line, before = tenant.edge, tenant.line(), tenant.log()
    person = {"actortype": "user", "actorid": "USR-1", "time": "2026-04-14T10:00:00Z"}
    for number, type_ in enumerate(["service_line.paused", "service_line.paused"]):
        headers = STRUCTURED | {"x-request-id": f"request-{number}"}
        body = json.dumps(fact(type_, line, {"reason": "Kanarienvogel"}, **person)).encode()
        edge.post("/v1/facts", tenant.token, content=body, headers=headers)
    done, refused = tenant.log()[len(before) :]
    for number, entry in enumerate((done, refused)):
        assert entry["actor"] == {"type": "user", "id": "USR-1"}
        assert entry["reported_by"] == before[-1]["reported_by"]
        assert entry["occurred_at"] == "2026-04-14T10:00:00Z"
        assert entry["request_id"] == f"request-{number}"
        assert entry["resource"] == {"type": "service_line", "id": line}
    assert (done["outcome"], refused["outcome"]) == ("succeeded", "refused")
    assert "Kanarienvogel" not in json.dumps(tenant.log())


# Who sees what, and how it is asked for.


@pytest.fixture(scope="module")
def busy(edge: Edge) -> Tenant:
    """A tenant with two workspaces and all that may be in an audit log."""
    tenant = Tenant(edge)
    lines = [tenant.line(), tenant.line(workspace_id=BESIDE)]
    person = {"actortype": "user", "actorid": "USR-1"}
    dice = random.Random(2)
    for _ in range(30):
        edge.clock.advance(seconds=dice.choice([0, 1, 5_000]))
        line = dice.choice(lines)
        kind = dice.choice(["paused", "resumed", "praised"])
        edge.send(fact(f"service_line.{kind}", line, **dice.choice([{}, person])), tenant.token)
        edge.send(fact("execution.checked_in", line), tenant.token)
        # One that changes the line's health, or one that does not.
        signal = {"signal": "sla_compliance", "status": dice.choice(["green", "red"])}
        edge.send(fact("health.signal_reported", line, signal), tenant.token)
        tenant.pause(dice.choice([*lines, "LIN-26-999997"]))
        edge.post(f"/v1/execution/{line}/resume", tenant.token)
    return tenant


def test_the_order_is_the_logs_whatever_the_pages(busy: Tenant) -> None:
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
    {"action": "service_line.praised"}, {"action": "nothing.of_the_kind"},
    {"actor_id": "USR-1"}, {"actor_type": "user"}, {"actor_type": "agent"},
    {"actor_type": "user", "outcome": "refused"},
    {"action": "execution.pause", "outcome": "refused"},
    {"action": "execution.pause,service_line.paused", "outcome": "succeeded"},
    {"action": "key.create", "actor_id": "cli"},
    {"action": "service_line.paused,execution.pause", "actor_type": "user"},
    {"action": "health.signal_reported,key.create", "outcome": "succeeded"},
]  # fmt: skip


@pytest.mark.parametrize("params", FILTERS, ids=str)
def test_filters_choose_what_they_say(busy: Tenant, params: dict[str, str]) -> None:
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


def test_bounds_are_instants_of_recording(busy: Tenant) -> None:
    entries = busy.log()
    for at in (1, len(entries) // 2, len(entries) - 1):
        when = datetime.fromisoformat(entries[at]["recorded_at"])
        later = [e for e in entries if datetime.fromisoformat(e["recorded_at"]) >= when]
        assert busy.log(**{"from": format_instant(when)}) == later
        assert busy.log(to=format_instant(when)) == entries[: len(entries) - len(later)]


def test_a_narrowed_credential_sees_its_workspace_alone(busy: Tenant) -> None:
    narrow = busy.new_token("audit:read", workspace_id=BESIDE)
    asked = busy.log(workspace_id=BESIDE)
    assert 20 < len(asked) < len(busy.log())
    assert busy.log(narrow)[: len(asked)] == asked
    assert busy.log(narrow, workspace_id=WORKSPACE) == []
    assert busy.log(workspace_id="WS-26-000009") == []


def test_another_organization_is_an_empty_list_and_an_administrator_names_any(
    busy: Tenant, tenant: Tenant
) -> None:
    assert tenant.log(organization_id=busy.organization) == []
    admin = busy.edge.token("admin", organization_id=None)
    assert busy.log(admin) == busy.log()
    assert [entry["action"] for entry in tenant.log(admin)] == ["key.create"]


@pytest.mark.parametrize("permission", ["read", "write", "service_lines:manage", "runs:erase"])
def test_it_needs_its_own_permission(tenant: Tenant, permission: str) -> None:
    token = tenant.new_token(permission)
    for query in (f"?organization_id={tenant.organization}", "", "?x=1"):
        assert_problem(tenant.edge.get(f"/v1/audit-logs{query}", token), 403, "forbidden")


@pytest.mark.parametrize(
    "query",
    [
        "", "x=1", "organization_id=", "outcome=done", "actor_type=nobody", "limit=0", "action=",
        "from=2026-04-16&to=2026-04-15", "as_of=2026-04-15", "after=EVT-26-000001",
        "service_line_id=LIN-26-000001", "type=run.started", "actor_id=%00",
    ],
)  # fmt: skip
def test_an_organization_is_required_and_the_rest_known(tenant: Tenant, query: str) -> None:
    query = query if "organization_id" in query or not query else f"organization_id=O&{query}"
    answer = tenant.edge.get(f"/v1/audit-logs?{query}", tenant.token)
    assert_problem(answer, 422, "invalid_request")
