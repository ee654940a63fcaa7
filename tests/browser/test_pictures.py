"""Every page with the demo's story, at several widths, in light and in dark: checked by axe, and
kept as pictures for people."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import (
    Scheme,
    Watch,
    assert_accessible,
    screenshot,
    show,
    sign_in,
    watched,
)
from tests.support.embedded import folder_in_tmp
from tests.support.served import Served, free_port, run_ledger

WIDTHS: dict[Scheme, tuple[int, ...]] = {
    "light": (390, 720, 800, 960, 1024, 1440),
    "dark": (390, 1440),
}
PICTURES = (390, 1024, 1440)
CHECKED: dict[Scheme, tuple[int, ...]] = {"light": (390, 1440), "dark": (1440,)}
"""The widths at which axe checks a page. Colours are the same at every width."""
AGENTS = "LIN-26-091100"
"""A line of the story that runs agents all day."""


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """A service for the demo."""
    with folder_in_tmp(0o755) as folder, Served(folder / "data", free_port()) as served:
        yield served


@pytest.fixture(scope="module")
def token(served: Served) -> str:
    """The token that the demo prints."""
    done = run_ledger(served.environment, "demo")
    assert done.returncode == 0, done.stderr
    return next(word for word in done.stdout.split() if word.startswith("elk_"))


@pytest.fixture(scope="module")
def address(served: Served) -> str:
    return served.address


@pytest.fixture(scope="module")
def visit(chromium: Browser, address: str, token: str) -> Iterator[Watch]:
    """A visitor who has signed in once and opens every page."""
    with watched(chromium, address) as watch:
        sign_in(watch.context.new_page(), token)
        yield watch


def first_link(page: Page, prefix: str) -> str:
    href = page.locator(f'main a[href^="{prefix}"]').first.get_attribute("href")
    assert href is not None
    return href


def addresses(page: Page) -> dict[str, str]:
    """name → address of every kind of page."""
    page.goto("/ui?state=blocked")
    blocked = first_link(page, "/ui/lines/")
    page.goto(f"/ui/lines/{AGENTS}")
    run = first_link(page, "/ui/runs/")
    previous = page.get_by_role("link", name="Previous").get_attribute("href")
    assert previous is not None
    page.goto("/ui/events")
    event = first_link(page, "/ui/events/EVT")
    page.goto("/ui/keys")
    key = first_link(page, "/ui/keys/KEY")
    page.goto("/ui/alerts")
    alert = first_link(page, "/ui/alerts/ALR")
    watch = first_link(page, "/ui/watches/WCH")
    page.goto("/ui/statements")
    statement = first_link(page, "/ui/statements/STM")
    return {
        "board": "/ui",
        "line": f"/ui/lines/{AGENTS}",
        "line-blocked": blocked,
        "line-then": previous,
        "alerts": "/ui/alerts",
        "alerts-by-line": "/ui/alerts?group_by=service_line",
        "alert": alert,
        "watches": "/ui/watches",
        "watch": watch,
        "watch-new": "/ui/watches/new",
        "sources": "/ui/sources",
        "runs": f"/ui/lines/{AGENTS}/runs",
        "history": f"/ui/lines/{AGENTS}/history",
        "changes": "/ui/compare",
        "month": "/ui/usage",
        "month-by-line": "/ui/usage?group_by=service_line",
        "all-runs": "/ui/runs",
        "run": run,
        "events": "/ui/events",
        "search": "/ui/search?q=pay",
        "event": event,
        "audit": "/ui/audit",
        "webhooks": "/ui/webhooks",
        "channel": "/ui/webhooks/channel",
        "keys": "/ui/keys",
        "key": key,
        "statements": "/ui/statements",
        "statement": statement,
        "statement-new": "/ui/statements/new",
        "integrity": "/ui/integrity",
    }


@pytest.mark.soak
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_whole_at_every_width(visit: Watch, scheme: Scheme) -> None:
    page = visit.context.new_page()
    for name, path in addresses(page).items():
        page.goto(path)
        expect(page.get_by_role("main")).to_be_visible()
        for width in WIDTHS[scheme]:
            if width in PICTURES:
                screenshot(page, name, width, scheme)
            else:
                show(page, width, scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
            if width in CHECKED[scheme]:
                assert_accessible(page)
    page.close()
