"""Migrations: each is applied once, by one process; some schemas are refused."""

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger.app.composition.database import inspect_database, migrate_database, prepare_database
from ledger.app.settings import Settings
from ledger.engine.log.schema import migrate as migrations
from ledger.engine.log.schema.migrate import MIGRATIONS, SchemaError, migrate
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.schema.catalog import items, rights
from ledger.engine.postgres.schema.walls import reader_of
from tests.support.data_dirs import MASTER_KEY, QUICK
from tests.support.databases import drop, execute, named, query
from tests.support.edge import edge_of
from tests.support.embedded import served
from tests.support.facts import fact
from tests.support.served import run_ledger

NAMES = sorted(path.name for path in MIGRATIONS.iterdir())
"""The names of the migrations' files, in order."""

LATER = "9999_later.sql"
"""The migration of a later version."""

MORE = "ALTER TABLE ledger.lease ADD COLUMN more integer NOT NULL DEFAULT 7"

BEFORE = {
    "by other files": "UPDATE ledger.migration SET name = '0001_log.sql'"
    " WHERE name = '0001_ledger.sql'",
    "by twelve files": "UPDATE ledger.migration SET checksum = repeat('0a', 32);"
    " INSERT INTO ledger.migration VALUES ('0002_lease_organizations.sql', '')",
}
"""How a ledger is made one of a version before 0.1.0: by the list of files that made its schema."""

REFUSED = "The ledger was made by a version before 0.1.0: no later version opens it."

TABLES = """
SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'ledger'::regnamespace
"""
READERS = "SELECT r::text FROM pg_roles AS r WHERE rolname LIKE 'ledger_api%' ORDER BY 1"


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


@pytest.fixture
def become_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Let this process be a later version, which has one more migration."""

    def become(sql: str) -> None:
        for name in NAMES:
            (tmp_path / name).write_text((MIGRATIONS / name).read_text())
        (tmp_path / LATER).write_text(sql)
        monkeypatch.setattr(migrations, "MIGRATIONS", tmp_path)

    return become


def test_a_later_migration_upgrades_a_ledger_while_the_version_before_serves_it(
    conninfo: str, settings: Settings, become_later: Callable[[str], None]
) -> None:
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        start = {"service_line_id": edge.fresh(), "lease_seconds": 60}
        edge.accept(fact("run.started", None, start))
        become_later(MORE)
        with pytest.raises(SchemaError, match=f"older than this version, which needs {LATER}"):
            inspect_database(settings, conninfo)
        with ThreadPoolExecutor(6) as pool:
            applied = list(pool.map(migrate, [conninfo] * 6))
        assert sorted(applied) == [[]] * 5 + [[LATER]]
        inspect_database(settings, conninfo)
        edge.accept(fact("run.started", None, start))
    assert query(conninfo, "SELECT more FROM ledger.lease") == [(7,), (7,)]


def test_a_definition_that_differs_in_an_upgrade_is_mended_without_an_error(
    conninfo: str,
    settings: Settings,
    become_later: Callable[[str], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    become_later("SELECT 1")
    knows = "replace(pg_get_functiondef('ledger.stored_events'::regproc), ' END;', ' /* */ END;')"
    query(conninfo, f"DO $$ BEGIN EXECUTE {knows}; END $$")
    with caplog.at_level("INFO"):
        prepare_database(settings, conninfo)
    (record,) = caplog.records
    assert (record.levelname, "mended: function stored_events" in record.message) == ("INFO", True)


def test_code_older_than_the_schema_is_refused_and_changes_nothing(
    conninfo: str, become_later: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Older code would write the log, but not the tables that a newer migration adds.
    become_later(MORE)
    migrate(conninfo)
    before = everything(conninfo)
    monkeypatch.undo()
    with pytest.raises(SchemaError, match=f"newer version .*{LATER}"):
        migrate(conninfo)
    assert everything(conninfo) == before


def test_a_migration_that_was_edited_is_refused(
    conninfo: str, become_later: Callable[[str], None]
) -> None:
    become_later(MORE)
    migrate(conninfo)
    become_later("SELECT 1")
    with pytest.raises(SchemaError, match=f"{LATER} was changed"):
        migrate(conninfo)


def everything(conninfo: str) -> dict[str, Any]:
    """All rows of the tables, all objects and rights, and the roles of reads."""
    with psycopg.connect(conninfo) as connection:
        found: dict[str, Any] = {
            table: connection.execute(
                f"SELECT t::text FROM ledger.{table} AS t ORDER BY 1".encode()
            ).fetchall()
            for (table,) in connection.execute(TABLES).fetchall()
        }
        for name, all_ in (("objects", items), ("rights", rights)):
            found[name] = sorted(all_(connection), key=str)
    return found | {"roles": query(conninfo, READERS)}


@pytest.mark.parametrize("made", BEFORE)
def test_a_ledger_of_a_version_before_0_1_0_is_refused_untouched(
    conninfo: str, settings: Settings, made: str, tmp_path: Path
) -> None:
    query(conninfo, BEFORE[made])
    before = everything(conninfo)
    keyless = Settings(data_dir=tmp_path / "data")
    never = settings.model_copy(update={"migrate": "never"})
    for refused in (
        lambda: migrate(conninfo),
        lambda: migrate_database(settings, conninfo),
        lambda: prepare_database(settings, conninfo),
        lambda: prepare_database(keyless, conninfo),
        lambda: prepare_database(never, conninfo),
        lambda: inspect_database(settings, conninfo),
        lambda: inspect_database(settings, conninfo, verifies=True),
    ):
        with pytest.raises(SchemaError) as raised:
            refused()
        assert str(raised.value) == REFUSED
    assert everything(conninfo) == before
    assert not keyless.data_dir.exists()


def test_commands_refuse_an_embedded_ledger_of_a_version_before_0_1_0_in_one_line(
    data_dir: Path,
) -> None:
    env = {**os.environ, "LEDGER_DATA_DIR": str(data_dir), "LEDGER_MASTER_KEY": MASTER_KEY}
    with served(data_dir, purpose="tests", settings=QUICK) as postgres:
        query(postgres.url, BEFORE["by twelve files"])
        before = everything(postgres.url)
    for command in (("serve", "--port", "0"), ("migrate",)):
        ended = run_ledger(env, *command)
        assert (ended.returncode, ended.stderr) == (1, f"ledger: {REFUSED}\n")
    with served(data_dir, purpose="tests", settings=QUICK) as postgres:
        assert everything(postgres.url) == before


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
    sql = (MIGRATIONS / name).read_text()
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
"""Patterns of changes after which the previous version could not continue to serve."""

BEARABLE: dict[str, list[str]] = {}
"""The exceptions, such as a constraint that is dropped and added in other words."""


def test_a_migration_lets_the_version_before_go_on_serving() -> None:
    for name in NAMES[1:]:
        sql = statements(name)
        found = [kind for kind, it in FORBIDDEN.items() if re.search(it, sql, re.IGNORECASE)]
        assert found == BEARABLE.get(name, []), name


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
def test_the_check_finds_what_the_version_before_cannot_bear(sql: str, what: str | None) -> None:
    found = [kind for kind, pattern in FORBIDDEN.items() if re.search(pattern, sql)]
    assert found == ([] if what is None else [what])
