"""What connections and sessions rely on, whatever role, database, server or PGOPTIONS would have.

A shared server's administrator may have given a role a timeout, another isolation or another form
of dates: good for people at a prompt, and each would break something here. What a session begins
with wins over all of these, so it is in the connection string that every part of us gets. An
option given in LEDGER_DATABASE_URL itself stays where it is none of these.

A host that vanishes says nothing. Without bounds, connecting waits for two minutes, a statement for
a quarter of an hour, and a server keeps the locks of a vanished client for two hours; so both ends
of each connection look after the other (contract 9). A proxy may acknowledge in the place of a
vanished host, which TCP can't notice: the reply to a statement is waited for no longer than
``ANSWER_SECONDS`` where a request waits for it.
"""

from collections.abc import Mapping
from math import inf
from types import MappingProxyType
from typing import Any

import psycopg
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import Row, TupleRow

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
        # The server's own look after a client: the locks of one that vanished are free after 15 s.
        "tcp_keepalives_idle": "5",
        "tcp_keepalives_interval": "2",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "10000",
    }
)

CONNECT_SECONDS = 2
"""How long one server may take to let us in."""

_REACHED: Mapping[str, str] = MappingProxyType(
    {
        "connect_timeout": str(CONNECT_SECONDS),
        "keepalives": "1",
        "keepalives_idle": "5",
        "keepalives_interval": "2",
        "keepalives_count": "3",
        "tcp_user_timeout": "10000",
    }
)
"""libpq's parameters of each connection; what LEDGER_DATABASE_URL says of them stays."""

_INTERVAL = 0.1
"""How often psycopg looks for a signal while it waits."""

ANSWER_SECONDS = 9.5
"""How long the reply to a statement is waited for that a request waits for."""

ROUND_SECONDS = 10.0
"""The same in a loop: each of its statements takes milliseconds, and its next round does it all."""

_SINCE_17: Mapping[str, str] = MappingProxyType({"transaction_timeout": "0"})

DURABLE = b"""
SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') = 'off'
"""
"""For a session that appends: what is acknowledged is on the disk. Stricter settings stay."""


class RoundConnection(psycopg.Connection[Row]):
    """A loop's: a statement of psycopg's that is not answered in time is its last."""

    patience = ROUND_SECONDS

    def wait(self, gen: PQGen[RV], interval: float = _INTERVAL, timeout: float | None = None) -> RV:
        """As psycopg's; closes the connection where no answer comes in time."""
        try:
            return super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.close()
            raise


class AppendConnection(RoundConnection[Row]):
    """A writer's."""

    patience = ANSWER_SECONDS


class AsyncRoundConnection(psycopg.AsyncConnection[Row]):
    """The same for a loop that is one of asyncio's tasks."""

    patience = ROUND_SECONDS

    async def wait(
        self, gen: PQGen[RV], interval: float = _INTERVAL, timeout: float | None = None
    ) -> RV:
        """As psycopg's; closes the connection where no answer comes in time."""
        try:
            return await super().wait(gen, interval, self.patience if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await self.close()
            raise


class ReadConnection(AsyncRoundConnection[Row]):
    """A lane's."""

    patience = ANSWER_SECONDS


def patience_of(connection: psycopg.BaseConnection[Any]) -> float:
    """For how many seconds the reply to a statement is waited for.

    Infinite for psycopg's own classes, as where statements may take long.
    """
    if isinstance(connection, RoundConnection | AsyncRoundConnection):
        return connection.patience
    return inf


def hosts_of(conninfo: str) -> int:
    """How many servers are tried, one after the other, until one will do."""
    said = conninfo_to_dict(conninfo)
    return max(len(str(said.get(name) or "").split(",")) for name in ("host", "hostaddr"))


def pin(conninfo: str) -> str:
    """A connection string whose sessions begin as we need them; asks the server for its version.

    Raises psycopg.OperationalError when it is unreachable.
    """
    said = conninfo_to_dict(conninfo)
    conninfo = make_conninfo(conninfo, **{k: v for k, v in _REACHED.items() if k not in said})
    with psycopg.connect(conninfo) as connection:
        version = connection.info.server_version
        asked_for = connection.info.get_parameters()  # of the environment too
    if asked_for.get("target_session_attrs") == "read-write":
        # libpq would take a session for one of a standby that begins read-only, as reads do.
        conninfo = make_conninfo(conninfo, target_session_attrs="primary")
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
