"""``ledger verify`` derives the decision tables again from the log (contract, Command line)."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from hashlib import sha256
from typing import Any

import psycopg
import pytest

from ledger.app.composition.verification import compare
from ledger.app.settings import Settings
from ledger.engine.log.tables import ID_COUNTER, LEASE, DocumentRow
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.schema.table import Table
from ledger.engine.values.principal import COMMAND_LINE
from ledger.features.keys.commands import CreateApiKey, RevokeApiKey, RotateApiKey
from ledger.features.keys.tokens import create_token
from ledger.features.proof.tables import Difference
from ledger.features.proof.verification.derived import TABLES, Compared
from ledger.features.usage.tables import Documents
from ledger.features.watches.commands.watches import CreateWatch
from ledger.features.webhooks.commands import CreateEndpoint, EndpointSettings
from ledger.features.webhooks.delivery import signing
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.facts import ORGANIZATION, fact
from tests.support.ledger import Ledger, working
from tests.support.statements import issue_of
from tests.support.watch_workload import SETTINGS


@pytest.fixture(scope="module")
def ledger(server: EmbeddedPostgres) -> Iterator[Ledger]:
    """A ledger with rows in each table: open, leased and erased runs, a void, rotated keys,
    an endpoint, a long stream."""
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
    many = [fact("execution.checked_in", capacity, {"hours": 1}) for _ in range(250)]
    assert {item.outcome for item in ledger.report(*many)} == {"recorded"}
    tenant: dict[str, Any] = {"organization_id": ORGANIZATION, "workspace_id": None}
    later = ledger.clock() + timedelta(days=30)
    for name in ("rotated", "revoked"):
        key = CreateApiKey(
            COMMAND_LINE,
            create_token(),
            name=name,
            permissions=("read",),
            expires_at=later,
            **tenant,
        )
        made = ledger.execute(key)
        change = RotateApiKey(
            str(made.subject), COMMAND_LINE, token=create_token(), grace=timedelta(hours=1)
        )
        assert ledger.execute(change).outcome == "recorded"
    assert ledger.execute(RevokeApiKey(str(made.subject), COMMAND_LINE)).outcome == "recorded"
    chosen = EndpointSettings(url="https://example.com/", event_types=("*",))
    secret = signing.create_secret()
    ledger.execute(CreateEndpoint(COMMAND_LINE, None, secret=secret, settings=chosen, **tenant))
    ledger.execute(CreateWatch(COMMAND_LINE, None, **tenant, settings=SETTINGS))
    octets = b'{"total":{"lines":0}}'
    hash_ = sha256(octets)
    row = hash_.digest(), ORGANIZATION, "WS-26-000001", octets, '{"lines":0}', ledger.clock()
    Documents(ledger.conninfo).store(DocumentRow(*row))
    as_of = ledger.clock() + timedelta(seconds=1)
    (end,) = ledger.rows("SELECT max(notification_id) AS position FROM ledger.ledger_events")
    issued = ledger.execute(issue_of(end["position"], as_of, hash_.hexdigest()))
    assert issued.outcome == "recorded"


def faults_of(ledger: Ledger) -> list[str]:
    faults: list[Difference] = []
    found = compare(ledger.conninfo, faults.append, lambda *_: None)
    assert found.faults == len(faults)
    return list(map(str, faults))


def rows(ledger: Ledger, table: Table) -> list[dict[str, Any]]:
    return ledger.rows(f"SELECT ctid, * FROM ledger.{table.name} ORDER BY {', '.join(table.key)}")


@contextmanager
def altered(ledger: Ledger, statement: str) -> Iterator[None]:
    """Alter a table by a statement, and afterwards restore it."""
    table = statement.split("ledger.")[1].split()[0]
    with psycopg.connect(ledger.conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE TEMP TABLE before AS TABLE ledger.{table}".encode())
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
    assert found == Compared(ledger.head(), sum(counted.values()), 0)


@pytest.mark.parametrize(
    "statement",
    [
        f"UPDATE ledger.{ID_COUNTER.name} SET last = last + 100",
        f"UPDATE ledger.{LEASE.name} SET heard_at = heard_at + interval '1 minute',"
        " ends_at = ends_at + interval '1 minute'",
    ],
    ids=["a counter that is ahead", "a lease that a heartbeat has put off"],
)
def test_a_value_that_the_log_does_not_decide_is_no_difference(
    ledger: Ledger, statement: str
) -> None:
    with altered(ledger, statement):
        assert faults_of(ledger) == []


def test_a_lease_is_put_off_by_no_more_time_than_the_service_could_not_listen(
    ledger: Ledger,
) -> None:
    put_off = f"UPDATE ledger.{LEASE.name} SET ends_at = ends_at + interval '2 minutes'"
    ((renewed_at,),) = (
        row.values() for row in ledger.rows(f"SELECT heard_at FROM ledger.{LEASE.name}")
    )
    listened = "UPDATE ledger.listening SET listened_at = '{}'"
    with (
        altered(ledger, listened.format(renewed_at + timedelta(minutes=2))),
        altered(ledger, put_off),
    ):
        assert faults_of(ledger) == []
    with (
        altered(ledger, listened.format(renewed_at + timedelta(minutes=1))),
        altered(ledger, put_off),
    ):
        (fault,) = faults_of(ledger)
    assert "its column ends_at says" in fault


def test_instants_that_python_cannot_hold_are_differences(ledger: Ledger) -> None:
    with altered(ledger, "UPDATE ledger.line_activity SET last_activity_at = 'infinity'"):
        faults = faults_of(ledger)
    assert len(faults) == 2
    assert all("its column last_activity_at says nothing, the log 20" in f for f in faults)
