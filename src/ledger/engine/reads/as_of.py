"""Corners: what was known at a position, judged by a clock. Several statements tell the same."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from ledger.engine.postgres.pool.scope import Fetch
from ledger.engine.values.errors import Behind
from ledger.engine.values.principal import Tenant
from ledger.engine.views.statements import Read


class AsOf(NamedTuple):
    """The knowledge at a position, judged by a clock."""

    position: int
    clock: datetime


async def rows_at(
    fetch: Fetch, tenant: Tenant, read: Read, values: Mapping[str, Any], as_of: AsOf
) -> list[Any]:
    """The rows of a statement at the position of a corner, without a row of nulls. Raises Behind.

    The statement has the position as its parameter ``end``.
    """
    parameters = {**values, "end": as_of.position}
    rows = await fetch(tenant, read.sql, parameters, read.planning)
    if rows[0][0] != as_of.position:
        raise Behind("The views have fallen behind the position of the answer.")
    return [row for row in rows if row[1] is not None]
