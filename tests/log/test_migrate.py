"""Migrations: each applied once, by one process; which schemas the code leaves alone."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from ledger.log.migrate import SchemaError, _files, migrate
from ledger.postgres.embedded import EmbeddedPostgres
from ledger.service.composition.database import prepare_database
from ledger.settings import Settings
from tests.support.databases import drop, execute, named
from tests.support.edge import edge_of


@pytest.fixture
def empty(server: EmbeddedPostgres) -> Iterator[str]:
    """A database that nothing was ever applied to."""
    execute(server.url, "CREATE DATABASE ledger_empty TEMPLATE template0")
    yield named(server.url, "ledger_empty")
    drop(server.url, "ledger_empty")


def test_of_processes_that_start_together_one_applies_each(empty: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        applied = list(pool.map(migrate, [empty] * 6))
    assert sorted(applied) == [[]] * 5 + [[name for name, _ in _files()]]
    assert migrate(empty) == []


def test_code_older_than_the_schema_is_refused_and_changes_nothing(conninfo: str) -> None:
    # It would write the log, and not what a newer migration keeps beside it.
    *_, (before, _), (newest, _) = _files()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO ledger.migration (name, checksum) VALUES ('9999_keep_more.sql', '')"
        )
        connection.execute("DELETE FROM ledger.migration WHERE name = %s", (newest,))
    with pytest.raises(SchemaError, match=r"newer version .*9999_keep_more"):
        migrate(conninfo)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        rows = connection.execute("SELECT name FROM ledger.migration ORDER BY name").fetchall()
    assert [name for (name,) in rows][-2:] == [before, "9999_keep_more.sql"]


def test_a_migration_that_was_edited_is_refused(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("UPDATE ledger.migration SET checksum = '' WHERE name LIKE '0005_%'")
    with pytest.raises(SchemaError, match=r"0005_instants\.sql was changed"):
        migrate(conninfo)


def test_a_dump_that_was_restored_where_no_role_was_is_read_again(
    conninfo: str, settings: Settings
) -> None:
    # pg_restore passes over the grants to a role that is not there, and says so.
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for what in ("ALL TABLES IN SCHEMA ledger", "ALL FUNCTIONS IN SCHEMA ledger"):
            connection.execute(f"REVOKE ALL ON {what} FROM ledger_api".encode())
        connection.execute("REVOKE ALL ON SCHEMA ledger FROM ledger_api")
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        line = edge.fresh()
        now = edge.get(f"/v1/execution/{line}").json()
        assert edge.get("/v1/events").json()["data"][0]["service_line_id"] == line
        recorded_at = edge.get("/v1/events").json()["data"][0]["recorded_at"]
        past = edge.get(f"/v1/execution/{line}", params={"as_of": recorded_at})
        assert past.json() == now
