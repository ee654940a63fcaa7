"""The slider on a line's page: every event of its history, and the page as of then."""

import itertools
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.random_life import history_of
from tests.support.visitor import Seen, visitor


def path_of(line_id: str) -> str:
    return f"/ui/lines/{line_id}"


def blocked(line_id: str, cause: str = "approval_gap", **more: Any) -> dict[str, Any]:
    return fact("execution.blocked", line_id, {"blocker_id": "B-1", "cause": cause, **more})


def as_of(address: str) -> str | None:
    """The instant in an address."""
    return next(iter(parse_qs(urlsplit(address).query).get("as_of", [])), None)


def step(page: Seen, name: str) -> str | None:
    """The address of a step of the slider; None for a disabled step."""
    href = page.one(f'[data-step="{name}"]').get("href")
    return None if href is None else str(href)


def lived(edge: Edge) -> tuple[str, list[dict[str, Any]]]:
    """A line with some events and another line's events in between; and its history."""
    line_id, other = edge.fresh(), edge.fresh()
    edge.accept(fact("execution.checked_in", line_id, {"hours": 1}))
    edge.clock.advance(seconds=5)
    edge.accept(fact("execution.checked_in", other))
    edge.accept(blocked(line_id, reason="Stuck"))
    edge.clock.advance(seconds=5)
    edge.accept(fact("execution.checked_in", other))
    edge.accept(fact("execution.unblocked", line_id, {"blocker_id": "B-1"}))
    edge.clock.advance(seconds=5)
    return line_id, history_of(edge, line_id)


def test_steps_reach_every_event_and_lead_back(edge: Edge) -> None:
    line_id, history = lived(edge)
    guest = visitor(edge)
    page, seen = guest.get(path_of(line_id)), []
    assert (step(page, "next"), step(page, "now")) == (None, None)
    while back := step(page, "previous"):
        page = guest.get(back)
        seen.append(page.one("#standing-at .id").get_text())
        assert as_of(back) in [event["recorded_at"] for event in history]
    assert seen == [event["id"] for event in reversed(history)]
    assert step(page, "first") is None
    forth = []
    while on := step(page, "next"):
        page = guest.get(on)
        forth.append(page.one("#standing-at .id").get_text())
    assert forth == [event["id"] for event in history[1:]] + [history[-1]["id"]]
    assert as_of(on or "") is None
    assert "data-stream" in page.one("#view").attrs


def test_the_page_shows_the_line_as_it_was(edge: Edge) -> None:
    line_id, history = lived(edge)
    guest = visitor(edge)
    at = {event["type"]: event for event in history}
    page = guest.get(f"{path_of(line_id)}?as_of={at['execution.blocked']['recorded_at']}")
    assert page.words(".standing .state") == ["blocked"]
    assert page.words(".why h2") == ["Why it is blocked"]
    assert "Stuck" in page.words(".why")[0]
    assert "You are looking at the past" in page.text
    assert "data-stream" not in page.one("#view").attrs
    latest = page.words(".happened .kind")
    assert latest == ["execution.blocked", "execution.checked_in", "execution.started"]
    assert str(page.one("#band")["aria-label"]).endswith(" State at that time: blocked.")
    slider = page.one("#slider")
    assert int(str(slider["value"])) == at["execution.blocked"]["position"]
    assert "execution.blocked" in str(slider["aria-valuetext"])


def test_a_position_leads_to_the_instant_of_the_last_event_up_to_it(edge: Edge) -> None:
    line_id, history = lived(edge)
    guest = visitor(edge)

    def led_to(position: int) -> str | None:
        moved = guest.get(f"{path_of(line_id)}?at={position}&month=2026-04")
        assert moved.status == 303
        assert "month=2026-04" in moved.location
        return as_of(moved.location)

    for event, following in itertools.pairwise(history):
        for position in range(event["position"], following["position"]):
            assert led_to(position) == event["recorded_at"]
    assert led_to(history[-1]["position"]) == history[-1]["recorded_at"]
    assert led_to(history[-1]["position"] + 1) is None
    assert led_to(2**63 - 1) is None
    assert led_to(0) == history[0]["recorded_at"]


def test_the_slider_goes_from_the_first_event_to_beyond_the_last(edge: Edge) -> None:
    line_id, history = lived(edge)
    slider = visitor(edge).get(path_of(line_id)).one("#slider")
    ends = [int(str(slider[name])) for name in ("min", "max", "value")]
    first, last = history[0]["position"], history[-1]["position"]
    assert ends == [first, last + 1, last + 1]


def test_every_event_has_a_tick(edge: Edge) -> None:
    line_id, history = lived(edge)
    page = visitor(edge).get(path_of(line_id))
    assert sum(str(path["d"]).count("M") for path in page.all(".ticks path")) == len(history)
    (blocked_ticks,) = page.all(".ticks .t-blocked")
    assert str(blocked_ticks["d"]).count("M") == 1


def test_a_line_that_was_not_known_yet_says_so(edge: Edge) -> None:
    then = edge.clock.now.isoformat().replace("+00:00", "Z")
    edge.fresh()
    edge.clock.advance(minutes=1)
    line_id = edge.fresh()
    guest = visitor(edge)
    page = guest.get(f"{path_of(line_id)}?as_of={then}")
    assert page.status == 404
    assert "was not known yet at that time" in page.text
    nobody = guest.get(f"{path_of('LIN-26-999999')}?as_of={then}")
    assert nobody.status == 404
    assert "was not known yet" not in nobody.text


@pytest.mark.parametrize(
    "query", ["at=x", "at=-1", f"at={2**63}", "as_of=soon", "as_of=2098-01-01", "what=1"]
)
def test_an_invalid_parameter_is_refused_in_words(edge: Edge, query: str) -> None:
    page = visitor(edge).get(f"{path_of(edge.fresh())}?{query}")
    assert page.status == 422
    assert page.words("h1") == ["Invalid request"]
