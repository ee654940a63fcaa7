"""The forms that pause and resume many lines of the board: a dry run first, then the outcomes."""

from typing import Any

import pytest

from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import Visited, Visitor, visitor

WORKSPACE = "WS-26-000778"
BOARD = f"/ui?workspace_id={WORKSPACE}"


@pytest.fixture
def lines(edge: Edge) -> list[str]:
    """Four lines of one workspace: one is held, one closed."""
    made = [edge.fresh(workspace_id=WORKSPACE, name=f"Pod {n}") for n in range(4)]
    edge.post(f"/v1/execution/{made[2]}/pause", json={"reason": "Audit"})
    edge.accept(fact("service_line.closed", made[3]))
    return made


def ask(guest: Visitor, verb: str, board: str = BOARD, **fields: Any) -> Visited:
    """Ask for the form, as the bar below the board does."""
    keys = guest.get("/ui").form("/ui/sign-out") | {"request_key": "k"}
    return guest.post(f"/ui/many/{verb}", keys | {"board": board} | fields)


def states(edge: Edge, lines: list[str]) -> list[str]:
    return [edge.data(f"/v1/execution/{line}")["state"] for line in lines]


def test_many_lines_are_paused_after_a_dry_run_and_each_says_how_it_went(
    edge: Edge, lines: list[str]
) -> None:
    guest = visitor(edge, "read", "service_lines:manage")
    page = ask(guest, "pause", line=",".join(lines))
    assert page.one("h1").get_text() == "Pause 2 lines"
    text = page.one("#many [role=status]").get_text()
    assert "3 lines chosen. 1 line will stay as now: already paused." in text, "one is closed"
    assert states(edge, lines) == ["running", "running", "paused", "closed"], "a dry run"
    fields = page.form("/ui/many/pause") | {"reason": "Audit of\r\nthe year"}
    fields["until"] = f"{edge.clock.now.year + 1}-01-01T10:00"
    done = guest.post("/ui/many/pause", fields)
    assert done.one("h1").get_text() == "Paused 2 lines"
    assert [cell.get_text() for cell in done.all("td:nth-child(2)")] == [
        "already paused", "paused", "paused",
    ]  # fmt: skip
    assert {a["href"] for a in done.all("[data-leave]")} == {BOARD}
    assert states(edge, lines) == ["paused", "paused", "paused", "closed"]
    (hold,) = edge.data(f"/v1/execution/{lines[0]}")["holds"]
    assert (hold["reason"], hold["until"][:16]) == ("Audit of\nthe year", fields["until"])
    again = guest.post("/ui/many/pause", fields)
    assert again.words("h1") == ["Paused 2 lines"], "the same form changes nothing again"


def test_all_lines_of_the_board_are_resumed_by_its_filters(edge: Edge, lines: list[str]) -> None:
    guest = visitor(edge, "read", "service_lines:manage")
    page = ask(guest, "resume", f"{BOARD}&state=paused&sort=health_score", matching="all")
    done = guest.post("/ui/many/resume", page.form("/ui/many/resume"))
    assert done.one("h1").get_text().startswith("Resumed")
    assert states(edge, lines) == ["running", "running", "running", "closed"]


def test_a_board_that_changed_since_the_dry_run_asks_again_and_keeps_the_reason(
    edge: Edge, lines: list[str]
) -> None:
    guest = visitor(edge, "read", "service_lines:manage")
    fields = ask(guest, "pause", matching="all").form("/ui/many/pause") | {"reason": "Audit"}
    late = edge.fresh(workspace_id=WORKSPACE)
    refused = guest.post("/ui/many/pause", fields)
    assert refused.status == 409
    assert "Nothing was changed." in refused.one("[role=alert]").get_text()
    assert refused.one("[name=reason]")["value"] == "Audit"
    assert states(edge, [late]) == ["running"]
    renewed = refused.form("/ui/many/pause")
    assert int(renewed["expect"]) == int(fields["expect"]) + 1
    assert guest.post("/ui/many/pause", renewed).status == 200
    assert states(edge, [late]) == ["paused"]


def test_a_form_that_names_no_line_or_too_long_a_reason_changes_nothing(
    edge: Edge, lines: list[str]
) -> None:
    guest = visitor(edge, "read", "service_lines:manage")
    assert ask(guest, "pause").status == 422
    fields = ask(guest, "pause", line=lines[0]).form("/ui/many/pause")
    for wrong in (
        {"reason": " "},
        {"reason": "x" * 501},
        {"reason": "x", "until": "2020-01-01T00:00"},
    ):
        page = guest.post("/ui/many/pause", fields | wrong)
        assert page.status == 422
        assert page.all("[role=alert]")
    assert states(edge, lines[:1]) == ["running"]


def test_an_administrator_acts_on_one_organization_at_a_time(edge: Edge, lines: list[str]) -> None:
    guest = visitor(edge, "admin", organization_id=None)
    page = ask(guest, "pause", line=lines[0])
    assert (page.status, "Organization" in page.one("[role=alert]").get_text()) == (422, True)
    own = edge.data(f"/v1/execution/{lines[0]}")["organization_id"]
    page = ask(guest, "pause", f"/ui?organization_id={own}", line=lines[0])
    assert page.one("h1").get_text() == "Pause 1 line"


def test_the_board_says_that_it_does_not_show_the_paused_lines_yet(
    edge: Edge, lines: list[str]
) -> None:
    guest = visitor(edge, "read", "service_lines:manage")
    fields = ask(guest, "pause", line=lines[0]).form("/ui/many/pause") | {"reason": "Audit"}
    with edge.frozen_views():
        guest.post("/ui/many/pause", fields)
        assert guest.get(BOARD).words("#behind") == ["Paused. This page is 1 event behind."]
