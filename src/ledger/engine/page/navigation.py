"""The pages that the frame of each page leads to, and the first one of a credential."""

from ledger.engine.page.addresses import HOME, START
from ledger.engine.values.principal import Principal

PAGES: tuple[tuple[str, tuple[str, ...], str, str | None], ...] = (
    (HOME, ("/ui/lines/",), "Board", "read"),
    ("/ui/alerts", ("/ui/alerts/", "/ui/watches", "/ui/sources"), "Alerts", "read"),
    ("/ui/compare", ("/ui/compare/",), "What changed", "read"),
    ("/ui/usage", ("/ui/usage/",), "Month", "read"),
    ("/ui/statements", ("/ui/statements/",), "Statements", "read"),
    ("/ui/runs", ("/ui/runs/",), "Runs", "read"),
    ("/ui/events", ("/ui/events/",), "Events", "read"),
    ("/ui/audit", ("/ui/audit/",), "Audit", "audit:read"),
    ("/ui/webhooks", ("/ui/webhooks/",), "Webhooks", "webhooks:manage"),
    ("/ui/keys", ("/ui/keys/",), "Keys", "keys:manage"),
    ("/ui/integrity", ("/ui/integrity/",), "Integrity", None),
)
"""The navigation: (address, prefixes of the pages below it, name, permission; None: any visitor).
"""

ALERT_PAGES: tuple[tuple[str, str], ...] = (
    ("/ui/alerts", "Alerts"),
    ("/ui/watches", "Watches"),
    ("/ui/sources", "Sources"),
)
"""The pages below the navigation's *Alerts*: (address, name)."""


def pages_for(principal: Principal) -> list[tuple[str, tuple[str, ...], str, str | None]]:
    return [page for page in PAGES if page[3] is None or principal.may(page[3])]


def home_of(principal: Principal) -> str:
    """The first page that a credential's permissions open; else the one that says what it may."""
    return next((page[0] for page in pages_for(principal) if page[3] is not None), START)
