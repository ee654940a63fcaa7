"""The audit log: an entry for each fact and command, also if it is refused (contract, Feeds)."""

import json
import re
from datetime import datetime
from typing import Any

import httpx
import msgspec
import pytest

from ledger.engine.http.replies import PageOf
from ledger.engine.values.principal import COMMAND_LINE
from ledger.features.feed.envelopes import AuditEntry
from ledger.features.keys.commands import RevokeApiKey
from tests.support.audits import REASON, SIBLING, Tenant, short
from tests.support.edge import PLAIN, Edge, assert_problem
from tests.support.facts import activation, fact
from tests.support.random_life import Life
from tests.support.service import BATCH, STRUCTURED

KEYS = {
    "id", "action", "actor", "reported_by", "resource", "outcome", "code", "occurred_at",
    "recorded_at", "request_id", "position", "fact", "reason", "reported_by_name", "errors",
}  # fmt: skip
COMMANDS = {"execution.pause", "execution.resume", "key.create"}


def test_each_fact_of_a_line_has_exactly_one_entry_accepted_or_refused(edge: Edge) -> None:
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


def test_events_that_a_fact_causes_have_no_entry(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line()
    edge.accept(fact("run.requested", None, {"service_line_id": line}), token=tenant.token)
    (run,) = edge.accept(fact("run.started", None, {"service_line_id": line}), token=tenant.token)
    edge.accept(fact("run.cancelled", run["subject"]), token=tenant.token)
    edge.accept(fact("service_line.closed", line), token=tenant.token)
    actions = [action for action, *_ in tenant.entries_after()]
    assert actions == [
        "key.create", "service_line.activated", "run.requested", "run.started", "run.cancelled",
        "service_line.closed",
    ]  # fmt: skip


def test_duplicates_and_reads_leave_no_entry(tenant: Tenant) -> None:
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
        # The entry is there as soon as the command is answered, also if it is refused.
        assert tenant.log()[-1]["position"] == int(answer.headers["ledger-position"])
    assert tenant.entries_after(*before) == [
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
    tenant.new_token("read", workspace_id=SIBLING)
    before = tenant.log()[:-2]
    writer = tenant.edge.service.app.state.services.writer
    for _ in range(2):
        writer.execute(RevokeApiKey(key_id, COMMAND_LINE))
    entries = tenant.log()[len(before) :]
    assert [short(entry) for entry in entries[:1] + entries[2:]] == [
        ("key.create", key_id, "succeeded", None),
        ("key.revoke", key_id, "succeeded", None),
        ("key.revoke", key_id, "refused", "invalid_state"),
    ]
    assert {entry["resource"]["type"] for entry in entries} == {"api_key"}
    assert {(e["actor"]["type"], e["actor"]["id"], e["reported_by"]) for e in entries} == {
        ("system", COMMAND_LINE.id, COMMAND_LINE.id)
    }


# Refusals before a decision.


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
    assert tenant.entries_after(*before) == [
        ("execution.checked_in", line, "refused", "forbidden"),
        ("run.started", line, "refused", "forbidden"),
        ("service_line.praised", line, "refused", "forbidden"),
        ("service_line.activated", "LIN-26-999998", "refused", "forbidden"),
    ]


def test_a_fact_without_the_permission_or_with_an_unknown_parameter_leaves_an_entry(
    tenant: Tenant,
) -> None:
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
    assert tenant.entries_after(*before) == [
        ("execution.checked_in", line, "refused", "forbidden"),
        ("service_line.paused", line, "refused", "forbidden"),
        ("execution.checked_in", line, "refused", "invalid_request"),
    ]


def test_a_pause_that_is_refused_before_its_body_is_read_leaves_an_entry(tenant: Tenant) -> None:
    reader, line, before = tenant.new_token("read"), tenant.line(), tenant.log()
    assert_problem(tenant.pause(line, token=reader), 403, "forbidden")
    assert_problem(tenant.pause(line, "?force=true"), 422, "invalid_request")
    assert_problem(tenant.pause("LIN-26-999997"), 404, "not_found")
    assert tenant.entries_after(*before) == [
        ("execution.pause", line, "refused", "forbidden"),
        ("execution.pause", line, "refused", "invalid_request"),
        ("execution.pause", "LIN-26-999997", "refused", "not_found"),
    ]


@pytest.mark.parametrize("line", ["LIN-26-1", "LIN-26-0000001", "RUN-26-000001", "KEY-26-000001"])
def test_a_malformed_line_id_is_not_repeated_in_the_entry(tenant: Tenant, line: str) -> None:
    reader, before = tenant.new_token("read"), tenant.log()
    assert_problem(tenant.pause(line), 404, "not_found")
    assert_problem(tenant.pause(line, token=reader), 403, "forbidden")
    assert tenant.entries_after(*before) == [
        ("execution.pause", None, "refused", "not_found"),
        ("execution.pause", None, "refused", "forbidden"),
    ]


def test_unparsable_bodies_other_content_types_and_401s_leave_no_entry(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line()
    reader, before = tenant.new_token("read"), tenant.log()
    for raw in (b"{", b" ", b"\xff", b'{"reason": NaN}'):
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


# The fields of an entry.


def test_an_entry_has_exactly_the_keys_of_the_contract(tenant: Tenant) -> None:
    line = tenant.line()
    tenant.pause(line)
    tenant.pause(line)
    tenant.edge.send(fact("service_line.paused", "LIN-26-1"), tenant.token)
    path = f"/v1/audit-logs?organization_id={tenant.organization}"
    answer = tenant.edge.get(path, tenant.token)
    msgspec.json.decode(answer.content, type=PageOf[AuditEntry])
    entries = answer.json()["data"]
    assert len(entries) == 5
    for entry in entries:
        assert set(entry) == KEYS
        assert set(entry["actor"]) == {"type", "id"}
        assert entry["resource"] is None or set(entry["resource"]) == {"type", "id"}
        assert (entry["code"] is None) == (entry["outcome"] == "succeeded")
        assert (entry["errors"] is None) == (entry["outcome"] == "succeeded")
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


def test_a_refused_entry_has_the_pointers_of_its_answer_and_none_of_the_values(
    tenant: Tenant,
) -> None:
    edge, line, before = tenant.edge, tenant.line(), tenant.log()
    wrong = {"hours": "Kanarienvogel", "Kanarie": 1, "Vogel\n": 1}
    answers = [
        edge.send(fact("execution.checked_in", line, wrong), tenant.token),
        tenant.pause(line, json={"reason": ""}, headers={"idempotency-key": " "}),
        tenant.pause(line, "?force=true"),
        tenant.pause("LIN-26-999997"),
    ]
    all_errors = [answer.json().get("errors", []) for answer in answers]
    entries = tenant.log()[len(before) :]
    assert [entry["errors"] for entry in entries] == [
        [{"pointer": error["pointer"]} for error in errors] for errors in all_errors
    ]
    assert [[error["pointer"] for error in entry["errors"]] for entry in entries] == [
        ["/data/hours", "/data/Kanarie", "/data"], ["/Idempotency-Key", "/reason"], ["/force"], [],
    ]  # fmt: skip
    assert not re.search("vogel", json.dumps(entries), re.IGNORECASE)


def test_an_entry_names_its_fact_refused_or_not(tenant: Tenant) -> None:
    line, before = tenant.line(), tenant.log()
    pause, late = fact("service_line.paused", line), fact("service_line.paused", line)
    unknown = fact("service_line.praised", line)
    without_source = {k: v for k, v in pause.items() if k != "source"}
    long_id = fact("service_line.resumed", line) | {"id": "i" * 256}
    tenant.edge.send_batch(pause, late, unknown, without_source, long_id, token=tenant.token)
    tenant.pause(line)
    tenant.pause(line)
    entries = tenant.log()[len(before) :]
    named = [{"source": f["source"], "id": f["id"]} for f in (pause, late, unknown)]
    assert [entry["fact"] for entry in entries] == [*named, None, None, None, None]
    assert [entry["outcome"] for entry in entries] == [
        "succeeded", "refused", "refused", "refused", "refused", "succeeded", "refused",
    ]  # fmt: skip
