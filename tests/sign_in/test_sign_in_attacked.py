"""Attacks on sign-in: each test fails as long as the attack succeeds."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl

import pytest

from ledger.app.composition.api import create_reading_api
from ledger.app.composition.database import prepare_reading
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.features.sign_in.access.sessions import Sessions
from tests.support.facts import ORGANIZATION, fact
from tests.support.openid import (
    FINANCE,
    PUBLIC,
    Claims,
    Company,
    Grant,
    OpenIdProvider,
    Person,
    alice,
    as_json,
    choose,
    led_to,
    parameters,
    signing_in,
)
from tests.support.receiver import Answer, Request
from tests.support.views import until
from tests.support.visitor import visitor

OTHER = "ORG-26-000002"
MANAGERS: Grant = FINANCE | {"value": "ledger-managers", "permissions": ["read", "keys:manage"]}
ELSEWHERE: Grant = FINANCE | {"value": "ledger-elsewhere", "organization_id": OTHER}
ADMIN: Grant = {"claim": "groups", "value": "ledger-admins", "permissions": ["admin"]}
MAIL: Grant = FINANCE | {"claim": "email", "value": "boss@example.com"}
ALL = (FINANCE, MANAGERS, ELSEWHERE, ADMIN, MAIL)


@pytest.fixture(scope="module")
def company_of_module(server: EmbeddedPostgres, openid: OpenIdProvider) -> Iterator[Company]:
    with signing_in(server, "company_attacked", openid, ALL) as company:
        yield company


@pytest.fixture(autouse=True)
def _whole(company: Company) -> Iterator[None]:
    yield
    company.grant(*ALL)
    company.clock.advance(seconds=20)


def person(company: Company, openid: OpenIdProvider, sub: str, *groups: str) -> Person:
    openid.person = alice(sub=sub, groups=list(groups or ("ledger-finance",)))
    return Person(company).signed_in()


def short_lived(openid: OpenIdProvider) -> Callable[[Request], Answer]:
    """Access tokens of a minute."""

    def answer(request: Request) -> Answer:
        plain = openid._token(request)
        body = json.loads(plain.body)
        return as_json(body | ({"expires_in": 60} if "expires_in" in body else {}), plain.status)

    return answer


def unrotated(openid: OpenIdProvider) -> Callable[[Request], Answer]:
    """Refresh tokens that stay as they are."""

    def answer(request: Request) -> Answer:
        form = dict(parse_qsl(request.body.decode()))
        if form["grant_type"] != "refresh_token":
            return openid._token(request)
        token = form["refresh_token"]
        family, sid, _ = token.split(".")
        body = json.loads(openid._tokens(openid._refresh[token][1], sid, None, family).body)
        return as_json({name: value for name, value in body.items() if name != "refresh_token"})

    return answer


def test_one_persons_answer_stops_the_refresh_of_nobody_else(
    company: Company, openid: OpenIdProvider
) -> None:
    openid.answers["token"] = unrotated(openid)
    mallory, fired = person(company, openid, "mallory"), person(company, openid, "fired")
    openid.change("mallory", nickname="x" * 9000)
    openid.change("fired", groups=[])
    company.clock.advance(seconds=301)
    for _ in range(8):
        mallory.get("/ui")
        status = fired.get("/ui").status
        company.clock.advance(seconds=15)
    assert status == 401, "the right was withdrawn seven minutes ago"


def test_access_tokens_of_a_minute_end_no_session(company: Company, openid: OpenIdProvider) -> None:
    openid.answers["token"] = short_lived(openid)
    openid.bend(email=...)
    guest = person(company, openid, "minute")
    company.clock.advance(seconds=301)
    assert guest.is_signed_in(), openid.complaints


def test_access_tokens_of_a_minute_sign_in_without_refresh_token(
    company: Company, openid: OpenIdProvider
) -> None:
    openid.answers["token"] = short_lived(openid)
    openid.refreshes = False
    openid.bend(email=...)
    person(company, openid, "minute-2")


def test_a_fault_of_userinfo_loses_no_refresh_token(
    company: Company, openid: OpenIdProvider
) -> None:
    openid.bend(email=...)
    guest = person(company, openid, "rotated")
    company.clock.advance(seconds=301)
    openid.answers["userinfo"] = Answer(503)
    assert guest.is_signed_in()
    del openid.answers["userinfo"]
    company.clock.advance(seconds=20)
    assert guest.is_signed_in(), openid.complaints


def test_a_userinfo_of_another_person_ends_the_session(
    company: Company, openid: OpenIdProvider
) -> None:
    openid.repeats_id_token = False
    guest = person(company, openid, "other-sub")
    company.clock.advance(seconds=301)
    openid.answers["userinfo"] = as_json({"sub": "somebody", "groups": ["ledger-finance"]})
    assert not guest.is_signed_in()


MALLORYS: dict[str, tuple[Claims, Claims]] = {
    "an address alone, and another one that is verified": (
        {"email": "boss@example.com", "email_verified": ...},
        {"email": "mallory@example.com", "email_verified": True},
    ),
    "the word verified alone, and an address that is not": (
        {"email": ..., "email_verified": True},
        {"email": "boss@example.com", "email_verified": False},
    ),
    "the word verified alone, and an address alone": (
        {"email": ..., "email_verified": True},
        {"email": "boss@example.com", "email_verified": ...},
    ),
    "an address alone, and the word verified alone": (
        {"email": "boss@example.com", "email_verified": ...},
        {"email": ..., "email_verified": True},
    ),
}


@pytest.mark.parametrize(("in_token", "in_userinfo"), MALLORYS.values(), ids=MALLORYS.keys())
def test_an_address_is_verified_by_its_provider(
    company: Company, openid: OpenIdProvider, in_token: Claims, in_userinfo: Claims
) -> None:
    openid.bend(**in_token)
    openid.person = alice(sub="mail", groups=[], **in_userinfo)
    assert Person(company).arrive().status == 403


def test_an_address_of_one_answer_counts(company: Company, openid: OpenIdProvider) -> None:
    """Of the userinfo if the ID token lacks either claim, else of the ID token."""
    boss = {"email": "boss@example.com", "email_verified": True}
    nobody = {"email": "mallory@example.com", "email_verified": False}
    for lacking in boss:
        openid.bend(**nobody | {lacking: ...})
        openid.person = alice(sub="mail", groups=[], **boss)
        Person(company).signed_in()
    openid.bend(**boss)
    openid.person = alice(sub="mail", groups=[], **nobody)
    Person(company).signed_in()


def test_without_userinfo_half_of_an_address_is_none(
    company: Company, openid: OpenIdProvider
) -> None:
    company.forget_provider()
    openid.metadata = {"userinfo_endpoint": ...}
    openid.bend(email_verified=...)
    openid.person = alice(groups=["nobodys"], email="half@example.com")
    answer = Person(company).arrive()
    company.forget_provider()
    assert answer.status == 403
    assert "nobodys" in answer.text, "the person's claims are shown"
    assert "half@example.com" not in answer.text


# A provider that refuses to refresh.


def refusing(error: Any = "invalid_scope") -> Answer:
    return as_json({"error": error, "error_description": "of the provider"}, 400)


def refreshes(company: Company) -> dict[str, float]:
    """The refreshes so far, by outcome."""
    pattern = r'^ledger_session_refreshes_total\{outcome="(\w+)"\} (\S+)$'
    found = re.findall(pattern, company.get("/metrics").text, re.MULTILINE)
    return {outcome: float(count) for outcome, count in found}


def is_reported_refused(company: Company) -> bool:
    body = company.get("/readyz").json()
    assert (body["status"] == "degraded") == ("refreshes" in body)
    assert body.get("refreshes") in (None, {"refused": True})
    return "refreshes" in body


def test_a_refresh_names_no_scope(company: Company, openid: OpenIdProvider) -> None:
    """A provider may grant fewer scopes than requested, and then refuses those of the sign-in."""
    guest = person(company, openid, "scoped")
    openid.answers["token"] = lambda request: (
        refusing() if b"scope" in request.body else openid._token(request)
    )
    openid.change("scoped", groups=["nobodys"])
    company.clock.advance(seconds=301)
    assert not guest.is_signed_in(), "the right was withdrawn five minutes ago"


def test_a_refusal_to_refresh_is_reported_and_the_session_goes_on_for_an_hour(
    company: Company, openid: OpenIdProvider, caplog: pytest.LogCaptureFixture
) -> None:
    guest = person(company, openid, "refused")
    before = refreshes(company)
    openid.answers["token"] = refusing()
    company.clock.advance(seconds=301)
    for count in (1, 2, 3):
        assert not is_reported_refused(company)
        assert guest.is_signed_in()
        assert guest.is_signed_in(), "asked once in 15 seconds"
        assert refreshes(company) == before | {"refused": before["refused"] + count}
        company.clock.advance(seconds=15)
    assert is_reported_refused(company)
    messages = [each for each in caplog.records if "invalid_scope" in each.getMessage()]
    assert [each.levelname for each in messages] == ["WARNING"] * 3
    assert not any("of the provider" in each.getMessage() for each in caplog.records)
    company.clock.advance(seconds=3600)
    assert not is_reported_refused(company), "the last one was an hour ago"
    assert guest.get("/ui").status == 503
    assert is_reported_refused(company)
    openid.answers.clear()
    company.clock.advance(seconds=15)
    assert guest.is_signed_in()
    assert not is_reported_refused(company)


def test_refreshes_are_counted_by_how_they_end(company: Company, openid: OpenIdProvider) -> None:
    openid.bend(email=...)
    guest = person(company, openid, "counted")

    def counted() -> dict[str, float]:
        before = refreshes(company)
        assert before.keys() == {"refreshed", "ended", "refused", "unavailable"}
        company.clock.advance(seconds=301)
        guest.is_signed_in()
        now = refreshes(company)
        return {name: now[name] - before[name] for name in now if now[name] != before[name]}

    assert counted() == {"refreshed": 1}
    openid.answers["token"] = Answer(503)
    assert counted() == {"unavailable": 1}
    openid.answers["token"] = refusing("temporarily_unavailable")
    assert counted() == {"unavailable": 1}, "so it says"
    openid.answers = {"userinfo": Answer(500)}
    assert counted() == {"unavailable": 1}, "the claims cannot be read"
    openid.answers = {"token": refusing(["invalid_grant"])}
    assert counted() == {"refused": 1}
    openid.answers.clear()
    openid.withdraw()
    assert counted() == {"ended": 1}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("odd\r\nWARNING: \x1b[31m code", ": oddWARNING:[31mcode"),
        ("e" * 100_000, ": " + "e" * 60),
        ("\u202e", ": an error"),
        (["invalid_grant"], ": an error"),
    ],
)
def test_the_code_of_a_refusal_is_cleaned_and_short_in_the_log(
    company: Company,
    openid: OpenIdProvider,
    caplog: pytest.LogCaptureFixture,
    error: Any,
    message: str,
) -> None:
    guest = person(company, openid, "noisy")
    openid.answers["token"] = refusing(error)
    company.clock.advance(seconds=301)
    assert guest.is_signed_in()
    (line,) = (each.getMessage() for each in caplog.records if "refuse" in each.getMessage())
    assert line.endswith(message)


def test_a_session_that_is_not_confirmed_offers_a_new_sign_in(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(company, openid, "unconfirmed")
    page = guest.get("/ui")
    openid.answers["token"] = refusing()
    company.clock.advance(seconds=3901)
    sent_from = {"referer": f"{PUBLIC}/ui/runs"}
    for answer, back in (
        (guest.get("/ui/runs?limit=5"), "/ui/runs?limit=5"),
        (guest.post("/ui/theme", page.form("/ui/theme"), headers=sent_from), "/ui"),
    ):
        assert answer.status == 503
        assert answer.words(".refusal a.button")[:2] == ["Try again", "Sign in again"]
        (link,) = answer.all('a[href^="/ui/oidc/sign-in"]')
        assert parameters(str(link["href"])) == {"next": back}
    company.forget_provider()
    openid.answers = {"discovery": Answer(500)}
    away = guest.from_here(str(link["href"]))
    assert away.status == 503
    assert away.words(".refusal a.button") == ["Try again", "Go to the first page"]
    company.forget_provider()
    openid.answers.clear()
    former = guest.session
    leaving = guest.from_here(str(link["href"]))
    assert led_to(guest.come_back(guest.visit(leaving.location))) == "/ui"
    assert guest.session != former
    assert guest.is_signed_in()


def test_a_read_node_offers_no_new_sign_in(company: Company, openid: OpenIdProvider) -> None:
    guest = person(company, openid, "read-only")
    reading = prepare_reading(company.settings, company.conninfo)
    app = create_reading_api(company.settings, reading, company.clock)
    with company.second_worker(app) as node:
        reader = guest.on(node)
        until(lambda: reader.get("/ui").status == 200, "the read node")
        company.clock.advance(seconds=3901)
        answer = reader.get("/ui")
        assert answer.status == 503
        assert answer.words(".refusal a.button") == ["Try again", "Go to the first page"]


@pytest.mark.parametrize("text", ["", "half"])
def test_a_file_that_is_being_written_ends_no_session(
    company: Company, openid: OpenIdProvider, text: str
) -> None:
    guest = person(company, openid, f"writing-{text}", "ledger-elsewhere")
    whole = company.grants.read_text()
    company.grants.write_text(text and whole[: whole.index("[[grant]]", 1)])
    company.check_grants()
    guest.get("/ui")
    company.grants.write_text(whole)
    company.reread_grants()
    assert guest.is_signed_in()


def test_the_entry_of_another_tenant_names_no_credential_of_this_one(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(company, openid, "both", "ledger-finance", "ledger-elsewhere")
    for organization in (OTHER, ORGANIZATION):
        assert choose(guest, organization).status == 303
    manager = company.token("read", "keys:manage")
    (found,) = (each for each in company.data("/v1/sessions", manager) if each["sub"] == "both")
    assert company.request("DELETE", f"/v1/sessions/{found['id']}", manager).status_code == 204
    neighbour = company.token("audit:read", organization_id=OTHER)
    path = f"/v1/audit-logs?action=session.end&organization_id={OTHER}"
    entries = [e for e in company.data(path, neighbour) if e["resource"]["id"] == found["id"]]
    assert "KEY-" not in json.dumps(entries)


def test_the_audit_log_tells_who_became_administrator(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(company, openid, "becomes-admin", "ledger-finance", "ledger-admins")
    assert choose(guest, "*").status == 303
    ((id,),) = company.select("SELECT session_id FROM ledger.session WHERE sub = 'becomes-admin'")
    admin = company.token("admin", organization_id=None)
    begins = company.data("/v1/audit-logs?action=session.begin&limit=100", admin)
    entries = [each["resource"] for each in begins if each["resource"]["id"] == id]
    assert ["admin"] in [each["permissions"] for each in entries], entries


def test_a_person_can_sign_out_while_the_provider_is_away(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(company, openid, "stays")
    form = guest.get("/ui").form("/ui/sign-out")
    openid.is_away = True
    company.clock.advance(seconds=3901)
    assert guest.get("/").all("#token"), "the page with the form for tokens"
    assert guest.post("/ui/sign-out", form).status in (200, 303)


def test_a_stream_lasts_no_longer_than_its_pages(company: Company, openid: OpenIdProvider) -> None:
    guest = person(company, openid, "streams")
    sessions = company.service.app.state.services.of(Sessions)
    assert guest.session is not None
    visitor = company.run(sessions.visitor(guest.session.removesuffix(".s"), None))
    openid.is_away = True
    company.clock.advance(seconds=3901)
    assert guest.get("/ui").status == 503
    assert company.run(sessions.lapsed([visitor.principal]))


def test_a_session_whose_time_is_over_is_not_ended_once_more(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(company, openid, "lapses")
    company.clock.advance(seconds=604_900)
    guest.signed_in()
    path = f"/v1/audit-logs?action=session.end&limit=100&organization_id={ORGANIZATION}"
    entries = company.data(path)
    assert "lapses" not in [each["actor"]["id"] for each in entries]


@pytest.mark.parametrize("iat", [-1e300, -(10**30), -62135596801])
def test_an_instant_beyond_all_calendars_is_refused(
    company: Company, openid: OpenIdProvider, iat: Any
) -> None:
    openid.bend(iat=iat)
    assert Person(company).arrive().status == 400


def test_too_many_fields_are_refused(company: Company) -> None:
    many = "&".join(f"f{n}=1" for n in range(101))
    assert Person(company).get(f"/ui/oidc/callback?{many}").status == 400
    answer = Person(company).post("/ui/oidc/logout", {f"f{n}": "1" for n in range(101)})
    assert answer.status == 400


def test_a_neighbour_who_names_a_person_learns_no_name(
    company: Company, openid: OpenIdProvider
) -> None:
    person(company, openid, "known-0001", "ledger-elsewhere")
    paused = fact("service_line.paused", company.fresh(), actortype="user", actorid="known-0001")
    company.accept(paused)
    page = visitor(company, "read", "audit:read").get(f"/ui/lines/{paused['subject']}")
    assert "known-0001" in page.text
    assert "Alice Moser" not in page.answer.text
    person(company, openid, "known-0001")
    page = visitor(company, "read").get(f"/ui/lines/{paused['subject']}")
    assert "Alice Moser known-0001" in page.text, "a colleague, who has entered here"


def test_rights_that_a_file_widens_are_recorded_in_the_audit_log(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(company, openid, "widened")
    company.grant(FINANCE | {"permissions": ["read", "keys:manage"]})
    assert guest.get("/ui/keys").status == 200
    auditor = company.token("audit:read")
    path = f"/v1/audit-logs?action=session.begin&organization_id={ORGANIZATION}&limit=100"
    found = [e["resource"] for e in company.data(path, auditor) if e["actor"]["id"] == "widened"]
    assert [each["permissions"] for each in found] == [["read"], ["keys:manage", "read"]]
