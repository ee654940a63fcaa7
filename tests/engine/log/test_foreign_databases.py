"""A database that others administer: their roles, settings and encodings."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ledger.app.composition.database import ConfigurationError, prepare_database, prepare_reading
from ledger.app.settings import Settings
from ledger.engine.log.event_log import Log
from ledger.engine.log.schema.migrate import SchemaError
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.edge import edge_of
from tests.support.embedded import served
from tests.support.facts import fact
from tests.support.relay import Relay

HARMFUL = {
    "array_nulls": "off",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "DateStyle": "German, DMY",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "extra_float_digits": "-15",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "50ms",
    "IntervalStyle": "sql_standard",
    "lock_timeout": "1ms",
    "search_path": "pg_temp",
    "standard_conforming_strings": "off",
    "statement_timeout": "1ms",
    "synchronous_commit": "off",
    "TimeZone": "America/New_York",
    "transaction_timeout": "50ms",
    "transform_null_equals": "on",
}
"""Settings that would each break a part of the service if a session began with one."""

_names = itertools.count(1)


class Tenant:
    """A login role without powers, and a database that it owns."""

    def __init__(self, url: str) -> None:
        self.name = f"tenant_{next(_names)}"
        self._url = url
        self.url = make_conninfo(url, user=self.name, dbname=self.name)

    def set_up(self, *encoding: str) -> None:
        self.execute(f"CREATE ROLE {self.name} LOGIN")
        self.execute(f"CREATE DATABASE {self.name} OWNER {self.name} {' '.join(encoding)}")

    def execute(self, statement: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def remove(self) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")
        self.execute(f"DROP ROLE IF EXISTS {self.name}")


@pytest.fixture
def tenant(server: EmbeddedPostgres) -> Iterator[Tenant]:
    """A tenant of the test session's server, which has the role ledger_api already."""
    tenant = Tenant(server.url)
    yield tenant
    tenant.remove()


def test_a_user_that_may_not_create_the_reading_role_is_refused_in_one_line(
    folder: Path, settings: Settings
) -> None:
    with served(folder / "data") as postgres:
        tenant = Tenant(postgres.url)
        tenant.set_up()
        with pytest.raises(SchemaError, match=f'^"{tenant.name}" .*CREATEROLE') as refused:
            prepare_database(settings, tenant.url)
        assert "\n" not in str(refused.value)
        tenant.execute(f"ALTER ROLE {tenant.name} CREATEROLE")
        prepare_database(settings, tenant.url)


