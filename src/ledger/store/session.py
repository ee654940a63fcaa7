"""What our sessions rely on, whatever the role, the database, the server or PGOPTIONS would have.

A shared server's administrator may have given a role a timeout, another isolation or another form
of dates: good for people at a prompt, and each would break something here. What a session begins
with wins over all of these, so it is in the connection string that every part of us gets. An
option given in LEDGER_DATABASE_URL itself stays where it is none of these.
"""

from collections.abc import Mapping
from types import MappingProxyType

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

PINNED: Mapping[str, str] = MappingProxyType(
    {
        # An append decides on what others have committed before it got the lock.
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
        # Each part of us has limits of its own. Loops and listeners are idle for as long as
        # nothing happens, and a rebuild holds a snapshot for as long as it compares.
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "idle_session_timeout": "0",
        # Before 18 a plan under enable_seqscan=off that walks a table all the same counts as one of
        # the costliest, and is compiled at each execution: a second for an append.
        "jit": "off",
        # We name schemas; what is not named is PostgreSQL's own.
        "search_path": "pg_catalog",
        # How texts are read and values are shown.
        "array_nulls": "on",
        "bytea_output": "hex",
        "DateStyle": "ISO",
        "extra_float_digits": "1",
        "IntervalStyle": "postgres",
        "standard_conforming_strings": "on",
        "TimeZone": "UTC",
        "transform_null_equals": "off",
    }
)

_SINCE_17: Mapping[str, str] = MappingProxyType({"transaction_timeout": "0"})

DURABLE = b"""
SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') = 'off'
"""
"""For a session that appends: what is acknowledged is on the disk. Stricter settings stay."""


def pin(conninfo: str) -> str:
    """A connection string whose sessions begin as we need them; asks the server for its version.

    Raises psycopg.OperationalError when it is unreachable.
    """
    with psycopg.connect(conninfo) as connection:
        version = connection.info.server_version
    settings = {**PINNED, **(_SINCE_17 if version >= 170000 else {})}
    # Words are parted by spaces; one that belongs to a value has a backslash before it.
    words = (f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings.items())
    return make_conninfo(conninfo, client_encoding="UTF8", options=options_of(conninfo, *words))


def is_pinned(connection: psycopg.Connection[TupleRow]) -> bool:
    """Whether a session has begun as it was asked to: some poolers drop a connection's options."""
    return connection.execute("SHOW search_path").fetchone() == (PINNED["search_path"],)


def options_of(conninfo: str, *more: str) -> str:
    """The options in a connection string and these, which win: for ``options`` of ``connect``."""
    return " ".join(filter(None, (conninfo_to_dict(conninfo).get("options"), *more)))  # type: ignore[arg-type]
