"""Sessions: their ends, their list, their refresh, and the names of persons (contract, Sign-in)."""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.values import refusals
from tests.support.audits import SIBLING
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, WORKSPACE
from tests.support.openid import (
    FINANCE,
    Claims,
    Company,
    Grant,
    OpenIdProvider,
    Person,
    alice,
    as_json,
    led_to,
    signing_in,
)
from tests.support.receiver import Answer, Request
from tests.support.served import run_ledger

IDLE, WHOLE = 43_200, 604_800
OTHER = "ORG-26-000002"
FIELDS = {
    "id", "sub", "organization_id", "workspace_id", "permissions", "begun_at", "last_seen_at",
    "ends_at", "browser", "network", "by",
}  # fmt: skip
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
MANAGERS: Grant = FINANCE | {
    "value": "ledger-managers",
    "permissions": ["read", "audit:read", "service_lines:manage", "keys:manage"],
}
ELSEWHERE: Grant = FINANCE | {"value": "ledger-elsewhere", "organization_id": OTHER}
INSIDE: Grant = FINANCE | {"value": "ledger-inside", "workspace_id": WORKSPACE}


@pytest.fixture(scope="module")
def company_of_module(server: EmbeddedPostgres, openid: OpenIdProvider) -> Iterator[Company]:
    grants = (FINANCE, MANAGERS, ELSEWHERE, INSIDE)
    with signing_in(server, "company_sessions", openid, grants) as company:
        yield company


def person(company: Company, openid: OpenIdProvider, *groups: str, **claims: Any) -> Person:
    """A person of these groups who has signed in."""
    openid.person = alice(groups=list(groups or ("ledger-finance",)), **claims)
    return Person(company).signed_in()


def sessions(company: Edge, token: str | None = None) -> list[dict[str, Any]]:
    """The living sessions that a credential sees."""
    found: list[dict[str, Any]] = company.data("/v1/sessions", token)
    return found


def session_of(company: Company, sub: str) -> dict[str, Any]:
    (found,) = (each for each in sessions(company) if each["sub"] == sub)
    return found


def copy_of(guest: Person, edge: Edge) -> Person:
    """A thief with the same cookies."""
    return guest.on(edge)


# The ends of a session.


