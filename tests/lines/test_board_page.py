"""The board: lines that need a human first, what a row shows, and filters in addresses."""

from urllib.parse import parse_qsl

import pytest

from tests.support.boards import Workspace, blocked, details, groups, lines, row
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import Visitor, visitor


def test_blocked_lines_come_first_then_paused_ones_then_the_rest(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000101")
    running, paused, stuck, closed, both = (at.line() for _ in range(5))
    edge.accept(
        fact("service_line.closed", closed),
        blocked(stuck, "approval_gap"),
        blocked(both, "policy_violation"),
        fact("service_line.paused", paused),
        fact("service_line.paused", both),
    )
    page = visitor(edge).get(at.path)
    assert groups(page) == [
        ("blocked", [stuck]),
        ("paused", [paused, both]),
        ("running", [running]),
        ("closed", [closed]),
    ]


def test_a_row_shows_causes_and_duration_and_a_hold_its_actor_but_no_younger_blocker(
    edge: Edge,
) -> None:
    """The duration of a state starts again with every change; the age of a blocker does not."""
    at = Workspace(edge, "WS-26-000102")
    line_id, path = at.line(), "/v1/execution/{}/{}"
    running, without = at.line(), at.line("capacity")
    token = edge.token("service_lines:manage", "read")
    edge.accept(
        blocked(line_id, "approval_gap", "Waiting for the sign-off"),
        blocked(line_id, "capacity_issue", None, "B-2"),
    )
    edge.clock.advance(hours=26, minutes=1)
    guest = visitor(edge)
    page = guest.get(at.path)
    assert "approval gap Waiting for the sign-off +1 nobody — 1 d 2 h" in row(page, line_id)
    more = details(page, line_id)
    assert "approval gap Waiting for the sign-off for 1 d 2 h · not assigned" in more
    assert "capacity issue no reason given for 1 d 2 h" in more
    assert "Since 2026-04-" in more
    assert [page.words(f"#{line} .runs") for line in (running, without)] == [["0"], ["—"]]
    reason = {"reason": "Stakeholder review"}
    assert edge.post(path.format(line_id, "pause"), token, json=reason).status_code == 200
    page = guest.get(at.path)
    for text in (row(page, line_id), details(page, line_id)):
        assert "operator Stakeholder review" in text
        assert " test " in text, "the key's name"
    assert edge.post(path.format(line_id, "resume"), token, json=reason).status_code == 200
    page = guest.get(at.path)
    assert "Waiting for the sign-off +1 nobody — < 1 min" in row(page, line_id)
    assert "Waiting for the sign-off for 1 d 2 h" in details(page, line_id)


def test_counts_by_state_and_cause_lead_to_the_counted_lines(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000104")
    one, other, _ = (at.line() for _ in range(3))
    edge.accept(blocked(one, "approval_gap"), blocked(other, "capacity_issue"))
    edge.accept(blocked(other, "approval_gap", None, "B-2"))
    guest = visitor(edge)
    for path in (at.path, f"{at.path}&state=running"):
        page = guest.get(path)
        assert page.words(".tile")[:-1] == [
            "blocked 2", "paused 0", "running 1", "idle 0", "closed 0",
        ]  # fmt: skip
        assert page.words(".causes .chip") == [
            "approval gap 2", "capacity issue 1", "policy violation 0", "delivery blocker 0",
        ]  # fmt: skip
    tile, cause = page.all(".tile")[0], page.all(".causes .chip")[1]
    assert sorted(lines(guest.get(str(tile["href"])))) == sorted([one, other])
    assert lines(guest.get(str(cause["href"]))) == [other]


def test_empty_fields_do_not_stay_in_the_address(edge: Edge) -> None:
    guest = visitor(edge)
    answer = guest.get("/ui?state=blocked&blocked_cause=&workspace_id=&limit=")
    assert (answer.status, answer.location) == (303, "/ui?state=blocked")
    assert guest.get("/ui?state=&limit=").location == "/ui"


def test_each_filter_that_is_on_is_a_chip_that_takes_it_off(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000117")
    line_id = at.line("capacity", product_line="talent", project_tags=["PROJ-7"],
                      resources=[{"id": "SCR-7", "type": "person"}])  # fmt: skip
    edge.accept(blocked(line_id, "delivery_blocker"))
    guest = visitor(edge)
    query = (
        "&state=blocked,paused&health=none&project_tag=PROJ-7&resource_id=SCR-7"
        "&product_line=talent&execution_model=capacity&blocked_cause=delivery_blocker"
    )
    page = guest.get(at.path + query)
    assert lines(page) == [line_id]
    assert page.form("/ui") | dict(parse_qsl(query)) == page.form("/ui")
    chips = [word.removesuffix(" , remove") for word in page.words(".chosen .chip")]
    assert chips == [
        "State blocked ✕", "State paused ✕", "Cause delivery blocker ✕", "Health no signals ✕",
        "Product line talent ✕", "Model capacity ✕", "Workspace WS-26-000117 ✕",
        "Project PROJ-7 ✕", "Resource SCR-7 ✕",
    ]  # fmt: skip
    links = page.all(".chosen .chip")
    assert len({str(link["href"]) for link in links}) == 9
    for link in links:
        assert len(guest.get(str(link["href"])).all(".chosen .chip")) == 8
    assert page.words(".chosen li")[-1] == "Clear all"
    assert page.all(".chosen li a")[-1]["href"] == "/ui"
    assert page.words(".tool summary .chip") == ["9"]


def test_all_means_all_lines_whatever_filters_are_on(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000118")
    at.line()
    guest = visitor(edge)
    every = guest.get("/ui").words(".tile")[-1]
    page = guest.get(f"{at.path}&state=running&sort=health_score")
    assert page.words(".tile")[-1] == every
    assert page.all(".tile")[-1]["href"] == "/ui?sort=health_score"
    assert int(every.split()[1].replace(",", "")) > 1


def test_the_title_says_which_lines_are_shown(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000119")
    at.line()
    guest = visitor(edge)
    for query, title in (
        ("/ui", "All lines"),
        ("/ui?state=blocked", "Blocked lines"),
        ("/ui?state=blocked,paused", "Blocked and paused lines"),
        ("/ui?health=red,none", "Lines, health red or no signals"),
        (f"{at.path}&state=running", "Running lines, workspace WS-26-000119"),
    ):
        page = guest.get(query)
        assert page.words("h1") == [title]
        begin = "" if query == "/ui" else f"{title} · "
        assert page.words("title") == [f"{begin}Board · Execution ledger"]


def test_a_line_with_very_many_blockers_has_a_short_row(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000113")
    line_id = at.line()
    edge.accept(
        *(blocked(line_id, "approval_gap", f"reason {n:02}", f"B-{n}") for n in range(1, 61))
    )
    guest = visitor(edge)
    page = guest.get(at.path)
    assert "approval gap reason 01 +59" in row(page, line_id)
    more = details(page, line_id)
    assert more.count("approval gap") == 4
    assert "reason 01" in more
    assert "and 56 more" in more
    page = guest.get(f"/ui/lines/{line_id}")
    assert "reason 50" in page.words(".why")[0]
    assert "and 10 more" in page.words(".why")[0]


def test_an_empty_result_is_announced_and_is_not_shown_as_an_error(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000108")
    at.line()
    guest = visitor(edge)
    fits = guest.get(f"{at.path}&state=closed")
    assert (fits.status, fits.words(".empty h2")) == (200, ["No lines match these filters"])
    assert fits.words(".empty p")[0] == "No match in 1 line."
    wrong = guest.get(f"{at.path}&state=nonsense")
    assert (wrong.status, wrong.all(".empty")) == (422, [])
    assert "State: is not a known value." in wrong.text


def test_pages_that_a_token_may_not_open_are_not_offered(edge: Edge) -> None:
    assert visitor(edge).get("/ui").words(".top nav a") == [
        "Board", "Alerts", "What changed", "Month", "Statements", "Runs", "Events", "Integrity",
    ]  # fmt: skip
    assert visitor(edge, "write").get("/ui/integrity").words(".top nav a") == ["Integrity"]
    everything = visitor(edge, "read", "audit:read", "webhooks:manage").get("/ui")
    assert everything.words(".top nav a") == [
        "Board", "Alerts", "What changed", "Month", "Statements", "Runs", "Events", "Audit",
        "Webhooks", "Integrity",
    ]  # fmt: skip


def waits(line_id: str, blocker: str, cause: str, **more: str) -> dict[str, object]:
    data = {"blocker_id": blocker, "cause": cause, "reason": f"reason {blocker}"} | more
    return fact("execution.blocked", line_id, data)


def test_a_row_shows_the_blocker_that_is_due_first_and_who_should_act_on_it(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000301")
    line_id = at.line()
    edge.clock.advance(days=1)
    soon, later = (f"{edge.clock.now.replace(day=day):%Y-%m-%dT%H:%M:%SZ}" for day in (27, 29))
    edge.accept(
        waits(line_id, "B-1", "capacity_issue"),
        waits(line_id, "B-2", "approval_gap", due_at=later, assignee="USR-26-000044"),
        waits(line_id, "B-3", "approval_gap", due_at=soon, assignee="amara.okafor@example.com"),
    )
    guest = visitor(edge)
    page = guest.get(at.path)
    assert "approval gap reason B-3 +2 amara.okafor in " in row(page, line_id)
    (whom,) = page.all(f"#{line_id} .whom")
    assert whom["title"] == "amara.okafor@example.com"
    (due,) = page.all(f"#{line_id} .due time")
    assert due["title"] == soon.replace("T", " ").replace("Z", " UTC")
    # A filter by cause leads to lines that have this cause: the row then shows it.
    page = guest.get(f"{at.path}&blocked_cause=capacity_issue")
    assert "capacity issue reason B-1 +2 nobody —" in row(page, line_id)
    assert details(page, line_id).index("reason B-1") < details(page, line_id).index("reason B-3")
    edge.clock.advance(days=60, hours=3)
    page = visitor(edge).get(at.path)
    assert "amara.okafor overdue " in row(page, line_id)
    assert page.words(f"#{line_id} .late")[0].endswith(" h")


def test_a_row_names_the_workspace_unless_the_lines_name_or_a_filter_does(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000302")
    edge.accept(fact("directory.named", "WS-26-000302", {"name": "Zürich Re"}))
    loud, silent, unnamed = at.line(name="ZÜRICH RE: data pod"), at.line(name="Data pod"), at.line()
    guest = visitor(edge)
    page = guest.get("/ui?limit=200")
    assert "Zürich" not in row(page, loud)
    assert row(page, silent).startswith(f"Data pod {silent[7:]} Zürich Re ")
    assert row(page, unnamed).startswith(f"{unnamed} Zürich Re ")
    page = guest.get(at.path)
    for line_id in (loud, silent, unnamed):
        assert "Zürich Re" not in row(page, line_id)
        assert "Zürich Re WS-26-000302" in details(page, line_id)


def test_a_paused_line_counts_what_else_holds_it(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000303")
    line_id = at.line()
    edge.accept(
        blocked(line_id, "policy_violation", "Data found in a log"),
        fact("service_line.paused", line_id, {"reason": "On leave"}),
    )
    page = visitor(edge).get(at.path)
    assert "service line On leave +1 " in row(page, line_id)
    (why,) = page.all(f"#{line_id} .why")
    assert why["title"] == "service line: On leave\npolicy violation: Data found in a log"


def chosen(guest: Visitor, *columns: str) -> None:
    """Choose these columns with the form of the board."""
    page = guest.get("/ui")
    fields = {name: value for name, value in page.form("/ui/columns").items() if ":" not in name}
    moved = guest.post("/ui/columns", fields | {f"column:{name}": "on" for name in columns})
    assert (moved.status, moved.location) == (303, "/ui")


def test_columns_of_choice_are_shown_until_others_are_chosen(edge: Edge) -> None:
    at = Workspace(edge, "WS-26-000304")
    line_id = at.line(name="Data pod", project_tags=["PROJ-26-000304", "unnamed"])
    edge.accept(
        fact("directory.named", "WS-26-000304", {"name": "Halden Bank"}),
        fact("directory.named", "PROJ-26-000304", {"name": "Checkout"}),
    )
    guest = visitor(edge)
    chosen(guest, "since", "projects", "kind", "workspace", "id")
    page = guest.get(at.path)
    assert page.words("th.extra") == ["Workspace", "Projects", "Kind", "ID", "Since"]
    assert page.words(f"#{line_id} .extra") == [
        "Halden Bank", "Checkout , unnamed", "agent gateway · agent runtime", line_id,
        f"{edge.clock.now:%Y-%m-%d %H:%M:%S}",
    ]  # fmt: skip
    assert "Halden Bank" not in guest.get("/ui?limit=200").words(f"#{line_id} th")[0]
    chosen(guest, "projects", "nonsense")
    assert guest.get(at.path).words("th.extra") == ["Projects"]
    chosen(guest)
    assert guest.get(at.path).words("th.extra") == []
    assert guest.get("/ui/columns").location == "/"


@pytest.mark.parametrize("cookie", ["", "nonsense", "id.<b>.id"])
def test_an_unknown_column_in_the_cookie_is_ignored(edge: Edge, cookie: str) -> None:
    at = Workspace(edge, "WS-26-000305")
    at.line()
    guest = visitor(edge)
    guest.http.cookies.set("ledger_columns", cookie)
    page = guest.get(at.path)
    assert page.status == 200
    assert page.words("th.extra") == (["ID"] if cookie.startswith("id") else [])
