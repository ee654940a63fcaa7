"""The browser's tests share one Chromium per session; a module has one service and one open page.

An address that is opened costs 0.15 s of processor time, a new page 0.1 s more, a check by axe
0.3 s, and more for many rows. Each test begins without cookies, and fails if the browser reports an
error.
"""

import contextlib
import re
from collections.abc import Generator, Iterator

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from tests.support.browser import SCREENSHOTS, Watch, chromium_path, opened
from tests.support.edge import Edge
from tests.support.streaming import listening

_TIMEOUT_MS = 60_000

# No request leaves the machine (`localhost` is another site than 127.0.0.1), and letters look the
# same on every machine. (Playwright itself
# turns off the sandbox, which does not work for root, and selects the colours of sRGB.) A page that
# follows another one of the same site stays in its process: a new process costs 0.2 s.
_ARGUMENTS = [
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
    "--font-render-hinting=none",
    "--disable-gpu",
    "--process-per-site",
]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark every test in this folder as one that needs a browser."""
    item.add_marker("browser")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep a screenshot of the page of a failed test."""
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
    expect.set_options(timeout=_TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(edge: Edge) -> Iterator[str]:
    """The address of the module's service."""
    with listening(edge) as (host, port):
        yield f"http://{host}:{port}"


@pytest.fixture(scope="module")
def window(chromium: Browser, address: str) -> Iterator[Watch]:
    """The module's browser window, with one page."""
    with opened(chromium, address) as window:
        window.context.set_default_timeout(_TIMEOUT_MS)
        window.context.new_page()
        yield window


@pytest.fixture
def watch(window: Watch) -> Iterator[Watch]:
    """The errors of the test's browser; ``watch.expect`` allows expected ones."""
    yield window
    try:
        window.verdict()
    finally:
        window.tidy()


@pytest.fixture
def page(watch: Watch) -> Page:
    """The module's page; addresses are relative to the service's."""
    return watch.context.pages[0]
