"""Very long words, as machines write them: pages keep their width, short words stay whole."""

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import assert_accessible, enter, show
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.soak import repeated

URL = "https://drive.example.com/" + "a-folder-within-a-folder/" * 8
TAG = "PROJ-" + "x" * 195
RESOURCE = "SCR-" + "r" * 176
ACTOR = "service-account-" + "s" * 180
AT_EACH_WIDTH = pytest.mark.parametrize("width", repeated([390, 768, 1024, 1440]))
BEYOND_THEIR_CARD = """() => [...document.querySelectorAll('.card')].flatMap((card) => {
    const edge = card.getBoundingClientRect().right
    return [...card.querySelectorAll('table, p, dl, dd, .id, .chip')]
        .filter((part) => !part.closest('.scroll') && part.getBoundingClientRect().right > edge + 1)
        .map((part) => part.outerHTML.slice(0, 80))
})"""
ROWS = """(element) => {
    const range = document.createRange()
    range.selectNodeContents(element)
    return new Set([...range.getClientRects()].map((box) => box.top)).size
}"""


@pytest.fixture(scope="module", params=repeated(["agent_runtime", "capacity"]))
def line_id(edge: Edge, request: pytest.FixtureRequest) -> str:
    """A line with very long words in every field that allows them."""
    line_id = edge.fresh(request.param, project_tags=["PROJ-26-004281", TAG], name="L" * 190)
    data = {"id": RESOURCE, "type": "engineer", "name": "N" * 190, "role": "o" * 190}
    hours = {"hours": 123456.25, "note": URL, "resource_id": RESOURCE}
    stuck = {"blocker_id": "B" * 190, "cause": "policy_violation", "reason": URL}
    stuck |= {"assignee": ACTOR, "due_at": "2027-01-15T12:00:00Z"}
    named = {"name": "W" * 190}
    signal = {"signal": "sla_compliance", "status": "red", "evidence": URL, "value": URL}
    edge.accept(
        fact("directory.named", "WS-26-000001", named),
        fact("resource.allocated", line_id, data),
        fact("execution.checked_in", line_id, hours, actortype="agent", actorid=ACTOR),
        fact("execution.blocked", line_id, stuck),
        fact("health.signal_reported", line_id, signal),
    )
    return line_id


@pytest.fixture
def line(page: Page, edge: Edge, line_id: str) -> Page:
    enter(page, edge.token("read"))
    page.goto(f"/ui/lines/{line_id}")
    expect(page.locator(".happened")).to_contain_text(URL)
    return page


def assert_whole(page: Page, width: int) -> None:
    """Assert that the page needs no sideways scrolling."""
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width


@AT_EACH_WIDTH
def test_a_line_stays_within_its_page_and_short_words_are_not_broken(
    line: Page, width: int
) -> None:
    show(line, width)
    assert_whole(line, width)
    assert line.evaluate(BEYOND_THEIR_CARD) == []
    assert_accessible(line)
    for short in (
        line.locator(".why .chip", has_text="policy violation"),
        line.locator(".marks .tag", has_text="PROJ-26-004281"),
        line.locator(".happened th .id").first,
        *line.locator(".facts dd", has_text="123,456.25").all(),
    ):
        assert short.evaluate(ROWS) == 1, short.inner_text()


@AT_EACH_WIDTH
def test_the_other_pages_stay_whole_too(page: Page, edge: Edge, line_id: str, width: int) -> None:
    enter(page, edge.token("read"))
    show(page, width)
    for path in (
        "/ui?state=blocked",
        f"/ui?project_tag={TAG}",
        f"/ui/events?service_line_id={line_id}",
    ):
        page.goto(path)
        assert_whole(page, width)
