"""Stored events reach the role that reads only through a function, which shows one tenant's."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from msgspec import json
from psycopg.rows import tuple_row

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.values.principal import ANY, EVERYONE, Principal, Tenant
from ledger.features.lines.model.execution_events import CheckedIn
from tests.support.reader import become_reader, set_tenant
from tests.support.stored import DROP_CHECK
from tests.whole.golden.samples import envelope

Connection = psycopg.Connection[Any]

ONE, OTHER = "ORG-26-000001", "ORG-26-000002"
WORKSPACE, NEIGHBOUR = "WS-26-000001", "WS-26-000002"

OWNERS: dict[int, tuple[str | None, str | None]] = {
    1: (ONE, WORKSPACE),
    2: (ONE, NEIGHBOUR),
    3: (ONE, None),
    4: (OTHER, WORKSPACE),
    5: (None, None),
}
"""The organization and the workspace of the event at each position."""

CLAIMED = {"reported_by": f'[2,"{OTHER}","{WORKSPACE}",', "body": [2, OTHER, WORKSPACE]}
"""The claims of a sender on another tenant's ids."""

AT = "SELECT position FROM ledger.stored_events(%s::bigint[]) ORDER BY position"


@pytest.fixture
def connection(conninfo: str) -> Iterator[Connection]:
    """A session of the role that reads, without a tenant, in a log with events of several."""
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        for position, tenant in OWNERS.items():
            record(connection, position, json.encode([2, *tenant, None, CLAIMED]))
        become_reader(connection, conninfo)
        yield connection


def record(connection: Connection, position: int, state: bytes) -> None:
    connection.execute(DROP_CHECK)
    connection.execute(
        "INSERT INTO ledger.ledger_events (originator_id, originator_version, topic, state,"
        " notification_id, recorded_at) VALUES ('LIN-26-000001', %(position)s, 't/1', %(state)s,"
        " %(position)s, timestamptz '2026-04-15' + %(position)s * interval '1 second')",
        {"position": position, "state": state},
    )


def see_as(connection: Connection, tenant: Tenant) -> list[int]:
    """The positions of the events that a session of the tenant sees."""
    set_tenant(connection, tenant)
    return visible_positions(connection)


def visible_positions(connection: Connection) -> list[int]:
    return [row[0] for row in connection.execute(AT, ([*OWNERS, 6],))]


@pytest.mark.parametrize(
    ("tenant", "positions"),
    [
        (Tenant(ONE, ANY), [1, 2, 3]),
        (Tenant(ONE, WORKSPACE), [1]),
        (Tenant(ONE, NEIGHBOUR), [2]),
        (Tenant(OTHER, ANY), [4]),
        (Tenant(OTHER, NEIGHBOUR), []),
        (Tenant("ORG-26-000003", ANY), []),
        (Tenant(ANY, WORKSPACE), []),
        (EVERYONE, [1, 2, 3, 4, 5]),
    ],
)
def test_a_session_sees_the_stored_events_of_its_tenant(
    connection: Connection, tenant: Tenant, positions: list[int]
) -> None:
    assert see_as(connection, tenant) == positions


@pytest.mark.parametrize(
    ("permission", "organization", "workspace", "positions"),
    [
        ("admin", None, None, [1, 2, 3, 4, 5]),
        ("admin", ONE, WORKSPACE, [1, 2, 3, 4, 5]),
        ("read", ONE, None, [1, 2, 3]),
        ("read", ONE, WORKSPACE, [1]),
        ("read", None, None, []),
    ],
)
def test_a_credential_reads_as_its_tenant_and_an_administrator_as_every_tenant(
    connection: Connection,
    permission: str,
    organization: str | None,
    workspace: str | None,
    positions: list[int],
) -> None:
    by = Principal("KEY", "api_key", frozenset({permission}), organization, workspace)
    assert see_as(connection, by.tenant) == positions


@pytest.mark.parametrize("tenant", [Tenant("", ""), Tenant(ANY, ""), Tenant("", ANY)])
def test_with_an_empty_setting_no_stored_event_is_visible(
    connection: Connection, tenant: Tenant
) -> None:
    assert see_as(connection, tenant) == []


@pytest.mark.parametrize("name", ["ledger.organization_id", "ledger.workspace_id"])
def test_without_both_settings_no_stored_event_is_visible(
    connection: Connection, name: str
) -> None:
    assert visible_positions(connection) == []
    connection.execute("SELECT set_config(%s, %s, false)", (name, ANY))
    assert visible_positions(connection) == []


def test_a_stored_event_is_shown_as_it_is_stored(conninfo: str) -> None:
    state = b'[2,"ORG-26-000001",null,null,0,0,{"n":1.50}]'
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        record(connection, 7, state)
        see_as(connection, Tenant(ONE, ANY))
        rows = connection.execute("SELECT * FROM ledger.stored_events(ARRAY[7, 7, 8])").fetchall()
    assert rows == [(7, "LIN-26-000001", 7, "t/1", state)]


@pytest.mark.parametrize("tenant", [EVERYONE, Tenant(ONE, ANY), Tenant(ONE, "WS-26-000021")])
def test_an_event_as_the_codec_stores_it_is_shown_to_its_tenant(
    conninfo: str, tenant: Tenant
) -> None:
    event = envelope(CheckedIn(hours=1))
    assert (event.organization_id, event.workspace_id) == (ONE, "WS-26-000021")
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        record(connection, 1, EnvelopeMapper().to_stored_event(event).state)
        assert see_as(connection, tenant) == [1]
        assert see_as(connection, Tenant(ONE, WORKSPACE)) == []


def test_only_the_role_that_reads_may_call_the_function(connection: Connection) -> None:
    connection.execute("RESET ROLE; CREATE ROLE ledger_stranger; SET ROLE ledger_stranger")
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            visible_positions(connection)
    finally:
        connection.execute("RESET ROLE; DROP ROLE ledger_stranger")


def test_stored_events_are_found_by_the_index_though_the_log_was_empty_at_first(
    conninfo: str,
) -> None:
    many = [*range(1, 3000, 3)]
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        assert see_as(connection, EVERYONE) == []
        for position in range(1, 3000):
            record(connection, position, b"[2,null,null]")
        scans = "SELECT seq_scan FROM pg_stat_xact_all_tables WHERE relname = 'ledger_events'"
        before = connection.execute(scans).fetchall()
        assert [row[0] for row in connection.execute(AT, (many,))] == many
        assert connection.execute(scans).fetchall() == before
