"""The switch of the colours: light, dark, or as the system does."""

from tests.support.edge import Edge
from tests.support.visitor import Visited, Visitor, visitor


def theme_of(page: Visited) -> str | None:
    """The colours that the page itself sets."""
    theme = page.one("html").get("data-theme")
    assert (page.one("meta[name=color-scheme]")["content"]) == (theme or "light dark")
    return None if theme is None else str(theme)


def switched(guest: Visitor, path: str = "/ui") -> Visited:
    """Press the switch on a page."""
    page = guest.get(path)
    theme = str(page.one("button[name=theme]")["value"])
    moved = guest.submit(page, "/ui/theme", theme=theme)
    assert (moved.status, moved.location) == (303, path)
    return guest.get(path)


def test_the_switch_leads_from_the_systems_colours_to_light_to_dark_and_back(edge: Edge) -> None:
    guest = visitor(edge)
    assert theme_of(guest.get("/ui")) is None
    path = f"/ui/lines/{edge.fresh()}?month=2026-04"
    assert [theme_of(switched(guest, path)) for _ in range(3)] == ["light", "dark", None]


def test_every_page_has_the_chosen_colours_the_front_page_and_the_apis_page_too(
    edge: Edge,
) -> None:
    guest = visitor(edge)
    switched(guest)
    for path in ("/ui", "/ui/runs", "/ui/events", "/ui/nothing", "/docs"):
        assert theme_of(guest.get(path)) == "light"
    guest.http.cookies.delete("ledger_session")
    assert theme_of(guest.get("/")) == "light"
    assert theme_of(guest.get("/docs")) == "light"


def test_an_unknown_cookie_means_the_systems_colours(edge: Edge) -> None:
    guest = visitor(edge)
    session = f"ledger_session={guest.http.cookies['ledger_session']}"
    for cookie in ("", "pink", "<script>", "Light"):
        page = guest.get("/ui", headers={"cookie": f"{session}; ledger_theme={cookie}"})
        assert (page.status, theme_of(page)) == (200, None)


def test_unknown_colours_are_refused_and_change_nothing(edge: Edge) -> None:
    guest = visitor(edge)
    page = guest.get("/ui")
    refused = guest.submit(page, "/ui/theme", theme="pink")
    assert refused.status == 422
    assert "set-cookie" not in refused.answer.headers
    forged = guest.post("/ui/theme", {"theme": "dark", "next": "/ui", "form_key": "x"})
    assert forged.status == 403


def test_the_switch_leads_nowhere_else(edge: Edge) -> None:
    guest = visitor(edge)
    fields = guest.get("/ui").form("/ui/theme") | {"theme": "dark", "next": "//elsewhere.test/ui"}
    assert guest.post("/ui/theme", fields).location == "/ui"
    assert guest.get("/ui/theme").location == "/"
