"""Protection of the pages: sessions, form keys, headers, and requests from other sites."""

import socket

import pytest
from fastapi.routing import APIRoute

from ledger.engine.page.pages import PageRoute
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.streaming import listening
from tests.support.views import until
from tests.support.visitor import Visitor, visitor

ALL = ("read", "service_lines:manage", "webhooks:manage", "audit:read", "statements:issue")


def posts(edge: Edge) -> list[APIRoute]:
    return [r for r in edge.service.app.routes if isinstance(r, PageRoute) and "POST" in r.methods]


def address(route: APIRoute) -> str:
    """The route's path, with ids that do not exist."""
    path = route.path.replace("{line_id}", "LIN-26-999999")
    path = path.replace("{statement_id}", "STM-26-999999")
    return path.replace("{endpoint_id}", "WHK-26-999999")


def test_a_form_of_no_session_changes_nothing(edge: Edge) -> None:
    guest = visitor(edge, *ALL)
    assert len(posts(edge)) >= 10
    before = edge.log()
    for route in posts(edge):
        for fields in ({}, {"form_key": ""}, {"form_key": "x" * 32}, {"form_key": "ü"}):
            answer = guest.post(address(route), {**fields, "request_key": "k", "reason": "r"})
            assert answer.status in (403, 422), (route.path, fields, answer.text)
            assert answer.status == 403 or not fields, route.path
    assert edge.log() == before


def test_a_form_of_another_session_changes_nothing(edge: Edge) -> None:
    line_id = edge.fresh()
    one, other = visitor(edge, *ALL), visitor(edge, *ALL)
    fields = one.get(f"/ui/lines/{line_id}").form(f"/ui/lines/{line_id}/pause")
    answer = other.post(f"/ui/lines/{line_id}/pause", fields | {"reason": "r"})
    assert answer.status == 403
    assert edge.data(f"/v1/execution/{line_id}")["state"] == "running"


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"origin": "https://example.com"},
        {"origin": "null"},
        {"origin": "http://ledger.test.example.com"},
    ],
)
def test_another_sites_request_is_refused_whatever_it_carries(
    edge: Edge, headers: dict[str, str]
) -> None:
    line_id = edge.fresh()
    guest = visitor(edge, *ALL)
    fields = guest.get(f"/ui/lines/{line_id}").form(f"/ui/lines/{line_id}/pause")
    path = f"/ui/lines/{line_id}/pause"
    answer = guest.post(path, fields | {"reason": "r"}, headers=headers)
    assert answer.status == 403
    assert edge.data(f"/v1/execution/{line_id}")["state"] == "running"
    # Signing in is refused too: another site must not choose a visitor's session.
    token = edge.token("read")
    assert guest.post("/ui/sign-in", {"token": token}, headers=headers).status == 403


@pytest.mark.parametrize("name", ["referer", "origin"])
def test_a_malformed_header_gives_no_access(edge: Edge, name: str) -> None:
    guest = visitor(edge)
    fields = guest.get("/ui").form("/ui/sign-out") | {"form_key": "another"}
    answer = guest.post("/ui/sign-out", fields, headers={name: "http://["})
    assert answer.status == 403
    token = edge.token("read")
    status = guest.post("/ui/sign-in", {"token": token}, headers={name: "http://["}).status
    assert status == (303 if name == "referer" else 403)


def test_every_page_has_strict_headers(edge: Edge) -> None:
    guest = visitor(edge, *ALL)
    line_id = edge.fresh()
    pages = ["/", "/ui", f"/ui/lines/{line_id}", f"/ui/lines/{line_id}/history", "/ui/events"]
    pages += ["/ui/usage", "/ui/compare", "/ui/audit", "/ui/nothing"]
    pages += ["/ui/statements", "/ui/statements/new"]
    for path in pages:
        headers = (Visitor(edge) if path == "/" else guest).get(path).answer.headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


def test_no_page_loads_anything_from_another_host(edge: Edge) -> None:
    guest = visitor(edge, *ALL)
    pages = ("/ui", "/ui/events", "/ui/audit", "/ui/webhooks", "/ui/statements/new")
    for path in (*pages, f"/ui/lines/{edge.fresh()}"):
        page = guest.get(path)
        for tag in page.all("script[src], link[href], img[src], form[action], a[href], use[href]"):
            target = str(tag.get("src") or tag.get("href") or tag.get("action"))
            assert target.startswith(("/", "#")), target
            assert not target.startswith("//")
        assert page.all("[style], script:not([src]), style") == []


def test_scripts_and_styles_are_cached_until_their_content_changes(edge: Edge) -> None:
    guest = visitor(edge)
    for tag in guest.get("/ui").all("script[src], link[href]"):
        answer = guest.get(str(tag.get("src") or tag.get("href"))).answer
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert guest.get("/ui/static/../pages.py").status == 404
    assert guest.get("/ui/static/nothing.css").status == 404


def test_text_from_outside_is_shown_as_text(edge: Edge) -> None:
    nasty = """<script>alert(1)</script>"'><img src=x onerror=alert(2)>{{ 7*7 }}"""
    edge.clock.advance(minutes=1)
    then = f"{edge.clock.now:%Y-%m-%dT%H:%M:%SZ}"
    edge.clock.advance(minutes=1)
    line_id = edge.fresh("capacity", project_tags=["<b>tag</b>"], name=nasty)
    blocker = {"blocker_id": "B", "cause": "approval_gap", "reason": nasty}
    hours = {"hours": 1, "resource_id": nasty}
    edge.accept(
        fact("execution.blocked", line_id, blocker), fact("execution.checked_in", line_id, hours)
    )
    guest, month = visitor(edge, *ALL), "/ui/usage?from=2026-04-01&to=2026-05-01&time_zone=UTC"
    for path in (
        "/ui?state=blocked", f"/ui/lines/{line_id}", f"/ui/lines/{line_id}/history", "/ui/events",
        f"{month}&group_by=service_line", f"{month}&group_by=resource",
        f"{month}&service_line_id={line_id}", f"/ui/compare?then={then}&time_zone=UTC",
    ):  # fmt: skip
        page = guest.get(path)
        assert nasty in page.html.get_text(), path
        assert not page.all("img, script:not([src]), .why b"), path


def test_a_body_that_breaks_off_leaves_no_traceback_in_the_log(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    """Any client may break off a request, also without a session: the log must not fill up."""
    with caplog.at_level("INFO"), listening(edge) as (host, port):
        with socket.create_connection((host, port)) as connection:
            connection.sendall(b"POST /ui/sign-in HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n")
        until(lambda: "was broken off" in caplog.text, "the end of the request")
    assert "Traceback" not in caplog.text


def test_an_unknown_address_is_refused_in_words(edge: Edge) -> None:
    answer = visitor(edge).get("/ui/nothing")
    assert answer.status == 404
    assert "There is no page at this address." in answer.text
