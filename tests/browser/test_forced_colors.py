"""Forced colours (Windows' high contrast): selected links look selected, the slider is visible."""

import pytest
from playwright.sync_api import Locator, Page

from tests.support.browser import enter, screenshot
from tests.support.edge import Edge


@pytest.fixture
def visit(page: Page, edge: Edge) -> Page:
    """A visitor whose system forces its own colours."""
    enter(page, edge.token("read", "webhooks:manage"))
    page.emulate_media(forced_colors="active")
    return page


def is_marked(element: Locator) -> bool:
    """True if the element has the system's colour of a selection."""
    marked: bool = element.evaluate(
        """(element) => {
            const probe = document.body.appendChild(document.createElement("i"))
            probe.style.forcedColorAdjust = "none"
            probe.style.color = "Highlight"
            const colour = getComputedStyle(probe).color
            probe.remove()
            const style = getComputedStyle(element)
            return [style.backgroundColor, style.borderTopColor].includes(colour)
        }"""
    )
    return marked


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/ui?state=running", ".tile"),
        ("/ui?blocked_cause=approval_gap", ".causes .chip"),
        ("/ui", ".top nav a"),
        ("/ui/alerts?status=open", ".bar .chosen .chip"),
    ],
)
def test_a_selected_link_looks_selected(visit: Page, path: str, kind: str) -> None:
    visit.goto(path)
    assert is_marked(visit.locator(f"{kind}[aria-current]"))
    assert not is_marked(visit.locator(kind).last)


def test_the_selected_status_of_deliveries_looks_selected(visit: Page, edge: Edge) -> None:
    body = {"url": "https://93.184.216.34/hooks", "event_types": ["run.failed"]}
    made = edge.post("/v1/webhooks", edge.token("webhooks:manage"), json=body).json()["data"]
    visit.goto(f"/ui/webhooks/{made['id']}")
    chips = visit.locator(".bar .chip")
    assert [is_marked(chip) for chip in chips.all()] == [True, False, False, False, False, False]


def test_the_slider_is_visible(visit: Page, edge: Edge) -> None:
    visit.goto(f"/ui/lines/{edge.fresh()}")
    slider = visit.get_by_role("slider")
    box = slider.bounding_box()
    assert box is not None
    thumb = {**box, "x": box["x"] + box["width"] - 16, "width": 16.0}
    for part in (thumb, {**box, "width": box["width"] / 2}):
        image = visit.screenshot(clip=part)  # type: ignore[arg-type]
        slider.evaluate("slider => { slider.style.opacity = 0 }")
        assert visit.screenshot(clip=part) != image  # type: ignore[arg-type]
        slider.evaluate("slider => { slider.style.opacity = 1 }")
    screenshot(visit, "forced-colors")
