"""The browser's tests share one Chromium a session and one service a module, on a real port.

Each test has a browser window of its own, with no cookies, and fails when the browser complains.
"""

import contextlib
import re
from collections.abc import Generator, Iterator

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from tests.support.browser import SCREENSHOTS, Watch, chromium_path, watched
from tests.support.edge import Edge
from tests.support.streaming import listening

_PATIENCE_MS = 15_000

# Nothing leaves the machine, and letters look the same on every machine. (The library itself turns
# the sandbox off, which does not work for root, and asks for the colours of sRGB.)
_ARGUMENTS = [
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--font-render-hinting=none",
]


def pytest_itemcollected(item: pytest.Item) -> None:
    """All that is in this folder needs a browser."""
    item.add_marker("browser")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a failed test saw last is kept."""
    report = yield
    page = getattr(item, "funcargs", {}).get("page")
    if report.when == "call" and report.failed and page is not None:
        name = re.sub(r"\W+", "-", item.name).strip("-")
        with contextlib.suppress(Error):
            page.screenshot(path=SCREENSHOTS / f"failed-{name}.png", full_page=True)
    return report


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The session's browser."""
    expect.set_options(timeout=_PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(edge: Edge) -> Iterator[str]:
    """Where the module's service listens."""
    with listening(edge) as (host, port):
        yield f"http://{host}:{port}"


@pytest.fixture
def watch(chromium: Browser, address: str) -> Iterator[Watch]:
    """What the test's browser complains of; ``watch.expect`` for what is right."""
    with watched(chromium, address) as watch:
        watch.context.set_default_timeout(_PATIENCE_MS)
        yield watch


@pytest.fixture
def page(watch: Watch) -> Page:
    """An empty page; addresses are relative to the service's."""
    return watch.context.new_page()
