"""The page "Month": usage as a table, what it leads to, and two instants side by side."""

import csv
import io
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION, fact
from tests.support.visitor import Visited, Visitor, visitor

FEBRUARY = "from=2026-02-01&to=2026-03-01&time_zone=UTC"
MARCH = "from=2026-03-01&to=2026-04-01&time_zone=UTC"
DAY = "2026-03-10T10:00:00Z"


def hours(line: str, hours: float, time: str = DAY, **more: str) -> dict[str, object]:
    return fact("execution.checked_in", line, {"hours": hours} | more, time=time)


def table(page: Visited) -> list[list[str]]:
    """The rows of the table, the last one with the total: the first key, and the amounts."""
    rows = page.all(".sums tbody tr, .sums tfoot tr")
    return [
        [" ".join(cell.get_text(" ").split()) for cell in row.select("th, td.number")]
        for row in rows
    ]


def heads(page: Visited) -> list[str]:
    return [text.removesuffix(" ↓").removesuffix(" ↑") for text in page.words(".sums thead th")]


def row_of(page: Visited, name: str) -> dict[str, str]:
    """The cells of the row with this name, by the heading of their column."""
    (row,) = (row for row in page.all(".sums tbody tr") if name in row.get_text())
    cells = [" ".join(cell.get_text(" ").split()) for cell in row.select("th, td")]
    return dict(zip(heads(page), cells, strict=True))


def link(page: Visited, text: str) -> str:
    """The address of the only link of the content with this text."""
    (found,) = (a for a in page.all("#main a") if " ".join(a.get_text(" ").split()) == text)
    return str(found["href"])


def test_the_months_address_says_all_and_names_the_persons_zone(edge: Edge) -> None:
    guest = visitor(edge)
    guest.http.cookies.set("ledger_zone", "America/New_York")
    first = guest.get("/ui/usage?workspace_id=WS-1")
    assert first.status == 303
    query = parse_qs(urlsplit(first.location).query)
    today = edge.clock().date()
    assert query == {
        "workspace_id": ["WS-1"],
        "time_zone": ["America/New_York"],
        "from": [f"{today:%Y-%m}-01"],
        "to": [f"{today.replace(day=28):%Y}-{today.month + 1:02}-01"],
    }
    page = guest.get(first.location)
    assert page.status == 200
    assert page.words("h1") == [f"{today:%B %Y}"]
    assert "Days and months of America/New_York." in page.text


def test_a_workspaces_hours_are_three_clicks_from_the_front_page(
    edge: Edge, workspace: str
) -> None:
    lines = [edge.fresh("capacity", workspace_id=workspace, name=f"Team {n:02}") for n in range(14)]
    edge.accept(*(hours(line, n + 0.25) for n, line in enumerate(lines)))
    guest = visitor(edge)
    month = guest.get(str(guest.get("/ui").one('.top nav a[href="/ui/usage"]')["href"]))
    of_all = guest.get(f"/ui/usage?{MARCH}")
    assert month.status == 303  # the same page, of this month
    of_one = guest.get(link(of_all, workspace))
    assert heads(of_one)[:2] == ["Service line", "Hours"]
    rows = table(of_one)
    assert [row[0] for row in rows[:2]] == [f"Team 13 {lines[13]}", f"Team 12 {lines[12]}"]
    assert rows[-1][:3] == ["Total, 14 lines", "94.5", "14"]
    file = guest.get(str(of_one.one("#downloads a")["href"])).answer
    (*written, total) = csv.DictReader(io.StringIO(file.text))
    assert sum(float(row["hours"]) for row in written) == 94.5
    assert (len(written), total["service_line_id"], total["hours"]) == (14, "TOTAL", "94.5")


def test_a_line_leads_to_its_days_and_a_day_to_its_events(edge: Edge, workspace: str) -> None:
    line = edge.fresh("capacity", workspace_id=workspace, name="Payments")
    edge.accept(hours(line, 2), hours(line, 3, "2026-03-11T23:30:00Z"))
    guest = visitor(edge)
    days = guest.get(link(guest.get(f"/ui/usage?{MARCH}&workspace_id={workspace}"), "Payments"))
    assert [row[0] for row in table(days)] == ["2026-03-10", "2026-03-11", "Total, 2 days"]
    events = guest.get(link(days, "2026-03-11"))
    assert events.words(".log .says") == ["3 h"]
    counted = guest.get(link(days, "2"))
    assert counted.words(".log .says") == ["2 h"]
    assert "Event type execution.checked_in ✕ , remove" in counted.words(".chosen .chip")
    # No events are found by the filters of projects, so no amount leads to too many of them.
    narrow = guest.get(f"/ui/usage?{MARCH}&service_line_id={line}&product_line=agent_gateway")
    assert [row[0] for row in table(narrow)][:2] == ["2026-03-10", "2026-03-11"]
    assert narrow.all(".sums td a, .sums tbody th a") == []
    # In another zone the later check-in belongs to the next day.
    zoned = MARCH.replace("UTC", "Europe/Berlin")
    days = guest.get(f"/ui/usage?{zoned}&service_line_id={line}")
    assert [row[0] for row in table(days)][:2] == ["2026-03-10", "2026-03-12"]
    assert guest.get(link(days, "2026-03-12")).words(".log .says") == ["3 h"]


