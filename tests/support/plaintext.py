"""A search of all stored rows for words that must not be stored in the clear, in any encoding."""

import base64

import psycopg
from psycopg.rows import tuple_row

from ledger.engine.log.codec import EnvelopeMapper

_TABLES = """
SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
WHERE schemaname NOT IN ('pg_catalog', 'information_schema')
"""

_EVENTS = """
SELECT originator_id, originator_version, topic, state, notification_id FROM ledger.ledger_events
WHERE originator_id = %s ORDER BY originator_version
"""


def sealed_payloads(conninfo: str, run: str) -> list[tuple[str, bytes]]:
    """(field, ciphertext) of every payload in a run's events."""
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        rows = connection.execute(_EVENTS, (run,)).fetchall()
    bodies = [EnvelopeMapper().decode(*row).body for row in rows]
    fields = ("input", "output", "error")
    found = [(field, getattr(body, field, None)) for body in bodies for field in fields]
    return [(field, sealed) for field, sealed in found if sealed is not None]


def stored_rows(conninfo: str) -> dict[str, list[bytes]]:
    """Every row of every table as bytes: bytea columns as they are, other columns as text."""
    stored: dict[str, list[bytes]] = {}
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        for (table,) in connection.execute(_TABLES).fetchall():
            rows = connection.execute(f"SELECT * FROM {table}".encode()).fetchall()
            stored[table] = [
                b"\n".join(v if isinstance(v, bytes) else str(v).encode() for v in row)
                for row in rows
            ]
    return stored


def tables_with(stored: dict[str, list[bytes]], word: str) -> list[str]:
    """The tables that contain a word: plain, in Base64 or in hexadecimal digits."""
    plain = word.encode()
    needles = [plain, base64.b64encode(plain)[:12], plain.hex().encode()]
    return [
        table
        for table, rows in stored.items()
        if any(needle in row for needle in needles for row in rows)
    ]
