"""The constraints of log and decision tables (migration 0001)."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import errors

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.values.principal import EVERYONE
from tests.conftest import Databases
from tests.support.databases import drop, named
from tests.support.reader import become_reader

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
KEY = {
    "key_id": "KEY-26-000001", "secret_hash": b"h", "permissions": ["read"],
    "created_at": "2026-04-15T12:00:00Z", "prefix": "elk_", "created_by_type": "system",
    "created_by_id": "cli:root",
}  # fmt: skip


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


@pytest.mark.parametrize("name", ANOTHER)
def test_an_event_has_a_value_in_every_column(connection: Connection, name: str) -> None:
    with pytest.raises(errors.NotNullViolation) as refused:
        insert(connection, "ledger_events", ANOTHER | {name: None})
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


def test_a_lines_count_of_open_runs_is_not_negative(connection: Connection) -> None:
    row = {"line_id": "LIN-26-000001", "last_activity_at": "2026-04-15T12:00:00Z", "open_runs": -1}
    with pytest.raises(errors.CheckViolation) as refused:
        insert(connection, "line_activity", row)
    assert refused.value.diag.constraint_name == "line_activity_open_runs_from_zero"


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
    ("wrapped", "destroyed_at"), [(None, None), (b"w", "2026-04-15T12:00:00Z")]
)
def test_a_runs_key_is_either_wrapped_or_destroyed(
    connection: Connection, wrapped: bytes | None, destroyed_at: str | None
) -> None:
    row = {"run_id": "RUN-26-000001", "organization_id": "ORG-26-000001", "wrapped": wrapped}
    with pytest.raises(errors.CheckViolation) as refused:
        insert(connection, "run_key", row | {"destroyed_at": destroyed_at})
    assert refused.value.diag.constraint_name == "run_key_wrapped_or_destroyed"


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


def test_the_table_that_probes_appends_has_one_row(connection: Connection) -> None:
    with pytest.raises(errors.CheckViolation) as refused:
        insert(connection, "append_probe", {"is_only": False, "written_at": "2026-04-15"})
    assert refused.value.diag.constraint_name == "append_probe_one_row"


def test_the_table_that_notes_who_listens_has_one_row(connection: Connection) -> None:
    with pytest.raises(errors.CheckViolation) as refused:
        insert(connection, "listening", {"is_only": False, "listened_at": "2026-04-15"})
    assert refused.value.diag.constraint_name == "listening_one_row"


def test_a_lease_is_looked_at_by_its_end(connection: Connection) -> None:
    at = "2026-04-15T12:00:05Z"
    row = {"run_id": "RUN-26-000001", "seconds": 5, "heard_at": "2026-04-15T12:00:00Z"}
    row |= {"organization_id": "ORG-26-000001", "ends_at": at}
    with pytest.raises(errors.CheckViolation) as refused:
        insert(connection, "lease", row | {"due_at": "2026-04-15T12:00:06Z"})
    assert refused.value.diag.constraint_name == "lease_looked_at_by_its_end"


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT state FROM ledger.ledger_events",
        "SELECT originator_id FROM ledger.ledger_events",
        "SELECT * FROM ledger.identity",
        "SELECT * FROM ledger.snapshot",
        "SELECT * FROM ledger.setting",
        "LOCK TABLE ledger.ledger_events IN ROW SHARE MODE",
        "LOCK TABLE ledger.append_lock IN ROW SHARE MODE",
        "UPDATE ledger.api_key SET revoked_at = NULL",
        "DELETE FROM ledger.run_key",
        "UPDATE ledger.projection SET position = 0",
        "DELETE FROM ledger.delivery",
        "UPDATE ledger.append_probe SET written_at = now()",
        "UPDATE ledger.lease SET ends_at = now()",
        "UPDATE ledger.listening SET listened_at = now()",
    ],
)
def test_the_apis_reading_role_reads_no_event_and_writes_no_table(
    connection: Connection, conninfo: str, statement: str
) -> None:
    become_reader(connection, conninfo, EVERYONE)
    with pytest.raises(errors.InsufficientPrivilege):
        connection.execute(statement.encode())
