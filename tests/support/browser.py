"""A real Chromium that opens the page: errors that it must never report, and helpers of tests."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Route,
    WebError,
)

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"

# The placeholders with too little contrast (WCAG 1.4.3); axe checks typed text only.
_PALE_HINTS = """() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  return [...document.querySelectorAll("[placeholder]")].flatMap((field) => {
    const ink = light(getComputedStyle(field, "::placeholder").color);
    const paper = light(getComputedStyle(field).backgroundColor);
    const contrast = Math.max(ink, paper) / Math.min(ink, paper);
    return contrast < 4.5 ? [`${field.name} ${contrast.toFixed(2)}`] : [];
  });
}"""

# Without the elements that fulfil a rule, a run costs half of the time.
_VIOLATIONS = "async () => (await axe.run({resultTypes: ['violations']})).violations"

_EMPTY = '<link rel="icon" href="data:,">'

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_GRAVE = {"serious", "critical"}

Scheme = Literal["light", "dark"]


def chromium_path() -> str:
    """The path of the distribution's Chromium."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    assert found, "There is no Chromium here: `make browser` installs it."
    return found


class Watch:
    """The errors in a browser's pages: an unexpected error fails the test.

    Errors are: errors on the console (they include violations of the content security policy, and
    answers of 400 and above), exceptions that no script caught, and requests to other hosts.
    """

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.context, self.address = context, address
        self._complaints: list[str] = []
        self._expected: list[str] = []
        context.on("console", self._on_console)
        context.on("weberror", self._on_error)
        context.on("request", self._on_request)

    def expect(self, *patterns: str) -> Self:
        """Allow errors that match a pattern; each pattern must match an error."""
        self._expected += patterns
        return self

    def verdict(self) -> None:
        """Assert that every expected error was seen, and no other error."""
        for page in self.context.pages:
            # When the browser answers, it has reported all earlier errors. (Unlike an evaluation,
            # this call survives a navigation of the page.)
            page.wait_for_function("true", polling=50)
        wrong = [text for text in self._complaints if not self._matches(self._expected, text)]
        assert wrong == [], "\n".join(["the browser complained:", *wrong])
        for pattern in self._expected:
            assert self._matches([pattern], *self._complaints), f"never seen: {pattern}"

    def tidy(self) -> None:
        """Make the window as new for the next test; its page stays open, where visitors sign in."""
        page, *others = self.context.pages
        for other in others:
            other.close()
        page.unroute_all(behavior="ignoreErrors")
        self.context.set_offline(False)
        # A page that lives would ask again, and open the sign-in itself. An address without an icon
        # of its own would complain about that, later.
        page.route("**/empty", lambda route: route.fulfill(content_type="text/html", body=_EMPTY))
        page.goto("/empty")
        page.unroute_all(behavior="wait")
        self.context.clear_cookies()
        page.evaluate("() => { localStorage.clear(); sessionStorage.clear() }")
        self.context.clear_permissions()
        page.set_viewport_size({"width": 1280, "height": 720})
        page.emulate_media(media="null", color_scheme="light", forced_colors="none")
        self._complaints.clear()
        self._expected.clear()

    @staticmethod
    def _matches(patterns: list[str], *complaints: str) -> bool:
        return any(re.search(pattern, text) for pattern in patterns for text in complaints)

    def _on_console(self, message: ConsoleMessage) -> None:
        if "htmx:sendAbort" in message.text:
            # The visitor has left a page that was request: no error. htmx says so twice.
            assert "htmx:afterRequest" in self._complaints.pop()
        elif message.type == "error":
            self._complaints.append(f"console: {message.text} ({message.location['url']})")

    def _on_error(self, error: WebError) -> None:
        self._complaints.append(f"uncaught: {error.error}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.address}/", "data:")):
            self._complaints.append(f"elsewhere: {request.method} {request.url}")


@contextmanager
def opened(chromium: Browser, address: str, **options: Any) -> Iterator[Watch]:
    """A browser without cookies, for one person."""
    plain = {"locale": "en-GB", "timezone_id": "UTC", "reduced_motion": "reduce"}
    with chromium.new_context(base_url=address, **(plain | options)) as context:
        yield Watch(context, address)


@contextmanager
def watched(chromium: Browser, address: str, **options: Any) -> Iterator[Watch]:
    """A browser as ``opened``, whose errors are checked at the end."""
    with opened(chromium, address, **options) as watch:
        yield watch
        watch.verdict()


def enter(page: Page, token: str) -> None:
    """Sign in by the form's request alone, which opens no page."""
    answer = page.request.post("/ui/sign-in", form={"token": token}, max_redirects=0)
    assert answer.status == 303, answer.text()


def sign_in(page: Page, token: str) -> None:
    """Sign in as a person does, from the front page to the board."""
    page.goto("/")
    page.locator("input[name=token]").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("/ui")


def show(page: Page, width: int = 1280, scheme: Scheme = "light") -> None:
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)


def screenshot(page: Page, name: str, width: int = 1280, scheme: Scheme = "light") -> Path:
    """Keep a picture of the whole page as ``name-width-scheme.png``; its width and scheme stay."""
    show(page, width, scheme)
    path = SCREENSHOTS / f"{name}-{width}-{scheme}.png"
    page.screenshot(path=path, full_page=True, animations="disabled")
    return path


def assert_accessible(page: Page) -> None:
    """Assert that axe reports no serious or critical violation of the present page.

    Placeholders, which axe does not check, must have enough contrast.
    """
    if page.evaluate("!window.axe"):
        page.evaluate(AXE_SCRIPT)
    found = page.evaluate(_VIOLATIONS)
    grave = [
        f"{rule['impact']}: {rule['help']} ({rule['id']}): {node['target']} {node['html']}"
        for rule in found
        if rule["impact"] in _GRAVE
        for node in rule["nodes"]
    ]
    grave += [f"placeholder: {hint}" for hint in page.evaluate(_PALE_HINTS)]
    assert grave == [], "\n".join(["not accessible:", *grave])


def show_one_path(route: Route) -> None:
    """Answer with the service's own document and one of its paths; all take 15 s to draw."""
    document = route.fetch().json()
    path = "/v1/execution/{line_id}"
    document["paths"] = {path: document["paths"][path]}
    route.fulfill(json=document)
