"""The forms of the webhooks' pages, filled and sent by tests."""

from typing import Any

from tests.support.views import until
from tests.support.visitor import Visited, Visitor
from tests.support.webhook_api import Hooks

PATH = "/ui/webhooks"


def page_of(endpoint_id: str) -> str:
    return f"{PATH}/{endpoint_id}"


def act(guest: Visitor, endpoint_id: str, name: str, **fields: str) -> Visited:
    """Send a form of the endpoint's page with its values, except for these fields."""
    return guest.submit(guest.get(page_of(endpoint_id)), f"{page_of(endpoint_id)}/{name}", **fields)


def typed(page: Visited) -> dict[str, str]:
    """The fields of the form for a new endpoint, with their values."""
    for filters in page.all("form.filters"):
        filters.extract()
    return page.form(PATH)


def set_up(guest: Visitor, page: Visited | None = None, **fields: str) -> Visited:
    """Send the form for a new endpoint with its values, except for these fields."""
    return guest.post(PATH, typed(page or guest.get(PATH)) | fields)


def made_by(page: Visited) -> str:
    """The id of the endpoint whose secret the page shows."""
    return str(page.one(".secret a.button")["href"]).removeprefix(f"{PATH}/")


def settled(hooks: Hooks, endpoint_id: str, count: int) -> list[dict[str, Any]]:
    """Wait until an endpoint has that many deliveries and none awaits an attempt; return them."""
    found: list[list[dict[str, Any]]] = []

    def is_settled() -> bool:
        hooks.edge.clock.advance(seconds=1)
        found[:] = [hooks.data(f"/{endpoint_id}/deliveries?limit=100")]
        return len(found[0]) == count and all(
            one["status"] in ("delivered", "failed") for one in found[0]
        )

    until(is_settled, "deliveries")
    return found[0]
