"""The page "What changed": lines then and now, what got worse first, and the events behind it."""

import csv
import io
import re
from datetime import datetime, timedelta
from urllib.parse import parse_qs, quote, urlsplit

from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import Visited, visitor
from tests.usage.usage_answers import instant


def blocked(line: str) -> dict[str, object]:
    return fact("execution.blocked", line, {"blocker_id": "b", "cause": "approval_gap"})


def signal(line: str, status: str) -> dict[str, object]:
    return fact("health.signal_reported", line, {"signal": "sla_compliance", "status": status})


def address(workspace: str, then: str, **more: str) -> str:
    others = "".join(f"&{name}={quote(value)}" for name, value in more.items())
    return f"/ui/compare?then={quote(then)}&workspace_id={workspace}&time_zone=UTC{others}"


def names(page: Visited) -> list[str]:
    return [row.split()[0] for row in page.words(".sums tbody th")]


def row_of(page: Visited, name: str) -> dict[str, str]:
    """The cells of the row with this name, by their label."""
    (row,) = (row for row in page.all(".sums tbody tr") if name in row.select("th")[0].get_text())
    return {
        str(cell["data-label"]): " ".join(cell.get_text(" ").split())
        for cell in row.select("[data-label]")
    }


def record_changes(edge: Edge, workspace: str) -> str:
    """Lines that each change in another way; return the instant before the changes."""
    ids = {
        name: edge.fresh("capacity", workspace_id=workspace, name=name)
        for name in ("Quiet", "Hours", "Stuck", "Paused", "Sick", "Blocked")
    }
    edge.accept(blocked(ids["Stuck"]), signal(ids["Sick"], "green"))
    then = instant(edge)
    edge.accept(
        fact("execution.checked_in", ids["Hours"], {"hours": 2.5}),
        fact("execution.checked_in", ids["Stuck"], {}),
        fact("service_line.paused", ids["Paused"], {"reason": "Holiday"}),
        signal(ids["Sick"], "red"),
        blocked(ids["Blocked"]),
    )
    return then


def test_the_worst_change_stands_first_in_words_then_and_now(edge: Edge, workspace: str) -> None:
    then = record_changes(edge, workspace)
    page = visitor(edge).get(address(workspace, then))
    assert names(page) == ["Blocked", "Sick", "Stuck", "Paused", "Hours"]
    assert row_of(page, "Blocked")["State"] == "running → , now blocked"
    assert row_of(page, "Blocked")["Blockers"] == "0 → , now 1"
    assert row_of(page, "Sick")["Health"] == "100 of 100, green → , now 69 of 100, amber"
    assert row_of(page, "Stuck")["State"] == "blocked"
    assert row_of(page, "Paused")["State"] == "running → , now paused"
    assert page.words(".tiles a") == [
        "newly blocked 1", "cleared 0", "still blocked 1", "newly paused 1", "closed 0",
        "started 0",
    ]  # fmt: skip


def test_a_total_leads_to_its_lines_and_a_line_to_the_events_behind_it(
    edge: Edge, workspace: str
) -> None:
    then = record_changes(edge, workspace)
    guest = visitor(edge)
    page = guest.get(address(workspace, then))
    paused = guest.get(str(page.all(".tiles a")[3]["href"]))
    assert names(paused) == ["Paused"]
    assert paused.words(".tiles [aria-current]") == ["newly paused 1"]
    assert names(guest.get(str(paused.one(".tiles [aria-current]")["href"]))) == names(page)
    history = guest.get(str(paused.one('.sums [data-label="Events"] a')["href"]))
    assert history.words(".happened .kind") == ["execution.paused"]
    assert "Holiday" in history.text


def test_the_numbers_of_a_period_stand_as_change(edge: Edge, workspace: str) -> None:
    then = record_changes(edge, workspace)
    month = {"from": f"{edge.clock.now:%Y-%m}-01", "to": f"{edge.clock.now + timedelta(1):%F}"}
    page = visitor(edge).get(address(workspace, then, **month))
    assert row_of(page, "Hours")["Hours"] == "+2.5"
    assert visitor(edge).get(address(workspace, then)).all(".figures dl") == []


def test_the_sum_over_the_lines_with_an_event_is_never_called_that_of_the_period(
    edge: Edge, workspace: str
) -> None:
    """The page once said "Hours of April 2026 5.5", though another line had 100 more."""
    quiet, late = (
        edge.fresh("agent_runtime", workspace_id=workspace, name=name) for name in ("Quiet", "Late")
    )

    def worked(line: str, hours: float, tokens: int) -> None:
        name = f"{line}-{hours}"
        edge.accept(
            fact("execution.checked_in", line, {"hours": hours}),
            fact("run.started", None, {"service_line_id": line, "external_id": name}),
            fact("run.completed", None, {"external_id": name, "tokens_used": tokens}),
        )

    worked(quiet, 100, 70_000)
    worked(late, 3, 1_000)
    then = instant(edge)
    worked(late, 2.5, 234)
    month = {"from": "2026-04-01", "to": "2026-05-01"}
    guest = visitor(edge)
    url = address(workspace, then, **month)
    texts = ["+2.5 h in April 2026", "+1 in April 2026", "+234 in April 2026"]
    for path in (url, f"{url}&change=newly_blocked", f"{url}&sort=hours"):
        page = guest.get(path)
        assert page.words(".figures dt") == ["Hours", "Runs", "Tokens"]
        assert page.words(".figures dd") == texts
    # Every offered instant, each with the numbers of its months.
    ways = [str(link["href"]) for link in page.all(".tabs a")]
    assert len(ways) >= 3
    for way in ways:
        values = guest.get(way).words(".figures dd")
        assert len(values) == 3
        for value in values:
            assert re.fullmatch(r"([+-][\d.,]+( h)?|no change) in .+", value), value
    unchanged = guest.get(address(workspace, instant(edge), **month))
    assert unchanged.words(".figures dd") == ["no change in April 2026"] * 3
    of_resource = guest.get(f"{url}&resource_id=ada")
    assert of_resource.words(".figures dt") == ["Hours"]


