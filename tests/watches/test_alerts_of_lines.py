"""Alerts on pages about lines: on the board, on a line's page, and in its timeline."""

from datetime import UTC, datetime, timedelta

import pytest

from ledger.engine.page import charts
from tests.support.edge import Edge
from tests.support.visitor import visitor
from tests.support.watched import Watched, watched


@pytest.fixture
def tenant(edge: Edge) -> Watched:
    found = watched(edge)
    found.watch()
    return found


def ringing(tenant: Watched, name: str = "Payments") -> str:
    """A blocked line with an alert."""
    line = tenant.line(name)
    tenant.block(line)
    tenant.run_watches()
    return line


# The board.


def test_a_row_of_the_board_tells_how_many_alerts_of_the_line_are_open(tenant: Watched) -> None:
    line, other = ringing(tenant), tenant.line("Quiet")
    page = tenant.guest.get("/ui")
    (chip,) = page.all(f"#{line} .rung")
    assert chip["href"] == f"/ui/alerts?service_line_id={line}&status=open%2Cacknowledged"
    assert page.words(f"#{line} .rung") == ["1 1 open alert"]
    assert page.all(f"#{other} .rung") == []
    tenant.unblock(line)
    tenant.run_watches()
    assert tenant.guest.get("/ui").all(".rung") == []


def test_the_board_leaves_the_lines_with_open_alerts(tenant: Watched) -> None:
    line, other = ringing(tenant), tenant.line("Quiet")
    page = tenant.guest.get("/ui?has_alerts=true")
    assert page.all(f"#{line}")
    assert page.all(f"#{other}") == []
    assert page.words("h1") == ["Lines, only with open alerts"]
    assert page.one("[name=has_alerts]").has_attr("checked")
    (chip,) = page.all("ul[aria-label='Filters that are on'] a.chip")
    assert chip["href"] == "/ui"


def test_many_lines_with_open_alerts_are_paused_at_once(tenant: Watched) -> None:
    line, other = ringing(tenant), tenant.line("Quiet")
    keys = tenant.guest.get("/ui").form("/ui/sign-out") | {"request_key": "k"}
    page = tenant.guest.post(
        "/ui/many/pause", keys | {"board": "/ui?has_alerts=true", "matching": "all"}
    )
    assert page.words("h1") == ["Pause 1 line"]
    done = tenant.guest.submit(page, "/ui/many/pause", reason="Look first")
    assert done.words("h1") == ["Paused 1 line"]
    states = [
        tenant.edge.data(f"/v1/execution/{each}", tenant.token)["state"] for each in (line, other)
    ]
    assert states == ["paused", "running"]


# A line's page.


def test_the_page_of_a_line_shows_its_open_alerts_with_a_way_to_acknowledge(
    tenant: Watched,
) -> None:
    line = ringing(tenant)
    (alert,) = tenant.alerts()
    page = tenant.guest.get(f"/ui/lines/{line}")
    assert page.words("#h-alerts") == ["1 open alert"]
    (text,) = page.words(".ringing .text")
    assert text == alert["text"]
    assert page.all(f".ringing a[href^='/ui/alerts/acknowledge?alert={alert['id']}']")
    reader = visitor(tenant.edge, "read", organization_id=tenant.organization)
    page = reader.get(f"/ui/lines/{line}")
    assert page.words("#h-alerts") == ["1 open alert"]
    assert page.all("[href^='/ui/alerts/acknowledge']") == []
    tenant.unblock(line)
    tenant.run_watches()
    assert tenant.guest.get(f"/ui/lines/{line}").all(".ringing") == []


def test_a_line_of_the_past_shows_the_alerts_of_then(tenant: Watched) -> None:
    line = ringing(tenant)
    then = tenant.edge.clock.now
    tenant.edge.clock.advance(hours=1)
    tenant.unblock(line)
    tenant.run_watches()
    page = tenant.guest.get(f"/ui/lines/{line}?as_of={then:%Y-%m-%dT%H:%M:%S.%fZ}")
    assert page.words("#h-alerts") == ["1 open alert"]
    assert page.all("[href^='/ui/alerts/acknowledge']") == []


# The timeline.


def test_the_timeline_marks_the_episode_of_an_alert_with_its_sentence(tenant: Watched) -> None:
    line = ringing(tenant)
    (alert,) = tenant.alerts()
    tenant.edge.clock.advance(hours=2)
    tenant.unblock(line)
    tenant.run_watches()
    tenant.edge.clock.advance(hours=2)
    page = tenant.guest.get(f"/ui/lines/{line}")
    (mark,) = page.all("#band .alerted")
    assert "v-critical" in mark["class"]
    assert f"{alert['text']} (" in mark.get_text()
    assert "2 h)" in mark.get_text(), "from due to its end"
    assert "Alerts, critical: Payments is blocked" in str(page.one("#band")["aria-label"])
    assert "alerts, critical" in page.words("#band > text")


def test_episodes_that_overlap_are_one_mark_that_says_all() -> None:
    start = datetime(2026, 4, 1, tzinfo=UTC)
    hours = [start + timedelta(hours=n) for n in range(11)]
    alerts = [(hours[6], hours[7], "c"), (hours[0], hours[2], "a"), (hours[1], hours[3], "b")]
    found = charts.marks(alerts, start, hours[10])
    assert [(mark.x, mark.width, mark.texts) for mark in found] == [
        (0.0, 30.0, ("a", "b")),
        (60.0, pytest.approx(10.0), ("c",)),
    ]


def test_a_mark_is_visible_and_lies_within_the_band() -> None:
    start = datetime(2026, 4, 1, tzinfo=UTC)
    end = start + timedelta(hours=10)
    (mark,) = charts.marks([(end, end + timedelta(hours=1), "a")], start, end)
    assert (mark.x, mark.width) == (100 - charts.LEAST, charts.LEAST)
    before = (start - timedelta(hours=2), start - timedelta(hours=1), "a")
    assert charts.marks([before], start, end) == []
