"""The page of sources: who reports, and when each was last heard."""

import pytest

from ledger.features.watches.page.watch_forms import filled_in
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import visitor
from tests.support.watched import Watched, watched

PATH = "/ui/sources"


@pytest.fixture
def tenant(edge: Edge) -> Watched:
    return watched(edge)


def test_the_source_that_reported_last_comes_first(tenant: Watched) -> None:
    line = tenant.line("Payments")
    for source in ("/timesheets", "/agents"):
        tenant.edge.clock.advance(hours=1)
        event = fact("execution.checked_in", line, {"hours": 1}, source=source)
        event["time"] = f"{tenant.edge.clock.now:%Y-%m-%dT%H:%M:%SZ}"
        tenant.edge.accept(event, token=tenant.token)
    tenant.edge.clock.advance(hours=2)
    page = tenant.guest.get(PATH)
    assert page.words(".sources th code")[:2] == ["/agents", "/timesheets"]
    times = [time.get_text() for time in page.all("[data-label='Last seen'] time")]
    assert times[:2] == ["2 h ago", "3 h ago"]
    assert page.all(f'.sources a[href="/ui/lines/{line}"]')
    assert "Payments" in page.words(".sources td")[1]


def test_a_source_is_watched_in_one_click(tenant: Watched) -> None:
    tenant.line("Payments")
    (link,) = [str(a["href"]) for a in tenant.guest.get(PATH).all(".sources .act a")]
    assert link == filled_in("source", "/tests")
    reader = visitor(tenant.edge, "read", organization_id=tenant.organization)
    assert reader.get(PATH).all(".act, dialog.acting") == []
    assert tenant.guest.get(link).form("/ui/watches")["blank:sources"] == "/tests"


def test_an_empty_page_says_how_a_source_appears(tenant: Watched) -> None:
    page = tenant.guest.get(PATH)
    assert page.words("h2")[0] == "No sources yet"
    assert page.all("pre.first")


def test_only_readers_see_the_sources_of_their_tenant(tenant: Watched) -> None:
    tenant.line("Payments")
    stranger = visitor(tenant.edge, organization_id="ORG-26-000002")
    assert stranger.get(PATH).all(".sources tbody tr") == []
    assert visitor(tenant.edge, "audit:read").get(PATH).status == 403
    admin = visitor(tenant.edge, "admin", organization_id=None)
    page = admin.get(f"{PATH}?organization_id={tenant.organization}")
    assert page.words(".sources th code") == ["/tests"]
