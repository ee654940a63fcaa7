"""Statements: what is issued, stored, listed, withdrawn and replaced (contract, Statements)."""

import asyncio
import csv
import hashlib
import io
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from ledger.features.usage.reads import statement
from tests.support.edge import Edge, assert_problem
from tests.support.facts import fact
from tests.support.sealing import seal
from tests.support.statements import APRIL, Tenant, alter, check_in, tenant_of

DOCUMENT_KEYS = [
    "organization_id", "workspace_id", "from", "to", "time_zone", "as_of", "position", "note",
    "reference", "replaces", "total", "rows", "by_resource",
]  # fmt: skip
U_KEYS = [
    "lines", "hours", "check_ins", "runs", "tokens_used", "tokens_by_model", "seconds_by_state",
    "seconds_by_cause",
]  # fmt: skip


@pytest.fixture
def tenant(edge: Edge) -> Tenant:
    return tenant_of(edge)


@pytest.fixture
def line(tenant: Tenant) -> str:
    """A line with hours, a run and a pause in April."""
    line = tenant.line()
    tenant.accept(
        check_in(line, 2.5, "2026-04-10", "ada"),
        check_in(line, None, "2026-04-11"),
        fact("run.started", None, {"service_line_id": line, "external_id": line},
             time="2026-04-12T08:00:00Z"),
        fact("run.completed", None, {"external_id": line, "token_usage": [
            {"model": "m", "input": 10, "output": 5}]}, time="2026-04-12T09:00:00Z"),
        fact("service_line.paused", line, {}, time="2026-04-13T00:00:00Z"),
        fact("service_line.resumed", line, {}, time="2026-04-13T06:00:00Z"),
    )  # fmt: skip
    return line


def test_a_statement_is_the_usage_of_its_period_as_of_its_instant(
    tenant: Tenant, line: str
) -> None:
    other = tenant.line(f"{tenant.workspace[:-1]}0")
    tenant.accept(check_in(other, 1, "2026-04-02", "bob"))
    data = tenant.issued(by_resource=True, note="As agreed", reference="PO 1")
    answer = tenant.edge.get(f"/v1/statements/{data['id']}", tenant.token)
    body = answer.json()
    parameters = {"from": body["from"], "to": body["to"], "as_of": body["as_of"]}
    usage = tenant.usage(**parameters)
    rows = [{k: v for k, v in row.items() if k != "service_line_name"} for row in usage["rows"]]
    assert body["rows"] == rows
    assert body["total"] == usage["total"] == data["total"]
    assert body["total"]["hours"] == 3.5
    by_resource = tenant.usage(group_by="service_line,resource", **parameters)["rows"]
    keys = ("service_line_id", "resource_id", *U_KEYS)
    assert body["by_resource"] == [{key: row[key] for key in keys} for row in by_resource]
    assert [row["resource_id"] for row in body["by_resource"]] == ["ada", None, "bob"]
    # To the letter: keys and their order, no spaces, the hash of the bytes.
    assert list(body) == DOCUMENT_KEYS
    assert list(body["total"]) == U_KEYS
    assert [list(row) for row in body["rows"]] == 2 * [["service_line_id", *U_KEYS]]
    assert json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() == answer.content
    assert hashlib.sha256(answer.content).hexdigest() == data["document_sha256"]
    about = {"position": data["position"], "as_of": data["as_of"], "note": "As agreed",
             "reference": "PO 1", "replaces": None, "organization_id": tenant.organization,
             "workspace_id": None, "time_zone": "UTC", "from": "2026-04-01T00:00:00Z",
             "to": "2026-04-15T00:00:00Z"}  # fmt: skip
    assert {key: body[key] for key in about} == about


def test_a_statement_never_changes_and_can_be_read_again_after_later_facts(
    tenant: Tenant, line: str
) -> None:
    data = tenant.issued()
    before = tenant.document(data["id"])
    tenant.accept(check_in(line, 4, "2026-04-09"))
    assert tenant.document(data["id"]) == before
    assert before["by_resource"] is None
    again = tenant.usage(**APRIL, as_of=before["as_of"])
    assert again["total"] == before["total"]
    assert tenant.usage(**APRIL)["total"]["hours"] == 6.5


