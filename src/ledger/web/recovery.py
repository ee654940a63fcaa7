"""The number of deliveries that a recovery would send again, told before it is asked for."""

from datetime import datetime

from fastapi import Request

from ledger.api.reading import Present, asked, services_of, tenant_filters
from ledger.intake.principal import Principal
from projections.webhook import statements

MOST = 1000
"""The most deliveries that are counted. The page says "more than 1,000" beyond."""


async def would_recover(
    request: Request, principal: Principal, endpoint_id: str, since: datetime
) -> int:
    """How many deliveries a recovery since an instant sends again now; at most ``MOST`` + 1."""
    tenant = tenant_filters(principal)
    question = asked(
        principal,
        Present(),
        statements.recovery_statement(frozenset(tenant)),
        {**tenant, "endpoint_id": endpoint_id, "since": since, "limit": MOST + 1},
        frozenset({"webhook"}),
    )
    rows = await services_of(request).reads.ask(question)
    count: int = rows[0][1]
    return count
