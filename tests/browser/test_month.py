"""The pages across lines in a browser: dense, accessible, and reached in few clicks."""

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import Scheme, assert_accessible, enter, show
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.soak import repeated

LINES = 30


@pytest.fixture(scope="module")
def workspace(edge: Edge) -> str:
    """A workspace with 30 lines and their hours; return an instant before the last of them."""
    lines = [
        edge.fresh("capacity", workspace_id="WS-26-820001", name=f"Halden Bank: team {n}")
        for n in range(LINES)
    ]
    edge.accept(*(fact("execution.checked_in", line, {"hours": 7.25}) for line in lines))
    edge.clock.advance(minutes=1)
    then = f"{edge.clock.now:%Y-%m-%dT%H:%M:%SZ}"
    edge.clock.advance(minutes=1)
    edge.accept(
        fact("execution.checked_in", lines[0], {"hours": 1.5}),
        fact("execution.blocked", lines[1], {"blocker_id": "b", "cause": "approval_gap"}),
        fact("health.signal_reported", lines[2], {"signal": "sla_compliance", "status": "red"}),
    )
    return then


@pytest.fixture
def visit(page: Page, edge: Edge, workspace: str) -> Page:
    """A visitor on the board."""
    enter(page, edge.token("read"))
    page.goto("/ui")
    return page


def test_twenty_two_rows_fit_on_a_screen(visit: Page, workspace: str) -> None:
    visit.set_viewport_size({"width": 1440, "height": 900})
    for path in (
        "/ui/usage?workspace_id=WS-26-820001",
        f"/ui/usage?workspace_id=WS-26-820001&as_of={workspace}",
        "/ui/compare?then=2026-04-14T00:00:00Z",
    ):
        visit.goto(path)
        rows = visit.locator(".sums tbody tr, .sums tfoot tr").evaluate_all(
            "rows => rows.filter(row => row.getBoundingClientRect().bottom <= innerHeight).length"
        )
        assert rows >= 22, path


@pytest.mark.parametrize(
    ("width", "scheme"), repeated([(390, "light"), (820, "dark"), (1024, "light"), (1440, "dark")])
)
def test_the_pages_are_whole_and_accessible(
    visit: Page, workspace: str, width: int, scheme: Scheme
) -> None:
    show(visit, width, scheme)
    for path in (
        "/ui/usage",
        "/ui/usage?workspace_id=WS-26-820001",
        f"/ui/usage?group_by=service_line,resource&as_of={workspace}",
        "/ui/compare?then=2026-04-14T00:00:00Z&from=2026-04-01&to=2026-05-01",
        "/ui/lines/LIN-26-100001/history",
    ):
        visit.goto(path)
        assert visit.evaluate("document.scrollingElement.scrollWidth") <= width, path
        assert_accessible(visit)


IS_UNCLIPPED = """heading => {
    const {left, right, width} = heading.getBoundingClientRect()
    const [x, y] = [left + width / 2, heading.getBoundingClientRect().top + 4]
    return heading.scrollWidth <= heading.clientWidth && left >= 0 && right <= innerWidth
        && heading.contains(document.elementFromPoint(x, y))
}"""

FILTERS = {
    "workspace_id": "WS-26-820001",
    "project_tag": "checkout-and-payment-of-the-northern-region",
    "resource_id": "mara.lindqvist-of-the-northern-region@halden-bank.example",
    "product_line": "managed_services",
    "execution_model": "capacity",
    "service_line_id": "LIN-26-100001",
}


@pytest.mark.parametrize(
    "names", repeated([[*FILTERS], ["workspace_id"], [], *([name] for name in FILTERS)], first=2)
)
def test_the_period_stands_whole_next_to_every_filter_and_nothing_scrolls_sideways(
    visit: Page, workspace: str, names: list[str]
) -> None:
    """The heading once was 0 px wide as soon as a workspace was chosen."""
    chosen = "".join(f"&{name}={FILTERS[name]}" for name in names)
    for path, period in (
        (f"from=2026-04-01&to=2026-04-15{chosen}", "2026-04-01 to 2026-04-14"),
        (f"from=2026-04-01&to=2026-05-01{chosen}&as_of={workspace}", "April 2026"),
    ):
        visit.goto(f"/ui/usage?time_zone=UTC&{path}")
        heading = visit.get_by_role("heading", level=1)
        expect(heading).to_have_text(period)
        wrong = []
        for width in (390, 820, 1024, 1280, 1366, 1440, 1536, 1600, 1920):
            visit.set_viewport_size({"width": width, "height": 900})
            wide = visit.evaluate("document.scrollingElement.scrollWidth")
            if wide > width or not heading.evaluate(IS_UNCLIPPED):
                wrong.append((width, wide, heading.bounding_box()))
        assert wrong == [], path
