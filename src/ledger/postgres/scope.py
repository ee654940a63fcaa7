"""What holds for a statement that reads: whose rows it sees, and how it is planned."""

from collections.abc import Awaitable, Callable, Mapping
from enum import Enum, auto
from typing import Any, NamedTuple


class Tenant(NamedTuple):
    """Whose rows a statement sees; a name is empty where a credential is bound to none."""

    organization: str = ""
    workspace: str = ""


EVERYONE = Tenant()
"""No tenant: for statements that read no tenant's rows."""


class Planning(Enum):
    """How a statement is planned, and whether others may travel with it."""

    SHORT = auto()
    """Planned once a connection, and sent together with others."""
    LONG = auto()
    """Planned once as well, but sent alone: the others of its group would wait for it."""
    BY_VALUES = auto()
    """Planned for its values each time, since many rows may have them or few; sent alone."""
    WALK = auto()
    """A page of a long walk: as ``BY_VALUES``, but few are read at once, each to its end."""

    @property
    def settings(self) -> tuple[str, str]:
        """(plan_cache_mode, enable_seqscan).

        Most statements are planned once a connection, whatever their parameters: they follow an
        index in order, and to plan one anew takes as long as to execute it, or three times as long.
        Since such a plan stays, it must follow the index on a table that is empty too. Where the
        best way depends on the values, PostgreSQL looks at them each time: left to itself it would
        settle on one plan for all, by what the first few asked for.
        """
        if self is Planning.SHORT or self is Planning.LONG:
            return "force_generic_plan", "off"
        return "force_custom_plan", "on"


Fetch = Callable[[Tenant, str, Mapping[str, Any], Planning], Awaitable[list[Any]]]
"""Reads a statement's rows with its parameters, as the door does (``Door.fetch``)."""
