"""The one door through which reads go: a tenant's transaction, as a role that owns nothing.

The tenant's settings and the statement travel in one pipeline, which PostgreSQL runs as one
implicit transaction: one round trip, and half the client's work of a BEGIN and COMMIT around it.
The settings are local to that transaction, so nothing of one request is left for the next
borrower of the connection. The role's transactions are read-only by default.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.rows import TupleRow, tuple_row
from psycopg_pool import AsyncConnectionPool

from ledger.application.principal import Principal

_SCOPE = """
SELECT set_config('ledger.organization_id', %s, true), set_config('ledger.workspace_id', %s, true)
"""

ROLE = "ledger_api"
_WALKS = 4
"""Pages of long walks that are read at once: most connections stay free for short reads."""

_OPTIONS = "-c default_transaction_read_only=on -c statement_timeout=10s"


class Door:
    """Reads for one process. ``open`` before use."""

    def __init__(self, conninfo: str, size: int = 16) -> None:
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[TupleRow]] = AsyncConnectionPool(
            conninfo,
            connection_class=psycopg.AsyncConnection[TupleRow],
            kwargs={
                "autocommit": True,
                "row_factory": tuple_row,
                "application_name": "ledger api",
                "connect_timeout": 2,
                "options": f"-c role={ROLE} {_OPTIONS}",
            },
            min_size=2,
            max_size=size,
            timeout=2.0,
            max_waiting=1000,
            reconnect_timeout=3.0,
            open=False,
        )
        self._size = size
        self._walks = asyncio.Semaphore(_WALKS)

    async def open(self) -> None:
        """Connect. Raises psycopg.OperationalError or PoolTimeout when the database is away.

        Asserts that the role really is a powerless one: row-level policies bind no superuser.
        """
        await self._pool.open(wait=True, timeout=10)
        rows = await self.fetch(
            None,
            "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user",
            {},
        )
        if rows != [(False,)]:
            raise AssertionError("reads must go through a role without special powers")

    async def close(self) -> None:
        """Give every connection back."""
        await self._pool.close()

    async def fetch(
        self, principal: Principal | None, statement: str, parameters: Mapping[str, Any]
    ) -> list[TupleRow]:
        """The statement's rows, within the credential's tenant."""
        organization_id = principal.organization_id if principal else None
        workspace_id = principal.workspace_id if principal else None
        scope = (organization_id or "", workspace_id or "")
        # A connection that PostgreSQL closed while it lay in the pool is found out by whoever
        # takes it. After a restart that is each of them; a read may be done again with the next.
        for is_last in (*[False] * self._size, True):
            connection = None
            try:
                async with self._pool.connection() as connection:
                    async with connection.pipeline():
                        await connection.execute(_SCOPE, scope, prepare=True)
                        cursor = await connection.execute(statement, parameters, prepare=True)
                    return await cursor.fetchall()
            except psycopg.OperationalError:
                if is_last or connection is None or not connection.closed:
                    raise
        raise AssertionError("the last one raises")

    async def fetch_page(
        self, principal: Principal | None, statement: str, parameters: Mapping[str, Any]
    ) -> list[TupleRow]:
        """A page of a long walk: few are read at once, and each to its end.

        Whoever asked may go in the middle, as listeners do. A statement that is given up then
        would cost its connection, and with many listeners the pool.
        """
        return await asyncio.shield(self._fetch_in_turn(principal, statement, parameters))

    async def _fetch_in_turn(
        self, principal: Principal | None, statement: str, parameters: Mapping[str, Any]
    ) -> list[TupleRow]:
        async with self._walks:
            return await self.fetch(principal, statement, parameters)
