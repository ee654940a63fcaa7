"""Sessions: who signed in to the pages, and how each session ended (contract, Sign-in).

The hash of a session's secret, its claims and its last use are outside the log
(``engine/log/tables.py``); the log has its beginning in each tenant, and its end. A session that
times out leaves no event: its beginning says when it ends at the latest. The file has, in this
order: events, state, fold.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Literal, NamedTuple

from ledger.engine.values.event_table import PASSES, EventRow
from ledger.engine.values.recorded import Event, Folded, Recorded

SignedInBy = Literal["provider", "token"]
"""How a person signed in: at the identity provider, or with an API key or a token of their own."""

EndedBy = Literal["self", "provider", "administrator"]


class TenantAccess(NamedTuple):
    """A tenant that a person may enter, with the permissions there."""

    organization_id: str | None
    workspace_id: str | None
    permissions: Sequence[str]

    @property
    def tenant(self) -> tuple[str | None, str | None]:
        return self.organization_id, self.workspace_id


NOWHERE = TenantAccess(None, None, ())
"""The access of a person who has yet to choose a tenant."""


class SessionBegun(Event, frozen=True, kw_only=True):
    """A person signed in, or chose a further tenant; the envelope has the person and the tenant."""

    TOPIC = "session.begun/1"
    by: SignedInBy
    issuer: str | None = None
    """The identity provider; None for a sign-in with a token."""
    permissions: tuple[str, ...]
    ends_at: datetime


class SessionEnded(Event, frozen=True, kw_only=True):
    """A session was ended before its time; a session of several tenants has one event in each."""

    TOPIC = "session.ended/1"
    by: EndedBy


# Columns: event, published type, published payload, fact, command, note.
SESSION_TABLE: tuple[EventRow, ...] = (
    EventRow(SessionBegun, None, None, None, "session.begin", PASSES),
    EventRow(SessionEnded, None, None, None, "session.end", PASSES),
)

REFUSED_ACTION = "session.refuse"
"""The action of a refusal: the provider knows the person, but no grant does."""


class Session(Folded):
    """The tenants that a session has entered."""

    organization_id: str | None = None
    workspace_id: str | None = None
    places: tuple[TenantAccess, ...] = ()
    """The entered tenants, each once, with the permissions there. A tenant without permissions is
    not entered: the person has yet to choose one."""

    @property
    def entered(self) -> dict[tuple[str | None, str | None], tuple[str, ...]]:
        """The permissions by (organization, workspace)."""
        return {access.tenant: tuple(access.permissions) for access in self.places}

    def _begun(self, body: SessionBegun, recorded: Recorded) -> None:
        self.organization_id, self.workspace_id = recorded.organization_id, recorded.workspace_id
        access = TenantAccess(self.organization_id, self.workspace_id, body.permissions)
        others = (each for each in self.places if each.tenant != access.tenant)
        self.places = (*others, access) if body.permissions else self.places

    _APPLY: ClassVar = {
        SessionBegun: _begun,
        SessionEnded: Folded._passes,
    }
