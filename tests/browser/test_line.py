"""A line's page in a real browser: pause and resume, live updates, and the past."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.support.browser import Watch, assert_accessible, enter, screenshot, watched
from tests.support.edge import Edge
from tests.support.facts import fact

ALL = ("read", "service_lines:manage")

MOVE = re.compile(r"/ui/lines/.*[?&](at|as_of)=")
"""The address that the slider or a step to an event requests."""


@pytest.fixture
def line_id(edge: Edge) -> str:
    """A line with a short history: blocked for an hour, then a failed run."""
    line_id = edge.fresh()
    edge.clock.advance(hours=1)
    data = {"blocker_id": "B", "cause": "policy_violation", "reason": "Tool not on the allow list"}
    edge.accept(fact("execution.blocked", line_id, data))
    edge.clock.advance(hours=1)
    edge.accept(fact("execution.unblocked", line_id, {"blocker_id": "B"}))
    run_id = line_id.replace("LIN", "RUN")
    edge.accept(fact("run.started", run_id, {"service_line_id": line_id}))
    edge.clock.advance(minutes=1)
    edge.accept(fact("run.failed", run_id, {"error": {"code": "oops", "message": "It broke"}}))
    return line_id


@pytest.fixture
def line(page: Page, edge: Edge, line_id: str) -> Page:
    """The line's page, opened by a visitor who may manage the line."""
    enter(page, edge.token(*ALL))
    page.goto(f"/ui/lines/{line_id}")
    expect(page.locator("[data-live]")).to_contain_text("live")
    return page


def pattern(words: str) -> re.Pattern[str]:
    """A pattern for text that contains these words."""
    return re.compile(re.escape(words))


def state_element(page: Page) -> Locator:
    """The element with the line's state."""
    return page.locator(".standing .state")


def test_a_line_is_paused_with_a_reason_and_resumed(line: Page, edge: Edge, line_id: str) -> None:
    line.get_by_role("button", name="Pause…").click()
    dialog = line.get_by_role("dialog")
    expect(dialog).to_contain_text("No run starts on this line")
    expect(dialog.get_by_label("Reason")).to_be_focused()
    assert_accessible(line)
    screenshot(line, "pause")
    # Without a reason the form is not sent.
    dialog.get_by_role("button", name="Pause this line").click()
    expect(dialog).to_be_visible()
    # The typed reason stays while the page behind the dialog refreshes itself.
    dialog.get_by_label("Reason").fill("Stakeholder review")
    edge.accept(fact("execution.checked_in", line_id, {"note": "meanwhile"}))
    expect(line.get_by_text("execution.checked_in").first).to_be_visible()
    dialog.get_by_role("button", name="Pause this line").click()
    expect(state_element(line)).to_have_text("paused")
    expect(line.get_by_text("Stakeholder review").first).to_be_visible()
    line.get_by_role("button", name="Resume…").click()
    line.get_by_role("button", name="Resume this line").click()
    expect(state_element(line)).to_have_text("running")
    states = [e["state_after"] for e in edge.data(f"/v1/execution/{line_id}/history")]
    assert states[-2:] == ["paused", "running"]


def test_a_dialog_is_left_by_escape_and_the_focus_comes_back(line: Page) -> None:
    button = line.get_by_role("button", name="Pause…")
    button.focus()
    line.keyboard.press("Enter")
    expect(line.get_by_role("dialog")).to_be_visible()
    line.keyboard.press("Escape")
    expect(line.get_by_role("dialog")).to_be_hidden()
    expect(button).to_be_focused()


def test_nothing_behind_a_dialog_is_reached(line: Page) -> None:
    line.get_by_role("button", name="Pause…").click()
    dialog = line.get_by_role("dialog")
    for key in ["Tab"] * 6 + ["Shift+Tab"] * 6:
        line.keyboard.press(key)
        # The body has the focus at the point where the browser's own controls would get it.
        assert dialog.evaluate(
            "dialog => dialog.contains(document.activeElement)"
            " || document.activeElement === document.body"
        )
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    expect(line.get_by_role("button", name="Pause…")).to_be_focused()
    line.keyboard.press("Enter")
    line.mouse.click(5, 5)
    expect(dialog).to_be_hidden()


