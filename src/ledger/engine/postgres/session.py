"""Settings of connections and sessions, independent of role, database, server and PGOPTIONS.

The administrator of a shared server may have set a timeout, another isolation level or another date
style for a role. Such settings suit people at a prompt, but would break something here. Options in
the connection string win over them, so every part of the ledger gets a connection string with
pinned options. An option of LEDGER_DATABASE_URL stays, unless it is a pinned one.

A host that vanishes sends nothing. Without time limits, connecting would wait for two minutes and a
statement for a quarter of an hour; a server would keep the locks of a vanished client for two
hours. So both ends watch each other, by TCP keepalives and user timeouts (contract, Health). TCP
cannot notice that a proxy acknowledges in place of a vanished host. So a client waits at most
``ANSWER_SECONDS`` for the reply to a statement that a request waits for.
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

from ledger.engine.postgres.timing import ANSWER_SECONDS, CONNECT_SECONDS, ROUND_SECONDS

PINNED: Mapping[str, str] = MappingProxyType(
    {
        # An append must see everything that was committed before it got the lock.
        "default_transaction_isolation": "read committed",
        "default_transaction_deferrable": "off",
        # The ledger has its own time limits. Loops and listeners are idle while nothing happens; a
        # rebuild holds a snapshot for as long as it compares.
        "statement_timeout": "0",
        "lock_timeout": "0",
        "idle_in_transaction_session_timeout": "0",
        "idle_session_timeout": "0",
        # Before PostgreSQL 18, a sequential scan that enable_seqscan=off cannot avoid gets a huge
        # cost. The plan is then JIT-compiled at each execution, which takes an append a second.
        "jit": "off",
        # Statements name the schema of the ledger's objects; other names are PostgreSQL's.
        "search_path": "pg_catalog",
        # How PostgreSQL parses literals and formats values.
        "array_nulls": "on",
        "bytea_output": "hex",
        "DateStyle": "ISO",
        "extra_float_digits": "1",
        "IntervalStyle": "postgres",
        "standard_conforming_strings": "on",
        "TimeZone": "UTC",
        "transform_null_equals": "off",
        # Off, it makes a read fail that a policy binds. A limit gives only some of the rows found.
        "row_security": "on",
        "gin_fuzzy_search_limit": "0",
        # The server's keepalives: the locks of a vanished client are released after 15 s.
        "tcp_keepalives_idle": "5",
        "tcp_keepalives_interval": "2",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "10000",
    }
)

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
"""libpq's parameters of each connection. LEDGER_DATABASE_URL may set other values."""

_INTERVAL = 0.1
"""Seconds after which a waiting psycopg looks for signals again."""

DURABLE = b"""
SELECT set_config('synchronous_commit', 'on', false)
WHERE current_setting('synchronous_commit') = 'off'
"""
"""For a session that appends: an acknowledged commit is on the disk. Stricter settings stay."""


class RoundConnection(psycopg.Connection[Row]):
    """A background loop's connection, closed if a reply to psycopg is overdue."""

    max_wait = ROUND_SECONDS

    def wait(self, gen: PQGen[RV], interval: float = _INTERVAL, timeout: float | None = None) -> RV:
        """Wait as psycopg does. Closes the connection if no reply comes in time."""
        try:
            return super().wait(gen, interval, self.max_wait if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.close()
            raise


class AppendConnection(RoundConnection[Row]):
    """A writer's connection."""

    max_wait = ANSWER_SECONDS


class AsyncRoundConnection(psycopg.AsyncConnection[Row]):
    """The connection of a background loop that is an asyncio task."""

    max_wait = ROUND_SECONDS

    async def wait(
        self, gen: PQGen[RV], interval: float = _INTERVAL, timeout: float | None = None
    ) -> RV:
        try:
            return await super().wait(gen, interval, self.max_wait if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await self.close()
            raise


class ReadConnection(AsyncRoundConnection[Row]):
    """The connection of a read pool."""

    max_wait = ANSWER_SECONDS


def max_wait_of(connection: psycopg.BaseConnection[Any]) -> float:
    """Return the time limit of a reply in seconds.

    It is infinite for psycopg's own classes, which run statements that may take long.
    """
    if isinstance(connection, RoundConnection | AsyncRoundConnection):
        return connection.max_wait
    return inf


def hosts_of(conninfo: str) -> int:
    """The number of hosts that libpq tries in order until a connection succeeds."""
    options = conninfo_to_dict(conninfo)
    return max(len(str(options.get(name) or "").split(",")) for name in ("host", "hostaddr"))


def pin(conninfo: str) -> str:
    """Return the connection string with the pinned settings. Reads the server's version.

    Raises psycopg.OperationalError if the server is unreachable.
    """
    options = conninfo_to_dict(conninfo)
    conninfo = make_conninfo(conninfo, **{k: v for k, v in _REACHED.items() if k not in options})
    with psycopg.connect(conninfo) as connection:
        version = connection.info.server_version
        requested = connection.info.get_parameters()  # includes the environment's
    if requested.get("target_session_attrs") == "read-write":
        # libpq takes a server for a standby if its sessions begin read-only, as reads' do.
        conninfo = make_conninfo(conninfo, target_session_attrs="primary")
    settings = {**PINNED, **({"transaction_timeout": "0"} if version >= 170000 else {})}
    # Spaces separate options; a space within a value is escaped by a backslash.
    words = (f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings.items())
    return make_conninfo(conninfo, client_encoding="UTF8", options=options_of(conninfo, *words))


def is_pinned(connection: psycopg.Connection[TupleRow]) -> bool:
    """True if the session got the pinned settings: some poolers drop a connection's options."""
    return connection.execute("SHOW search_path").fetchone() == (PINNED["search_path"],)


def options_of(conninfo: str, *more: str) -> str:
    """Return a connection string's options and then more, which win; for ``connect(options=)``."""
    return " ".join(filter(None, (conninfo_to_dict(conninfo).get("options"), *more)))  # type: ignore[arg-type]