def test_a_late_and_a_voided_fact_stand_next_to_the_earlier_values(
    edge: Edge, workspace: str
) -> None:
    line, other = (edge.fresh("capacity", workspace_id=workspace, name=n) for n in ("Late", "Same"))
    wrong = hours(line, 1)
    edge.accept(hours(line, 8), hours(other, 5), wrong)
    edge.clock.advance(seconds=60)
    then = edge.clock.now.isoformat().replace("+00:00", "Z")
    edge.clock.advance(seconds=60)
    void = {"fact_id": wrong["id"], "reason": "Twice"}
    edge.accept(hours(line, 7.5), fact("execution.check_in_voided", line, void))
    guest = visitor(edge)
    page = guest.get(f"/ui/usage?{MARCH}&workspace_id={workspace}&as_of={then}")
    assert [*row_of(page, "Late").values()][1:4] == ["9", "15.5", "+6.5"]
    assert [*row_of(page, "Same").values()][1:4] == ["5", "5", "0"]
    assert row_of(page, "Late")["Why"] == "2 events since"
    assert row_of(page, "Same")["Why"] == ""
    assert table(page)[-1][1:4] == ["14", "20.5", "+6.5"]
    assert page.words(".sides .chip")[0].startswith("As of 20")
    history = guest.get(link(page, "2 events since"))
    assert history.words(".happened .kind") == [
        "execution.checked_in", "execution.check_in_voided",
    ]  # fmt: skip
    assert "7.5 h" in history.text
    # Grouped by what is no line, the lines that differ stand above the table.
    by_workspace = guest.get(
        f"/ui/usage?{MARCH}&workspace_id={workspace}&as_of={then}&group_by=workspace"
    )
    assert by_workspace.words(".behind-it summary") == [
        "1 line changed since then: late, voided or corrected entries"
    ]
    assert by_workspace.words(".behind-it li") == [f"Late {line} +6.5 h 2 events since"]
    assert len(by_workspace.all(".figures .tip")) == 1
    now = guest.get(link(page, "now ✕ only"))
    assert "Change" not in heads(now)
    assert table(now)[-1][1] == "20.5"


def test_the_end_of_a_past_period_is_offered_as_the_instant_to_compare_with(edge: Edge) -> None:
    guest = visitor(edge)
    page = guest.get(f"/ui/usage?{MARCH}")
    offered = str(page.one(".sides a")["href"])
    assert parse_qs(urlsplit(offered).query)["as_of"] == ["2026-04-01T00:00:00Z"]
    assert guest.get(offered).words(".sides .then")[0].endswith("2026-04-01 00:00:00 UTC")
    this_month = guest.get(guest.get("/ui/usage").location)
    assert this_month.all(".sides") == []


def test_lines_that_are_not_green_are_listed_before_the_invoice(edge: Edge, workspace: str) -> None:
    red, green, silent = (
        edge.fresh("capacity", workspace_id=workspace, name=n) for n in ("Red", "Green", "Silent")
    )
    for line, status in ((red, "red"), (green, "green")):
        edge.accept(
            hours(line, 1),
            fact("health.signal_reported", line, {"signal": "sla_compliance", "status": status}),
        )
    # A line without anything in the period is no part of the invoice.
    edge.accept(
        fact("health.signal_reported", silent, {"signal": "sla_compliance", "status": "red"})
    )
    guest = visitor(edge)
    page = guest.get(f"/ui/usage?{MARCH}&workspace_id={workspace}")
    assert page.words(".look") == ["1 of 2 lines are not green : check before you invoice"]
    assert row_of(page, "Red")["Health"].startswith("69 of 100, amber")
    assert row_of(page, "Green")["Health"].startswith("100 of 100, green")
    worst = guest.get(str(page.one(".look a")["href"]))
    assert [row[0].split()[0] for row in table(worst)][:2] == ["Red", "Green"]
    assert guest.get(f"/ui/usage?{MARCH}&group_by=workspace").all(".look") == []


