"""The board from which a reader came to a line: the way back, and the neighbouring lines."""

from typing import Any

import pytest

from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import Visited, Visitor, visitor

HOST = "http://ledger.test"


@pytest.fixture(scope="module")
def lines(edge: Edge) -> list[str]:
    """Five lines of one workspace: three blocked, one after the other, two running."""
    blocked = [edge.fresh(workspace_id="WS-26-000777", name=f"Pod {n}") for n in range(5)]
    for line in blocked[:3]:
        edge.clock.advance(minutes=1)
        edge.accept(fact("execution.blocked", line, {"blocker_id": "B", "cause": "approval_gap"}))
    return blocked


def board(**query: str) -> str:
    filters = {"workspace_id": "WS-26-000777"} | query
    return "/ui?" + "&".join(f"{name}={value}" for name, value in filters.items())


def come(guest: Visitor, line: str, sender: str) -> Visited:
    """Follow the link to a line on a page."""
    return guest.get(f"/ui/lines/{line}", headers={"referer": HOST + sender})


def neighbour_lines(page: Visited) -> dict[str, str]:
    """The neighbouring lines, each by its key."""
    found = page.all(".beside a")
    return {str(a["aria-keyshortcuts"]): str(a["href"])[10:23] for a in found}


def way_back(page: Visited) -> Any:
    return page.all(".way a")[0]["href"]


@pytest.mark.parametrize("sort", ["", "health_score"])
def test_a_line_leads_back_to_the_board_and_to_its_neighbours(
    edge: Edge, lines: list[str], sort: str
) -> None:
    guest = visitor(edge)
    address = board(state="blocked", **({"sort": sort} if sort else {}))
    ids = [row["id"] for row in guest.get(address).all("tbody tr:not(.more)")]
    assert sorted(map(str, ids)) == lines[:3]
    for number, line in enumerate(ids):
        page = come(guest, line, address)
        assert way_back(page) == address
        neighbours = {"[": number - 1, "]": number + 1}
        assert neighbour_lines(page) == {k: ids[n] for k, n in neighbours.items() if n in (0, 1, 2)}
    # The next line keeps the board, by its own address, which may be shared.
    page = guest.get(str(come(guest, ids[0], address).one(".beside a")["href"]))
    assert way_back(page) == address
    assert neighbour_lines(page) == {"[": ids[0], "]": ids[2]}


def test_the_neighbour_lines_go_on_from_one_state_to_the_next(edge: Edge, lines: list[str]) -> None:
    guest = visitor(edge)
    ids = [str(row["id"]) for row in guest.get(board()).all("tbody tr:not(.more)")]
    assert neighbour_lines(come(guest, ids[2], board())) == {"[": ids[1], "]": ids[3]}
    assert neighbour_lines(come(guest, ids[4], board())) == {"[": ids[3]}


def test_a_pause_keeps_the_board_and_the_position_on_it(edge: Edge, lines: list[str]) -> None:
    guest = visitor(edge, "read", "service_lines:manage")
    address, line = board(state="blocked", sort="record"), lines[1]
    page = come(guest, line, address)
    act = f"/ui/lines/{line}/pause"
    for reason in (" ", "Office move"):
        done = guest.submit(page, act, reason=reason, request_key=f"key-{len(reason)}")
    page = guest.get(done.location)
    assert page.words(".standing .state") == ["paused"]
    assert way_back(page) == address
    # The line is no longer on that board: the page shows the neighbours of its former place.
    assert neighbour_lines(page) == {"[": lines[2], "]": lines[0]}
    refused = guest.submit(come(guest, lines[0], address), f"/ui/lines/{lines[0]}/resume")
    assert refused.status == 409
    assert way_back(refused) == address
    assert guest.submit(page, f"/ui/lines/{line}/resume").status == 303


def test_other_times_and_months_keep_the_board(edge: Edge, lines: list[str]) -> None:
    guest, address = visitor(edge), board(state="running")
    page = come(guest, lines[4], address)
    steps = [
        str(page.all(led)[0]["href"]).partition("#")[0] for led in (".where a[href]", ".title a")
    ]
    for found in (*steps, str(page.one(".panel input[name=next]")["value"])):
        assert way_back(guest.get(found)).startswith(address)
    headers = {"referer": HOST + address, "hx-target": "view"}
    refreshed = guest.get(f"/ui/lines/{lines[4]}", headers=headers)
    assert refreshed.all(".beside") == []
    past = guest.get(str(page.all(".where a[href]")[0]["href"]))
    assert "as_of=" in str(way_back(past))
    assert past.all(".beside") == []


def test_a_line_reached_from_elsewhere_leads_to_the_whole_board(
    edge: Edge, lines: list[str]
) -> None:
    guest, path = visitor(edge), f"/ui/lines/{lines[0]}"
    senders = ("", "https://elsewhere.test/", "/ui/events", "/ui/lines/LIN-26-100001", "//[",
               "/uix?state=a")  # fmt: skip
    foreign = ("https://elsewhere.test/ui", "//elsewhere.test", "/ui/../v1")
    for page in (
        *(guest.get(path, headers={"referer": sender}) for sender in senders),
        *(guest.get(path, params={"from": address}) for address in foreign),
    ):
        assert way_back(page) == "/ui"
        assert page.all('[href*="elsewhere"], .beside') == []


def test_a_board_that_cannot_be_shown_has_no_neighbour_lines(edge: Edge, lines: list[str]) -> None:
    guest, path = visitor(edge), f"/ui/lines/{lines[0]}"
    for params in (
        {"from": "/ui?state=nonsense"},
        {"from": board(state="paused")},
        {"from": board(), "place": "blocked~nonsense"},
        {"from": board(), "place": "blocked~" + "A" * 40},
    ):
        page = guest.get(path, params=params)
        assert page.status == 200
        assert page.all(".beside a") == []
    assert guest.get(path, params={"place": "nonsense"}).status == 422
