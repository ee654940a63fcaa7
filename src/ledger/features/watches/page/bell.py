"""The bell in the header of every page: how many alerts wait for somebody to take care of them."""

from fastapi import Request

from ledger.engine.http.problems import REFUSALS
from ledger.engine.http.reading import ReadRequest
from ledger.engine.values.principal import Principal
from ledger.features.watches.routes import alerts as api

MOST = 99
"""The bell shows no greater number."""


class Bell:
    """The number of open alerts of the visitor's tenant, set once the page has read it."""

    def __init__(self) -> None:
        self.count: int | None = None
        """At most one more than ``MOST``. None: unknown, and the bell shows no number."""

    @property
    def number(self) -> str:
        return f"{MOST}+" if (self.count or 0) > MOST else str(self.count or "")

    @property
    def words(self) -> str:
        """The number for screen readers."""
        match self.count:
            case None:
                return "Alerts"
            case 0:
                return "No open alerts"
            case 1:
                return "1 open alert"
            case count if count > MOST:
                return f"more than {MOST} open alerts"
            case count:
                return f"{count} open alerts"

    async def load(self, request: Request) -> None:
        """Count the alerts of now. No page fails, or counts as behind, because of the bell."""
        principal: Principal | None = getattr(request.state, "principal", None)
        if principal is None or not principal.may("read"):
            return
        query = api.AlertsQuery.model_validate({"status": "open"})
        try:
            self.count = await api.alerts_counted(ReadRequest(request, principal), query, MOST + 1)
        except REFUSALS:
            self.count = None


def bell_of(request: Request) -> Bell:
    state = request.scope["state"]
    found: Bell = state.setdefault("bell", Bell())
    return found
