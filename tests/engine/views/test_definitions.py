"""The schema's definitions are compared with those that the code makes, and mended if only code.

``python -m tests.engine.views.test_definitions`` writes the file of definitions anew, after a
change of the schema.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import tuple_row

from ledger.app.composition.database import prepare_all, prepare_database
from ledger.app.features import projections
from ledger.app.settings import Settings
from ledger.engine.log.nodes import beat
from ledger.engine.log.schema.migrate import migrate
from ledger.engine.log.schema.walls import protect
from ledger.engine.postgres.embedded import EmbeddedPostgres, place, temporary_server
from ledger.engine.postgres.schema.catalog import Item
from ledger.engine.postgres.session import pin
from ledger.engine.views import definitions
from ledger.engine.views.definitions import Definitions, Object, load, objects_of, views_of
from ledger.engine.views.registration import register
from ledger.engine.views.schema import create_indexes, create_tables
from ledger.features.proof.tables import SCHEMA, Difference, findings
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import empty
from tests.support.embedded import folder_in_tmp, memory
from tests.support.rebuilding import rebuild, view
from tests.support.views import query

FILE = Path(definitions.__file__).with_name("definitions.txt")
TRACKING = "SELECT name, version, generation FROM ledger.projection"

OLDEST = Path("/usr/lib/postgresql/15")
"""PostgreSQL 15, where Debian puts it."""

REPLACED = (
    "DO $$ BEGIN EXECUTE replace(pg_get_functiondef('ledger.{}'::regproc), '{}', '{}'); END $$"
)


def connected(conninfo: str) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(pin(conninfo), autocommit=True, row_factory=tuple_row)


def compare(conninfo: str) -> Definitions:
    with connected(conninfo) as connection:
        return definitions.compare(connection, projections())


def named(conninfo: str) -> list[tuple[str, str]]:
    """The kinds and the names of the objects that differ."""
    return [(each.kind, each.name) for each in compare(conninfo).differing]


def dump(objects: Mapping[Object, Item]) -> str:
    blocks = [f"{i.kind} {i.name}\n{i.definition}" for _, i in sorted(objects.items())]
    return "\n--- ".join(["Written by a test: see definitions.py.", *blocks]) + "\n"


def written(conninfo: str) -> str:
    """The file of definitions, as an empty database says it once the code has made its schema."""
    migrate(conninfo)
    with connected(conninfo) as connection:
        protect(connection)
    register(pin(conninfo), projections())
    with connected(conninfo) as connection:
        views = views_of(projections(), connection.execute(TRACKING).fetchall())
        return dump(objects_of(connection, views))


def start(conninfo: str) -> None:
    settings = Settings(master_key=MASTER_KEY)
    prepare_all(settings, conninfo, lambda _: None)


@pytest.fixture
def prepared(conninfo: str) -> str:
    """A database that a service has begun to use."""
    start(conninfo)
    return conninfo


def test_the_file_of_definitions_is_what_migrations_and_descriptions_make(
    server: EmbeddedPostgres,
) -> None:
    with empty(server.url, "defined") as bare:
        assert written(bare) == FILE.read_text(), "python -m tests.engine.views.test_definitions"
    assert dump(load(FILE.read_text())) == FILE.read_text()


def test_a_new_ledger_has_no_difference(
    server: EmbeddedPostgres, caplog: pytest.LogCaptureFixture
) -> None:
    with empty(server.url, "newly_made") as bare:
        start(bare)
        assert named(bare) == []
        assert compare(bare).objects > len(load(FILE.read_text()))
    assert caplog.records == []


@pytest.mark.skipif(not OLDEST.exists(), reason="PostgreSQL 15 is not installed")
def test_the_oldest_postgresql_tells_the_same_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "find_programs", lambda _: OLDEST)
    monkeypatch.setattr(place, "_LOCALE", ("--locale=C",))
    with folder_in_tmp(0o755, memory()) as folder:
        postgres = EmbeddedPostgres(folder / "data", purpose="tests", settings={"fsync": "off"})
        postgres.start()
        try:
            assert written(postgres.url) == FILE.read_text()
            assert query(postgres.url, "SHOW server_version_num")[0][0].startswith("15")
            start(postgres.url)
            assert named(postgres.url) == []
        finally:
            postgres.stop()


CODE: Sequence[tuple[str, str, str]] = [
    (REPLACED.format("passing_keys", "k.revoked_at IS NULL AND", ""), "function", "passing_keys("),
    ("DROP FUNCTION ledger.sees_endpoint CASCADE", "function", "sees_endpoint("),
    (
        "CREATE OR REPLACE FUNCTION ledger.log_end() RETURNS bigint"
        " LANGUAGE sql AS 'SELECT 1 -- no_table_g#'",
        "function",
        "log_end(",
    ),
    ("ALTER FUNCTION ledger.await_append() SECURITY INVOKER", "function", "await_append("),
    ("ALTER FUNCTION ledger.recorded_at VOLATILE LEAKPROOF", "function", "recorded_at("),
    (
        "CREATE FUNCTION ledger.sees_line(varchar) RETURNS bool RETURN true",
        "function",
        "sees_line(character varying",
    ),
    (
        "DROP FUNCTION ledger.beaten_at;"
        " CREATE FUNCTION ledger.beaten_at() RETURNS text RETURN 'never'",
        "function",
        "beaten_at()",
    ),
    ("DROP VIEW ledger.execution_step", "view", "execution_step"),
    (
        "CREATE OR REPLACE VIEW ledger.directory_line WITH (security_invoker) AS"
        " SELECT 'LIN-26-000001' AS line_id, position FROM ledger.directory_line_g1",
        "view",
        "directory_line",
    ),
    ("ALTER VIEW ledger.execution RESET (security_invoker)", "view", "execution"),
    (
        "ALTER TABLE ledger.ledger_events DISABLE TRIGGER ALL",
        "trigger",
        "ledger_events.ledger_events_append_only",
    ),
    (
        "ALTER TABLE ledger.snapshot DISABLE TRIGGER ALL",
        "trigger",
        'snapshot.RI_ConstraintTrigger_c_ "RI_FKey_check_ins"',
    ),
    (
        "DROP TRIGGER checkpoint_continues ON ledger.checkpoint",
        "trigger",
        "checkpoint.checkpoint_continues",
    ),
    (
        "CREATE FUNCTION ledger.mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END';"
        " CREATE TRIGGER mine BEFORE INSERT ON ledger.run_g1"
        " FOR EACH ROW EXECUTE FUNCTION ledger.mine()",
        "trigger",
        "run_g1.mine",
    ),
    (
        "CREATE RULE mine AS ON DELETE TO ledger.api_key DO INSTEAD NOTHING",
        "rule",
        "api_key.mine",
    ),
    ("CREATE POLICY mine ON ledger.run_g1 USING (true)", "policy", "run_g1.mine"),
    ("ALTER POLICY {api_key} ON ledger.api_key USING (true)", "policy", "api_key.{api_key}"),
    ("ALTER POLICY {run_g1} ON ledger.run_g1 USING (true)", "policy", "run_g1.{run_g1}"),
    ("ALTER TABLE ledger.lease DISABLE ROW LEVEL SECURITY", "table", "lease"),
    ("ALTER TABLE ledger.tile ENABLE ROW LEVEL SECURITY", "table", "tile"),
    ("GRANT SELECT ON ledger.run_key TO PUBLIC", "grant", "SELECT on table run_key to PUBLIC"),
    (
        "GRANT UPDATE (name) ON ledger.api_key TO ledger_api",
        "grant",
        "UPDATE on table api_key.name to ledger_api",
    ),
    (
        "GRANT EXECUTE ON FUNCTION ledger.this_postgresql() TO PUBLIC",
        "grant",
        "EXECUTE on function ledger.this_postgresql() to PUBLIC",
    ),
    (
        "GRANT CREATE ON SCHEMA ledger TO {reader}",
        "grant",
        "CREATE on schema ledger to {reader}",
    ),
    (
        "GRANT SELECT ON ledger.tile TO {reader} WITH GRANT OPTION",
        "grant",
        "SELECT WITH GRANT OPTION on table tile to {reader}",
    ),
    (
        "ALTER DEFAULT PRIVILEGES IN SCHEMA ledger GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        "grant",
        "EXECUTE on new ROUTINES to PUBLIC",
    ),
    (
        "GRANT USAGE ON SEQUENCE ledger.ledger_events_notification_id_seq TO PUBLIC",
        "grant",
        "USAGE on sequence ledger_events_notification_id_seq to PUBLIC",
    ),
]
"""Attacks on code: the statement, and the object that differs then."""

DATA: Sequence[tuple[str, str, str]] = [
    (
        "ALTER TABLE ledger.ledger_events DROP CONSTRAINT ledger_events_recorded_at_as_stored",
        "constraint",
        "ledger_events.ledger_events_recorded_at_as_stored",
    ),
    ("ALTER TABLE ledger.tile ADD CONSTRAINT mine CHECK (true)", "constraint", "tile.mine"),
    (
        "DROP INDEX ledger.ledger_events_recorded_at_unique",
        "index",
        "ledger_events.ledger_events_recorded_at_unique",
    ),
    (
        "CREATE INDEX ON ledger.run_g1 ((md5(run_id)))",
        "index",
        "run_g1.btree (md5(run_id))",
    ),
    ("ALTER TABLE ledger.api_key ALTER name SET DEFAULT 'x'", "column", "api_key.name"),
    ("ALTER TABLE ledger.run_g1 ADD mine text", "column", "run_g1.mine"),
    ("ALTER TABLE ledger.lease ALTER seconds TYPE bigint", "column", "lease.seconds"),
    ("ALTER TABLE ledger.lease ALTER seconds DROP NOT NULL", "column", "lease.seconds"),
    ("CREATE TABLE ledger.child () INHERITS (ledger.api_key)", "table", "api_key"),
    ("CREATE TABLE ledger.mine (id text)", "table", "mine"),
    ("ALTER TABLE ledger.tile SET UNLOGGED", "table", "tile"),
    ("CREATE VIEW ledger.seen AS SELECT 1 AS one", "view", "seen"),
    ("CREATE TYPE ledger.kind AS ENUM ('a')", "type", "ledger.kind"),
    (
        "CREATE CAST (text AS bytea) WITHOUT FUNCTION AS IMPLICIT",
        "cast",
        "(pg_catalog.text AS pg_catalog.bytea)",
    ),
    (
        "CREATE FUNCTION pg_catalog.lower(int) RETURNS text RETURN ''",
        "routine",
        "pg_catalog.lower(integer)",
    ),
    (
        "CREATE FUNCTION public.same(text, int) RETURNS bool RETURN true;"
        " CREATE OPERATOR pg_catalog.= (LEFTARG = text, RIGHTARG = int, FUNCTION = public.same)",
        "operator",
        "pg_catalog.=(pg_catalog.text,integer)",
    ),
    (
        "CREATE FUNCTION public.at_login() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        " CREATE EVENT TRIGGER mine ON login EXECUTE FUNCTION public.at_login()",
        "event trigger",
        "mine",
    ),
    ("ALTER FUNCTION ledger.log_end() OWNER TO ledger_api", "function", "log_end()"),
    ("ALTER TABLE ledger.tile OWNER TO ledger_api", "table", "tile"),
    (
        "ALTER SEQUENCE ledger.ledger_events_notification_id_seq INCREMENT 2",
        "sequence",
        "ledger_events_notification_id_seq",
    ),
    ("ALTER ROLE {reader} BYPASSRLS", "role", "{reader}"),
    (
        "ALTER DATABASE {database} SET session_replication_role = replica",
        "setting",
        "session_replication_role",
    ),
]
"""Attacks on objects that are only named, since data may contradict the code."""


def filling(conninfo: str) -> Callable[[str], str]:
    """A function that fills names of a database into a text."""
    policy = "SELECT polname FROM pg_policy WHERE polrelid = 'ledger.{}'::regclass"
    names = {table: query(conninfo, policy.format(table))[0][0] for table in ("api_key", "run_g1")}
    reader = "SELECT value FROM ledger.setting WHERE name = 'reader'"
    ((names["reader"],),) = query(conninfo, reader)
    ((names["database"],),) = query(conninfo, "SELECT current_database()")

    def filled(text: str) -> str:
        for name, value in names.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    return filled


def test_altered_code_is_named_and_made_again_at_the_start(
    prepared: str, caplog: pytest.LogCaptureFixture
) -> None:
    filled = filling(prepared)
    altered = [f"{kind} {filled(name)}" for _, kind, name in CODE]
    query(prepared, "; ".join(filled(statement) for statement, *_ in CODE))
    found = [*map(" ".join, named(prepared))]
    whole = [next((each for each in found if each.startswith(start)), start) for start in altered]
    assert [each for each in whole if each not in found] == []
    with caplog.at_level("ERROR"):
        start(prepared)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "was mended: " in message
    assert [each for each in whole if f"{each}: " not in message] == []
    assert named(prepared) == []
    with connected(prepared) as connection:
        assert SCHEMA not in findings(connection)


def test_altered_objects_that_are_no_code_are_named_and_left(
    prepared: str, caplog: pytest.LogCaptureFixture
) -> None:
    filled = filling(prepared)
    altered = [(kind, filled(name)) for _, kind, name in DATA]
    query(prepared, "; ".join(filled(statement) for statement, *_ in DATA))
    found = named(prepared)
    assert [each for each in altered if each not in found] == []
    try:
        before = [each for each in named(prepared) if each[0] != "role"]
        with caplog.at_level("ERROR"):
            prepare_database(Settings(master_key=MASTER_KEY), prepared)
        (message,) = [record.getMessage() for record in caplog.records]
        assert [(kind, name) for kind, name in altered if f"{kind} {name}: " not in message] == []
        assert [each for each in named(prepared) if each[0] != "role"] == before
        with connected(prepared) as connection:
            finding = findings(connection)[SCHEMA]
        assert {(each["table"], each["key"]) for each in finding.named} >= {*altered}
    finally:
        query(prepared, filled("ALTER ROLE {reader} NOBYPASSRLS"))
        query(prepared, "REASSIGN OWNED BY ledger_api TO CURRENT_USER")


def test_a_finding_of_the_start_is_cleared_by_a_start_without_one(prepared: str) -> None:
    query(prepared, "CREATE VIEW ledger.mine AS SELECT 1 AS one")
    start(prepared)
    with connected(prepared) as connection:
        assert findings(connection)[SCHEMA].differences == 1
    query(prepared, "DROP VIEW ledger.mine")
    start(prepared)
    with connected(prepared) as connection:
        assert findings(connection)[SCHEMA].differences == 0


def test_generations_of_a_rebuild_and_after_it_are_no_difference(prepared: str) -> None:
    with connected(prepared) as connection:
        tables = view("run").tables
        create_tables(connection, tables, 2)
        create_indexes(connection, tables, 2)
        assert named(prepared) == []
        for table in reversed(tables):
            connection.execute(f"DROP TABLE ledger.{table.name}_g2".encode())
    rebuild(prepared, view("run"))
    assert query(prepared, "SELECT generation FROM ledger.projection WHERE name = 'run'") == [(2,)]
    assert named(prepared) == []
    query(prepared, "CREATE POLICY mine ON ledger.run_g2 USING (true)")
    assert named(prepared) == [("policy", "run_g2.mine")]


def test_a_view_of_another_version_is_not_compared(prepared: str) -> None:
    query(prepared, "UPDATE ledger.projection SET version = version + 1 WHERE name = 'run'")
    query(prepared, "INSERT INTO ledger.projection VALUES ('newer', 1, 1, 0)")
    query(prepared, "CREATE TABLE ledger.newer_g1 (id text)")
    query(prepared, "CREATE VIEW ledger.newer AS SELECT id FROM ledger.newer_g1")
    query(prepared, "ALTER TABLE ledger.run_g1 ADD more text")
    query(prepared, "DROP VIEW ledger.run")
    assert named(prepared) == [("projection", "name=run")]
    with connected(prepared) as connection:
        beat(connection, "0" * 16, "0.0.9", "all", None)
    found = compare(prepared)
    assert found.differing == []
    assert sorted(found.elsewhere) == ["newer", "run"]
    query(prepared, "DROP VIEW ledger.execution")
    assert ("view", "execution") in named(prepared)


@pytest.fixture
def guest(prepared: str) -> Iterator[str]:
    query(prepared, "CREATE ROLE definitions_guest")
    yield "definitions_guest"
    query(prepared, "DROP OWNED BY definitions_guest")
    query(prepared, "DROP ROLE definitions_guest")


def test_a_role_that_default_privileges_name_keeps_its_rights(prepared: str, guest: str) -> None:
    query(prepared, f"GRANT SELECT ON ledger.tile TO {guest}")
    assert named(prepared) == [("grant", f"SELECT on table tile to {guest}")]
    query(prepared, f"ALTER DEFAULT PRIVILEGES IN SCHEMA ledger GRANT SELECT ON TABLES TO {guest}")
    found = compare(prepared)
    assert (found.differing, found.admitted) == ([], [guest])
    start(prepared)
    rights = f"SELECT has_table_privilege('{guest}', 'ledger.tile', 'SELECT')"
    assert query(prepared, rights) == [(True,)]


def test_names_with_control_characters_are_logged_without_them(prepared: str) -> None:
    query(prepared, 'CREATE VIEW ledger."\x1b[2Jmine" AS SELECT 1 AS one')
    (each,) = compare(prepared).differing
    assert str(each).isprintable()
    assert str(Difference.of_object(each)) == str(each)


if __name__ == "__main__":
    with temporary_server() as url:
        FILE.write_text(written(url))