def test_a_refusal_is_a_sentence_next_to_the_typed_reason(
    line: Page, edge: Edge, line_id: str, watch: Watch
) -> None:
    watch.expect("status of 409")
    line.get_by_role("button", name="Pause…").click()
    line.get_by_role("dialog").get_by_label("Reason").fill("My reason")
    # Another client pauses the line while the dialog is open.
    token = edge.token(*ALL)
    answer = edge.post(f"/v1/execution/{line_id}/pause", token, json={"reason": "Theirs"})
    assert answer.status_code == 200
    line.get_by_role("dialog").get_by_role("button", name="Pause this line").click()
    expect(line.get_by_role("alert")).to_contain_text("The line is already paused.")
    expect(line.get_by_text("My reason")).to_be_visible()
    assert_accessible(line)
    screenshot(line, "pause-refused", 390)


def test_changes_by_others_appear_by_themselves(line: Page, edge: Edge, line_id: str) -> None:
    data = {"blocker_id": "C", "cause": "capacity_issue", "reason": "Nobody is free"}
    edge.accept(fact("execution.blocked", line_id, data))
    expect(state_element(line)).to_have_text("blocked")
    expect(line.get_by_text("Nobody is free").first).to_be_visible()


def test_a_phones_first_screen_says_why_and_has_the_button(
    page: Page, edge: Edge, line_id: str
) -> None:
    reason = "The vendor's tool is not on the allow list of the bank; security must sign it off"
    data = {"blocker_id": "C", "cause": "policy_violation", "reason": reason}
    edge.accept(fact("execution.blocked", line_id, data | {"assignee": "amara@example.com"}))
    enter(page, edge.token(*ALL))
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"/ui/lines/{line_id}")
    for element in (page.locator(".why"), page.get_by_role("button", name="Pause…")):
        box = element.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 844
    headings = page.get_by_role("heading", level=2).all_inner_texts()
    assert headings.index("Why it is blocked") < headings.index("Timeline")
    assert headings[headings.index("Why it is blocked") + 1].startswith("History")


def as_api_says(edge: Edge, page: Page, line_id: str, now: bool = False) -> None:
    """Assert that every part of the page shows the instant in its address."""
    page.wait_for_url(lambda url: ("as_of=" in url) is not now)
    if not now:
        # The address is updated shortly after the page.
        page.wait_for_function(
            """() => document.querySelector('#standing-at > b > time').dateTime
                === new URLSearchParams(location.search).get('as_of')"""
        )
    as_of = page.evaluate("new URLSearchParams(location.search).get('as_of')")
    query = f"?as_of={as_of}" if as_of else ""
    detail = edge.data(f"/v1/execution/{line_id}{query}")
    expect(state_element(page)).to_have_text(detail["state"])
    history = edge.data(f"/v1/execution/{line_id}/history{query}")
    expect(page.locator("#standing-at")).to_contain_text(history[-1]["type"])
    latest = page.locator("#standing-at > time")
    expect(latest).to_have_attribute("datetime", history[-1]["recorded_at"])
    runs = edge.data(f"/v1/execution/{line_id}/runs{query}")
    expect(page.locator(".run-rows tbody tr")).to_have_count(len(runs))
    timeline = edge.data(f"/v1/execution/{line_id}/timeline{query}")
    intervals = page.locator("#intervals tbody tr")
    expect(intervals).to_have_count(len(timeline["intervals"]))
    expect(page.get_by_role("status").filter(has_text="the past")).to_have_count(1 if as_of else 0)


