"""Writes to one line in the audit log, their reasons, and the names of keys (contract, Feeds)."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ledger.engine.values.principal import COMMAND_LINE
from ledger.features.keys.commands import RevokeApiKey
from tests.support.audits import SIBLING, Entry, Tenant
from tests.support.edge import Edge, assert_problem
from tests.support.facts import WORKSPACE, fact

BLOCKER = {"blocker_id": "b", "cause": "capacity_issue"}
PERSON = {"actortype": "user", "actorid": "USR-7"}


class NotedWrites:
    """A tenant whose writes were noted by line: an entry's id for each write."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant = tenant
        self.lines = [tenant.line(), tenant.line(), tenant.line(workspace_id=SIBLING)]
        self.about: dict[str, str] = {}
        for entry, line in zip(tenant.log()[-3:], self.lines, strict=True):
            self.about[entry["id"]] = line

    @contextmanager
    def noting(self, line: str) -> Iterator[None]:
        """Note that the entries of the writes meanwhile must be found by the line."""
        before = len(self.tenant.log())
        yield
        self.about |= {entry["id"]: line for entry in self.tenant.log()[before:]}

    def of(self, line: str, entries: list[Entry]) -> list[Entry]:
        return [entry for entry in entries if self.about.get(entry["id"]) == line]


@pytest.fixture(scope="module")
def noted(edge: Edge) -> NotedWrites:
    """Three lines in two workspaces, with facts, runs, commands and refusals of each, in turn."""
    tenant = Tenant(edge)
    noted, dice = NotedWrites(tenant), random.Random(7)

    def report(line: str, type_: str, subject: str | None, data: Any = None) -> str:
        event = fact(type_, subject, data, **dice.choice([{}, PERSON]))
        with noted.noting(line):
            answer = edge.send_batch(event, token=tenant.token).json()["data"][0]
        return str(answer["subject"])

    for line in noted.lines * 2:
        begun = {"service_line_id": line}
        report(line, "execution.checked_in", line)
        report(line, "execution.blocked", line, BLOCKER)
        report(line, "execution.unblocked", line, BLOCKER)
        for _ in range(2):
            with noted.noting(line):
                tenant.pause(line)
        report(line, "service_line.praised", line)
        report(line, "run.started", None, begun)
        with noted.noting(line):
            edge.post(f"/v1/execution/{line}/resume", tenant.token)
        run = report(line, "run.requested", None, begun)
        report(line, "run.cancelled", run)
        # The record of a refusal names the run, but not its line.
        edge.send(fact("run.cancelled", run), tenant.token)
        edge.send(fact("run.cancelled", "RUN-26-899999"), tenant.token)
        tenant.new_token("read")
    return noted


FILTERS: list[dict[str, str]] = [
    {}, {"outcome": "refused"}, {"outcome": "succeeded"}, {"actor_id": "USR-7"},
    {"actor_type": "user", "outcome": "refused"}, {"action": "execution.pause"},
    {"action": "execution.blocked"}, {"action": "run.requested,execution.resume"},
    {"action": "run.started", "outcome": "refused"}, {"action": "key.create"},
    {"action": "execution.checked_in", "actor_type": "user"}, {"workspace_id": WORKSPACE},
    {"workspace_id": SIBLING, "outcome": "refused"},
]  # fmt: skip


@pytest.mark.parametrize("params", FILTERS, ids=str)
def test_the_entries_of_a_line_are_all_writes_to_it_and_its_runs_and_no_other(
    noted: NotedWrites, params: dict[str, str]
) -> None:
    of_all_lines = noted.tenant.log(**params)
    found = [noted.tenant.log(service_line_id=line, **params) for line in noted.lines]
    assert found == [noted.of(line, of_all_lines) for line in noted.lines]
    assert found == [noted.tenant.log(service_line_id=x, limit=3, **params) for x in noted.lines]


