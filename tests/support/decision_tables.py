"""Decision tables compared with the fold of the whole log."""

from typing import Any
from uuid import UUID

import psycopg

from ledger.domain.endpoint import WebhookDeliveryFailed
from ledger.log.codec import EnvelopeMapper
from ledger.log.decisions import DecisionTables
from ledger.log.tables import DECISION_TABLES, IDENTITY, LEASE, Derived, IdentityRow
from ledger.postgres.table import Table

_LOG = """
SELECT originator_id, originator_version, topic, state, notification_id
FROM ledger.ledger_events ORDER BY notification_id
"""

FOLDED = [table for table in DECISION_TABLES if table.derived is Derived.AS_FOLDED]


def assert_decision_tables_match_log(conninfo: str) -> set[str]:
    """Assert that the tables have the folded rows; return the ``AS_FOLDED`` tables with rows."""
    decisions, mapper, failed = DecisionTables(), EnvelopeMapper(), set[int]()
    with psycopg.connect(conninfo) as connection:
        for row in connection.execute(_LOG):
            recorded = mapper.decode(*row)
            decisions.note(recorded)
            if isinstance(recorded.body, WebhookDeliveryFailed):
                failed.add(recorded.position)
        changed = decisions.changed()
        assert {*FOLDED, LEASE} == changed.keys()
        for table in FOLDED:
            folded = [tuple(map(_plain, row)) for row in changed[table]]
            assert len(folded) == len(set(folded))
            assert set(folded) == _stored(connection, table), table.name
        # The log has the leases, but not the heartbeats, which move their instants.
        leases = {tuple(row)[:2] for row in changed[LEASE]}
        assert leases == {row[:2] for row in _stored(connection, LEASE)}
        identities = [IdentityRow(*row) for row in _stored(connection, IDENTITY)]
    # The log does not have the identities of failed deliveries.
    assert {row.position for row in identities} >= failed
    assert {row for row in identities if row.position not in failed} == {*decisions.new_identities}
    return {table.name for table in FOLDED if changed[table]}


def _stored(connection: psycopg.Connection[Any], table: Table) -> set[tuple[Any, ...]]:
    statement = f"SELECT {', '.join(table.columns)} FROM ledger.{table.name}".encode()
    return {tuple(map(_plain, row)) for row in connection.execute(statement)}


def _plain(value: Any) -> Any:
    if isinstance(value, UUID):
        return value.bytes
    return tuple(value) if isinstance(value, list) else value