def slider_value(event: dict[str, Any]) -> str:
    """The slider's value at the instant of an event: milliseconds since 1970."""
    passed = datetime.fromisoformat(event["recorded_at"]) - datetime(1970, 1, 1, tzinfo=UTC)
    return str(passed // timedelta(milliseconds=1))


def test_the_slider_goes_event_by_event_with_the_keyboard(
    line: Page, edge: Edge, line_id: str
) -> None:
    slider = line.get_by_role("slider")
    events = edge.data(f"/v1/execution/{line_id}/history")
    expect(slider).to_have_attribute("aria-valuetext", pattern("now"))
    slider.focus()
    for event in reversed(events):
        line.keyboard.press("ArrowLeft")
        expect(slider).to_have_attribute("aria-valuetext", pattern(f"after {event['type']}"))
        expect(slider).to_have_value(slider_value(event))
        expect(slider).to_be_focused()
        as_api_says(edge, line, line_id)
    # There is no step before the first event.
    line.keyboard.press("ArrowLeft")
    line.keyboard.press("ArrowRight")
    expect(slider).to_have_value(slider_value(events[1]))
    line.keyboard.press("End")
    expect(slider).to_have_attribute("aria-valuetext", pattern("now"))
    as_api_says(edge, line, line_id, now=True)
    line.keyboard.press("Home")
    expect(slider).to_have_value(slider_value(events[0]))
    as_api_says(edge, line, line_id)


def test_the_slider_is_dragged_through_the_past_and_back(
    line: Page, edge: Edge, line_id: str
) -> None:
    slider = line.get_by_role("slider")
    box = slider.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    line.mouse.move(box["x"] + box["width"] - 5, middle)
    line.mouse.down()
    line.mouse.move(box["x"] + box["width"] * 0.3, middle, steps=8)
    expect(line.get_by_role("status").filter(has_text="the past")).to_be_visible()
    assert "as_of=" in line.url
    line.mouse.up()
    # The page shows the very time at which the thumb was released.
    line.wait_for_function(
        """() => document.getElementById('slider').value
            == Date.parse(new URLSearchParams(location.search).get('as_of'))"""
    )
    as_api_says(edge, line, line_id)
    assert_accessible(line)
    # The address can be shared: it shows the same page again.
    line.reload()
    as_api_says(edge, line, line_id)
    # The right end is now.
    line.mouse.move(box["x"] + box["width"] * 0.3, middle)
    line.mouse.down()
    line.mouse.move(box["x"] + box["width"] + 5, middle, steps=4)
    line.mouse.up()
    as_api_says(edge, line, line_id, now=True)


def test_the_thumb_stands_above_its_time_on_the_timeline(
    line: Page, edge: Edge, line_id: str
) -> None:
    """Thumb, ticks and timeline agree to the pixel, at every width."""
    blocked = edge.data(f"/v1/execution/{line_id}/history")[1]
    line.goto(f"/ui/lines/{line_id}?as_of={blocked['recorded_at']}")
    for width in (390, 768, 1440):
        line.set_viewport_size({"width": width, "height": 900})
        thumb, rail, tick = line.evaluate(
            """() => {
                const slider = document.getElementById('slider')
                const box = slider.getBoundingClientRect()
                const share = (slider.value - slider.min) / (slider.max - slider.min)
                const thumb = parseFloat(getComputedStyle(document.documentElement).fontSize) * 1.1
                const left = (name) => document.querySelector(name).getBoundingClientRect()
                const mark = left('.seen')
                const path = left('.ticks .t-blocked')
                return [
                    box.left + thumb / 2 + share * (box.width - thumb),
                    mark.left + mark.width / 2,
                    path.left + path.width / 2,
                ]
            }"""
        )
        assert abs(thumb - rail) < 1.5, width
        assert abs(tick - rail) < 1.5, width


def test_a_slow_answer_does_not_lose_the_last_position_of_the_thumb(
    line: Page, edge: Edge, line_id: str
) -> None:
    """Places passed during a request are not requested; the last place is."""
    waiting: list[Route] = []
    address = re.compile(r"/ui/lines/.*[?&]at=")
    line.route(address, lambda route: route.continue_() if waiting else waiting.append(route))
    slider = line.get_by_role("slider")
    box = slider.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    line.mouse.move(box["x"] + box["width"] - 5, middle)
    line.mouse.down()
    with line.expect_request(address):
        line.mouse.move(box["x"] + box["width"] * 0.6, middle)
    line.mouse.move(box["x"] + 3, middle, steps=4)
    line.mouse.up()
    waiting[0].continue_()
    first = edge.data(f"/v1/execution/{line_id}/history")[0]
    expect(slider).to_have_attribute("aria-valuetext", pattern(first["type"]))
    expect(slider).to_have_value(slider_value(first))
    as_api_says(edge, line, line_id)


@pytest.fixture
def moves(line: Page) -> list[Route]:
    """The requests for other instants that the page sends; a test lets each be answered."""
    moves: list[Route] = []
    line.route(MOVE, lambda route: moves.append(route))
    return moves


def start_of(edge: Edge, line_id: str) -> int:
    """The slider's value at the line's first event."""
    return int(slider_value(edge.data(f"/v1/execution/{line_id}/history")[0]))


def comes_to(page: Page, milliseconds: int) -> None:
    """Wait until the page shows the instant of this place."""
    page.wait_for_function(
        "place => Date.parse(new URLSearchParams(location.search).get('as_of')) === place",
        arg=milliseconds,
    )


def test_the_slider_awaits_one_position_at_a_time(
    line: Page, edge: Edge, line_id: str, moves: list[Route]
) -> None:
    """Two places were requested at once, and the page showed the one that was answered last."""
    slider, start = line.get_by_role("slider"), start_of(edge, line_id)
    first, second, last = (start + 60_000 * minutes for minutes in (100, 50, 10))
    with line.expect_request(MOVE):
        slider.fill(str(first))
    slider.fill(str(second))
    with line.expect_request(lambda request: f"at={second}" in request.url):
        moves[0].continue_()
    slider.fill(str(last))
    with line.expect_request(lambda request: f"at={last}" in request.url):
        moves[1].continue_()
        comes_to(line, second)
        assert slider.input_value() == str(last)
    moves[2].continue_()
    comes_to(line, last)
    as_api_says(edge, line, line_id)


def test_the_last_position_is_requested_though_the_answer_leaves_the_slider_as_it_was(
    line: Page, edge: Edge, line_id: str
) -> None:
    """Within a second, two places have the same description."""
    slider, start = line.get_by_role("slider"), start_of(edge, line_id)
    slider.fill(str(start + 10_000))
    comes_to(line, start + 10_000)
    waiting: list[Route] = []
    line.route(MOVE, lambda route: route.continue_() if waiting else waiting.append(route))
    with line.expect_request(MOVE):
        slider.fill(str(start + 10_001))
    slider.fill(str(start + 10_002))
    waiting[0].continue_()
    comes_to(line, start + 10_002)
    as_api_says(edge, line, line_id)


def test_a_position_that_is_released_during_a_step_is_shown(
    line: Page, edge: Edge, line_id: str, moves: list[Route]
) -> None:
    """Also if the present page refreshes itself meanwhile, with a longer scale."""
    slider, start = line.get_by_role("slider"), start_of(edge, line_id)
    with line.expect_request(MOVE):
        line.get_by_role("link", name="First").click()
    edge.clock.advance(minutes=1)
    line.evaluate(
        """() => new Promise(done => {
            const view = document.getElementById('view')
            view.addEventListener('htmx:afterRequest', () => done(), { once: true })
            htmx.trigger(view, 'news')
        })"""
    )
    released = start + 600_000
    slider.fill(str(released))
    with line.expect_request(lambda request: f"at={released}" in request.url):
        moves[0].continue_()
        comes_to(line, start)
        assert slider.input_value() == str(released)
    moves[1].continue_()
    comes_to(line, released)
    as_api_says(edge, line, line_id)


def test_the_right_end_is_now_though_time_passes_during_a_request(
    line: Page, edge: Edge, line_id: str, moves: list[Route]
) -> None:
    slider, start = line.get_by_role("slider"), start_of(edge, line_id)
    with line.expect_request(MOVE):
        slider.fill(str(start + 600_000))
    edge.clock.advance(minutes=1)
    slider.fill(slider.get_attribute("max") or "")
    with line.expect_request(lambda request: request.url.endswith(line_id)):
        moves[0].continue_()
        comes_to(line, start + 600_000)
    as_api_says(edge, line, line_id, now=True)


@pytest.mark.soak
def test_without_script_a_position_of_the_slider_is_sent_by_a_button(
    chromium: Browser, address: str, edge: Edge, line_id: str
) -> None:
    with watched(chromium, address, java_script_enabled=False) as watch:
        page = watch.context.new_page()
        enter(page, edge.token("read"))
        page.goto(f"/ui/lines/{line_id}")
        page.get_by_role("slider").press("PageDown")
        page.get_by_role("button", name="Show this time").click()
        expect(page.get_by_text("looking at the past")).to_be_visible()
        page.get_by_role("slider").press("End")
        page.get_by_role("button", name="Show this time").click()
        expect(page.get_by_text("looking at the past")).to_have_count(0)


def test_a_run_shows_its_error(line: Page, line_id: str) -> None:
    line.locator(".run-rows").get_by_role("link", name=line_id.replace("LIN", "RUN")).click()
    expect(line.get_by_role("heading", level=1)).to_have_text(line_id.replace("LIN", "RUN"))
    expect(line.get_by_text("It broke")).to_be_visible()
    expect(line.get_by_text("run.failed").first).to_be_visible()
    assert_accessible(line)


def test_the_page_says_when_it_is_not_up_to_date(line: Page, edge: Edge, watch: Watch) -> None:
    """The service becomes unreachable: the page keeps its data, with their time."""
    watch.expect("ERR_", "htmx:sendError", "htmx:afterRequest")
    line.context.set_offline(True)
    line.evaluate("htmx.trigger(document.getElementById('view'), 'news')")
    expect(line.locator("#notice")).to_contain_text("cannot be reached")
    expect(state_element(line)).to_have_text("running")
    line.context.set_offline(False)
    expect(line.locator("#notice")).to_be_hidden()
