"""``ledger verify`` derives the decision tables again from the log (contract, Command line)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from ledger.application.commands.keys import CreateApiKey, RevokeApiKey
from ledger.application.commands.webhooks import CreateEndpoint, EndpointSettings
from ledger.feed import signing
from ledger.intake.principal import COMMAND_LINE
from ledger.intake.tokens import create_token
from ledger.log.derived import TABLES, Compared, compare
from ledger.log.tables import ID_COUNTER, LEASE, RUN_KEY
from ledger.postgres.embedded import EmbeddedPostgres
from ledger.postgres.table import Table
from ledger.settings import Settings
from tests.conftest import MASTER_KEY
from tests.support.databases import copied
from tests.support.facts import ORGANIZATION, fact
from tests.support.ledger import Ledger, working

CHANGES = {
    "text": "concat({column}, 'x')",
    "text[]": "{column} || 'x'::text",
    "bigint": "{column} - 1",
    "int": "{column} - 1",
    "uuid": "gen_random_uuid()",
    "bytea": "{column} || '\\x00'::bytea",
    "timestamptz": "{column} - interval '1 hour'",
}
"""An altered value of a column, by the column's type."""

BY_NAME = {"revoked_at": "NULL", "ends_at": "heard_at, due_at = heard_at"}
"""… by the column's name, where another value matters more, or a constraint forbids others."""

FREE = {
    (RUN_KEY, "wrapped"): "only the master key tells whether another key is the run's",
    (LEASE, "due_at"): "any instant up to the end does, and a constraint forbids others",
}
"""The columns of which the log says nothing."""


@pytest.fixture(scope="module")
def ledger(server: EmbeddedPostgres) -> Iterator[Ledger]:
    """A ledger with rows in each table: open, leased and erased runs, a void, keys, an endpoint."""
    settings = Settings(master_key=MASTER_KEY)
    with copied(server.url, "derived") as conninfo, working(conninfo, settings) as ledger:
        fill(ledger)
        yield ledger


def fill(ledger: Ledger) -> None:
    line = ledger.line()
    started = {"service_line_id": line, "external_id": "nightly", "lease_seconds": 60}
    ledger.accept(fact("run.started", None, started))
    erased = ledger.run(line)
    ledger.accept(fact("run.completed", erased))
    assert ledger.erase(erased).outcome == "recorded"
    capacity = ledger.line("capacity")
    check_in = fact("execution.checked_in", capacity, {"hours": 1})
    void = fact("execution.check_in_voided", capacity, {"fact_id": check_in["id"]})
    ledger.accept(check_in, void)
    tenant: dict[str, Any] = {"organization_id": ORGANIZATION, "workspace_id": None}
    for name in ("kept", "revoked"):
        key = CreateApiKey(COMMAND_LINE, create_token(), name=name, permissions=("read",), **tenant)
        made = ledger.execute(key)
    assert ledger.execute(RevokeApiKey(str(made.subject), COMMAND_LINE)).outcome == "recorded"
    chosen = EndpointSettings(url="https://example.com/", event_types=("*",))
    secret = signing.create_secret()
    ledger.execute(CreateEndpoint(COMMAND_LINE, None, secret=secret, settings=chosen, **tenant))


def faults_of(ledger: Ledger) -> list[str]:
    faults: list[str] = []
    found = compare(ledger.conninfo, faults.append, lambda *_: None)
    assert found.faults == len(faults)
    return faults


def rows(ledger: Ledger, table: Table) -> list[dict[str, Any]]:
    return ledger.rows(f"SELECT ctid, * FROM ledger.{table.name} ORDER BY {', '.join(table.key)}")


@contextmanager
def altered(ledger: Ledger, statement: str) -> Iterator[None]:
    """Alter a table by a statement, and afterwards restore it."""
    table = statement.split("ledger.")[1].split()[0]
    with psycopg.connect(ledger.conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE before AS TABLE ledger.{table}".encode())
        try:
            connection.execute(statement.encode())
            yield
        finally:
            connection.execute(f"TRUNCATE ledger.{table}".encode())
            connection.execute(f"INSERT INTO ledger.{table} TABLE before".encode())
            connection.execute("DROP TABLE before")


def test_a_sound_ledger_has_no_difference_and_rows_in_every_table(ledger: Ledger) -> None:
    counted = {table.name: len(rows(ledger, table)) for table in TABLES}
    assert min(counted.values()) > 0, counted
    found = compare(ledger.conninfo, pytest.fail, lambda *_: None)
    assert found == Compared(sum(counted.values()), 0)


@pytest.mark.parametrize(
    ("table", "column"),
    [
        pytest.param(table, column, id=f"{table.name}.{column}")
        for table in TABLES
        for column in table.columns
        if (table, column) not in FREE
    ],
)
def test_each_altered_column_is_named_with_its_table_and_key(
    ledger: Ledger, table: Table, column: str
) -> None:
    change = BY_NAME.get(column, CHANGES[table.columns[column].split(" COLLATE")[0]])
    keys = " || ' ' || ".join(f"{key}::text" for key in table.key)
    first = f"SELECT {keys} AS key FROM ledger.{table.name} ORDER BY {column} IS NULL, 1 LIMIT 1"
    ((key,),) = (row.values() for row in ledger.rows(first))
    change = f"{column} = {change.format(column=column)} WHERE ({keys}) = '{key}'"
    with altered(ledger, f"UPDATE ledger.{table.name} SET {change}"):
        faults = faults_of(ledger)
    shown = key.replace("-", "") if table.columns[table.key[0]] == "uuid" else key
    if column in table.key:
        assert f"{table.name} {shown}: the row is missing" in faults
        assert len(faults) == 2
        assert {fault.split(": ", 1)[1] for fault in faults} == {
            "the row is missing", "the log has no such row"
        }  # fmt: skip
        return
    named = [fault for fault in faults if f"{table.name} {shown}: its column {column} " in fault]
    assert len(named) == 1, faults
    assert len(faults) <= 2, "an altered instant of a lease may contradict another"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_deleted_row_is_named(ledger: Ledger, table: Table) -> None:
    with altered(ledger, f"DELETE FROM ledger.{table.name}"):
        faults = faults_of(ledger)
    assert len(faults) == len(rows(ledger, table))
    assert all(fault.endswith(": the row is missing") for fault in faults)
    assert all(fault.startswith(f"{table.name} ") for fault in faults)


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE ledger.{ID_COUNTER.name} SET last = last + 100",
        f"UPDATE ledger.{LEASE.name} SET heard_at = heard_at + interval '1 minute',"
        " ends_at = ends_at + interval '2 minutes'",
    ],
    ids=["a counter that is ahead", "a lease that heartbeats and a gap have put off"],
)
def test_a_value_that_the_log_does_not_decide_is_no_difference(
    ledger: Ledger, statement: str
) -> None:
    with altered(ledger, statement):
        assert faults_of(ledger) == []


def test_instants_that_python_cannot_hold_are_differences(ledger: Ledger) -> None:
    with altered(ledger, "UPDATE ledger.line_activity SET last_activity_at = 'infinity'"):
        faults = faults_of(ledger)
    assert len(faults) == 2
    assert all("its column last_activity_at says nothing, the log 20" in f for f in faults)