def test_a_reading_role_that_bypasses_row_policies_is_refused(
    folder: Path, settings: Settings
) -> None:
    with served(folder / "data") as postgres:
        with psycopg.connect(postgres.url) as connection:
            connection.execute("CREATE ROLE ledger_api BYPASSRLS")
        with pytest.raises(SchemaError, match=r"ledger_api .*BYPASSRLS"):
            prepare_database(settings, postgres.url)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_cannot_hold_every_text_is_refused(
    tenant: Tenant, settings: Settings, encoding: str
) -> None:
    tenant.set_up(f"ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(SchemaError, match=f"encoding UTF8 .*{encoding}"):
        prepare_database(settings, tenant.url)


def test_the_service_works_whatever_settings_a_database_gives_its_sessions(
    conninfo: str, settings: Settings
) -> None:
    _set_for_all(conninfo, HARMFUL)
    with edge_of(settings, prepare_database(settings, conninfo)) as edge:
        line = edge.fresh("capacity", project_tags=["€uro", "null"])
        edge.accept(
            fact("execution.checked_in", line, {"hours": 7.15}, time="2026-01-01T23:30:00Z")
        )
        detail = edge.data(f"/v1/execution/{line}")
        usage = edge.data(f"/v1/execution/{line}/usage?from=2026-01-01&to=2026-01-02")
    assert detail["project_tags"] == ["€uro", "null"]
    assert detail["metrics"]["hours_total"] == 7.15
    assert usage["by_day"] == [
        {
            "date": "2026-01-01",
            "hours": 7.15,
            "hours_by_resource": [{"resource_id": None, "hours": 7.15}],
            "check_ins": 1,
            "runs": usage["total"]["runs"],
            "tokens_used": 0,
            "tokens_by_model": [],
        }
    ]


def test_the_environments_options_do_not_reach_a_session(
    conninfo: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c statement_timeout=1ms -c lock_timeout=1ms")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with psycopg.connect(prepare_database(settings, conninfo)) as connection:
        for name, value in (("statement_timeout", "0"), ("client_encoding", "UTF8")):
            assert connection.execute(f"SHOW {name}".encode()).fetchone() == (value,)


@pytest.mark.parametrize("reads", [False, True], ids=["writes", "reads"])
def test_jit_compilation_is_off_in_every_session(
    conninfo: str, settings: Settings, reads: bool
) -> None:
    # Before PostgreSQL 18 a plan has an enormous cost if it needs a disabled sequential scan. Such
    # a plan would be compiled, which takes a second.
    _set_for_all(conninfo, {"jit": "on"})
    made = prepare_database(settings, conninfo)
    with psycopg.connect(prepare_reading(settings, made) if reads else made) as connection:
        assert connection.execute("SHOW jit").fetchone() == ("off",)


def test_options_of_the_database_url_stay_with_the_ledgers(
    conninfo: str, settings: Settings
) -> None:
    address = make_conninfo(conninfo, options="-c work_mem=7MB -c statement_timeout=1ms")
    made = prepare_database(settings, address)
    with psycopg.connect(prepare_reading(settings, made)) as connection:
        values = [
            connection.execute(f"SHOW {name}".encode()).fetchone()
            for name in ("work_mem", "statement_timeout", "default_transaction_isolation")
        ]
    assert values == [("7MB",), ("0",), ("read committed",)]


def test_a_pooler_that_drops_the_options_of_sessions_is_refused_in_one_line(
    conninfo: str, settings: Settings, tmp_path: Path
) -> None:
    relay = Relay(conninfo, tmp_path)
    try:
        prepare_database(settings, relay.conninfo)
        relay.drops_options = True
        with pytest.raises(ConfigurationError, match="pooler") as refused:
            prepare_database(settings, relay.conninfo)
        assert "\n" not in str(refused.value)
    finally:
        relay.close()


def test_an_append_waits_for_the_disk_though_the_databases_default_does_not(
    conninfo: str, settings: Settings
) -> None:
    _set_for_all(conninfo, {"synchronous_commit": "off"})
    log = Log(prepare_database(settings, conninfo))
    try:
        with log.append_transaction():
            pass
        assert _first_row(log, "SHOW synchronous_commit") == ["on"]
    finally:
        log.close()


def test_the_log_connects_by_the_environments_libpq_variables(
    conninfo: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = conninfo_to_dict(conninfo)
    for name in ("host", "port", "user"):
        monkeypatch.setenv(f"PG{name.upper()}", str(parts[name]))
    monkeypatch.setenv("PGDATABASE", "no_such_database")
    bare = make_conninfo(dbname=str(parts["dbname"]))
    monkeypatch.setenv("PGUSER", "boss")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE ROLE boss SUPERUSER LOGIN")
    try:
        log = Log(prepare_database(settings, bare))
        try:
            assert _first_row(log, "SELECT current_user") == ["boss"]
        finally:
            log.close()
    finally:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("DROP ROLE boss")


def _first_row(log: Log, statement: str) -> list[str]:
    """The first row of a statement on the log's only connection."""
    (row,) = log.connected().connection.execute(statement.encode())
    return list(row)


def _set_for_all(conninfo: str, values: dict[str, str]) -> None:
    """Set values for all sessions of the database that begin from now on."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        database = sql.Identifier(connection.info.dbname)
        for name, value in values.items():
            statement = sql.SQL("ALTER DATABASE {} SET {} TO {}")
            value = sql.Literal(value) if name != "search_path" else sql.Identifier(value)
            connection.execute(statement.format(database, sql.Identifier(name), value))


def test_client_and_server_notice_a_vanished_peer(conninfo: str, settings: Settings) -> None:
    """A vanished client once held its locks for two hours, and a connect waited two minutes."""
    made = conninfo_to_dict(prepare_database(settings, conninfo))
    ours = ("connect_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count")
    assert [made[name] for name in (*ours, "tcp_user_timeout")] == ["2", "5", "2", "3", "10000"]
    theirs = ("idle=5", "interval=2", "count=3")
    assert all(f"-c tcp_keepalives_{word}" in str(made["options"]) for word in theirs)
    assert "-c tcp_user_timeout=10000" in str(made["options"])


def test_connection_parameters_of_the_database_url_stay(conninfo: str, settings: Settings) -> None:
    address = make_conninfo(conninfo, connect_timeout="7", keepalives_idle="60")
    made = conninfo_to_dict(prepare_database(settings, address))
    assert (made["connect_timeout"], made["keepalives_idle"]) == ("7", "60")


def test_target_session_attrs_read_write_of_the_environment_means_primary(
    conninfo: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "read-write")
    made = conninfo_to_dict(prepare_database(settings, conninfo))
    assert made["target_session_attrs"] == "primary"