def test_a_session_ends_at_last_whatever_its_use(company: Company, openid: OpenIdProvider) -> None:
    guest = person(company, openid)
    for _ in range(WHOLE // 40_000):
        company.clock.advance(seconds=40_000)
        assert guest.is_signed_in()
        company.write_uses()
    company.clock.advance(seconds=WHOLE % 40_000 + 60)
    assert not guest.is_signed_in()


def test_a_session_without_refresh_token_ends_after_twelve_hours(
    company: Company, openid: OpenIdProvider
) -> None:
    openid.refreshes = False
    guest = person(company, openid)
    company.clock.advance(seconds=IDLE / 2)
    assert guest.is_signed_in()
    company.clock.advance(seconds=IDLE / 2 + 60)
    assert not guest.is_signed_in()


def test_the_settings_shorten_both_ends(server: EmbeddedPostgres, openid: OpenIdProvider) -> None:
    openid.reset()
    ends = {"session_idle_seconds": 600, "session_seconds": 1500}
    with signing_in(server, "company_short_sessions", openid, **ends) as company:
        guest = Person(company).signed_in()
        for _ in range(2):
            company.clock.advance(seconds=590)
            assert guest.is_signed_in()
            company.write_uses()
        company.clock.advance(seconds=400)
        assert not guest.is_signed_in(), "1580 s"
        guest.signed_in()
        company.clock.advance(seconds=660)
        assert not guest.is_signed_in()


def test_signing_out_ends_the_session_on_all_nodes_and_a_copied_cookie_with_it(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(company, openid)
    with company.second_node() as node:
        thief = copy_of(guest, node)
        assert thief.is_signed_in()
        led_to(guest.submit(guest.get("/ui"), "/ui/sign-out"))
        assert not thief.is_signed_in()
        assert not copy_of(thief, company).is_signed_in()


def test_signing_out_while_the_provider_is_away_still_ends_the_session(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(company, openid)
    thief = copy_of(guest, company)
    page = guest.get("/ui")
    openid.is_away = True
    led_to(guest.submit(page, "/ui/sign-out"))
    assert not thief.is_signed_in()


def test_signing_in_by_token_makes_a_session_too(company: Company) -> None:
    token = company.token("read")
    guest = Person(company)
    assert guest.sign_in(token).status == 303
    by_token = [each for each in sessions(company) if each["by"] == "token"]
    assert by_token
    assert token not in str(guest.session)
    assert len(str(guest.session)) < 100, "an id, no sealed token"
    thief = copy_of(guest, company)
    guest.submit(guest.get("/ui"), "/ui/sign-out")
    assert not thief.is_signed_in()


def test_signing_in_by_token_ends_the_browsers_former_session(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(company, openid)
    thief = copy_of(guest, company)
    assert guest.sign_in(company.token("read")).status == 303
    assert guest.is_signed_in()
    assert not thief.is_signed_in()


# The API, and one's own sessions.


def test_the_list_of_sessions_has_its_members(company: Company, openid: OpenIdProvider) -> None:
    openid.person = alice(sub="listed")
    guest = Person(company)
    guest.http.headers["user-agent"] = FIREFOX
    guest.signed_in()
    session = session_of(company, "listed")
    assert set(session) == FIELDS
    assert session["id"].startswith("SES-")
    assert len(session["id"]) == len("SES-") + 16
    int(session["id"].removeprefix("SES-"), 16)
    assert session["by"] == "provider"
    assert (session["organization_id"], session["workspace_id"]) == (ORGANIZATION, None)
    assert session["permissions"] == ["read"]
    assert "Firefox" in session["browser"]
    assert FIREFOX not in json.dumps(session), "the family alone"
    assert session["network"] != "127.0.0.1", "a prefix alone"
    assert session["begun_at"] <= session["last_seen_at"] < session["ends_at"]
    assert str(guest.session) not in json.dumps(session)


def test_a_use_moves_last_seen(company: Company, openid: OpenIdProvider) -> None:
    guest = person(company, openid, sub="seen")
    before = session_of(company, "seen")["last_seen_at"]
    company.clock.advance(seconds=600)
    assert guest.is_signed_in()
    company.write_uses()
    assert session_of(company, "seen")["last_seen_at"] > before


def test_a_session_that_was_deleted_has_ended_on_every_node(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(company, openid, sub="deleted")
    session = session_of(company, "deleted")
    with company.second_node() as node:
        assert guest.on(node).is_signed_in()
        answer = company.request("DELETE", f"/v1/sessions/{session['id']}")
        assert answer.status_code == 204, answer.text
        assert not guest.on(node).is_signed_in()
        assert not guest.is_signed_in()
    assert "deleted" not in [each["sub"] for each in sessions(company)]
    assert_problem(company.request("DELETE", f"/v1/sessions/{session['id']}"), 404, "not_found")


def test_sessions_of_other_tenants_and_wider_permissions_are_hidden_from_a_manager(
    company: Company, openid: OpenIdProvider
) -> None:
    person(company, openid, "ledger-elsewhere", sub="elsewhere")
    person(company, openid, "ledger-managers", sub="wider")
    inside = person(company, openid, "ledger-inside", sub="inside")
    admin = company.token("admin", organization_id=None)
    by_sub = {each["sub"]: each["id"] for each in sessions(company, admin)}
    assert {"elsewhere", "wider", "inside"} <= by_sub.keys()
    manager = company.token("read", "keys:manage")
    subs = {each["sub"] for each in sessions(company, manager)}
    assert "inside" in subs
    assert "elsewhere" not in subs
    answer = company.request("DELETE", f"/v1/sessions/{by_sub['elsewhere']}", manager)
    assert_problem(answer, 404, "not_found")
    answer = company.request("DELETE", f"/v1/sessions/{by_sub['wider']}", manager)
    assert answer.status_code == 403, "it may audit:read, which the manager may not"
    narrow = company.token("read", "keys:manage", workspace_id=SIBLING)
    assert "inside" not in {each["sub"] for each in sessions(company, narrow)}
    answer = company.request("DELETE", f"/v1/sessions/{by_sub['inside']}", narrow)
    assert_problem(answer, 404, "not_found")
    assert inside.is_signed_in()


def test_an_unknown_session_is_not_found(company: Company) -> None:
    for id in ("SES-0000000000000000", "SES-x", "x", "SES-" + "0" * 300, "%00"):
        assert company.request("DELETE", f"/v1/sessions/{id}").status_code == 404, id


def test_a_person_sees_and_ends_their_own_sessions_alone(
    company: Company, openid: OpenIdProvider
) -> None:
    here, there = (person(company, openid, sub="own") for _ in range(2))
    other = person(company, openid, sub="another")
    ids = {each["id"]: each["sub"] for each in sessions(company)}
    page = here.get("/ui/sessions")
    assert page.status == 200
    forms = [str(form["action"]) for form in page.all('form[action^="/ui/sessions/"]')]
    own = [f"/ui/sessions/{id}/end" for id, sub in ids.items() if sub == "own"]
    assert sorted(forms) == sorted(own)
    (foreign,) = (f"/ui/sessions/{id}/end" for id, sub in ids.items() if sub == "another")
    fields = page.form(own[0])
    assert here.post(foreign, fields).status == 404
    assert other.is_signed_in()
    for path in own:
        if here.is_signed_in():
            here.post(path, here.get("/ui/sessions").form(path))
    assert not here.is_signed_in() or not there.is_signed_in()


def test_the_end_of_a_session_needs_its_form_key(company: Company, openid: OpenIdProvider) -> None:
    guest = person(company, openid, sub="keyed")
    path = f"/ui/sessions/{session_of(company, 'keyed')['id']}/end"
    for fields, status in (({}, 422), ({"form_key": "x"}, 403)):
        assert guest.post(path, fields).status == status
    assert guest.is_signed_in()


# Refresh.


def test_claims_older_than_five_minutes_are_requested_again_at_use(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(company, openid)
    company.clock.advance(seconds=290)
    assert guest.is_signed_in()
    assert openid.count("refresh_token") == 0
    company.clock.advance(seconds=20)
    assert openid.count("refresh_token") == 0, "no use, no refresh"
    for _ in range(3):
        assert guest.is_signed_in()
    assert openid.count("refresh_token") == 1
    company.clock.advance(seconds=310)
    assert guest.is_signed_in()
    assert openid.count("refresh_token") == 2, "with the token that the last refresh gave"
    assert openid.complaints == []


CHANGES: dict[str, Claims] = {
    "a group that is gone": {"groups": ["everyone"]},
    "groups that are gone": {"groups": ...},
}


@pytest.mark.parametrize("repeats", [True, False], ids=["in an ID token", "in the userinfo"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_right_that_the_provider_withdraws_ends_within_five_minutes_of_use(
    company: Company, openid: OpenIdProvider, change: Claims, repeats: bool
) -> None:
    openid.repeats_id_token = repeats
    guest = person(company, openid)
    openid.change(**change)
    company.clock.advance(seconds=310)
    assert not guest.is_signed_in()
    openid.change(groups=["ledger-finance"])
    company.clock.advance(seconds=310)
    assert not guest.is_signed_in(), "a session that has ended stays so"


def test_a_refresh_that_is_refused_ends_the_session(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(company, openid)
    openid.withdraw()
    company.clock.advance(seconds=310)
    assert not guest.is_signed_in()
    assert not guest.is_signed_in()
    assert openid.count("refresh_token") == 1


def test_a_refresh_that_names_another_person_ends_the_session(
    company: Company, openid: OpenIdProvider
) -> None:
    """OpenID Connect Core 12.2: issuer and subject are those of the sign-in."""
    guest = person(company, openid)
    openid.bend(sub="mallory")
    company.clock.advance(seconds=310)
    assert not guest.is_signed_in()


@pytest.mark.parametrize(
    "away",
    [
        Answer(500),
        Answer(503),
        Answer(200, b"<html>"),
        Answer(action="drop"),
        Answer(429, headers={"retry-after": "1"}),
        as_json({"error": "temporarily_unavailable"}, 400),
    ],
    ids=["fault", "overload", "no JSON", "closed", "too many", "said so"],
)
def test_a_provider_that_is_away_keeps_sessions_for_an_hour(
    company: Company, openid: OpenIdProvider, away: Answer
) -> None:
    guest, other = person(company, openid), person(company, openid, sub="bob")
    openid.answers["token"] = away
    for minutes in (6, 40, 12):
        company.clock.advance(minutes=minutes)
        assert guest.is_signed_in(), minutes
        assert other.is_signed_in(), minutes
    openid.answers.clear()
    company.clock.advance(minutes=1)
    assert guest.is_signed_in(), "the token that was not used still works"
    openid.answers["token"] = away
    company.clock.advance(minutes=10)
    assert guest.is_signed_in()
    company.clock.advance(minutes=61)
    answer = guest.get("/ui")
    assert answer.status == 503


def test_while_a_slow_refresh_is_under_way_the_session_goes_on(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(company, openid)
    openid.answers["token"] = Answer(action="hang")
    company.clock.advance(seconds=310)
    assert guest.is_signed_in(), "at most ten seconds later"
    openid.answers.clear()


def test_two_nodes_refresh_a_session_once_at_a_time(
    company: Company, openid: OpenIdProvider
) -> None:
    """A strict provider takes a second use of a refresh token for theft, and ends the session."""
    guest = person(company, openid)
    with company.second_node() as node, ThreadPoolExecutor(8) as pool:
        for round in range(1, 4):
            company.clock.advance(seconds=310)
            openid.answers["token"] = _after_a_moment(openid)
            guests = [guest.on(edge) for edge in (company, node)] * 4
            assert all(pool.map(lambda each: each.is_signed_in(), guests))
            assert openid.count("refresh_token") == round
    assert openid.complaints == []


def _after_a_moment(openid: OpenIdProvider) -> Callable[[Request], Answer]:
    """The provider's own answer, 0.2 s later, so that requests meet."""

    def answer(request: Request) -> Answer:
        tokens = openid._token(request)
        return Answer(tokens.status, tokens.body, tokens.headers, delay_seconds=0.2)

    return answer


def test_the_refresh_token_is_sealed_in_the_database(
    company: Company, openid: OpenIdProvider
) -> None:
    person(company, openid)
    tables = company.select(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = 'ledger'"
        " AND (table_name LIKE '%session%' OR table_name LIKE '%person%')"
    )
    assert openid._refresh
    for (table,) in tables:
        rows = str(company.select(f"SELECT t::text FROM ledger.{table} AS t"))
        for token in openid._refresh:
            assert token not in rows
            assert token.encode().hex() not in rows


# Persons and the audit log.


def test_pages_show_the_name_of_the_latest_sign_in_and_the_log_the_subject_alone(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(
        company, openid, "ledger-managers", sub="moser", name="Anna Moser", email="anna@example.com"
    )
    line = company.fresh()
    answer = guest.submit(guest.get(f"/ui/lines/{line}"), f"/ui/lines/{line}/pause", reason="Why")
    assert answer.status == 303
    assert "Anna Moser" in guest.get(f"/ui/lines/{line}").text
    person(company, openid, "ledger-managers", sub="moser", name="Anna Huber")
    page = guest.get(f"/ui/lines/{line}").text
    assert "Anna Huber" in page
    assert "Anna Moser" not in page
    (hold,) = company.data(f"/v1/execution/{line}")["holds"]
    assert hold["by"] == {"type": "user", "id": "moser"}
    rows = str(company.select("SELECT convert_from(state, 'UTF8') FROM ledger.ledger_events"))
    for text in ("Anna", "anna@example.com"):
        assert text not in rows
        path = f"/v1/audit-logs?organization_id={ORGANIZATION}&limit=100&actor_id=moser"
        assert text not in company.get(path).text
        assert text not in company.get("/v1/events?limit=100").text


def test_the_command_line_lists_persons_and_forgets_one(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(
        company, openid, "ledger-managers", sub="forgotten", name="Vera Kunz", email="v@example.com"
    )
    environment = {
        **os.environ,
        "LEDGER_DATABASE_URL": company.conninfo,
        "LEDGER_MASTER_KEY": MASTER_KEY,
    }
    listed = run_ledger(environment, "persons", "list")
    assert listed.returncode == 0, listed.stderr
    for text in ("forgotten", "Vera Kunz", "v@example.com"):
        assert text in listed.stdout
    assert run_ledger(environment, "persons", "forget", "forgotten").returncode == 0
    assert "Vera Kunz" not in run_ledger(environment, "persons", "list").stdout
    assert "Vera Kunz" not in str(company.select("SELECT p::text FROM ledger.person AS p"))
    page = guest.get("/ui")
    assert page.status == 200, "the session goes on"
    assert "Vera Kunz" not in page.text
    assert "forgotten" in page.text


def audited(company: Company, sub: str) -> list[dict[str, Any]]:
    """The audit entries of this person's sessions: those of the organization, and of no tenant."""
    admin = company.token("admin", organization_id=None)
    ((end,),) = company.select("SELECT max(notification_id) FROM ledger.ledger_events")
    headers = {"ledger-min-position": str(end)}
    found: list[dict[str, Any]] = []
    for tenant in ({}, {"organization_id": ORGANIZATION}):
        params = {"limit": "100", "action": "session.begin,session.end,session.refuse"} | tenant
        while True:
            answer = company.get("/v1/audit-logs", admin, params=params, headers=headers).json()
            found += answer["data"]
            if not answer["meta"]["has_more"]:
                break
            params["cursor"] = answer["meta"]["cursor"]
    begun = {e["resource"]["id"] for e in found if e["resource"] and e["actor"]["id"] == sub}
    return [
        entry
        for entry in found
        if entry["actor"]["id"] == sub or (entry["resource"] or {}).get("id") in begun
    ]


def test_the_audit_log_tells_of_sessions_begun_ended_and_refused(
    company: Company, openid: OpenIdProvider
) -> None:
    guest = person(company, openid, "ledger-managers", sub="audited-1")
    guest.submit(guest.get("/ui"), "/ui/sign-out")
    person(company, openid, "ledger-managers", sub="audited-2")
    company.request("DELETE", f"/v1/sessions/{session_of(company, 'audited-2')['id']}")
    openid.person = alice(sub="audited-3", groups=["nobodys"])
    assert Person(company).arrive().status == 403
    found = {
        sub: [entry["action"] for entry in audited(company, sub)]
        for sub in ("audited-1", "audited-2", "audited-3")
    }
    assert [sorted(actions) for actions in found.values()] == [
        ["session.begin", "session.end"],
        ["session.begin", "session.end"],
        ["session.refuse"],
    ]
    ended = {
        sub: next(e for e in audited(company, sub) if e["action"] == "session.end")
        for sub in ("audited-1", "audited-2")
    }
    assert '"self"' in json.dumps(ended["audited-1"])
    assert '"administrator"' in json.dumps(ended["audited-2"])


def test_a_refused_person_is_of_no_tenant_and_shown_to_administrators_alone(
    company: Company, openid: OpenIdProvider
) -> None:
    openid.person = alice(sub="refused-1", groups=["nobodys"])
    assert Person(company).arrive().status == 403
    assert audited(company, "refused-1")
    token = company.token("read", "audit:read")
    ((end,),) = company.select("SELECT max(notification_id) FROM ledger.ledger_events")
    headers = {"ledger-min-position": str(end)}
    path = f"/v1/audit-logs?organization_id={ORGANIZATION}&limit=100&action=session.refuse"
    answer = company.get(path, token, headers=headers)
    assert "refused-1" not in answer.text


def test_the_refusals_of_a_person_beyond_the_days_limit_are_counted(
    company: Company, openid: OpenIdProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """10,000 sign-ins would take minutes; ``test_refusal_flood.py`` reaches the limit itself."""
    monkeypatch.setattr(refusals, "DAILY", 2)
    for sub, times in (("knocking", 5), ("beside-them", 1)):
        openid.person = alice(sub=sub, groups=["nobodys"])
        assert [Person(company).arrive().status for _ in range(times)] == [403] * times
    recorded = {sub: len(audited(company, sub)) for sub in ("knocking", "beside-them")}
    assert recorded == {"knocking": 2, "beside-them": 1}
    assert company.select(
        "SELECT credential, organization_id, count FROM ledger.refusals_omitted"
    ) == [("user:knocking at */*", None, 3)]


def test_events_of_sessions_are_not_published(company: Company, openid: OpenIdProvider) -> None:
    guest = person(company, openid, sub="unpublished")
    guest.submit(guest.get("/ui"), "/ui/sign-out")
    ((end,),) = company.select("SELECT max(notification_id) FROM ledger.ledger_events")
    answer = company.get("/v1/events?limit=100", headers={"ledger-min-position": str(end)})
    assert answer.status_code == 200
    assert "unpublished" not in answer.text
    assert "session." not in json.dumps(company.data("/v1/event-types"))


def test_a_refused_callback_leaves_no_session_and_no_entry(
    company: Company, openid: OpenIdProvider
) -> None:
    openid.bend(nonce="wrong")
    openid.person = alice(sub="no-entry")
    assert Person(company).arrive().status == 400
    assert audited(company, "no-entry") == []
    assert "no-entry" not in [each["sub"] for each in sessions(company)]


# The address at which the provider ends its own session.


def test_a_list_waits_for_the_position_that_is_requested(company: Company) -> None:
    manager = company.token("keys:manage")
    answer = company.get("/v1/sessions", manager, headers={"ledger-min-position": "999999999"})
    assert (answer.status_code, answer.json()["code"]) == (503, "behind")
    assert company.get("/v1/sessions", manager, headers=company.at_end).status_code == 200
