"""Workspaces, projects and resources are chosen by name on the board, and found by name."""

import pytest

from ledger.features.directory import entries
from ledger.features.directory.page import pickers
from tests.support.boards import lines
from tests.support.edge import Edge
from tests.support.facts import activation, fact
from tests.support.visitor import Visitor, visitor


def name(edge: Edge, id: str, text: str) -> None:
    edge.accept(fact("directory.named", id, {"name": text}))


def picks(guest: Visitor, board: str, kind: str) -> dict[str, str]:
    """The entries that a panel of the board loads when it is opened: words → address."""
    panels = guest.get(board).all(".pick")
    (panel,) = (panel for panel in panels if panel.select_one("summary").get_text() == kind)
    loaded = guest.get(str(panel["hx-get"])).all(".listed li")
    return {
        " ".join(entry.get_text(" ").split()): str(entry.select_one("a")["href"])
        for entry in loaded
    }


def test_projects_resources_and_workspaces_are_chosen_by_name_with_their_number_of_lines(
    edge: Edge,
) -> None:
    resources = [{"id": "SCR-91", "type": "person", "name": "Ada"}]
    tags, workspace = ["PROJ-26-009001"], "WS-26-009001"
    line_id = edge.fresh(project_tags=tags, workspace_id=workspace, resources=resources)
    edge.fresh(project_tags=["PROJ-26-009002"])
    name(edge, "PROJ-26-009001", "Payments")
    name(edge, "WS-26-009001", "Halden Bank")
    guest = visitor(edge)
    found = picks(guest, "/ui?state=running&sort=health_score&limit=10", "Project")
    address = found["Payments PROJ-26-009001 1 line"]
    assert address == "/ui?state=running&sort=health_score&limit=10&project_tag=PROJ-26-009001"
    assert "PROJ-26-009002 1 line" in found
    page = guest.get(address)
    assert lines(page) == [line_id]
    assert page.words("h1") == ["Running lines, project Payments"]
    assert "Project Payments PROJ-26-009001" in page.words(".chosen .chip")[1]
    for kind, words in (
        ("Resource", "Ada SCR-91 1 line"),
        ("Workspace", "Halden Bank WS-26-009001 1 line"),
    ):
        page = guest.get(picks(guest, "/ui", kind)[words])
        assert lines(page) == [line_id]
    assert page.words("h1") == ["Lines, workspace Halden Bank"]


def test_a_past_board_offers_no_resources(edge: Edge) -> None:
    edge.clock.advance(minutes=5)
    page = visitor(edge).get("/ui?as_of=2026-04-15")
    assert page.words(".pick summary") == ["Workspace", "Project"]
    found = picks(visitor(edge), "/ui?as_of=2026-04-15", "Workspace")
    assert all("as_of=2026-04-15" in address for address in found.values())


def test_many_projects_are_listed_by_name_and_found_by_a_part_of_the_name(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickers, "_ROWS", 100)
    tags = [f"PROJ-26-010{number:03}" for number in range(130)]
    edge.accept(*(activation(edge.fresh_id(), project_tags=[tag]) for tag in tags))
    name(edge, "PROJ-26-010125", "Straße zum Ziel")
    name(edge, "PROJ-26-010005", "Ärzte")
    guest = visitor(edge)
    board = guest.get("/ui?state=running")
    (link,) = (link for link in board.all(".pick .listed a") if link.get_text() == "All projects")
    first = guest.get(str(link["href"]))
    second = guest.get(str(first.one('a[rel="next"]')["href"]))
    listed = [*first.words(".entries a"), *second.words(".entries a")]
    assert len(listed) == len(set(listed)) >= 130
    named = [words for words in listed if not words.startswith("PROJ")]
    assert named[0] == "Ärzte PROJ-26-010005"
    assert named == listed[: len(named)]
    for words in ("STRASSE", "zum ziel", "PROJ-26-010125"):
        sought = {"type": "project", "name": words, "next": "/ui?state=running&start=3"}
        found = guest.get("/ui/directory", params=sought)
        assert found.one(".entries a")["href"] == "/ui?state=running&project_tag=PROJ-26-010125"
    nothing = guest.get("/ui/directory?type=project&name=nowhere")
    assert nothing.words(".listed") == ["No projects with this name or ID."]


