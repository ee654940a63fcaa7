"""A position and a clock, by which several statements show the same state."""

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
    """The rows at ``as_of``, the parameter ``end``, without a row of nulls. Raises Behind."""
    parameters = {**values, "end": as_of.position}
    rows = await fetch(tenant, read.sql, parameters, read.planning)
    if rows[0][0] != as_of.position:
        raise Behind("The views have fallen behind the position of the answer.")
    return [row for row in rows if row[1] is not None]
