"""The scope of a statement that reads: the tenant whose rows it sees, and its planning."""

from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any

from ledger.engine.values.principal import ANY, Tenant

FOR_EVERYONE = f"-c ledger.organization_id={ANY} -c ledger.workspace_id={ANY}"
"""The options of a session whose statements are the service's own."""


class Planning(Enum):
    """How a statement is planned, and whether its pipeline group may hold other statements."""

    SHORT = "short", "force_generic_plan", "off"
    """A generic plan, made once a connection. Sent together with other statements."""
    LONG = "long", "force_generic_plan", "off"
    """A generic plan too, but sent alone: other statements of the group would wait for it."""
    BY_VALUES = "by values", "force_custom_plan", "on"
    """A custom plan at each execution: many rows may match the parameters, or few. Sent alone."""
    SCAN = "walk", "force_custom_plan", "on"
    """Used for a page of an export or a stream: as ``BY_VALUES``, but few pages run at once, each
    to its end."""

    def __init__(self, name: str, plans: str, seqscan: str) -> None:
        """``plans`` is plan_cache_mode, ``seqscan`` is enable_seqscan.

        Most statements get a generic plan, made once a connection: they scan an index in order, and
        planning takes one to three times as long as execution. A generic plan stays, so it must use
        the index even if it is made while the table is empty.

        If the best plan depends on the values, PostgreSQL makes a custom plan at each execution.
        With ``plan_cache_mode = auto`` the first few executions could settle it on a generic plan.
        """
        self.settings = plans, seqscan


Fetch = Callable[[Tenant, str, Mapping[str, Any], Planning], Awaitable[list[Any]]]
"""Reads a statement's rows with its parameters, as ``ReadPool.fetch`` does."""