def test_a_heading_sorts_and_a_second_click_reverses_the_order(edge: Edge, workspace: str) -> None:
    for name, amount in (("b", 3), ("a", 1), ("c", 2)):
        edge.accept(hours(edge.fresh("capacity", workspace_id=workspace, name=name), amount))
    guest = visitor(edge)

    def names(page: Visited) -> str:
        return "".join(row[0].split()[0] for row in table(page)[:-1])

    page = guest.get(f"/ui/usage?{MARCH}&workspace_id={workspace}")
    assert names(page) == "bca"
    assert page.one("[aria-sort]")["aria-sort"] == "descending"
    turned = guest.get(str(page.one("[aria-sort] a")["href"]))
    assert (names(turned), turned.one("[aria-sort]")["aria-sort"]) == ("acb", "ascending")
    by_name = guest.get(str(page.all(".sums thead a")[0]["href"]))
    assert (names(by_name), by_name.one("[aria-sort]")["aria-sort"]) == ("abc", "ascending")
    second = guest.get(f"/ui/usage?{MARCH}&workspace_id={workspace}&limit=2&start=3")
    assert names(second) == "a"
    assert table(second)[-1][1] == "6"
    assert "3–3 of 3" in second.text


@pytest.mark.parametrize("group_by", ["project", "resource", "model", "month", "service_line,day"])
def test_each_grouping_has_the_rows_of_the_api(edge: Edge, workspace: str, group_by: str) -> None:
    line = edge.fresh("capacity", workspace_id=workspace, project_tags=["PROJ-1", "PROJ-2"])
    edge.accept(hours(line, 2, resource_id="SCR-5"), hours(line, 1))
    page = visitor(edge).get(f"/ui/usage?{MARCH}&workspace_id={workspace}&group_by={group_by}")
    rows = edge.data(f"/v1/usage?{MARCH}&workspace_id={workspace}&group_by={group_by}")["rows"]
    assert len(page.all(".sums tbody tr")) == len(rows)
    cells = page.words('.sums tbody [data-label="Hours"]')
    assert sorted(cells) == sorted(f"{row['hours']:g}" for row in rows if row["hours"] is not None)


def test_a_month_shows_nothing_of_another_organization(edge: Edge) -> None:
    edge.accept(hours(edge.fresh("capacity", name="Ours"), 4))
    stranger = visitor(edge, organization_id="ORG-26-000778")
    page = stranger.get(f"/ui/usage?{MARCH}")
    assert page.words(".empty h2") == ["Nothing in March 2026"]


def test_an_administrator_first_chooses_an_organization(edge: Edge) -> None:
    edge.accept(hours(edge.fresh("capacity", name="Ours"), 4))
    root = Visitor(edge, edge.token("admin", organization_id=None))
    for path in (f"/ui/usage?{MARCH}", "/ui/compare?then=2026-04-01T00:00:00Z&time_zone=UTC"):
        chooser = root.get(root.get(path).location)
        page = root.get(link(chooser, "ORG-26-000001"))
        assert page.status == 200
        assert page.words(".chosen .chip") == ["Organization ORG-26-000001 ✕ , remove"]


def test_a_wrong_grouping_leads_to_the_page_without_it(edge: Edge) -> None:
    page = visitor(edge).get(f"/ui/usage?{MARCH}&group_by=day,month")
    assert page.status == 422
    assert page.one('main a[href^="/ui/usage?from="]')


@pytest.mark.parametrize(
    ("rights", "is_offered"),
    [(("admin",), True), (("read", "statements:issue"), True), (("read",), False)],
)
def test_the_form_of_a_statement_is_offered_to_all_who_may_issue_one(
    edge: Edge, workspace: str, rights: tuple[str, ...], is_offered: bool
) -> None:
    of = {} if rights == ("admin",) else {"organization_id": ORGANIZATION}
    guest = visitor(edge, *rights, **of)
    page = guest.get(
        f"/ui/usage?organization_id={ORGANIZATION}&workspace_id={workspace}&{FEBRUARY}"
    )
    found = [a["href"] for a in page.all("#downloads a[href^='/ui/statements/new']")]
    assert [parse_qs(urlsplit(str(href)).query) for href in found] == is_offered * [
        {
            "organization_id": [ORGANIZATION],
            "workspace_id": [workspace],
            "first_day": ["2026-02-01"],
            "last_day": ["2026-02-28"],
            "time_zone": ["UTC"],
        }
    ]
