"""The bundle of a statement that the service has issued, checked by the verifier; and the document
that `ledger verify` compares with its event (contract, Statements and Proof).
"""

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger.app.composition.verification import compare
from ledger.features.proof.tables import Difference
from tests.support.edge import Edge, assert_problem
from tests.support.sealing import seal
from tests.support.statements import Tenant, check_in, tenant_of
from tests.support.verifier import PATH


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("witness")


@pytest.fixture(scope="module")
def tenant(edge: Edge) -> Tenant:
    tenant = tenant_of(edge)
    line = tenant.line()
    tenant.accept(check_in(line, 2.5, "2026-04-10", "ada"))
    return tenant


def bundle(tenant: Tenant, statement_id: str) -> Any:
    answer = tenant.edge.get(f"/v1/statements/{statement_id}/bundle", tenant.token)
    assert answer.status_code == 200, answer.text
    return answer.json()


def check(folder: Path, content: Any, key: str) -> subprocess.CompletedProcess[str]:
    """Run the verifier as an auditor runs it."""
    folder.mkdir(exist_ok=True)
    (folder / "bundle.json").write_text(json.dumps(content))
    (folder / "log.key").write_text(key)
    return subprocess.run(
        [sys.executable, "-I", PATH, "statement", "bundle.json", "log.key"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_bundle_of_an_issued_statement_is_proved(
    tenant: Tenant, folder: Path, tmp_path: Path
) -> None:
    first = tenant.issued(workspace_id=tenant.workspace)["id"]
    seal(tenant.edge.conninfo, folder)
    data = tenant.issued(
        workspace_id=tenant.workspace,
        note="April – “as agreed”",
        reference="PO 1",
        by_resource=True,
        replaces=first,
    )
    path = f"/v1/statements/{data['id']}/bundle"
    assert_problem(tenant.edge.get(path, tenant.token), 503, "behind")
    seal(tenant.edge.conninfo, folder)
    members = bundle(tenant, data["id"])
    assert list(members) == ["document", "stored", "leaf", "inclusion", "checkpoint", "key"]
    document = tenant.edge.get(f"/v1/statements/{data['id']}", tenant.token).content
    assert base64.b64decode(members["document"]) == document
    leaf = json.loads(base64.b64decode(members["leaf"]))
    stored = base64.b64decode(members["stored"])
    assert (leaf["stream"], leaf["type"]) == (data["id"], "statement.issued/1")
    assert leaf["stored_sha256"] == hashlib.sha256(stored).hexdigest()
    assert json.loads(stored)[-1]["document_sha256"] == hashlib.sha256(document).hexdigest()
    key = tenant.edge.get("/v1/log/key").text
    done = check(tmp_path, members, key)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.startswith(f"statement: {data['id']}, issued ")
    assert "total hours: 2.5\n" in done.stdout
    assert done.stdout.endswith("proved\n")
    # A statement with null members is proved likewise.
    assert check(tmp_path, bundle(tenant, first), key).returncode == 0
    other = members | {"document": bundle(tenant, first)["document"]}
    assert check(tmp_path, other, key).returncode == 1


@contextmanager
def altered(tenant: Tenant, change: str) -> Iterator[list[Difference]]:
    """The differences that are found after a change by the owner, which is taken back."""
    found: list[Difference] = []
    with psycopg.connect(tenant.edge.conninfo, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("CREATE TABLE kept AS TABLE ledger.statement_document")
        try:
            connection.execute(change.encode())
            compare(tenant.edge.conninfo, found.append, lambda *_: None)
            yield found
        finally:
            connection.execute(
                "TRUNCATE ledger.statement_document;"
                " INSERT INTO ledger.statement_document TABLE kept; DROP TABLE kept"
            )


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ("UPDATE {table} SET document = document || ' '::bytea WHERE {own}", "document"),
        ("UPDATE {table} SET document = 'x'::bytea WHERE {own}", "document"),
        ("UPDATE {table} SET total = '1' WHERE {own}", "total"),
        ("UPDATE {table} SET workspace_id = 'WS-26-000009' WHERE {own}", "workspace_id"),
        ("UPDATE {table} SET organization_id = 'ORG-26-000009' WHERE {own}", "organization_id"),
        ("UPDATE {table} SET stored_at = stored_at + interval '1 hour' WHERE {own}", "stored_at"),
        ("UPDATE {table} SET stored_at = 'infinity' WHERE {own}", "stored_at"),
        ("DELETE FROM {table} WHERE {own}", None),
    ],
)
def test_an_altered_or_missing_document_is_named(
    tenant: Tenant, change: str, column: str | None
) -> None:
    hash_ = tenant.issued()["document_sha256"]
    own = f"document_sha256 = '\\x{hash_}'"
    sql = change.format(table="ledger.statement_document", own=own)
    with altered(tenant, sql) as found:
        assert [(d.table, d.key, d.column) for d in found] == [
            ("statement_document", f"document_sha256=\\x{hash_}", column)
        ]
    with altered(tenant, "SELECT") as found:
        assert found == []
