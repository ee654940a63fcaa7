"""A page that is behind says so: behind its reader's own write, or behind the log for 3 seconds."""

import pytest

from tests.support.databases import execute
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import Visited, Visitor, visitor

MANAGE = ("read", "service_lines:manage")


def lag_notice(page: Visited) -> str:
    """The notice of the page's lag, which its header repeats for the script."""
    notice = page.one("#behind")
    text = notice.get_text()
    assert notice.has_attr("hidden") is not bool(text)
    assert page.answer.headers.get("ledger-behind", "") == text
    return text


@pytest.fixture
def guest(edge: Edge) -> Visitor:
    return visitor(edge, *MANAGE)


def test_after_a_pause_every_page_says_until_it_shows_the_pause(edge: Edge, guest: Visitor) -> None:
    line, other = edge.fresh(), edge.fresh()
    path = f"/ui/lines/{line}"
    page = guest.get(path)
    assert lag_notice(page) == ""
    with edge.frozen_views():
        done = guest.submit(page, f"{path}/pause", reason="Office move")
        assert done.location == path
        page = guest.get(path)
        assert page.words(".standing .state") == ["running"]
        assert lag_notice(page) == "Paused. This page is 1 event behind."
        for elsewhere in ("/ui", "/ui/events", f"/ui/lines/{other}", "/ui/runs"):
            assert lag_notice(guest.get(elsewhere)) == "Paused. This page is 1 event behind."
        # A page of the past is complete; another reader's page says nothing within 3 seconds.
        then = edge.clock.now.isoformat().replace("+00:00", "Z")
        assert guest.get(f"{path}?as_of={then}").all("#behind:not([hidden])") == []
        assert lag_notice(visitor(edge).get(path)) == ""
        # A second try names the event that holds.
        again = guest.submit(page, f"{path}/pause", reason="Second try", request_key="another")
        assert again.status == 409
        (event,) = edge.select(
            "SELECT max(notification_id) FROM ledger.ledger_events"
            " WHERE topic LIKE 'execution.paused/%'"
        )
        assert again.words("section.manage .refused") == [
            "Nothing was changed. The line is already paused, by the event"
            f" EVT-26-{event[0]:06} (execution.paused), which this page does not show yet."
        ]
        assert lag_notice(again).startswith("Paused. This page is ")
    page = guest.get(path)
    assert page.words(".standing .state") == ["paused"]
    assert lag_notice(page) == ""


def test_a_page_that_is_behind_others_for_three_seconds_says_so(edge: Edge) -> None:
    line, reader = edge.fresh(), visitor(edge)
    path = f"/ui/lines/{line}"
    with edge.frozen_views():
        edge.accept(*(fact("execution.checked_in", line, {"note": str(n)}) for n in range(2)))
        edge.clock.advance(seconds=3)
        assert lag_notice(reader.get(path)) == ""
        edge.clock.advance(seconds=0.1)
        assert lag_notice(reader.get(path)) == "This page is 2 events behind."
    assert lag_notice(reader.get(path)) == ""


def test_a_cookie_that_is_no_position_is_ignored(edge: Edge, guest: Visitor) -> None:
    for cookie in ("nonsense", "1", "~", f"{2**80}~execution.pause"):
        guest.http.cookies.set("ledger_written", cookie)
        assert lag_notice(guest.get("/ui")) == ""


def test_a_view_of_names_alone_does_not_make_a_page_late(edge: Edge, guest: Visitor) -> None:
    """The view of the directory stops at an event that it cannot write; lines go on."""
    line = edge.fresh(name="Payments pod")
    tables = edge.select(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'directory%'"
        " AND relnamespace::regnamespace::text LIKE 'ledger%'"
    )
    for (table,) in tables:
        execute(edge.conninfo, f"ALTER TABLE ledger.{table} RENAME TO moved_{table}")
    edge.accept(fact("directory.named", "WS-26-000001", {"name": "Halden Bank"}))
    edge.accept(fact("execution.checked_in", line))
    (stopped,) = edge.select(
        "SELECT stopped_at IS NOT NULL FROM ledger.projection WHERE name = 'directory'"
    )
    assert stopped == (True,)
    edge.clock.advance(seconds=10)
    assert lag_notice(guest.get(f"/ui/lines/{line}")) == ""
    assert guest.get(f"/ui/lines/{line}").words(".standing .state") == ["running"]