def test_every_write_of_the_noted_lines_is_found_by_its_line(noted: NotedWrites) -> None:
    found = [entry for line in noted.lines for entry in noted.tenant.log(service_line_id=line)]
    assert {entry["id"] for entry in found} == noted.about.keys()
    refused = {e["action"] for e in found if e["outcome"] == "refused"}
    assert refused >= {"execution.pause", "run.started", "service_line.praised"}


def test_an_export_of_a_line_has_the_entries_of_the_list(noted: NotedWrites) -> None:
    line, organization = noted.lines[0], noted.tenant.organization
    params = {"organization_id": organization, "service_line_id": line}
    answer = noted.tenant.edge.get("/v1/audit-logs/export", noted.tenant.token, params=params)
    ids = [entry["id"] for entry in noted.tenant.log(service_line_id=line)]
    assert [text.split('"')[3] for text in answer.text.splitlines()] == ids != []


def test_a_refusal_about_a_line_is_no_event_of_the_line(noted: NotedWrites) -> None:
    path = f"/v1/execution/{noted.lines[0]}/history?limit=100"
    history = noted.tenant.edge.data(path, noted.tenant.token)
    refused = noted.tenant.log(service_line_id=noted.lines[0], outcome="refused")
    assert refused
    assert not {e["position"] for e in history} & {e["position"] for e in refused}


def test_a_key_of_a_workspace_finds_the_entries_of_its_own_lines_only(noted: NotedWrites) -> None:
    narrow = noted.tenant.new_token("audit:read", workspace_id=SIBLING)
    own, others = noted.lines[2], noted.lines[0]
    found = [entry | {"reported_by_name": None} for entry in noted.of(own, noted.tenant.log())]
    assert noted.tenant.log(narrow, service_line_id=own) == found
    assert noted.tenant.log(narrow, service_line_id=others) == []


def test_of_another_organizations_line_one_finds_only_ones_own_refused_writes(
    noted: NotedWrites, tenant: Tenant
) -> None:
    line = noted.lines[0]
    assert tenant.log(service_line_id=line) == []
    assert tenant.log(service_line_id="LIN-26-999996") == []
    before = noted.tenant.log(service_line_id=line)
    for unseen in (line, "LIN-26-999996"):
        assert_problem(tenant.pause(unseen), 404, "not_found")
        (entry,) = tenant.log(service_line_id=unseen)
        assert (entry["action"], entry["code"]) == ("execution.pause", "not_found")
    assert noted.tenant.log(service_line_id=line) == before


@pytest.mark.parametrize("value", ["", "x" * 201, "%00"])
def test_an_id_that_is_empty_or_too_long_is_a_422(tenant: Tenant, value: str) -> None:
    query = f"organization_id={tenant.organization}&service_line_id={value}"
    for path in ("/v1/audit-logs", "/v1/audit-logs/export"):
        answer = tenant.edge.get(f"{path}?{query}", tenant.token)
        assert_problem(answer, 422, "invalid_request")


# Reasons and names.


def test_the_entry_of_a_command_has_its_reason_and_those_of_facts_and_refusals_have_none(
    tenant: Tenant,
) -> None:
    edge, line = tenant.edge, tenant.line()
    before = len(tenant.log())
    tenant.pause(line, json={"reason": "Invoice 4711 is wrong"})
    tenant.pause(line, json={"reason": "Twice"})
    edge.post(f"/v1/execution/{line}/resume", tenant.token)
    edge.accept(fact("service_line.paused", line, {"reason": "Said"}), token=tenant.token)
    reasons = [(entry["outcome"], entry["reason"]) for entry in tenant.log()[before:]]
    assert reasons == [
        ("succeeded", "Invoice 4711 is wrong"),
        ("refused", None),
        ("succeeded", None),
        ("succeeded", None),
    ]