def test_dates_are_those_of_the_time_zone(tenant: Tenant, line: str) -> None:
    document = tenant.document(tenant.issued(time_zone="Europe/Berlin")["id"])
    assert (document["from"], document["to"]) == ("2026-03-31T22:00:00Z", "2026-04-14T22:00:00Z")
    assert document["time_zone"] == "Europe/Berlin"
    parameters = {"time_zone": "Europe/Berlin", "as_of": document["as_of"], **APRIL}
    assert tenant.usage(**parameters)["total"] == document["total"]


def test_the_event_is_listed_in_the_feed(tenant: Tenant, line: str) -> None:
    data = tenant.issued(reference="PO 2")
    event = tenant.edge.data("/v1/events", tenant.token, params={"type": "statement.issued"})[0]
    assert event["subject"] == {"type": "statement", "id": data["id"]}
    assert event["service_line_id"] is None
    document = tenant.document(data["id"])
    shared = set(DOCUMENT_KEYS) - {"total", "rows", "by_resource"}
    assert event["payload"] == {key: document[key] for key in shared} | {
        "document_sha256": data["document_sha256"]
    }


# Scope.


def test_the_scope_is_that_of_the_credential_unless_named(tenant: Tenant, line: str) -> None:
    tenant.accept(check_in(tenant.line("WS-26-700001"), 1, "2026-04-02"))
    assert tenant.issued(tenant.of_workspace)["total"]["hours"] == 2.5
    named = tenant.issued(workspace_id="WS-26-700001")
    assert (named["total"]["hours"], named["total"]["lines"]) == (1, 1)
    assert tenant.issued(workspace_id=None)["total"]["hours"] == 3.5
    admin = tenant.edge.token("admin", organization_id=None)
    assert tenant.issued(admin, organization_id=tenant.organization)["total"]["hours"] == 3.5


def test_a_scope_without_lines_may_have_a_statement(tenant: Tenant) -> None:
    document = tenant.document(tenant.issued(by_resource=True)["id"])
    assert (document["rows"], document["by_resource"], document["total"]["lines"]) == ([], [], 0)


def test_a_note_and_a_reference_that_are_null_are_as_good_as_none(tenant: Tenant) -> None:
    """A request with nulls was once answered with 500."""
    document = tenant.document(tenant.issued(note=None, reference=None, replaces=None)["id"])
    assert (document["note"], document["reference"], document["replaces"]) == (None, None, None)


