"""Events in, rows of the directory out."""

from ledger.features.directory.model import DirectoryNamed, id_of, stream_of
from ledger.features.lines.model import execution_events as e
from projections.directory.rows import (
    DIRECTORY,
    LINE,
    NAME,
    NAMING,
    WHOLE,
    DirectoryRow,
    LineRow,
    NameRow,
    NamingRow,
)
from projections.directory.view import DirectoryView
from tests.support.domain import activated, recorded
from tests.support.view_rows import given

ORG, WS = "ORG-26-000001", "WS-26-000001"
CREW = e.Resource(type="talent", id="SCR-1", name="Ann")
BEGUN = recorded(activated("capacity", project_tags=("a", "b"), resources=(CREW,)), 1)
RETAGGED = recorded(e.Updated(project_tags=("b", "c")), 2)


def both(
    type: str, id: str, lines: int, position: int, name: str | None = None
) -> list[DirectoryRow]:
    """The rows of an entry: of the whole organization, and of the workspace."""
    return [DirectoryRow(type, ORG, scope, id, name, lines, position) for scope in (WHOLE, WS)]


def test_an_activation_enters_its_workspace_its_projects_and_its_resources() -> None:
    given(DirectoryView()).when(BEGUN).then(
        DIRECTORY,
        *both("workspace", WS, 1, 1),
        *both("project", "a", 1, 1),
        *both("project", "b", 1, 1),
        *both("resource", "SCR-1", 1, 1, "Ann"),
    )


def test_a_lines_fold_is_stored_at_the_position_of_its_latest_event() -> None:
    given(DirectoryView(), BEGUN).when(RETAGGED).then(LINE, LineRow("LIN-26-000001", b"", 2))


def test_an_update_moves_the_line_between_projects() -> None:
    given(DirectoryView(), BEGUN).when(RETAGGED).then(
        DIRECTORY, *both("project", "a", 0, 2), *both("project", "c", 1, 2)
    )


def test_a_resource_that_is_allocated_again_counts_once_and_gets_the_new_name() -> None:
    again = recorded(
        e.ResourceAllocated(resource=e.Resource(type="talent", id="SCR-1", name="Anna")), 2
    )
    unnamed = recorded(e.ResourceAllocated(resource=e.Resource(type="talent", id="SCR-1")), 3)
    released = recorded(e.ResourceReleased(id="SCR-1"), 4)
    begun = given(DirectoryView(), BEGUN)
    begun.when(again, unnamed).then(DIRECTORY, *both("resource", "SCR-1", 1, 3, "Anna"))
    begun.when(released).then(DIRECTORY, *both("resource", "SCR-1", 0, 4, "Anna"))


def test_the_latest_name_of_a_batch_stays() -> None:
    named = [
        recorded(DirectoryNamed(name=name), position, originator_id=stream_of(ORG, WS))
        for position, name in enumerate(("Core", None, "Edge"), 1)
    ]
    first = given(DirectoryView()).when(*named[:2]).then(NAME, NameRow(WS, ORG, None, 2))
    first.then(NAMING, NamingRow(WS, ORG, 1, "Core"), NamingRow(WS, ORG, 2, None))
    given(DirectoryView(), *named[:2]).when(named[2]).then(NAME, NameRow(WS, ORG, "Edge", 3))


def test_streams_of_equal_ids_differ_between_organizations() -> None:
    streams = {stream_of(org, id) for org in ("ORG-26-000001", "ORG-26-000002") for id in (WS, "P")}
    assert len(streams) == 4
    assert {id_of(stream) for stream in streams} == {WS, "P"}
    assert id_of("LIN-26-000001") == "LIN-26-000001"
