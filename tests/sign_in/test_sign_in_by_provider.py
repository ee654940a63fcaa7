"""Signing in by an OpenID provider (contract, Sign-in): the way there and back, and its cookies."""

import re
from collections.abc import Iterator
from http.cookies import Morsel, SimpleCookie
from urllib.parse import quote

import httpx
import pytest

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import Edge, edge_of
from tests.support.openid import (
    CALLBACK,
    CLIENT,
    ODD_SECRET,
    PUBLIC,
    Company,
    OpenIdProvider,
    Person,
    alice,
    led_to,
    parameters,
    signing_in,
)
from tests.support.visitor import Visited, Visitor

SESSION = "__Host-ledger_session"
FLOW = re.compile(r"__Secure-ledger_flow_[0-9a-f]{12}")
LOOPBACK = "http://127.0.0.1:8000"


def set_by(answer: Visited) -> dict[str, "Morsel[str]"]:
    """The cookies that an answer sets or deletes."""
    cookies: SimpleCookie = SimpleCookie()
    for header in answer.answer.headers.get_list("set-cookie"):
        cookies.load(header)
    return dict(cookies.items())


def is_deleted(cookie: "Morsel[str]") -> bool:
    return cookie["max-age"] == "0"


@pytest.fixture(scope="module")
def small(server: EmbeddedPostgres) -> Iterator[tuple[Company, OpenIdProvider]]:
    """A service on loopback without TLS: a public client, no file of grants, no sign-in by token.

    The provider gives no refresh tokens and has no address to sign out.
    """
    with OpenIdProvider(secret=None, key="ed-1") as provider:
        provider.metadata = {
            "end_session_endpoint": ...,
            "authorization_response_iss_parameter_supported": ...,
        }
        with signing_in(
            server,
            "company_small",
            provider,
            None,
            public_url=LOOPBACK,
            oidc_name="Moser & Söhne <id>",
            token_sign_in=False,
        ) as company:
            yield company, provider


def test_the_sign_in_page_offers_the_provider_by_its_host(company: Company) -> None:
    page = Person(company).get("/")
    (link,) = page.all('a[href^="/ui/oidc/sign-in"]')
    assert "Sign in with 127.0.0.1" in link.get_text()
    assert page.all("#token"), "a token still signs in"


def test_the_setting_names_the_provider(small: tuple[Company, OpenIdProvider]) -> None:
    page = Person(small[0], LOOPBACK).get("/")
    assert page.words('a[href^="/ui/oidc/sign-in"]') == ["Sign in with Moser & Söhne <id>"]


def test_a_service_without_provider_offers_none(edge: Edge) -> None:
    guest = Visitor(edge)
    assert not guest.get("/").all('[href*="oidc"]')
    assert guest.get("/ui/oidc/sign-in").status == 404
    assert guest.get("/ui/oidc/callback?code=a&state=b").status == 404
    assert guest.post("/ui/oidc/logout", {"logout_token": "x"}).status == 404