def test_the_entry_of_an_erasure_has_its_reason(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line()
    eraser = tenant.new_token("runs:erase")
    (run,) = edge.accept(fact("run.started", None, {"service_line_id": line}), token=tenant.token)
    edge.accept(fact("run.completed", run["subject"]), token=tenant.token)
    path = f"/v1/runs/{run['subject']}/erase"
    assert edge.post(path, eraser, json={"reason": "Asked for"}).status_code == 200
    (entry,) = tenant.log(action="run.erase", service_line_id=line)
    assert entry["reason"] == entry["resource"]["reason"] == "Asked for"


def test_an_entry_names_its_key_even_after_the_key_was_revoked(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line()
    robot = tenant.new_token("write", "service_lines:manage", name="Robot of Nürnberg")
    nameless = tenant.new_token("service_lines:manage", name=None)
    operator = edge.token("admin", organization_id=None, name="Operator")
    tenant.pause(line, token=robot)
    edge.send(fact("service_line.paused", line, **PERSON), robot)
    tenant.pause(line, token=nameless)
    tenant.pause(line, token=operator)
    names = ["Robot of Nürnberg", "Robot of Nürnberg", None, None]
    entries = tenant.log(service_line_id=line)[1:]
    assert [entry["reported_by_name"] for entry in entries] == names
    key_id = entries[0]["reported_by"]
    edge.service.app.state.services.writer.execute(RevokeApiKey(key_id, COMMAND_LINE))
    assert [e["reported_by_name"] for e in tenant.log(service_line_id=line)[1:]] == names
    (revoked,) = tenant.log(action="key.revoke")
    assert (revoked["reported_by"], revoked["reported_by_name"]) == (COMMAND_LINE.id, None)


@pytest.mark.parametrize(
    ("reader", "names"),
    [
        ({"organization_id": None}, ["Operator", "Whole", "Beside", "Own"]),
        ({}, [None, "Whole", "Beside", "Own"]),
        ({"workspace_id": WORKSPACE}, [None, None, "Own"]),
    ],
    ids=["an administrator", "an organization's key", "a workspace's key"],
)
def test_an_entry_names_only_keys_that_the_reader_sees(
    tenant: Tenant, reader: dict[str, str | None], names: list[str | None]
) -> None:
    line = tenant.line()
    tenant.pause(line, token=tenant.new_token("admin", organization_id=None, name="Operator"))
    # The pause by a key of another workspace is refused, and noted there.
    for name, workspace in (("Whole", None), ("Beside", SIBLING), ("Own", WORKSPACE)):
        permission = "service_lines:manage"
        tenant.pause(line, token=tenant.new_token(permission, workspace_id=workspace, name=name))
    permission = "admin" if "organization_id" in reader else "audit:read"
    token = tenant.new_token(permission, **reader)
    commands = "execution.pause"
    entries = tenant.log(token, service_line_id=line, action=commands)
    assert [entry["reported_by_name"] for entry in entries] == names
    assert None not in [entry["reported_by"] for entry in entries]
    query = f"organization_id={tenant.organization}&service_line_id={line}&action={commands}"
    exported = tenant.edge.get(f"/v1/audit-logs/export?{query}", token).text.splitlines()
    assert [json.loads(text)["reported_by_name"] for text in exported] == names


def test_both_formats_of_an_export_name_the_key_and_the_reason(tenant: Tenant) -> None:
    line = tenant.line()
    tenant.pause(line, token=tenant.new_token("service_lines:manage", name="=Robot"))
    query = f"organization_id={tenant.organization}&service_line_id={line}"
    path = f"/v1/audit-logs/export?{query}&action=execution.pause"
    assert '"reported_by_name":"=Robot"' in tenant.edge.get(path, tenant.token).text
    table = tenant.edge.get(f"{path}&format=csv", tenant.token).text.splitlines()
    assert table[0].endswith(",reason,reported_by_name,errors")
    assert table[1].endswith(",because,'=Robot,")
