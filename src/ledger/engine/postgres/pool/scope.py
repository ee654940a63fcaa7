"""The scope of a statement that reads: the tenant whose rows it sees, and its planning."""

from collections.abc import Awaitable, Callable, Mapping
from enum import Enum, auto
from typing import Any

from ledger.engine.values.principal import ANY, Tenant

FOR_EVERYONE = f"-c ledger.organization_id={ANY} -c ledger.workspace_id={ANY}"
"""The options of a session whose statements are the service's own."""


class Planning(Enum):
    """How a statement is planned, and whether its pipeline group may hold other statements."""

    SHORT = auto()
    """A generic plan, made once a connection. Sent together with other statements."""
    LONG = auto()
    """A generic plan too, but sent alone: other statements of the group would wait for it."""
    BY_VALUES = auto()
    """A custom plan at each execution: many rows may match the parameters, or few. Sent alone."""
    WALK = auto()
    """A page of an export or a stream: as ``BY_VALUES``, but only a few pages run at once, each
    to its end."""

    @property
    def settings(self) -> tuple[str, str]:
        """Return (plan_cache_mode, enable_seqscan).

        Most statements get a generic plan, made once a connection: they scan an index in order, and
        planning takes one to three times as long as execution. A generic plan stays, so it must use
        the index even if it is made while the table is empty.

        If the best plan depends on the values, PostgreSQL makes a custom plan at each execution.
        With ``plan_cache_mode = auto`` it could settle on a generic plan, because of the values of
        the first few executions.
        """
        if self is Planning.SHORT or self is Planning.LONG:
            return "force_generic_plan", "off"
        return "force_custom_plan", "on"


Fetch = Callable[[Tenant, str, Mapping[str, Any], Planning], Awaitable[list[Any]]]
"""A function that reads a statement's rows with its parameters, as ``Door.fetch`` does."""