def test_of_more_entries_than_are_read_a_named_one_is_found_by_the_search(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries, "_READ", 1)
    tags = [f"PROJ-26-011{number:03}" for number in range(101)]
    edge.accept(*(activation(edge.fresh_id(), project_tags=[tag]) for tag in tags))
    name(edge, "PROJ-26-011100", "Farthest")
    guest = visitor(edge)
    assert "There are more projects" in guest.get("/ui/directory?type=project").text
    found = guest.get("/ui/directory?type=project&name=farthest")
    assert found.words(".entries li") == ["Farthest PROJ-26-011100"]


def test_blockers_are_found_by_who_should_act_and_where_nobody_should(edge: Edge) -> None:
    guest = visitor(edge)
    lines = [edge.fresh() for _ in range(3)]
    for line, assignee in zip(lines, ("amara@example.com", "amara@example.com", None), strict=True):
        stuck = {"blocker_id": "B", "cause": "approval_gap", "assignee": assignee}
        parameters = {name: value for name, value in stuck.items() if value is not None}
        edge.accept(fact("execution.blocked", line, parameters))
    found = picks(guest, "/ui?state=blocked", "Assignee")
    page = guest.get(found["amara@example.com 2 lines"])
    assert {str(row["id"]) for row in page.all("tbody tr:not(.more)")} == {*lines[:2]}
    assert page.words("h1") == ["Blocked lines, assignee amara@example.com"]
    nobody = guest.get("/ui/directory?type=assignee&next=/ui?state=blocked").one(".listed p a")
    page = guest.get(str(nobody["href"]))
    assert lines[2] in {str(row["id"]) for row in page.all("tbody tr")}
    assert page.words("h1") == ["Blocked lines, only nobody assigned"]


def test_administrators_choose_an_organization_and_see_it_in_each_row(edge: Edge) -> None:
    other, line = "ORG-26-000780", edge.fresh_id()
    token = edge.token("write", organization_id=other)
    edge.accept(activation(line, organization_id=other), token=token)
    assert "Organization" not in visitor(edge).get("/ui").words(".pick summary")
    assert visitor(edge).get("/ui/directory?type=organization").status == 403
    guest = visitor(edge, "admin", organization_id=None)
    (address,) = (a for words, a in picks(guest, "/ui", "Organization").items() if "780" in words)
    page = guest.get(address)
    assert [str(row["id"]) for row in page.all("tbody tr:not(.more)")] == [line]
    assert page.words("h1") == ["Lines, organization ORG-26-000780"]
    assert "ORG-26-000780" in guest.get("/ui?limit=200&sort=record").words(f"#{line} .extra")


def test_a_name_that_was_typed_as_an_id_leads_to_what_has_the_name(edge: Edge) -> None:
    edge.fresh(project_tags=["PROJ-26-009009"])
    name(edge, "PROJ-26-009009", "Invoices")
    guest = visitor(edge)
    page = guest.get("/ui?project_tag=Invoices")
    assert page.words(".empty h2") == ["No lines match these filters"]
    (link,) = page.all(".empty a[href^='/ui/directory']")
    (found,) = guest.get(str(link["href"])).all(".entries a")
    assert found["href"] == "/ui?project_tag=PROJ-26-009009"
    # The list leads to pages of this service only.
    page = guest.get("/ui/directory?type=project&next=https://elsewhere.test/ui")
    assert {str(link["href"]).partition("?")[0] for link in page.all(".entries a")} == {"/ui"}
    assert guest.get("/ui/directory?type=person").status == 422
