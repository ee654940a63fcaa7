"""Migrations: each is applied once, by one process; some schemas are refused."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files

import psycopg
import pytest

from ledger.app.composition.database import inspect_database, prepare_database
from ledger.app.settings import Settings
from ledger.engine.log.schema.migrate import SchemaError, migrate
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.schema.walls import reader_of
from tests.support.databases import drop, execute, named
from tests.support.edge import edge_of

NAMES = sorted(
    path.name for path in files("ledger.engine.log.schema").joinpath("migrations").iterdir()
)
"""The names of the migrations' files, in order."""


@pytest.fixture
def empty(server: EmbeddedPostgres) -> Iterator[str]:
    """A database without any migration."""
    execute(server.url, "CREATE DATABASE ledger_empty TEMPLATE template0")
    yield named(server.url, "ledger_empty")
    drop(server.url, "ledger_empty")


def test_each_migration_is_applied_by_one_of_the_processes_that_start_together(empty: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        applied = list(pool.map(migrate, [empty] * 6))
    assert sorted(applied) == [[]] * 5 + [NAMES]
    assert migrate(empty) == []


def test_a_first_start_goes_on_where_another_is_under_way_or_was_killed(
    empty: str, settings: Settings
) -> None:
    # The table of migrations is there, and that of events is not yet.
    execute(empty, "CREATE SCHEMA ledger")
    execute(
        empty,
        "CREATE TABLE ledger.migration (name text PRIMARY KEY, checksum text NOT NULL,"
        " applied_at timestamptz NOT NULL DEFAULT clock_timestamp())",
    )
    with pytest.raises(SchemaError, match="no ledger yet: run `ledger migrate`"):
        inspect_database(settings, empty)
    prepare_database(settings, empty)
    inspect_database(settings, empty)


def test_code_older_than_the_schema_is_refused_and_changes_nothing(conninfo: str) -> None:
    # Older code would write the log, and not the tables that a newer migration keeps beside it.
    *_, before, newest = NAMES
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
        connection.execute("UPDATE ledger.migration SET checksum = '' WHERE name LIKE '0001_%'")
    with pytest.raises(SchemaError, match=r"0001_ledger\.sql was changed"):
        migrate(conninfo)


def test_a_dump_restored_without_its_grants_gets_them_again(
    conninfo: str, settings: Settings
) -> None:
    with edge_of(settings, prepare_database(settings, conninfo)):
        pass
    with psycopg.connect(conninfo, autocommit=True) as connection:
        role = reader_of(connection)
        assert role is not None
        for objects in ("ALL TABLES IN SCHEMA ledger", "ALL FUNCTIONS IN SCHEMA ledger"):
            connection.execute(f"REVOKE ALL ON {objects} FROM {role}".encode())
        connection.execute(f"REVOKE ALL ON SCHEMA ledger FROM {role}".encode())
        connection.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ledger TO PUBLIC")
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        line = edge.fresh()
        now = edge.get(f"/v1/execution/{line}").json()
        assert edge.get("/v1/events").json()["data"][0]["service_line_id"] == line
        recorded_at = edge.get("/v1/events").json()["data"][0]["recorded_at"]
        past = edge.get(f"/v1/execution/{line}", params={"as_of": recorded_at})
        assert past.json() == now
    calls = "SELECT has_function_privilege('public', 'ledger.log_end()', 'EXECUTE')"
    with psycopg.connect(conninfo) as connection:
        assert connection.execute(calls).fetchone() == (False,)


def statements(name: str) -> str:
    """The SQL of a migration without its comments, in one line."""
    sql = files("ledger.engine.log.schema").joinpath("migrations", name).read_text()
    return " ".join(re.sub(r"--[^\n]*", "", sql).split())


FORBIDDEN = {
    "drops": r"\bDROP (?!NOT NULL|DEFAULT)",
    "renames": r"\bRENAME\b",
    "changes a type": r"\bALTER COLUMN \w+ (SET DATA )?TYPE\b|\bALTER \w+ TYPE\b",
    "demands a value": r"\bSET NOT NULL\b"
    r"|\bADD COLUMN (?:(?!DEFAULT)[^,;])*NOT NULL(?![^,;]*DEFAULT)",
    "takes rights": r"\bREVOKE\b(?! ALL ON FUNCTION)",
    "deletes rows": r"\bTRUNCATE\b",
}
"""What the version before could not go on serving after, by a simple look."""

BEARABLE = {"0005_tile_check.sql": ["drops"], "0009_skipped_deliveries.sql": ["drops"]}
"""The exceptions: each drops a constraint and adds the same condition in other words, or a wider
one.
"""


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_migration_lets_the_version_before_go_on_serving(name: str) -> None:
    sql = statements(name)
    found = [what for what, pattern in FORBIDDEN.items() if re.search(pattern, sql, re.IGNORECASE)]
    assert found == BEARABLE.get(name, [])


@pytest.mark.parametrize(
    ("sql", "what"),
    [
        ("ALTER TABLE ledger.lease DROP COLUMN seconds;", "drops"),
        ("DROP FUNCTION ledger.log_end();", "drops"),
        ("ALTER TABLE ledger.lease RENAME COLUMN seconds TO period;", "renames"),
        ("ALTER TABLE ledger.lease ALTER COLUMN seconds TYPE bigint;", "changes a type"),
        ("ALTER TABLE ledger.lease ADD COLUMN more text NOT NULL;", "demands a value"),
        ("ALTER TABLE ledger.lease ALTER COLUMN seconds SET NOT NULL;", "demands a value"),
        ("REVOKE SELECT ON ledger.lease FROM ledger_api;", "takes rights"),
        ("ALTER TABLE ledger.lease ADD COLUMN more text NOT NULL DEFAULT '';", None),
        ("ALTER TABLE ledger.lease ALTER COLUMN seconds DROP NOT NULL;", None),
        ("CREATE TABLE ledger.more (id text NOT NULL);", None),
    ],
)
def test_the_look_finds_what_the_version_before_cannot_bear(sql: str, what: str | None) -> None:
    found = [kind for kind, pattern in FORBIDDEN.items() if re.search(pattern, sql)]
    assert found == ([] if what is None else [what])
