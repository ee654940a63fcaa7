"""The commands about persons, whose names are stored outside the log (contract, Sign-in)."""

import sys

import psycopg
from psycopg.rows import dict_row

from ledger.app.cli.printing import print_json, print_rows
from ledger.app.settings import Settings
from ledger.engine.values.errors import NotFound

_PERSONS = """
SELECT sub, name, email, seen_at AS last_sign_in_at FROM ledger.person ORDER BY seen_at, sub
"""

_FORGET = "DELETE FROM ledger.person WHERE sub = %s"


def list_persons(_: Settings, conninfo: str, *, as_json: bool) -> int:
    with psycopg.connect(conninfo, row_factory=dict_row) as connection:
        found = connection.execute(_PERSONS)
        columns, persons = [column.name for column in found.description or ()], found.fetchall()
    if as_json:
        print_json(persons)
    else:
        print_rows(persons, columns)
    return 0


def forget_person(_: Settings, conninfo: str, sub: str) -> int:
    """Delete the names of a person. Raises NotFound if there are none."""
    with psycopg.connect(conninfo) as connection:
        if not connection.execute(_FORGET, (sub,)).rowcount:
            raise NotFound(f"There is no person {sub}: `ledger persons list` shows the subs.")
    print(f"Forgot {sub}.", file=sys.stderr)
    return 0
