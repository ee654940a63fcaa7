"""The address of an id, and redirects to another instant and another time zone."""

from datetime import UTC, datetime, timedelta

import pytest

from ledger.engine.page.addresses import own_page
from tests.support.boards import details
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import Visitor, visitor


def test_an_id_leads_to_its_page(edge: Edge) -> None:
    guest = visitor(edge)
    for typed, path in (
        ("LIN-26-000001", "/ui/lines/LIN-26-000001"),
        (" lin-26-000001 ", "/ui/lines/LIN-26-000001"),
        ("EVT-26-000123", "/ui/events/EVT-26-000123"),
        ("WHK-26-000001", "/ui/webhooks/WHK-26-000001"),
        ("RUN-26-999999", "/ui/runs/RUN-26-999999"),
        ("ws-26-000001", "/ui?workspace_id=WS-26-000001"),
        ("proj-26-004281", "/ui?project_tag=PROJ-26-004281"),
        (" PROJ-Alpha two ", "/ui?project_tag=PROJ-Alpha+two"),
    ):
        assert guest.get("/ui/search", params={"q": typed}).location == path


def test_a_records_id_leads_to_its_line(edge: Edge) -> None:
    line_id, run_id = edge.fresh(), "RUN-26-880001"
    edge.accept(fact("run.started", run_id, {"service_line_id": line_id}))
    record_id = edge.data(f"/v1/execution/{line_id}")["id"]
    guest = visitor(edge)
    assert guest.get(f"/ui/search?q={record_id}").location == f"/ui/lines/{line_id}"
    assert guest.get(f"/ui/search?q={run_id}").location == f"/ui/runs/{run_id}"
    stranger = visitor(edge, organization_id="ORG-26-000777")
    assert stranger.get(f"/ui/search?q={record_id}").location == f"/ui/runs/{record_id}"


def test_an_unchanged_instant_keeps_its_fractions_of_a_second(edge: Edge) -> None:
    guest = visitor(edge)
    exact = "2026-04-01T00:00:00.5Z"
    form = guest.get(f"/ui?as_of={exact}").form("/ui/as-of")
    assert form["at"] == "2026-04-01T00:00:00"

    def led_to(**fields: str) -> str:
        return guest.get("/ui/as-of", params=form | fields).location

    assert led_to() == "/ui?as_of=2026-04-01T00%3A00%3A00.5Z"
    assert led_to(at="2026-04-01T00:00:01") == "/ui?as_of=2026-04-01T00%3A00%3A01Z"
    # Now is as exact as any other instant: events within this second are known.
    edge.clock.now = edge.clock.now.replace(microsecond=250_000)
    form = guest.get("/ui").form("/ui/as-of")
    assert led_to().endswith(".25Z")
    for at in ("yesterday", "2026-13-01", "0001-01-01T00:00:00+14:00"):
        assert guest.get("/ui/as-of", params={"at": at, "next": "/ui"}).status == 422


def test_every_instant_is_shown_in_the_zone_and_the_zone_is_named(edge: Edge) -> None:
    line_id = edge.fresh(time="2026-04-15T11:00:00Z")
    guest = visitor(edge)
    page = guest.get("/ui")
    assert "Since 2026-04-15 11:00:00" in details(page, line_id)
    assert page.one("[data-zone]").get_text() == "UTC"
    moved = guest.submit(page, "/ui/zone", zone="Asia/Kolkata", next="/ui?state=blocked")
    assert moved.location == "/ui?state=blocked"
    page = guest.get("/ui")
    assert "Since 2026-04-15 16:30:00" in details(page, line_id)
    assert page.one("[data-zone]").get_text() == "Asia/Kolkata"
    since = page.one(f"#{line_id} .since time")
    assert since["title"] == "2026-04-15 16:30:00 Asia/Kolkata"
    assert since["datetime"] == "2026-04-15 11:00:00Z"
    # Nobody is offered to look into the future, and an instant is read in the page's zone.
    now = edge.clock.now + timedelta(hours=5, minutes=30)
    assert page.one('input[name="at"]')["max"] == f"{now:%Y-%m-%dT%H:%M:%S}"
    answer = guest.get("/ui/as-of?at=2026-04-01T02:00:00&next=/ui?state=blocked")
    assert answer.location == "/ui?state=blocked&as_of=2026-03-31T20%3A30%3A00Z"


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "/etc/passwd", "ü"])
def test_an_unknown_zone_is_refused(edge: Edge, zone: str) -> None:
    guest = visitor(edge)
    answer = guest.submit(guest.get("/ui"), "/ui/zone", zone=zone)
    assert answer.status == 422
    # A cookie with an unknown zone does no harm.
    page = guest.get("/ui", headers={"cookie": f"{cookies(guest)}; ledger_zone={zone.encode()!r}"})
    assert page.one("[data-zone]").get_text() == "UTC"


