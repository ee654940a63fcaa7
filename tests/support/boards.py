"""The board as tests read it: its groups, its lines, a workspace of a test's own."""

from typing import Any

from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import Visited, Visitor


def blocked(line_id: str, cause: str, reason: str | None = None, blocker: str = "B-1") -> Any:
    data = {"blocker_id": blocker, "cause": cause} | ({"reason": reason} if reason else {})
    return fact("execution.blocked", line_id, data)


def groups(page: Visited) -> list[tuple[str, list[str]]]:
    """(state, lines in their order) of each group."""
    return [
        (
            section.select_one("h2 .state").get_text(),
            [str(row["id"]) for row in section.select("tbody tr:not(.more)")],
        )
        for section in page.all("section.group")
    ]


def lines(page: Visited) -> list[str]:
    return [line for _, ids in groups(page) for line in ids]


def row(page: Visited, line_id: str) -> str:
    (text,) = page.words(f"#{line_id}")
    return text


def details(page: Visited, line_id: str) -> str:
    """The text of a line's details, which its row opens."""
    (text,) = page.words(f"#{line_id}-more")
    return text


def pages_from(guest: Visitor, path: str) -> list[Visited]:
    """The pages from this address on."""
    pages = [guest.get(path)]
    while following := pages[-1].all('a[rel="next"]'):
        pages.append(guest.get(str(following[0]["href"])))
        assert len(pages) < 100
    return pages


class Workspace:
    """A workspace of one test, so that tests do not see each other's lines."""

    def __init__(self, edge: Edge, name: str) -> None:
        self.edge, self.path = edge, f"/ui?workspace_id={name}"
        self._name = name

    def line(self, model: str = "agent_runtime", **more: Any) -> str:
        return self.edge.fresh(model, workspace_id=self._name, **more)
