"""Workspaces, projects and resources are chosen by name on the board, and found by name."""

import psycopg

from tests.support.boards import lines
from tests.support.edge import Edge
from tests.support.facts import activation, fact
from tests.support.visitor import Seen, visitor


def name(edge: Edge, id: str, text: str) -> None:
    edge.accept(fact("directory.named", id, {"name": text}))


def picks(page: Seen, kind: str) -> dict[str, str]:
    """The entries of a panel: words → address."""
    (panel,) = (tool for tool in page.all(".pick") if tool.select_one("summary").get_text() == kind)
    links = panel.select("li a")
    return {" ".join(link.get_text(" ").split()): str(link["href"]) for link in links}


def test_a_project_is_chosen_by_its_name_with_its_number_of_lines(edge: Edge) -> None:
    line_id = edge.fresh(project_tags=["PROJ-26-009001"])
    edge.fresh(project_tags=["PROJ-26-009002"])
    name(edge, "PROJ-26-009001", "Payments")
    guest = visitor(edge)
    found = picks(guest.get("/ui?state=running&sort=health_score&limit=10"), "Project")
    address = found["Payments PROJ-26-009001 · 1 line"]
    assert address == "/ui?state=running&sort=health_score&limit=10&project_tag=PROJ-26-009001"
    assert "PROJ-26-009002 · 1 line" in found
    page = guest.get(address)
    assert lines(page) == [line_id]
    assert page.words("h1") == ["Running lines, project Payments"]
    assert "Project Payments PROJ-26-009001" in page.words(".chosen .chip")[1]


def test_resources_and_workspaces_are_chosen_by_name_too(edge: Edge) -> None:
    line_id = edge.fresh(
        workspace_id="WS-26-009001", resources=[{"id": "SCR-91", "type": "person", "name": "Ada"}]
    )
    name(edge, "WS-26-009001", "Halden Bank")
    guest = visitor(edge)
    for kind, words in (
        ("Resource", "Ada SCR-91 · 1 line"),
        ("Workspace", "Halden Bank WS-26-009001 · 1 line"),
    ):
        page = guest.get(picks(guest.get("/ui"), kind)[words])
        assert lines(page) == [line_id]
    assert page.words("h1") == ["Lines, workspace Halden Bank"]


def test_a_past_board_offers_no_resources(edge: Edge) -> None:
    edge.clock.advance(minutes=5)
    page = visitor(edge).get("/ui?as_of=2026-04-15")
    assert page.words(".pick summary") == ["Workspace", "Project"]


def test_many_projects_are_listed_on_a_page_of_their_own_and_found_by_a_part_of_the_name(
    edge: Edge,
) -> None:
    tags = [f"PROJ-26-010{number:03}" for number in range(130)]
    edge.accept(*(activation(edge.fresh_id(), project_tags=[tag]) for tag in tags))
    name(edge, "PROJ-26-010125", "Straße zum Ziel")
    guest = visitor(edge)
    board = guest.get("/ui?state=running")
    assert len(picks(board, "Project")) == 30
    links = [link for link in board.all(".pick form a") if link.get_text() == "All projects"]
    first = guest.get(str(links[0]["href"]))
    (following,) = first.all('a[rel="next"]')
    second = guest.get(str(following["href"]))
    listed = [*first.words(".entries li"), *second.words(".entries li")]
    assert len(listed) == len(set(listed)) >= 130
    for words in ("STRASSE", "zum ziel", "PROJ-26-010125"):
        sought = {"type": "project", "name": words, "next": "/ui?state=running&start=3"}
        found = guest.get("/ui/directory", params=sought)
        (link,) = found.all(".entries a")
        assert link["href"] == "/ui?state=running&project_tag=PROJ-26-010125"
    nothing = guest.get("/ui/directory?type=project&name=nowhere")
    assert nothing.words(".empty h2") == ["No projects with this name or ID"]


def test_a_name_that_was_typed_as_an_id_leads_to_what_has_the_name(edge: Edge) -> None:
    edge.fresh(project_tags=["PROJ-26-009009"])
    name(edge, "PROJ-26-009009", "Invoices")
    guest = visitor(edge)
    page = guest.get("/ui?project_tag=Invoices")
    assert page.words(".empty h2") == ["No lines match these filters"]
    (link,) = page.all(".empty a[href^='/ui/directory']")
    (found,) = guest.get(str(link["href"])).all(".entries a")
    assert found["href"] == "/ui?project_tag=PROJ-26-009009"


def test_the_list_leads_to_pages_of_this_service_only(edge: Edge) -> None:
    edge.fresh(project_tags=["PROJ-26-009010"])
    page = visitor(edge).get("/ui/directory?type=project&next=https://elsewhere.test/ui")
    assert {str(link["href"]).partition("?")[0] for link in page.all(".entries a")} == {"/ui"}
    assert visitor(edge).get("/ui/directory?type=person").status == 422


def test_nobody_sees_another_organizations_names(edge: Edge) -> None:
    edge.fresh(project_tags=["PROJ-26-009011"])
    name(edge, "PROJ-26-009011", "Secret")
    stranger = visitor(edge, organization_id="ORG-26-000779")
    for path in ("/ui", "/ui?project_tag=PROJ-26-009011", "/ui/directory?type=project"):
        assert "Secret" not in stranger.get(path).answer.text


def test_the_board_has_no_panels_while_the_directory_is_being_built(edge: Edge) -> None:
    guest = visitor(edge)
    with psycopg.connect(edge.conninfo, autocommit=True) as connection:
        connection.execute("ALTER VIEW ledger.directory RENAME TO directory_away")
        try:
            edge.fresh()  # answers that were kept before this event are invalid now
            page = guest.get("/ui")
        finally:
            connection.execute("ALTER VIEW ledger.directory_away RENAME TO directory")
    assert (page.status, page.all(".pick")) == (200, [])
