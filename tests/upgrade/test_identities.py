"""Facts and check-ins of commit 57058cd are found by their identities (migration 0013)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from ledger.application.loader import Cache, Loader
from ledger.domain.execution_events import CheckedIn
from ledger.domain.identity import Identity
from ledger.log.event_log import Log
from ledger.postgres.embedded import EmbeddedPostgres
from ledger.service.composition.database import open_vault, prepare_database
from tests.support.restored import OldLedger
from tests.support.views import query

OLD_LEDGER = OldLedger("57058cd")

ODD = [
    ("", "/s", "f"),
    ("ORG-26-000001", "/s", "/f"),
    ("ORG-26-000001", "/s/", "f"),
    ("ORG-26-000001", "/s", "é"),
    ("ORG-26-000001", "/s", "e\u0301"),
    ("ORG-26-000001", "/\U0001f600", "'\"\\x00\u2028"),
    ("ORG-26-000001", " ", "\t\n"),
    ("ORG-26-000001", "/" + "s" * 254, "f" * 255),
]
"""Parts of identities, whose digest in SQL is compared with that in Python."""

FACTS, VOIDS = 1_000_000, 2_000_000
"""The positions of odd facts and of their voids begin here."""


@dataclass
class Upgraded:
    """The upgraded ledger, and the rows that it had before."""

    conninfo: str
    facts: list[dict[str, Any]]
    check_ins: list[dict[str, Any]]


def add_voided_check_in(
    connection: psycopg.Connection[Any], number: int, organization: str, source: str, fact: str
) -> None:
    """Add a check-in of a line of its own, and its void, as that version would have stored them."""
    line = f"LIN-26-9{number:05d}"
    state = {
        "organization_id": organization,
        "fact": {"source": source, "id": "void"},
        "body": {"fact_id": fact},
    }
    for statement, values in (
        (
            "INSERT INTO ledger.fact VALUES (%s, %s, %s, '', NULL, '', '', %s)",
            (organization, source, fact, FACTS + number),
        ),
        (
            "INSERT INTO ledger.check_in VALUES (%s, %s, %s, NULL, now(), NULL, true)",
            (line, source, fact),
        ),
        (
            "INSERT INTO ledger.ledger_events (originator_id, originator_version, topic, state,"
            " notification_id, recorded_at)"
            " VALUES (%s, 1, 'execution.check_in_voided/1', %s, %s, now() + %s * interval '1 us')",
            (line, json.dumps(state).encode(), VOIDS + number, number),
        ),
    ):
        connection.execute(statement, values)


@pytest.fixture(scope="module")
def upgraded(server: EmbeddedPostgres) -> Iterator[Upgraded]:
    with OLD_LEDGER.as_written(server.url, "with_old_facts") as conninfo:
        with psycopg.connect(conninfo, row_factory=dict_row) as connection:
            facts = connection.execute("SELECT * FROM ledger.fact").fetchall()
            check_ins = connection.execute("SELECT * FROM ledger.check_in").fetchall()
            for number, identity in enumerate(ODD, 1):
                add_voided_check_in(connection, number, *identity)
        prepare_database(OLD_LEDGER.settings, conninfo)
        yield Upgraded(conninfo, facts, check_ins)


@pytest.fixture
def loader(upgraded: Upgraded) -> Iterator[Loader]:
    log = Log(upgraded.conninfo)
    with log.ledger_recorder.append_transaction() as append:
        yield Loader(append, log.codec, Cache(), open_vault(OLD_LEDGER.settings))
    log.close()


def test_each_fact_and_failed_delivery_has_its_first_outcome(
    upgraded: Upgraded, loader: Loader
) -> None:
    loader.load((), [_identity(row) for row in upgraded.facts])
    for row in upgraded.facts:
        first = loader.first(_identity(row))
        assert first is not None
        event = first.event
        assert (event.originator_id, event.position) == (row["subject"], row["position"])
        assert " ".join(first.event_ids) == row["event_ids"]
        assert (event.fact.digest if event.fact is not None else b"") == row["digest"]
        assert event.originator_id.startswith("RUN") == (row["run_id"] is not None)
    woken = [row for row in upgraded.facts if " " in row["event_ids"]]
    failed = [row for row in upgraded.facts if not row["source"]]
    assert len(upgraded.facts) > len(failed) > len(woken) > 0


def test_each_check_in_is_found_and_is_voided_if_it_was(upgraded: Upgraded, loader: Loader) -> None:
    organizations = {row["subject"]: row["organization_id"] for row in upgraded.facts}
    voided = 0
    for row in upgraded.check_ins:
        identity = Identity(organizations[row["line_id"]], row["source"], row["fact_id"])
        first, void = loader.first(identity), loader.first(identity.void)
        assert first is not None
        event, body = first.event, first.event.body
        assert isinstance(body, CheckedIn)
        assert (event.originator_id, event.occurred_at) == (row["line_id"], row["at"])
        assert (body.hours, body.resource_id) == (row["hours"], row["resource_id"])
        assert (void is not None) == row["voided"]
        voided += row["voided"]
    assert 0 < voided < len(upgraded.check_ins)


def test_sql_and_python_give_an_identity_the_same_digest(upgraded: Upgraded) -> None:
    rows = query(upgraded.conninfo, "SELECT digest, position FROM ledger.identity")
    stored = {digest.bytes: position for digest, position in rows}
    for number, parts in enumerate(ODD, 1):
        identity = Identity(*parts)
        assert stored[identity.digest] == FACTS + number, identity
        assert stored[identity.void.digest] == VOIDS + number, identity


def _identity(row: dict[str, Any]) -> Identity:
    return Identity(row["organization_id"], row["source"], row["fact_id"])