def test_the_button_leads_to_the_provider_with_all_that_a_strict_one_wants(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = Person(company)
    one, other = parameters(guest.leave()), parameters(guest.leave())
    assert {name: one[name] for name in one if one[name] == other[name]} == {
        "response_type": "code",
        "client_id": CLIENT,
        "redirect_uri": CALLBACK,
        "scope": "openid profile email",
        "code_challenge_method": "S256",
    }
    assert {"state", "nonce", "code_challenge"} <= one.keys()
    guest.signed_in()
    assert openid.complaints == []


def test_the_cookie_of_the_flow_is_sealed_lax_and_lives_ten_minutes(company: Company) -> None:
    guest = Person(company)
    answer = guest.from_here("/ui/oidc/sign-in?next=/ui/runs")
    ((name, cookie),) = set_by(answer).items()
    assert FLOW.fullmatch(name)
    attributes = ("path", "samesite", "httponly", "secure", "max-age", "domain")
    assert [str(cookie[each]).lower() for each in attributes] == [
        "/ui/oidc", "lax", "true", "true", "600", "",
    ]  # fmt: skip
    sent = parameters(answer.location)
    for secret in (sent["state"], sent["nonce"], sent["code_challenge"], "/ui/runs"):
        assert secret not in cookie.value


def test_the_page_that_leads_on_brings_the_strict_cookies_along(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = Person(company)
    path = guest.visit(guest.leave("/ui/runs?limit=5"))
    first = guest.from_elsewhere(path)
    assert led_to(first) == path
    assert set_by(first) == {}
    assert openid.count("authorization_code") == 0
    second = guest.from_here(path)
    assert led_to(second) == "/ui/runs?limit=5"
    cookies = set_by(second)
    session = cookies.pop(SESSION)
    attributes = ("path", "samesite", "httponly", "secure", "domain")
    texts = [str(session[each]).lower() for each in attributes]
    assert texts == ["/", "strict", "true", "true", ""]
    ((name, flow),) = cookies.items()
    assert FLOW.fullmatch(name)
    assert is_deleted(flow)
    assert flow["path"] == "/ui/oidc"
    assert guest.get("/ui/runs?limit=5").status == 200
    assert second.answer.headers["cache-control"] == "no-store"


def test_a_page_without_session_keeps_its_address_for_the_way_back(company: Company) -> None:
    line = company.fresh()
    guest = Person(company)
    redirect = guest.get(f"/ui/lines/{line}")
    assert redirect.status == 401
    (link,) = redirect.all('a[href^="/ui/oidc/sign-in"]')
    assert quote(f"/ui/lines/{line}", safe="") in quote(str(link["href"]), safe="%")
    leaving = guest.from_here(str(link["href"]))
    assert led_to(guest.come_back(guest.visit(leaving.location))) == f"/ui/lines/{line}"
    assert guest.get(f"/ui/lines/{line}").status == 200


@pytest.mark.parametrize(
    "elsewhere",
    [
        "//evil.example/ui",
        "\\\\evil.example",
        "/ui\r\nset-cookie: a=b",
        '/ui"><script>',
    ],
)
def test_an_address_outside_of_the_page_is_never_led_to(company: Company, elsewhere: str) -> None:
    answer = Person(company).arrive(elsewhere)
    target = led_to(answer)
    assert re.match(r"/ui(?:[/?#]|$)", target), target
    assert "evil" not in target
    assert not answer.all("script")
    assert "\n" not in target


def test_two_tabs_may_both_finish_and_the_later_session_stays(company: Company) -> None:
    guest = Person(company)
    one, other = (guest.visit(guest.leave(next)) for next in ("/ui/runs", "/ui/events"))
    assert sum(bool(FLOW.fullmatch(name)) for name in guest.cookies) == 2
    assert led_to(guest.come_back(one)) == "/ui/runs"
    thief = Person(company)
    thief.http.cookies.set(SESSION, str(guest.session), "ledger.test", "/")
    assert thief.is_signed_in()
    assert led_to(guest.come_back(other)) == "/ui/events"
    assert guest.is_signed_in()
    assert not thief.is_signed_in(), "the browser's former session has ended"
    assert not any(FLOW.fullmatch(name) for name in guest.cookies)


def test_two_tabs_that_come_back_in_the_same_moment_both_finish(company: Company) -> None:
    """Both requests carry the same cookies, and no session's cookie."""
    guest = Person(company)
    paths = [guest.visit(guest.leave()) for _ in range(2)]
    cookies = "; ".join(f"{name}={cookie.value}" for name, cookie in guest.cookies.items())
    for path in paths:
        led_to(guest.get(path, headers={"sec-fetch-site": "same-origin", "cookie": cookies}))
    assert guest.is_signed_in()


def test_each_sign_in_makes_a_new_id_and_adopts_no_planted_one(company: Company) -> None:
    attacker = Person(company).signed_in()
    planted = str(attacker.session)
    victim = Person(company)
    for value in ("A" * 43, planted):
        victim.http.cookies.set(SESSION, value, "ledger.test", "/")
        victim.signed_in()
        assert victim.cookies[SESSION].value != value
    assert victim.is_signed_in()
    assert not attacker.is_signed_in()


def test_a_flow_ends_after_ten_minutes(company: Company, openid: OpenIdProvider) -> None:
    guest = Person(company)
    path = guest.visit(guest.leave())
    company.clock.advance(seconds=601)
    assert guest.from_here(path).status == 400
    assert guest.session is None
    assert openid.count("authorization_code") == 0


def test_a_callback_that_is_sent_again_signs_nobody_in(company: Company) -> None:
    guest = Person(company)
    path = guest.visit(guest.leave())
    header = "; ".join(f"{name}={cookie.value}" for name, cookie in guest.cookies.items())
    led_to(guest.come_back(path))
    signed_in = guest.session
    assert guest.from_here(path).status == 400, "the flow's cookie is gone"
    thief = Person(company)
    answer = thief.get(path, headers={"cookie": header, "sec-fetch-site": "same-origin"})
    assert answer.status == 400, "the code was used"
    assert thief.session is None
    assert guest.session == signed_in
    assert guest.is_signed_in(), "a refused callback ends no session"


@pytest.mark.parametrize("from_elsewhere", [True, False])
def test_the_state_of_another_browser_is_refused(
    company: Company, openid: OpenIdProvider, from_elsewhere: bool
) -> None:
    """An attacker who sends a link with their own code must not sign the victim in."""
    attacker, victim = Person(company), Person(company)
    path = attacker.visit(attacker.leave())
    victim.leave()
    answer = victim.from_elsewhere(path) if from_elsewhere else victim.from_here(path)
    assert answer.status == 400
    assert victim.session is None
    assert openid.count("authorization_code") == 0


def test_a_code_of_another_flow_is_refused(company: Company) -> None:
    """The verifier and the nonce belong to the state's own flow."""
    guest, attacker = Person(company), Person(company)
    stolen = parameters(attacker.visit(attacker.leave()))["code"]
    state = parameters(guest.leave())["state"]
    answer = guest.from_here(f"/ui/oidc/callback?code={stolen}&state={state}&iss=")
    assert answer.status == 400
    assert guest.session is None


@pytest.mark.parametrize(
    "query",
    [
        "",
        "code=a",
        "state={state}",
        "code=&state={state}&iss={iss}",
        "code=a&state=",
        "code=a&state=%00&iss={iss}",
        "code=a&code=b&state={state}&iss={iss}",
        "code=a&state={state}&state=b&iss={iss}",
        "error=access_denied&state={state}&iss={iss}",
        "error=access_denied&code=a&state={state}&iss={iss}",
        "error=%3Cscript%3E&error_description=%3Cscript%3Ehello&state={state}&iss={iss}",
        "code=" + "a" * 20_000 + "&state={state}&iss={iss}",
    ],
)
def test_a_malformed_or_refused_callback_is_400_and_repeats_nothing(
    company: Company, openid: OpenIdProvider, query: str
) -> None:
    guest = Person(company)
    state = parameters(guest.leave())["state"]
    iss = quote(openid.issuer, safe="")
    answer = guest.from_here(f"/ui/oidc/callback?{query.format(state=state, iss=iss)}")
    assert answer.status == 400
    assert guest.session is None
    assert "<script>" not in answer.answer.text
    assert "hello" not in answer.text
    assert answer.all('a[href^="/"]'), "a way to begin again"


def test_a_forged_cookie_of_a_flow_is_refused(company: Company) -> None:
    guest = Person(company)
    path = guest.visit(guest.leave())
    (name,) = guest.cookies
    for cookie in ("", "x", "A" * 300, "%00", "=" * 20):
        headers = {"cookie": f"{name}={cookie}", "sec-fetch-site": "same-origin"}
        assert guest.get(path, headers=headers).status == 400, cookie


def test_the_cookie_of_a_session_is_random_and_the_database_keeps_a_hash(company: Company) -> None:
    guest = Person(company).signed_in()
    value = str(guest.session)
    assert len(value) >= 43, "32 random bytes"
    tables = company.select(
        "SELECT table_name FROM information_schema.tables"
        " WHERE table_schema = 'ledger' AND table_name LIKE '%session%'"
    )
    assert tables, "sessions are rows"
    for (table,) in tables:
        rows = company.select(f"SELECT t::text FROM ledger.{table} AS t")
        assert not any(value in str(row) for row in rows)


def test_a_form_needs_the_key_of_its_session_and_the_services_own_origin(company: Company) -> None:
    guest, other = Person(company).signed_in(), Person(company).signed_in()
    fields = guest.get("/ui").form("/ui/sign-out")
    for answer in (
        guest.post("/ui/sign-out", {}),
        guest.post("/ui/sign-out", {"form_key": ""}),
        guest.post("/ui/sign-out", other.get("/ui").form("/ui/sign-out")),
        guest.post("/ui/sign-out", fields, headers={"origin": "https://evil.example"}),
        guest.post("/ui/sign-out", fields, headers={"sec-fetch-site": "cross-site"}),
    ):
        assert answer.status in (403, 422)
    assert guest.is_signed_in()


def test_on_loopback_the_cookies_have_plain_names(small: tuple[Company, OpenIdProvider]) -> None:
    company, provider = small
    provider.refreshes = False
    provider.returned = {"iss": ...}
    provider.person = alice(organization_id="ORG-26-000001", permissions=["read"], groups=...)
    guest = Person(company, LOOPBACK)
    answer = guest.from_here("/ui/oidc/sign-in")
    ((name, cookie),) = set_by(answer).items()
    assert re.fullmatch(r"ledger_flow_[0-9a-f]{12}", name)
    assert not cookie["secure"]
    assert parameters(answer.location)["redirect_uri"] == f"{LOOPBACK}/ui/oidc/callback"
    done = guest.come_back(guest.visit(answer.location))
    session = set_by(done)["ledger_session"]
    assert not session["secure"]
    assert session["samesite"].lower() == "strict"
    assert guest.is_signed_in()
    assert provider.complaints == []


def test_a_token_signs_in_no_more_where_the_setting_forbids_it(
    small: tuple[Company, OpenIdProvider],
) -> None:
    company, _ = small
    guest = Person(company, LOOPBACK)
    assert not guest.get("/").all("#token")
    token = company.token("read")
    answer = guest.sign_in(token)
    assert answer.status == 401
    assert guest.session is None
    assert company.get("/v1/execution", token).status_code == 200, "the API still takes keys"


def test_signing_out_leads_on_to_the_providers_end_of_session(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = Person(company).signed_in()
    answer = guest.submit(guest.get("/ui"), "/ui/sign-out")
    address = led_to(answer)
    assert address.startswith(f"{openid.issuer}/end-session")
    sent = parameters(address)
    assert sent.get("client_id") == CLIENT or sent.get("id_token_hint")
    assert is_deleted(set_by(answer)[SESSION])
    assert not guest.is_signed_in()
    assert not {*openid._refresh, *openid._access} & {*sent.values()}, "no token that lives"
    assert httpx.get(address).status_code == 200
    assert openid.requests[-1].path.startswith("/end-session")


def test_without_an_end_of_session_signing_out_leads_to_the_front_page(
    small: tuple[Company, OpenIdProvider],
) -> None:
    company, provider = small
    provider.returned = {"iss": ...}
    provider.person = alice(organization_id="ORG-26-000001", permissions=["read"])
    guest = Person(company, LOOPBACK).signed_in()
    answer = guest.submit(guest.get("/ui"), "/ui/sign-out")
    assert (answer.status, answer.location) == (303, "/")


def test_the_secret_of_the_client_may_have_any_character(server: EmbeddedPostgres) -> None:
    """RFC 6749, 2.3.1: name and secret are encoded as in a form, before they are in base64."""
    with (
        OpenIdProvider(secret=ODD_SECRET) as provider,
        signing_in(server, "company_odd_secret", provider) as company,
    ):
        Person(company).signed_in()
        assert provider.complaints == []


def test_below_a_root_path_all_addresses_have_it_and_the_cookie_of_the_session_none(
    server: EmbeddedPostgres,
) -> None:
    """A browser takes a cookie that begins with ``__Host-`` for the path ``/`` alone."""
    root = "/tools/ledger"
    below = {"root_path": root, "public_url": PUBLIC + root}
    with (
        OpenIdProvider() as provider,
        signing_in(server, "company_below", provider, **below) as company,
    ):
        guest = Person(company)
        redirect = guest.get(f"{root}/ui/runs")
        (link,) = redirect.all(f'a[href^="{root}/ui/oidc/sign-in"]')
        begun = guest.from_here(str(link["href"]))
        ((name, flow),) = set_by(begun).items()
        assert FLOW.fullmatch(name)
        assert flow["path"] == f"{root}/ui/oidc"
        assert parameters(begun.location)["redirect_uri"] == f"{PUBLIC}{root}/ui/oidc/callback"
        path = guest.visit(begun.location)
        first = guest.from_elsewhere(path)
        assert led_to(first) == path
        done = guest.from_here(path)
        assert led_to(done) == f"{root}/ui/runs"
        cookies = set_by(done)
        assert (cookies[SESSION]["path"], cookies[name]["path"]) == ("/", f"{root}/ui/oidc")
        assert is_deleted(cookies[name])
        page = guest.get(f"{root}/ui/runs")
        assert page.status == 200
        left = guest.submit(page, f"{root}/ui/sign-out")
        assert parameters(led_to(left))["post_logout_redirect_uri"] == f"{PUBLIC}{root}/"
        gone = set_by(left)[SESSION]
        assert (gone["path"], is_deleted(gone)) == ("/", True)
        assert guest.get(f"{root}/ui/runs").status == 401


def test_a_service_without_provider_and_tokens_starts_and_its_page_says_what_is_turned_off(
    server: EmbeddedPostgres,
) -> None:
    settings = Settings(master_key=MASTER_KEY, token_sign_in=False)
    with copied(server.url, "edge_closed") as conninfo, edge_of(settings, conninfo) as edge:
        guest = Visitor(edge)
        page = guest.get("/")
        assert page.status == 200
        assert "turned off" in page.text
        assert not page.all("#token")
        refused = guest.sign_in(edge.token("read"))
        assert refused.status == 401
        assert refused.words('[role="alert"]') == ["Signing in with a token is turned off here."]
