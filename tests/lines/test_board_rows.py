"""The rows of the board: what a line shows on its one line, and the columns of choice."""

import pytest

from tests.support.boards import Workspace, blocked, details, row
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import Visitor, visitor


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
    said, silent, unnamed = at.line(name="ZÜRICH RE: data pod"), at.line(name="Data pod"), at.line()
    guest = visitor(edge)
    page = guest.get("/ui?limit=200")
    assert "Zürich" not in row(page, said)
    assert row(page, silent).startswith(f"Data pod {silent[7:]} Zürich Re ")
    assert row(page, unnamed).startswith(f"{unnamed} Zürich Re ")
    page = guest.get(at.path)
    for line_id in (said, silent, unnamed):
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