def test_a_statement_with_too_many_rows_or_too_large_a_sum_is_refused(
    tenant: Tenant, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(statement, "MAX_ROWS", 2)
    assert_problem(tenant.issue(by_resource=True), 422, "invalid_request")
    assert tenant.issued()["total"]["lines"] == 1
    runs = [f"{line}-{number}" for number in (1, 2)]
    for run in runs:
        tenant.accept(
            fact("run.started", None, {"service_line_id": line, "external_id": run},
                 time="2026-04-12T08:00:00Z"),
            fact("run.completed", None, {"external_id": run, "tokens_used": 2**52},
                 time="2026-04-12T09:00:00Z"),
        )  # fmt: skip
    assert_problem(tenant.issue(), 422, "invalid_request")


# Lists.


def test_statements_are_listed_as_they_were_issued_by_period(tenant: Tenant, line: str) -> None:
    march = tenant.issued(**{"from": "2026-03-01", "to": "2026-04-01"}, note="March")
    april = tenant.issued(tenant.of_workspace, reference="PO 3")
    row = tenant.listed()[0]
    document = tenant.document(april["id"])
    assert row | april == row
    assert row | {key: document[key] for key in row if key in document} == row
    assert row["issued_by"]["type"] == "api_key"
    assert row["issued_at"] > row["as_of"]
    for period, expected in (
        ({"to": "2026-04-01"}, [march]),
        ({"from": "2026-04-01"}, [april]),
        ({"from": "2026-03-31T23:00:00Z", "to": "2026-04-02"}, [april, march]),
    ):
        assert [each["id"] for each in tenant.listed(**period)] == [e["id"] for e in expected]
    answer = tenant.edge.get("/v1/statements?from=x", tenant.token)
    assert_problem(answer, 422, "invalid_request")


# The bytes.


def test_the_bytes_have_a_strong_tag_and_are_never_compressed(tenant: Tenant, line: str) -> None:
    data = tenant.issued(note="n" * 400, reference="r" * 200)
    path, tag = f"/v1/statements/{data['id']}", f'"{data["document_sha256"]}"'
    answer = tenant.edge.get(path, tenant.token, headers={"accept-encoding": "gzip"})
    assert len(answer.content) > 1024
    assert hashlib.sha256(answer.content).hexdigest() == data["document_sha256"]
    assert "content-encoding" not in answer.headers
    assert answer.headers["etag"] == tag
    assert answer.headers["content-type"] == "application/json"
    assert "no-transform" in answer.headers["cache-control"]
    for named in (tag, f'"x", W/{tag}', "*"):
        cached = tenant.edge.get(
            path, tenant.token, headers={"if-none-match": named, "accept-encoding": "gzip"}
        )
        assert (cached.status_code, cached.content) == (304, b"")
        assert cached.headers["etag"] == tag
    assert tenant.edge.get(path, tenant.token, headers={"if-none-match": '"x"'}).status_code == 200


def test_the_export_has_the_rows_and_last_the_total(tenant: Tenant, line: str) -> None:
    other = tenant.line()
    tenant.accept(check_in(other, 1, "2026-04-02"))
    statement_id = tenant.issued()["id"]
    path = f"/v1/statements/{statement_id}/export"
    answer = tenant.edge.get(path, tenant.token, params={"format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["service_line_id"] for row in rows] == [line, other, "TOTAL"]
    assert list(rows[0])[:4] == ["service_line_id", "lines", "hours", "check_ins"]
    total = rows[-1]
    assert (total["lines"], total["hours"], total["check_ins"]) == ("2", "3.5", "3")
    assert (total["runs_completed"], total["tokens_used"]) == ("1", "15")
    assert total["seconds_paused"] == "21600.0"
    assert rows[1]["cause_seconds_approval_gap"] == "0.0"
    wrong = tenant.edge.get(path, tenant.token, params={"format": "jsonl"})
    assert_problem(wrong, 422, "invalid_request")


# Altered documents.

OTHER_NUMBER = """UPDATE ledger.statement_document
SET document = convert_to(replace(convert_from(document, 'UTF8'), '"hours":2.5', '"hours":9.5'),
    'UTF8') WHERE encode(document_sha256, 'hex') = '{hash}'"""
OTHER_HASH = OTHER_NUMBER.replace(
    "SET document =",
    """SET document_sha256 = sha256(convert_to(replace(convert_from(document, 'UTF8'),
    '"hours":2.5', '"hours":9.5'), 'UTF8')), document =""",
)
OTHER_TOTAL = """UPDATE ledger.statement_document SET total = replace(total, '2.5', '9.5')
WHERE encode(document_sha256, 'hex') = '{hash}'"""
GONE = "DELETE FROM ledger.statement_document WHERE encode(document_sha256, 'hex') = '{hash}'"
OF_OTHERS = """UPDATE ledger.statement_document SET organization_id = 'ORG-26-000002'
WHERE encode(document_sha256, 'hex') = '{hash}'"""


def alter_document(tenant: Tenant, statement: str, sha256: str) -> None:
    alter(tenant.edge, statement.replace("{hash}", sha256))


@pytest.mark.parametrize("statement", [OTHER_NUMBER, OTHER_HASH, GONE, OF_OTHERS])
def test_a_document_that_is_not_the_one_that_was_issued_is_shown_nowhere(
    tenant: Tenant, line: str, tmp_path: Path, statement: str
) -> None:
    """An altered number was once answered under the hash of the document that was issued."""
    data = tenant.issued()
    sound = tenant.issued(reference="Sound")["id"]
    seal(tenant.edge.conninfo, tmp_path)
    path, sha256 = f"/v1/statements/{data['id']}", data["document_sha256"]
    alter_document(tenant, statement, sha256)
    if statement is OTHER_HASH:
        # The view's copy of the hash is altered with the document.
        alter(tenant.edge, f"""UPDATE ledger.statement SET (document_sha256, item) = (
            SELECT document_sha256, replace(item, '{sha256}', encode(document_sha256, 'hex'))
            FROM ledger.statement_document WHERE organization_id = '{tenant.organization}'
            AND convert_from(document, 'UTF8') LIKE '%"hours":9.5%')
            WHERE statement_id = '{data["id"]}'""")  # fmt: skip
    tag = {"if-none-match": f'"{sha256}"'}
    for suffix, headers in (("", {}), ("", tag), ("", {"if-none-match": "*"}),
                           ("/export", {}), ("/bundle", {}), ("/changes", {})):  # fmt: skip
        answer = tenant.edge.get(path + suffix, tenant.token, headers=headers)
        problem = assert_problem(answer, 503, "document_altered")
        assert problem["detail"] == "This document is not the one that was issued."
        assert "etag" not in answer.headers
        assert answer.headers["retry-after"] == "1"
    other, listed = tenant.listed()
    assert (other["id"], other["total"]["hours"]) == (sound, 2.5)
    assert (listed["id"], listed["total"]) == (data["id"], None)
    assert tenant.document(sound)["total"]["hours"] == 2.5
    # The statement can be withdrawn nevertheless, and shows no number then either.
    withdrawn = tenant.withdraw(data["id"])
    assert (withdrawn.status_code, withdrawn.json()["data"]["total"]) == (200, None)


def test_a_list_shows_no_total_that_is_not_the_documents(tenant: Tenant, line: str) -> None:
    data = tenant.issued()
    assert tenant.listed()[0]["total"] == data["total"]
    alter_document(tenant, OTHER_TOTAL, data["document_sha256"])
    assert tenant.listed()[0]["total"] is None
    assert tenant.document(data["id"])["total"] == data["total"]


# Withdrawal and replacement.


def test_a_withdrawn_statement_stays_readable_and_is_withdrawn_once(
    tenant: Tenant, line: str
) -> None:
    statement_id = tenant.issued()["id"]
    before = tenant.document(statement_id)
    answer = tenant.withdraw(statement_id, "A timesheet was missing")
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert data == tenant.listed()[0]
    assert data["withdrawn_at"] > data["issued_at"]
    assert tenant.document(statement_id) == before
    assert_problem(tenant.issue(replaces=statement_id), 409, "invalid_state")
    event = tenant.edge.data("/v1/events", tenant.token, params={"type": "statement.withdrawn"})[0]
    assert event["payload"] == {"reason": "A timesheet was missing"}


def test_a_statement_is_replaced_once_by_one_of_its_scope(tenant: Tenant, line: str) -> None:
    first = tenant.issued()["id"]
    of_workspace = tenant.issued(workspace_id=tenant.workspace)["id"]
    assert_problem(tenant.issue(replaces="STM-26-999999"), 404, "not_found")
    assert_problem(tenant.issue(tenant.of_workspace, replaces=first), 404, "not_found")
    problem = assert_problem(tenant.issue(replaces=of_workspace), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/replaces"
    second = tenant.issued(replaces=first, **{"from": "2026-03-01"})["id"]
    assert_problem(tenant.issue(replaces=first), 409, "invalid_state")
    rows = {row["id"]: row for row in tenant.listed()}
    assert (rows[first]["replaced_by"], rows[second]["replaces"]) == (second, first)
    assert tenant.document(second)["replaces"] == first
    assert tenant.withdraw(first).status_code == 200
    third = tenant.issued(replaces=second)["id"]
    assert {row["id"]: row["replaced_by"] for row in tenant.listed()}[second] == third


def test_of_concurrent_replacements_one_wins(tenant: Tenant, line: str) -> None:
    first, edge = tenant.issued()["id"], tenant.edge
    headers = {"authorization": f"Bearer {tenant.token}"}

    async def race() -> list[int]:
        requests = [
            edge.service.http.post(
                "/v1/statements", json=APRIL | {"replaces": first}, headers=headers
            )
            for _ in range(4)
        ]
        return [answer.status_code for answer in await asyncio.gather(*requests)]

    assert sorted(edge.run(race())) == [201, 409, 409, 409]


# Documents without an event.


@pytest.fixture
def documents(tenant: Tenant) -> Callable[[], int]:
    def count() -> int:
        ((number,),) = tenant.edge.select(
            "SELECT count(*) FROM ledger.statement_document"
            f" WHERE organization_id = '{tenant.organization}'"
        )
        return int(number)

    return count


def test_a_document_without_its_event_is_shown_nowhere_and_removed_within_a_day(
    tenant: Tenant, documents: Callable[[], int]
) -> None:
    issued = tenant.issued()["id"]
    tenant.issue(replaces="STM-26-999999")
    assert (documents(), len(tenant.listed())) == (2, 1)
    housekeeper = tenant.edge.service.loops.housekeeper
    housekeeper.run_once()
    assert documents() == 2
    now = tenant.edge.clock.now
    try:
        tenant.edge.clock.now = now + timedelta(hours=23)
        housekeeper.run_once()
    finally:
        tenant.edge.clock.now = now
    assert documents() == 1
    assert tenant.document(issued)["total"]["lines"] == 0