def cookies(guest: object) -> str:
    jar = guest.http.cookies  # type: ignore[attr-defined]
    return "; ".join(f"{name}={value}" for name, value in jar.items())


ELSEWHERE = (
    "https://example.com", "//example.com", "/v1/execution", "/uix", "", "ui",
    "/ui/../v1/execution", "/ui/..", "/ui/../../evil", "/ui/./.././evil", "/ui/../uix",
    "/ui/..//example.com", "/ui//../../../example.com", "/ui/x//../../../../ui/../example.com",
    "/ui/%2e%2e/evil", "/ui/.%2E/%2e./evil", "/ui/%2e%2e//example.com", "/ui/..?next=/ui/",
    "/ui/..#/ui/", "\\\\example.com", "/ui\\..\\evil", "/ui/..\\evil", "/ui/.\t./evil",
    "/ui/.\n./evil", "/ui/.\r./evil", "\t//example.com", "/\t/example.com", " /ui", "/ui/\x01",
)  # fmt: skip


@pytest.mark.parametrize("target", ELSEWHERE)
def test_an_address_of_another_site_is_no_own_page(target: str) -> None:
    assert own_page(target) == "/ui"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/ui", "/ui"),
        ("/ui?state=blocked&x=../..", "/ui?state=blocked&x=../.."),
        ("/ui/lines/LIN-26-000001#usage", "/ui/lines/LIN-26-000001#usage"),
        ("/ui/lines/../events?limit=1", "/ui/events?limit=1"),
        ("/ui/../ui/%2e/events/", "/ui/events"),
        ("/ui/...", "/ui/..."),
        ("/ui/%252e%252e/x", "/ui/%252e%252e/x"),
    ],
)
def test_an_address_below_the_pages_is_resolved_and_kept(target: str, path: str) -> None:
    assert own_page(target) == path


def test_no_redirect_leads_to_another_site(edge: Edge) -> None:
    guest = visitor(edge)
    for target in ("//example.com", "/ui/..\\evil", "/ui/%2e%2e/evil"):
        answer = guest.get("/ui/as-of", params={"at": "2026-04-01", "next": target})
        assert (answer.status, answer.location) == (303, "/ui?as_of=2026-04-01T00%3A00%3A00Z")
        answer = guest.submit(guest.get("/ui"), "/ui/zone", next=target)
        assert (answer.status, answer.location) == (303, "/ui")
        answer = Visitor(edge).sign_in(edge.token("read"), next=target)
        assert (answer.status, answer.location) == (303, "/ui")


def test_the_usage_shown_is_of_the_month_where_the_reader_lives(edge: Edge) -> None:
    """The last instants of November in New York lie in December in UTC."""
    edge.clock.now = datetime(2026, 12, 1, 4, 58, tzinfo=UTC)
    path = f"/ui/lines/{edge.fresh('capacity', time='2026-10-01T00:00:00Z')}"
    edge.clock.advance(minutes=1)
    guest = visitor(edge)
    assert "Usage in 2026-12" in guest.get(path).text
    guest.submit(guest.get("/ui"), "/ui/zone", zone="America/New_York")
    page = guest.get(path)
    assert "Usage in 2026-11" in page.text
    assert page.words(".title nav a") == ["‹ 2026-10"]
    assert guest.get(f"{path}?month=2026-10").words(".title nav a") == ["‹ 2026-09", "2026-11 ›"]
