"""Signing in with a token, and the limits of a session."""

import pytest

from ledger.features.keys.key_uses import KeyUses
from ledger.features.sign_in.access.sessions import SIGN_INS_A_MINUTE
from ledger.features.sign_in.page.session import COOKIE
from tests.support.edge import Edge
from tests.support.visitor import Visitor, visitor

SESSION_SECONDS = 604_800
"""The longest session, which its cookie outlives in no browser."""

IDLE_SECONDS = 43_200


def test_the_front_page_asks_for_a_token(edge: Edge) -> None:
    page = Visitor(edge).get("/")
    assert page.status == 200
    assert page.form("/ui/sign-in")["next"] == ""
    assert page.one("#token")["type"] == "password"


def test_signing_in_leads_to_the_board(edge: Edge) -> None:
    guest = Visitor(edge)
    answer = guest.sign_in(edge.token("read"))
    assert (answer.status, answer.location) == (303, "/ui")
    assert guest.get("/ui").status == 200
    assert guest.get("/").location == "/ui"


def test_scripts_cannot_read_the_cookie_and_it_contains_no_plain_token(edge: Edge) -> None:
    token = edge.token("read")
    cookie = Visitor(edge).sign_in(token).answer.headers["set-cookie"]
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/", f"max-age={SESSION_SECONDS}"} <= attributes
    assert "secure" not in attributes
    assert token not in cookie


def test_over_tls_the_cookie_is_secure_and_stays_so(edge: Edge) -> None:
    """Behind a proxy that ends TLS, only the browser's Origin header shows that TLS is used."""
    guest = Visitor(edge)
    first = guest.request(
        "POST",
        "/ui/sign-in",
        data={"token": edge.token("read")},
        headers={"origin": "https://ledger.test"},
    )
    assert "Secure" in first.answer.headers["set-cookie"]
    sealed = first.answer.headers["set-cookie"].split(";")[0]
    page = Visitor(edge).get("/ui/runs", headers={"cookie": sealed})
    assert "https://ledger.test/v1/" in page.text, "told by the address of a first command"


@pytest.mark.parametrize("token", ["", "elk_nonsense", "elk_" + "A" * 49, "🙈"])
def test_an_unknown_token_is_refused_in_words(edge: Edge, token: str) -> None:
    guest = Visitor(edge)
    answer = guest.sign_in(token, next="/ui?state=blocked")
    assert answer.status == 401
    assert "This token is unknown or was revoked." in answer.one('[role="alert"]').get_text()
    assert answer.form("/ui/sign-in")["next"] == "/ui?state=blocked"
    assert COOKIE not in guest.http.cookies
    assert guest.get("/ui").status == 401


def test_without_a_session_a_page_asks_for_the_token_and_leads_back(edge: Edge) -> None:
    guest = Visitor(edge)
    redirect = guest.get("/ui?state=blocked&product_line=ods")
    assert redirect.status == 401
    answer = guest.submit(redirect, "/ui/sign-in", token=edge.token("read"))
    assert answer.location == "/ui?state=blocked&product_line=ods"


def test_a_token_in_an_address_signs_nobody_in(edge: Edge) -> None:
    token = edge.token("read")
    guest = Visitor(edge)
    assert guest.get(f"/?token={token}").status == 200
    assert guest.get(f"/ui?token={token}").status == 401
    assert guest.get("/ui", headers={"authorization": f"Bearer {token}"}).status == 401


def test_the_api_does_not_read_the_cookie(edge: Edge) -> None:
    guest = visitor(edge, "read", "service_lines:manage")
    assert guest.get("/ui").status == 200
    assert guest.get("/v1/execution").status == 401
    line_id = edge.fresh()
    answer = guest.request("POST", f"/v1/execution/{line_id}/pause", json={"reason": "x"})
    assert answer.status == 401


@pytest.mark.parametrize(
    ("permission", "home"),
    [("webhooks:manage", "/ui/webhooks"), ("audit:read", "/ui/audit")],
)
def test_without_the_right_to_read_signing_in_leads_to_the_first_allowed_page(
    edge: Edge, permission: str, home: str
) -> None:
    guest = Visitor(edge)
    front = guest.get("/")
    answer = guest.submit(front, "/ui/sign-in", token=edge.token(permission))
    assert answer.location == home
    board = guest.get("/ui")
    assert board.status == 403
    assert board.one("section.refusal a")["href"] == home
    assert guest.submit(board, "/ui/zone", zone="Europe/Berlin").status == 303
    assert guest.submit(board, "/ui/sign-out").location == "/"


