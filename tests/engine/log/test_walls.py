"""Policies and grants: each table has a policy, and the role of reads cannot pass any."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import tuple_row

from ledger.app.features import projections
from ledger.engine.log.schema.walls import FUNCTIONS, INTERNAL, POLICIES, SHARED, granted
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.schema.table import Table
from tests.support.databases import copied
from tests.support.reader import reading
from tests.support.rebuilding import rebuild
from tests.support.views import query

Connection = psycopg.Connection[tuple[Any, ...]]

TABLES: dict[str, Table] = {table.name: table for view in projections() for table in view.tables}

# Every table of the schema: the generation's number cut off, row-level security, policies.
_TABLES = """
SELECT c.relname, regexp_replace(c.relname, '_g[0-9]+$', ''), c.relrowsecurity,
    (SELECT count(*) FROM pg_policy AS p WHERE p.polrelid = c.oid), c.relforcerowsecurity
FROM pg_class AS c
WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'p', 'm', 'f')
"""

# The columns of each relation that a role may select.
_COLUMNS = """
SELECT c.relname, array_agg(a.attname::text ORDER BY a.attname)
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND NOT a.attisdropped AND has_column_privilege(%(role)s, c.oid, a.attnum, 'SELECT')
GROUP BY c.relname
"""

_OTHER_RIGHTS = """
SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND (has_table_privilege(%(role)s, c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
       OR has_any_column_privilege(%(role)s, c.oid, 'INSERT, UPDATE, REFERENCES'))
"""

_CALLS = """
SELECT p.proname FROM pg_proc AS p WHERE p.pronamespace = 'ledger'::regnamespace
  AND has_function_privilege(%(role)s, p.oid, 'EXECUTE')
"""


@pytest.fixture(scope="module")
def prepared(server: EmbeddedPostgres) -> Iterator[str]:
    """A database whose role of reads is prepared, and whose view of runs was rebuilt since."""
    with copied(server.url, "walls") as conninfo:
        reading(conninfo)
        rebuild(conninfo, next(view for view in projections() if view.name == "run"))
        yield conninfo


@pytest.fixture
def reader(prepared: str) -> Iterator[Connection]:
    """A session that has logged in as the role of reads, as from psql: without any setting."""
    with psycopg.connect(reading(prepared), autocommit=True, row_factory=tuple_row) as connection:
        yield connection


def role_of(conninfo: str) -> str:
    return str(conninfo_to_dict(reading(conninfo))["user"])


def unwalled(conninfo: str) -> list[str]:
    """The tables whose rows no policy hides, though they may be a tenant's."""
    return [
        name
        for name, base, is_on, policies, _ in query(conninfo, _TABLES)
        if not (is_on and policies == 1 and (base in TABLES or name in POLICIES))
        and name not in SHARED.keys() | INTERNAL.keys()
    ]


def test_every_table_has_a_policy_or_is_named_as_one_without_rows_of_tenants(prepared: str) -> None:
    assert unwalled(prepared) == [], "name it in engine/log/schema/walls.py"
    found = {base for _, base, *_ in query(prepared, _TABLES)}
    named = TABLES.keys() | POLICIES.keys() | SHARED.keys() | INTERNAL.keys()
    assert named == found


def test_a_new_table_without_a_policy_is_found_by_its_name(conninfo: str) -> None:
    query(conninfo, "CREATE TABLE ledger.newcomer (organization_id text)")
    query(conninfo, "CREATE TABLE ledger.run_g99 (organization_id text)")
    assert sorted(unwalled(conninfo)) == ["newcomer", "run_g99"]


def test_the_tables_owner_fills_views_by_copy_so_security_is_never_forced(prepared: str) -> None:
    assert not any(is_forced for *_, is_forced in query(prepared, _TABLES))


def test_the_role_of_reads_may_select_the_named_columns_and_no_others(prepared: str) -> None:
    allowed = dict(granted())
    generations = dict(query(prepared, "SELECT name, generation FROM ledger.projection"))
    assert generations["run"] == 2
    for view in projections():
        compared = {table.owner for table in view.tables if table.owner}
        for table in view.tables:
            if table.is_internal:
                if table.reading:
                    allowed[table.reading.name] = table.reading.columns
                continue
            allowed[table.name] = own = table.visible
            if table.is_filtered_by_view:
                keys = [column for name, column in compared if name == table.name]
                own = (*keys, *table.tenant) if keys else ()
            allowed[f"{table.name}_g{generations[view.name]}"] = own
    values = {"role": role_of(prepared)}
    with psycopg.connect(prepared, row_factory=tuple_row) as connection:
        found = dict(connection.execute(_COLUMNS, values).fetchall())
        assert found == {name: sorted(columns) for name, columns in allowed.items() if columns}
        assert connection.execute(_OTHER_RIGHTS, values).fetchall() == []
        calls = {name for (name,) in connection.execute(_CALLS, values).fetchall()}
        assert calls == {function.partition("(")[0] for function in FUNCTIONS}
    secret = {"secret_hash", "wrapped", "input", "output", "error", "secret", "fold"}
    # The folds of lines, watches and alerts have nothing but what their tenant reads anyway.
    of_tenant = {"execution_activity", "watch", "alert"}
    for name, columns in found.items():
        exceptions = {"fold"} if name.partition("_g")[0] in of_tenant else set()
        shows = secret & set(columns) - exceptions
        assert not shows or name in ("projection", "signer", "run_content"), name


@pytest.mark.parametrize("role", ["public", "ledger_api"])
def test_no_other_role_has_a_right(prepared: str, role: str) -> None:
    values = {"role": role}
    with psycopg.connect(prepared, row_factory=tuple_row) as connection:
        for statement in (_COLUMNS, _OTHER_RIGHTS, _CALLS):
            assert connection.execute(statement, values).fetchall() == []


def test_a_session_without_a_tenant_sees_no_row(prepared: str, reader: Connection) -> None:
    columns = reader.execute(_COLUMNS, {"role": role_of(prepared)}).fetchall()
    assert len(columns) > 30
    for setting in ("", "SET ledger.organization_id = ''; SET ledger.workspace_id = ''"):
        if setting:
            reader.execute(setting.encode())
        for name, readable in columns:
            if name not in SHARED:
                read = f"SELECT {', '.join(readable)} FROM ledger.{name}"
                assert reader.execute(read.encode()).fetchall() == [], name


@pytest.mark.parametrize(
    "call",
    [
        "stored_events(ARRAY(SELECT generate_series(1, 9)))",
        "passing_keys(ARRAY[sha256('x')], now())",
    ],
)
def test_a_function_shows_nothing_without_a_tenant(reader: Connection, call: str) -> None:
    assert reader.execute(f"SELECT * FROM ledger.{call}".encode()).fetchall() == []


@pytest.mark.parametrize(
    "call",
    [
        "log_end()",
        "position_by(now())",
        "position_from('-infinity')",
        "recorded_at(1)",
    ],
)
def test_positions_are_unknown_without_a_tenant(reader: Connection, call: str) -> None:
    read = f"SELECT ledger.{call}".encode()
    assert reader.execute(read).fetchall() == [(None,)]


@pytest.mark.parametrize(
    "statement",
    [
        "SET ROLE postgres",
        "SET ROLE ledger_api",
        "SET SESSION AUTHORIZATION postgres",
        "SELECT secret_hash FROM ledger.api_key",
        "SELECT * FROM ledger.api_key",
        "SELECT 1 FROM ledger.run_key",
        "SELECT 1 FROM ledger.run_payload",
        "SELECT 1 FROM ledger.ledger_events",
        "SELECT fold FROM ledger.webhook",
        "SELECT secret FROM ledger.signer",
        "SELECT 1 FROM ledger.setting",
        "CREATE TABLE ledger.mine ()",
        "CREATE ROLE mine",
        "ALTER TABLE ledger.run DISABLE ROW LEVEL SECURITY",
        "COPY (SELECT 1) TO '/tmp/mine'",
        "SET row_security = off; SELECT run_id FROM ledger.run",
    ],
)
def test_the_role_of_reads_passes_no_policy(reader: Connection, statement: str) -> None:
    reader.execute("SET default_transaction_read_only = off")
    reader.execute("SET ledger.organization_id = '*'; SET ledger.workspace_id = '*'")
    refusals = (errors.InsufficientPrivilege, errors.UndefinedColumn, errors.WrongObjectType)
    with pytest.raises(refusals):
        reader.execute(statement.encode())


def test_a_reset_leaves_the_session_the_role_it_has_logged_in_as(
    prepared: str, reader: Connection
) -> None:
    for statement in ("RESET ROLE", "SET ROLE NONE", "RESET SESSION AUTHORIZATION", "DISCARD ALL"):
        reader.execute(statement.encode())
        found = reader.execute("SELECT current_user, session_user").fetchall()
        assert found == [(role_of(prepared),) * 2]


def test_two_ledgers_on_one_server_share_no_role(prepared: str, conninfo: str) -> None:
    theirs = conninfo_to_dict(reading(conninfo))
    assert theirs["user"] != role_of(prepared)
    assert theirs["password"] != conninfo_to_dict(reading(prepared))["password"]
    strange = make_conninfo(prepared, user=theirs["user"], password=theirs["password"])
    with psycopg.connect(strange) as connection, pytest.raises(errors.InsufficientPrivilege):
        connection.execute("SELECT name FROM ledger.projection")