def test_the_page_is_since_yesterday_and_friday_evening_is_a_click_away(edge: Edge) -> None:
    guest = visitor(edge)
    guest.http.cookies.set("ledger_zone", "Europe/Berlin")
    first = guest.get("/ui/compare")
    page = guest.get(first.location)
    assert page.words(".tabs [aria-current]") == ["since yesterday"]
    (friday,) = (a for a in page.all(".tabs a") if a.get_text() == "since Friday 18:00")
    query = parse_qs(urlsplit(str(friday["href"])).query)
    # 18:00 in Berlin in summer; the clock of the tests stands on a day of April 2026.
    assert query["then"][0].endswith("T16:00:00Z")
    assert query["time_zone"] == ["Europe/Berlin"]
    passed = edge.clock() - datetime.fromisoformat(query["then"][0])
    assert timedelta(0) <= passed <= timedelta(days=7)
    assert guest.get(str(friday["href"])).words(".tabs [aria-current]") == ["since Friday 18:00"]


def test_the_end_of_last_month_has_a_heading_of_its_own(edge: Edge) -> None:
    guest = visitor(edge)
    page = guest.get(guest.get("/ui/compare").location)
    (month,) = (a for a in page.all(".tabs a") if a.get_text() == "March 2026, after it ended")
    page = guest.get(str(month["href"]))
    assert page.words("h1") == ["March 2026: what changed after it ended"]
    since = guest.get("/ui/compare?then=2026-04-01T00:00:00Z&time_zone=UTC")
    assert since.words("h1") == ["What changed since 2026-04-01 00:00:00"]


def test_the_last_visit_is_the_last_page_before_half_an_hour_without_one(edge: Edge) -> None:
    guest = visitor(edge)

    def offered() -> list[str]:
        page = guest.get(guest.get("/ui/compare").location)
        return [
            parse_qs(urlsplit(str(a["href"])).query)["then"][0]
            for a in page.all(".tabs a")
            if a.get_text() == "since my last visit"
        ]

    assert offered() == []
    edge.clock.advance(minutes=5)
    left = edge.clock.now.replace(microsecond=0)
    guest.get("/ui")
    edge.clock.advance(hours=5)
    for _ in range(2):
        assert offered() == [left.strftime("%Y-%m-%dT%H:%M:%SZ")]
        edge.clock.advance(minutes=20)
    guest.http.cookies.set("ledger_visits", "x~99999999999999999999")
    assert guest.get("/ui").status == 200


def test_the_download_is_the_apis_comparison(edge: Edge, workspace: str) -> None:
    then = record_changes(edge, workspace)
    guest = visitor(edge)
    page = guest.get(address(workspace, then))
    file = guest.get(str(page.one("#downloads a")["href"])).answer
    (*rows, total) = csv.DictReader(io.StringIO(file.text))
    assert {row["service_line_name"] for row in rows} == set(names(page))
    assert total["service_line_id"] == "TOTAL"


def test_the_typed_instant_becomes_an_address_in_utc(edge: Edge) -> None:
    guest = visitor(edge)
    guest.http.cookies.set("ledger_zone", "Europe/Berlin")
    answer = guest.get("/ui/compare?then_local=2026-04-10T09:30&time_zone=UTC")
    assert parse_qs(urlsplit(answer.location).query)["then"] == ["2026-04-10T07:30:00Z"]


def test_an_instant_in_the_future_is_refused_in_words(edge: Edge) -> None:
    page = visitor(edge).get("/ui/compare?then=2099-01-01T00:00:00Z&time_zone=UTC")
    assert page.status == 422
    assert "Choose a past time." in page.text


def test_the_page_shows_nothing_of_another_organization(edge: Edge, workspace: str) -> None:
    then = record_changes(edge, workspace)
    stranger = visitor(edge, organization_id="ORG-26-000779")
    page = stranger.get(f"/ui/compare?then={quote(then)}&time_zone=UTC")
    assert page.words(".empty h2") == ["Nothing changed"]


def test_the_history_of_a_line_goes_on_page_by_page(edge: Edge) -> None:
    line = edge.fresh("capacity")
    edge.accept(*(fact("execution.checked_in", line, {"hours": n}) for n in range(1, 4)))
    guest = visitor(edge)
    first = guest.get(f"/ui/lines/{line}/history?limit=2")
    following = guest.get(str(first.one('[rel="next"]')["href"]))
    kinds = first.words(".happened .kind") + following.words(".happened .kind")
    assert kinds == ["execution.started", *["execution.checked_in"] * 3]
    assert following.all('[rel="next"]') == []
    assert guest.get("/ui/lines/LIN-26-999999/history").status == 404


def test_the_search_finds_the_pages_by_their_names(edge: Edge) -> None:
    guest = visitor(edge)
    found = guest.get("/ui/search/results?q=mon").one("a[role=option]")
    assert found["href"] == "/ui/usage"
    assert " ".join(found.get_text(" ").split()) == "Month page"
    assert (
        guest.get("/ui/search/results?q=what%20ch").one("a[role=option]")["href"] == "/ui/compare"
    )