def test_a_token_that_may_open_no_page_is_led_to_what_it_may_do(edge: Edge) -> None:
    guest = Visitor(edge)
    answer = guest.sign_in(edge.token("write"))
    assert answer.location == "/ui/start"
    board = guest.get("/ui")
    assert "You may not read lines, runs and events. Ask an administrator" in board.text
    assert guest.get("/ui/nothing").words("section.refusal a") == ["Go to the first page"]


@pytest.mark.parametrize("path", ["/ui/", "/ui/sign-in", "/ui/sign-out", "/ui/zone"])
def test_the_address_of_a_form_leads_to_the_front_page(edge: Edge, path: str) -> None:
    assert Visitor(edge).get(path).location == "/"


def test_a_session_ends_some_hours_after_its_last_use(edge: Edge) -> None:
    guest, other = visitor(edge), visitor(edge)
    uses = edge.service.app.state.services.of(KeyUses)
    for share in (0.6, 0.3, 0.95, 0.95):
        edge.clock.advance(seconds=IDLE_SECONDS * share)
        assert guest.get("/ui").status == 200
        assert uses.run_once() > 0
    answer = other.get("/ui")
    assert answer.status == 401
    assert "Your session has ended." in answer.text


def test_a_revoked_token_ends_its_sessions(edge: Edge) -> None:
    token = edge.token("read")
    guest = Visitor(edge, token)
    edge.revoke(token)
    answer = guest.get("/ui")
    assert answer.status == 401
    assert answer.all("#token")
    message = "Your API key is unknown, has expired or was revoked. Sign in with another key."
    assert answer.words('[role="alert"]') == [message]


def test_a_form_of_an_expired_session_changes_nothing_and_says_so(edge: Edge) -> None:
    line_id, guest = edge.fresh(), visitor(edge, "read", "service_lines:manage")
    path = f"/ui/lines/{line_id}"
    fields = guest.get(path).form(f"{path}/pause") | {"reason": "Stakeholder review"}
    edge.clock.advance(seconds=IDLE_SECONDS + 1)
    came_from = {"referer": f"http://ledger.test{path}"}
    over = guest.post(f"{path}/pause", fields, headers=came_from)
    assert over.words('[role="alert"]') == [
        "Nothing was changed. Your session has ended. Sign in again."
    ]
    # Most browsers have dropped the expired cookie by then.
    gone = guest.signed_out().post(f"{path}/pause", fields, headers=came_from)
    assert gone.words('[role="alert"]') == ["Nothing was changed. Sign in to see this page."]
    for answer in (over, gone):
        assert answer.status == 401
        assert answer.form("/ui/sign-in")["next"] == path
    assert edge.data(f"/v1/execution/{line_id}")["state"] == "running"


def test_a_forged_cookie_is_no_session(edge: Edge) -> None:
    for cookie in ("", "x", "A" * 200, "=" * 20, "%00"):
        answer = Visitor(edge).get("/ui", headers={"cookie": f"{COOKIE}={cookie}"})
        assert answer.status == 401, cookie


def test_a_link_from_another_site_finds_the_session(edge: Edge) -> None:
    """The browser sends no strict cookie then, so our own page requests the address again."""
    guest = Visitor(edge)
    elsewhere = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    page = guest.get("/ui?state=blocked", headers=elsewhere)
    assert page.one('meta[http-equiv="refresh"]')["content"] == "0; url=/ui?state=blocked"
    own = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate"}
    assert guest.get("/ui?state=blocked", headers=own).all("#token")


def test_a_key_signs_in_sixty_times_a_minute_and_no_more(edge: Edge) -> None:
    """Each sign-in is an event of the log, and a key may be for reading alone."""
    token, guest = edge.token("read"), Visitor(edge)
    for _ in range(2 * SIGN_INS_A_MINUTE):  # a minute may end meanwhile
        if (answer := guest.sign_in(token)).status != 303:
            break
    count = "SELECT count(*) FROM ledger.ledger_events WHERE originator_id LIKE 'SES-%'"
    before = edge.select(count)
    assert guest.sign_in(token).status == 429
    assert answer.words('[role="alert"]') == [
        "You signed in too often in this minute. Try again in the next one."
    ]
    assert edge.select(count) == before
    assert Visitor(edge, edge.token("read")).get("/ui").status == 200, "another key"
