"""Decision tables compared with the fold of the whole log."""

import psycopg

from ledger.app.composition.verification import compare
from ledger.engine.log.tables import DECISION_TABLES, Derived
from ledger.features.proof.tables import Difference

FOLDED = [table for table in DECISION_TABLES if table.derived is Derived.AS_FOLDED]


def assert_decision_tables_match_log(conninfo: str) -> set[str]:
    """Assert that the tables have the folded rows; return the ``AS_FOLDED`` tables with rows."""
    faults: list[Difference] = []
    compare(conninfo, faults.append, lambda *_: None)
    assert faults == []
    with psycopg.connect(conninfo) as connection:
        return {
            table.name
            for table in FOLDED
            if connection.execute(f"SELECT FROM ledger.{table.name} LIMIT 1".encode()).rowcount
        }
