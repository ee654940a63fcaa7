"""The slider on a line's page: every event of its history, and the page as of then."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ledger.features.lines.page import history
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.random_life import history_of
from tests.support.visitor import Visited, visitor


def path_of(line_id: str) -> str:
    return f"/ui/lines/{line_id}"


def blocked(line_id: str, cause: str = "approval_gap", **more: Any) -> dict[str, Any]:
    return fact("execution.blocked", line_id, {"blocker_id": "B-1", "cause": cause, **more})


def as_of(address: str) -> str | None:
    return next(iter(parse_qs(urlsplit(address).query).get("as_of", [])), None)


def milliseconds(instant: str) -> int:
    passed = datetime.fromisoformat(instant) - datetime(1970, 1, 1, tzinfo=UTC)
    return passed // timedelta(milliseconds=1)


def moved(instant: datetime, seconds: float) -> str:
    """A later instant, as text for an address."""
    return f"{instant + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S.%fZ}"


def step(page: Visited, name: str) -> str | None:
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
    page, rows = guest.get(path_of(line_id)), []
    assert (step(page, "next"), step(page, "now")) == (None, None)
    while back := step(page, "previous"):
        page = guest.get(back)
        assert {str(time["datetime"]) for time in page.all("#standing-at time")} == {as_of(back)}
        rows.append(as_of(back))
    assert rows == [event["recorded_at"] for event in reversed(history)]
    assert step(page, "first") is None
    forth = []
    while on := step(page, "next"):
        page = guest.get(on)
        forth.append(as_of(on))
    assert forth == [event["recorded_at"] for event in history[1:]] + [None]
    assert as_of(on or "") is None
    assert "data-stream" in page.one("#view").attrs
    # From between two events the steps lead to the nearest ones.
    before, after = history[1]["recorded_at"], history[2]["recorded_at"]
    between = moved(datetime.fromisoformat(before), seconds=2)
    page = guest.get(f"{path_of(line_id)}?as_of={between}")
    assert as_of(step(page, "previous") or "") == before
    assert as_of(step(page, "next") or "") == after


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
    assert int(str(slider["value"])) == milliseconds(at["execution.blocked"]["recorded_at"])
    assert "execution.blocked" in str(slider["aria-valuetext"])


def test_the_slider_leads_to_the_very_instant_of_its_position(edge: Edge) -> None:
    line_id, history = lived(edge)
    guest, now = visitor(edge), milliseconds(edge.clock.now.isoformat())

    def led_to(at: int, end: int = 2**40) -> str | None:
        moved = guest.get(f"{path_of(line_id)}?at={at}&end={end}&month=2026-04")
        assert moved.status == 303
        assert parse_qs(urlsplit(moved.location).query).keys() <= {"month", "as_of"}
        assert "month=2026-04" in moved.location
        return as_of(moved.location)

    first, last = (milliseconds(history[index]["recorded_at"]) for index in (0, -1))
    for at in (first + 1, first + 1500, last + 1):
        assert milliseconds(led_to(at, now) or "") == at
    # Before the first event nothing was known of the line.
    assert led_to(0, now) == led_to(first - 1, now) == history[0]["recorded_at"]
    # The right end means now, whenever the page was made; and so does the future.
    assert led_to(now, now) is led_to(first + 5, first + 5) is led_to(now + 1, now + 2) is None
    # The slider goes from the line's beginning to now. It has a tick for each event at an instant
    # of its own: the first two events are a microsecond apart.
    page = guest.get(path_of(line_id))
    begun = milliseconds(edge.data(f"/v1/execution/{line_id}")["started_at"])
    ends = [int(str(page.one("#slider")[name])) for name in ("min", "max", "value")]
    assert ends == [begun, now, now]
    assert sum(str(path["d"]).count("M") for path in page.all(".ticks path")) == len(history) - 1
    (blocked_ticks,) = page.all(".ticks .t-blocked")
    assert str(blocked_ticks["d"]).count("M") == 1


def test_slider_and_timeline_have_one_scale_now_and_then(edge: Edge) -> None:
    line_id = edge.fresh()
    edge.clock.advance(days=3)
    edge.accept(blocked(line_id))
    then = edge.clock.now
    edge.clock.advance(days=7)
    page = visitor(edge).get(path_of(line_id))
    past = visitor(edge).get(f"{path_of(line_id)}?as_of={moved(then, seconds=1)}")
    assert past.words("#recorded text") == page.words("#recorded text")
    for view in (page, past):
        assert view.words("#band .tick text") == view.words("#recorded text")
        ticks = [str(line["x1"]) for line in view.all("#recorded .tick line")]
        assert ticks == [str(line["x1"]) for line in view.all("#band .tick line")]
        (tick,) = view.all(".ticks .t-blocked")
        (piece,) = view.all("#band rect[fill='url(#p-blocked)']")
        at = float(str(tick["d"]).removeprefix("M").split()[0]) / 10
        assert abs(at - float(str(piece["x"]).rstrip("%"))) < 0.1
        assert 29 < at < 31
    # Of what came after the instant the timeline shows nothing.
    (piece,) = past.all("#band rect[fill='url(#p-blocked)']")
    assert float(str(piece["width"]).rstrip("%")) < 1
    assert past.one("#band .seen")["x1"] == past.one("#band .seen")["x2"]
    assert 29 < float(str(past.one("#band .seen")["x1"]).rstrip("%")) < 31


def test_the_axis_of_the_slider_is_in_the_zone_of_the_page(edge: Edge) -> None:
    line_id = edge.fresh()
    edge.clock.advance(hours=5)
    guest = visitor(edge)
    utc = guest.get(path_of(line_id)).words("#recorded text")
    guest.http.cookies.set("ledger_zone", "Asia/Kathmandu", path="/ui")
    there = guest.get(path_of(line_id)).words("#recorded text")
    assert len(there) == len(utc) >= 5
    assert not set(there) & set(utc)


def test_a_closed_lines_scale_ends_with_what_was_recorded_of_it(edge: Edge) -> None:
    line_id = edge.fresh()
    edge.clock.advance(days=10)
    edge.accept(fact("service_line.closed", line_id, time=edge.clock.now.isoformat()))
    edge.clock.advance(days=1)
    late = (edge.clock.now - timedelta(days=2)).isoformat()
    edge.accept(fact("execution.checked_in", line_id, {"hours": 1}, time=late))
    last = milliseconds(history_of(edge, line_id)[-1]["recorded_at"])
    edge.clock.advance(days=900)
    slider = visitor(edge).get(path_of(line_id)).one("#slider")
    assert last < int(str(slider["max"])) < last + 2 * 86_400_000


def test_nothing_in_the_slider_depends_on_the_events_of_others(edge: Edge) -> None:
    """A line whose neighbours are silent, and one among busy neighbours, look alike."""
    instants = []
    for neighbours in (0, 40):
        line_id, other, begun = edge.fresh(), edge.fresh(), edge.clock.now
        for _ in range(4):
            edge.clock.advance(hours=1)
            edge.accept(*(fact("execution.checked_in", other) for _ in range(neighbours)))
            edge.clock.advance(hours=1)
            edge.accept(fact("execution.checked_in", line_id, time=edge.clock.now.isoformat()))
        page = visitor(edge).get(path_of(line_id))
        # An event's id has its position in the log.
        assert "EVT-" not in str(page.one(".travel"))
        slider = page.one("#slider")
        ends = [int(str(slider[name])) - milliseconds(begun.isoformat()) for name in ("min", "max")]
        instants.append((ends, [path["d"] for path in page.all(".ticks path")]))
        # Both lines begin at the same time of the day.
        edge.clock.advance(hours=16)
    assert instants[0] == instants[1]


def test_ticks_of_many_events_are_spread_over_the_time(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A burst of events takes one tick; the quiet time around it keeps its own."""
    monkeypatch.setattr(history, "_TICKS", 20)
    line_id = edge.fresh()
    for burst in (1, 1, 50, 1, 1):
        edge.clock.advance(hours=10)
        edge.accept(*(fact("execution.checked_in", line_id) for _ in range(burst)))
    page = visitor(edge).get(path_of(line_id))
    drawn = "".join(str(path["d"]) for path in page.all(".ticks path"))
    positions = [round(float(part.split()[0])) for part in drawn.split("M")[1:]]
    assert positions == pytest.approx([0, 200, 400, 600, 800, 1000], abs=2)


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
    stranger = visitor(edge, organization_id="ORG-26-000002")
    assert stranger.get(f"{path_of(line_id)}?at=5").status == 404


def test_an_invalid_parameter_is_refused_in_words(edge: Edge) -> None:
    guest, path = visitor(edge), path_of(edge.fresh())
    for query in ("at=x", "at=-1", f"at={2**63}", "at=4102444800000", "at=1&end=x",
                  "as_of=2098-01-01"):  # fmt: skip
        page = guest.get(f"{path}?{query}")
        assert (page.status, page.words("h1")) == (422, ["Invalid request"]), query
