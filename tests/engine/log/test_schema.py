"""The constraints of log and decision tables (migration 0001)."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import errors

from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.conftest import Databases
from tests.support.databases import drop, named

Connection = psycopg.Connection[Any]

EVENT = {
    "originator_id": "LIN-26-000001", "originator_version": 1, "topic": "t/1",
    "state": b"[2,null,null,null,0,1776254400000000,[]]",
    "notification_id": 1, "recorded_at": "2026-04-15T12:00:00Z",
}  # fmt: skip
ANOTHER = EVENT | {
    "originator_version": 2, "notification_id": 2,
    "state": b"[2,null,null,null,0,1776254401000000,[]]", "recorded_at": "2026-04-15T12:00:01Z",
}  # fmt: skip
OUTCOME = {
    "credential": "KEY-26-000001", "path": "/v1/x", "key": "k", "fingerprint": b"f",
    "outcome": b"o", "recorded_at": "2026-04-15T12:00:00Z",
}  # fmt: skip
OMITTED = {"credential": "KEY-26-000001", "since": "2026-04-15T12:00:00Z", "count": 1}
ROWS = {"ledger_events": ANOTHER, "idempotency": OUTCOME, "refusals_omitted": OMITTED}
KEY = {
    "key_id": "KEY-26-000001", "secret_hash": b"h", "permissions": ["read"],
    "created_at": "2026-04-15T12:00:00Z", "prefix": "elk_", "created_by_type": "system",
    "created_by_id": "cli:root",
}  # fmt: skip
LEASE = {
    "run_id": "RUN-26-000001", "seconds": 5, "heard_at": "2026-04-15T12:00:00Z",
    "organization_id": "ORG-26-000001", "ends_at": "2026-04-15T12:00:05Z",
}  # fmt: skip
RUN_KEY = {"run_id": "RUN-26-000001", "organization_id": "ORG-26-000001", "wrapped": b"w"}
ACTIVITY = {"line_id": "LIN-26-000001", "last_activity_at": "2026-04-15T12:00:00Z"}


@pytest.fixture(scope="module")
def connected(server: EmbeddedPostgres, databases: Databases) -> Iterator[Connection]:
    name = databases.take()
    with psycopg.connect(named(server.url, name), autocommit=True) as connection:
        yield connection
    drop(server.url, name)


@pytest.fixture
def connection(connected: Connection) -> Iterator[Connection]:
    """A connection within a transaction that is rolled back."""
    with connected.transaction(force_rollback=True):
        yield connected


def insert(connection: Connection, table: str, row: dict[str, Any]) -> None:
    names = ", ".join(f'"{name}"' for name in row)
    values = ", ".join(f"%({name})s" for name in row)
    connection.execute(f"INSERT INTO ledger.{table} ({names}) VALUES ({values})".encode(), row)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger.ledger_events SET state = ''",
        "UPDATE ledger.ledger_events SET recorded_at = now() WHERE false",
        "DELETE FROM ledger.ledger_events",
        "TRUNCATE ledger.ledger_events CASCADE",
    ],
)
def test_the_log_is_append_only(connection: Connection, statement: str) -> None:
    insert(connection, "ledger_events", EVENT)
    with pytest.raises(errors.RaiseException, match="the log is append-only") as refused:
        connection.execute(statement.encode())
    assert refused.value.diag.constraint_name == "ledger_events_append_only"


@pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table, row in ROWS.items() for name in row]
)
def test_an_event_an_outcome_and_a_count_have_a_value_in_every_column(
    connection: Connection, table: str, name: str
) -> None:
    with pytest.raises(errors.NotNullViolation) as refused:
        insert(connection, table, ROWS[table] | {name: None})
    assert refused.value.diag.column_name == name


ARRAY = b'[2,"ORG-26-000001",null,null,-5,%d,["user","\xc3\xa9,1"],{}]'
INSTANT = 1776254400123456
"""2026-04-15T12:00:00.123456Z in microseconds."""


def test_an_event_is_recorded_at_its_own_instant_to_the_microsecond(connection: Connection) -> None:
    event = EVENT | {"state": ARRAY % INSTANT, "recorded_at": "2026-04-15T12:00:00.123456Z"}
    insert(connection, "ledger_events", event)
    for other in ("2026-04-15T12:00:00.123457Z", "2026-04-15T12:00:00Z", "infinity"):
        moved = event | {"originator_version": 2, "notification_id": 2, "recorded_at": other}
        with pytest.raises(errors.CheckViolation) as refused, connection.transaction():
            insert(connection, "ledger_events", moved)
        assert refused.value.diag.constraint_name == "ledger_events_recorded_at_as_stored"


@pytest.mark.parametrize(
    "state",
    [b"", b"{}", b"[2]", b"[]", b"\xff", b"null", ARRAY % (INSTANT + 1)],
    ids=ascii,
)
def test_bytes_without_the_instant_are_no_event(connection: Connection, state: bytes) -> None:
    event = EVENT | {"state": state, "recorded_at": "2026-04-15T12:00:00.123456Z"}
    with pytest.raises((errors.IntegrityError, errors.DataError)):
        insert(connection, "ledger_events", event)


def test_a_streams_versions_begin_with_one(connection: Connection) -> None:
    with pytest.raises(errors.CheckViolation) as refused:
        insert(connection, "ledger_events", EVENT | {"originator_version": 0})
    assert refused.value.diag.constraint_name == "ledger_events_version_from_one"


@pytest.mark.parametrize("shared", ["originator_version", "notification_id", "recorded_at"])
def test_no_two_events_share_a_version_a_position_or_an_instant(
    connection: Connection, shared: str
) -> None:
    insert(connection, "ledger_events", EVENT)
    state = {"state": EVENT["state"]} if shared == "recorded_at" else {}
    with pytest.raises(errors.UniqueViolation):
        insert(connection, "ledger_events", ANOTHER | {shared: EVENT[shared]} | state)


def test_no_two_events_share_an_identity(connection: Connection) -> None:
    insert(connection, "identity", {"digest": UUID(int=1), "position": 1})
    with pytest.raises(errors.UniqueViolation) as refused:
        insert(connection, "identity", {"digest": UUID(int=1), "position": 2})
    assert refused.value.diag.constraint_name == "identity_pkey"


def test_a_record_id_names_one_line(connection: Connection) -> None:
    row = {"execution_id": "RUN-26-000001", "organization_id": "ORG-26-000001"}
    insert(connection, "execution_record", row | {"line_id": "LIN-26-000001"})
    with pytest.raises(errors.UniqueViolation):
        insert(connection, "execution_record", row | {"line_id": "LIN-26-000002"})


def test_no_two_keys_share_a_secret(connection: Connection) -> None:
    insert(connection, "api_key", KEY)
    with pytest.raises(errors.UniqueViolation) as refused:
        insert(connection, "api_key", KEY | {"key_id": "KEY-26-000002"})
    assert refused.value.diag.constraint_name == "api_key_secret_hash_unique"


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("position = -1", "projection_position_from_zero"),
        ("stopped_at = now()", "projection_stopped_with_error"),
        ("error = 'e'", "projection_stopped_with_error"),
    ],
)
def test_a_views_position_is_not_negative_and_a_stopped_view_has_an_error(
    connection: Connection, change: str, constraint: str
) -> None:
    row = {"name": "n", "version": 1, "generation": 1, "position": 0}
    insert(connection, "projection", row)
    with pytest.raises(errors.CheckViolation) as refused:
        connection.execute(f"UPDATE ledger.projection SET {change} WHERE name = 'n'".encode())
    assert refused.value.diag.constraint_name == constraint


@pytest.mark.parametrize("changed", ["credential", "path", "key"])
def test_an_idempotency_key_has_one_outcome_per_credential_and_path(
    connection: Connection, changed: str
) -> None:
    insert(connection, "idempotency", OUTCOME)
    insert(connection, "idempotency", OUTCOME | {changed: "another"})
    with pytest.raises(errors.UniqueViolation) as refused:
        insert(connection, "idempotency", OUTCOME | {"fingerprint": b"g", "outcome": b"p"})
    assert refused.value.diag.constraint_name == "idempotency_pkey"


def test_expired_outcomes_are_found_through_an_index(connection: Connection) -> None:
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


def test_a_credential_has_one_count_of_omitted_refusals(connection: Connection) -> None:
    insert(connection, "refusals_omitted", OMITTED)
    insert(connection, "refusals_omitted", OMITTED | {"credential": "KEY-26-000002"})
    with pytest.raises(errors.UniqueViolation) as refused:
        insert(connection, "refusals_omitted", OMITTED | {"count": 5})
    assert refused.value.diag.constraint_name == "refusals_omitted_pkey"


@pytest.mark.parametrize(
    ("table", "row", "constraint"),
    [
        ("append_probe", {"is_only": False, "written_at": "2026-04-15"}, "append_probe_one_row"),
        ("listening", {"is_only": False, "listened_at": "2026-04-15"}, "listening_one_row"),
        ("refusals_omitted", OMITTED | {"count": 0}, "refusals_omitted_count_from_one"),
        ("refusals_omitted", OMITTED | {"count": -1}, "refusals_omitted_count_from_one"),
        ("lease", LEASE | {"due_at": "2026-04-15T12:00:06Z"}, "lease_looked_at_by_its_end"),
        ("line_activity", ACTIVITY | {"open_runs": -1}, "line_activity_open_runs_from_zero"),
        ("run_key", RUN_KEY | {"wrapped": None}, "run_key_wrapped_or_destroyed"),
        ("run_key", RUN_KEY | {"destroyed_at": "2026-04-15"}, "run_key_wrapped_or_destroyed"),
    ],
)
def test_a_row_that_must_never_be_there_is_refused(
    connection: Connection, table: str, row: dict[str, Any], constraint: str
) -> None:
    with pytest.raises(errors.CheckViolation) as refused:
        insert(connection, table, row)
    assert refused.value.diag.constraint_name == constraint
