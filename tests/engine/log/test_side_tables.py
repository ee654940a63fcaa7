"""The constraints of the tables beside the log."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.conftest import Databases
from tests.support.databases import drop, named
from tests.support.reader import become_reader

OUTCOME = {
    "credential": "KEY-26-000001", "path": "/v1/x", "key": "k", "fingerprint": b"f",
    "outcome": b"o", "recorded_at": "2026-04-15T12:00:00Z",
}  # fmt: skip
OMITTED = {"credential": "KEY-26-000001", "since": "2026-04-15T12:00:00Z", "count": 1}


@pytest.fixture(scope="module")
def connected(server: EmbeddedPostgres, databases: Databases) -> Iterator[psycopg.Connection[Any]]:
    name = databases.take()
    with psycopg.connect(named(server.url, name), autocommit=True) as connection:
        yield connection
    drop(server.url, name)


@pytest.fixture
def connection(connected: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    """A connection within a transaction that is rolled back."""
    with connected.transaction(force_rollback=True):
        yield connected


def insert(connection: psycopg.Connection[Any], table: str, row: dict[str, Any]) -> None:
    names = ", ".join(f'"{name}"' for name in row)
    values = ", ".join(f"%({name})s" for name in row)
    connection.execute(f"INSERT INTO ledger.{table} ({names}) VALUES ({values})".encode(), row)


@pytest.mark.parametrize("changed", ["credential", "path", "key"])
def test_an_idempotency_key_has_one_outcome_per_credential_and_path(
    connection: psycopg.Connection[Any], changed: str
) -> None:
    insert(connection, "idempotency", OUTCOME)
    insert(connection, "idempotency", OUTCOME | {changed: "another"})
    with pytest.raises(errors.UniqueViolation) as refused:
        insert(connection, "idempotency", OUTCOME | {"fingerprint": b"g", "outcome": b"p"})
    assert refused.value.diag.constraint_name == "idempotency_pkey"


@pytest.mark.parametrize("name", OUTCOME)
def test_an_outcome_has_a_value_in_every_column(
    connection: psycopg.Connection[Any], name: str
) -> None:
    with pytest.raises(errors.NotNullViolation) as refused:
        insert(connection, "idempotency", OUTCOME | {name: None})
    assert refused.value.diag.column_name == name


def test_a_credential_has_one_count_of_omitted_refusals(
    connection: psycopg.Connection[Any],
) -> None:
    insert(connection, "refusals_omitted", OMITTED)
    insert(connection, "refusals_omitted", OMITTED | {"credential": "KEY-26-000002"})
    with pytest.raises(errors.UniqueViolation) as refused:
        insert(connection, "refusals_omitted", OMITTED | {"count": 5})
    assert refused.value.diag.constraint_name == "refusals_omitted_pkey"


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_of_omitted_refusals_is_at_least_one(
    connection: psycopg.Connection[Any], count: int
) -> None:
    with pytest.raises(errors.CheckViolation) as refused:
        insert(connection, "refusals_omitted", OMITTED | {"count": count})
    assert refused.value.diag.constraint_name == "refusals_omitted_count_from_one"


@pytest.mark.parametrize("name", OMITTED)
def test_a_count_of_omitted_refusals_has_a_value_in_every_column(
    connection: psycopg.Connection[Any], name: str
) -> None:
    with pytest.raises(errors.NotNullViolation) as refused:
        insert(connection, "refusals_omitted", OMITTED | {name: None})
    assert refused.value.diag.column_name == name


@pytest.mark.parametrize("table", ["idempotency", "refusals_omitted"])
@pytest.mark.parametrize("statement", ["SELECT * FROM ledger.{}", "DELETE FROM ledger.{}"])
def test_the_apis_reading_role_may_use_neither_table(
    connection: psycopg.Connection[Any], conninfo: str, table: str, statement: str
) -> None:
    become_reader(connection, conninfo)
    with pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement.format(table).encode())


def test_expired_outcomes_are_found_through_an_index(connection: psycopg.Connection[Any]) -> None:
    connection.execute(
        "INSERT INTO ledger.idempotency"
        " SELECT 'c', 'p', n::text, '', '', now() + n * '1 s'::interval"
        " FROM generate_series(1, 5000) AS n"
    )
    connection.execute("ANALYZE ledger.idempotency")
    (plan,) = zip(*connection.execute(
        "EXPLAIN SELECT 1 FROM ledger.idempotency WHERE recorded_at <= now()"
        " ORDER BY recorded_at LIMIT 5"
    ).fetchall(), strict=True)  # fmt: skip
    assert "idempotency_recorded_at" in "\n".join(plan)
