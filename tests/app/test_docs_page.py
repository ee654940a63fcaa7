"""The API's page within the page's frame."""

from tests.support.edge import Edge
from tests.support.visitor import Visitor, visitor


def test_the_apis_page_has_the_navigation_of_its_visitor(edge: Edge) -> None:
    page = visitor(edge, "read", "audit:read").get("/docs")
    assert page.words(".top nav a") == [
        "Board", "Alerts", "What changed", "Month", "Statements", "Runs", "Events", "Audit",
        "Integrity",
    ]  # fmt: skip
    assert page.one("#viewer")["data-document"] == "openapi.json"
    # A form of another page would lead away from here.
    assert page.all('form[action="/ui/zone"], form[action="/ui/theme"]') == []


def test_the_apis_page_needs_no_session_and_shows_a_way_to_the_front_page(edge: Edge) -> None:
    expired = Visitor(edge)
    expired.http.cookies.set("ledger_session", "over")
    for guest in (Visitor(edge), expired):
        page = guest.get("/docs")
        assert page.status == 200
        assert page.all(".top nav") == []
        assert page.one(".brand")["href"] == "/"


def test_pages_are_compressed_as_the_api_is(edge: Edge) -> None:
    line_id, guest = edge.fresh(), visitor(edge)
    for path in ("/ui", f"/ui/lines/{line_id}", "/ui/runs", "/ui/docs.css"):
        packed = guest.get(path, headers={"accept-encoding": "gzip"}).answer
        plain = guest.get(path, headers={"accept-encoding": "identity"}).answer
        assert packed.headers["content-encoding"] == "gzip"
        assert "content-encoding" not in plain.headers
        assert packed.num_bytes_downloaded < plain.num_bytes_downloaded / 2
