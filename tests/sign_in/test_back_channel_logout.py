"""Logout by the back channel: the provider ends sessions by a signed token."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.facts import ORGANIZATION
from tests.support.openid import (
    CLIENT,
    LOGOUT_EVENT,
    SECRET,
    Claims,
    Company,
    OpenIdProvider,
    Person,
    Signer,
    alice,
    by_key,
    by_secret,
    unsigned,
)
from tests.support.visitor import Visited, Visitor

PATH = "/ui/oidc/logout"


def signed_in(company: Company, openid: OpenIdProvider, sub: str) -> tuple[Person, str]:
    """A person who signed in five seconds ago by the provider's clock, and the ``sid`` of that."""
    openid.person = alice(sub=sub)
    openid.ago = 5
    guest = Person(company).signed_in()
    openid.ago = 0
    return guest, openid.sid


def send(company: Company, token: str, **options: Any) -> Visited:
    """Send a logout token as the provider does: without cookies, and from no page."""
    return Visitor(company).post(PATH, {"logout_token": token}, **options)


def assert_refused(answer: Visited) -> None:
    assert answer.status == 400, answer.text
    assert answer.answer.json()["error"] == "invalid_request"
    assert answer.answer.headers["content-type"].startswith("application/json")
    assert "no-store" in answer.answer.headers["cache-control"]


def test_a_sid_ends_its_session_alone(company: Company, openid: OpenIdProvider) -> None:
    one, sid = signed_in(company, openid, "sid-owner")
    other, _ = signed_in(company, openid, "sid-owner")
    answer = send(company, openid.logout_token(sid=sid, sub="sid-owner"))
    assert answer.status == 200
    assert "no-store" in answer.answer.headers["cache-control"]
    assert not one.is_signed_in()
    assert other.is_signed_in()


def test_a_subject_ends_all_of_its_sessions_on_all_nodes(
    company: Company, openid: OpenIdProvider
) -> None:
    one, _ = signed_in(company, openid, "everywhere")
    two, _ = signed_in(company, openid, "everywhere")
    neighbour, _ = signed_in(company, openid, "neighbour")
    with company.second_node() as node:
        assert one.on(node).is_signed_in()
        assert send(company, openid.logout_token(sub="everywhere")).status == 200
        assert not one.on(node).is_signed_in()
        assert not two.on(node).is_signed_in()
    assert not one.is_signed_in()
    assert neighbour.is_signed_in()


def test_a_sid_of_another_subject_ends_nothing(company: Company, openid: OpenIdProvider) -> None:
    guest, sid = signed_in(company, openid, "alice-2")
    answer = send(company, openid.logout_token(sid=sid, sub="mallory"))
    assert answer.status == 200
    assert guest.is_signed_in()


def test_a_session_that_begins_after_the_token_was_made_goes_on(
    company: Company, openid: OpenIdProvider
) -> None:
    signed_in(company, openid, "again")
    openid.ago = 10
    token = openid.logout_token(sub="again")
    later, _ = signed_in(company, openid, "again")
    assert send(company, token).status == 200
    assert later.is_signed_in()


def test_an_unknown_session_is_no_fault(company: Company, openid: OpenIdProvider) -> None:
    assert send(company, openid.logout_token(sid="sid-unknown")).status == 200
    assert send(company, openid.logout_token(sub="unknown")).status == 200


def test_a_token_that_is_sent_again_ends_nothing_more(
    company: Company, openid: OpenIdProvider
) -> None:
    guest, _ = signed_in(company, openid, "replayed")
    token = openid.logout_token(sub="replayed")
    assert send(company, token).status == 200
    assert not guest.is_signed_in()
    openid.person = alice(sub="replayed")
    openid.bend(iat=int(time.time()) + 2)
    guest = Person(company).signed_in()
    assert send(company, token).status == 200
    assert guest.is_signed_in()


def test_sessions_by_token_do_not_end(company: Company, openid: OpenIdProvider) -> None:
    guest = Person(company)
    guest.sign_in(company.token("read"))
    assert send(company, openid.logout_token(sub="")).status == 400
    assert guest.is_signed_in()


WRONG: dict[str, Callable[[int], Claims]] = {
    "another issuer": lambda _: {"iss": "https://evil.example"},
    "no issuer": lambda _: {"iss": ...},
    "another audience": lambda _: {"aud": "billing"},
    "no audience": lambda _: {"aud": ...},
    "a nonce": lambda _: {"nonce": "n"},
    "a nonce that is null": lambda _: {"nonce": None},
    "no events": lambda _: {"events": ...},
    "other events": lambda _: {"events": {"http://schemas.openid.net/event/other": {}}},
    "events that are a list": lambda _: {"events": [LOGOUT_EVENT]},
    "an event that is no object": lambda _: {"events": {LOGOUT_EVENT: "now"}},
    "neither subject nor session": lambda _: {"sub": ...},
    "a subject that is a number": lambda _: {"sub": 7},
    "a session that is a list": lambda _: {"sid": ["a"]},
    "no instant of issue": lambda _: {"iat": ...},
    "an instant of issue that is text": lambda at: {"iat": str(at)},
    "an instant of issue three minutes ago": lambda at: {"iat": at - 180},
    "an instant of issue in three minutes": lambda at: {"iat": at + 180},
    "an end in the past": lambda at: {"exp": at - 60},
}
SIGNERS: dict[str, tuple[Signer | None, Claims]] = {
    "the algorithm none": (unsigned, {}),
    "an HMAC by the client's secret": (by_secret(SECRET), {}),
    "a foreign key by the same name": (by_key("rsa-2"), {}),
    "a foreign key by its own name": (by_key("rsa-2"), {"kid": "rsa-2"}),
    "no name of a key": (None, {"kid": ...}),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_a_token_with_a_wrong_claim_ends_nothing(
    company: Company, openid: OpenIdProvider, wrong: Callable[[int], Claims]
) -> None:
    guest, _ = signed_in(company, openid, "kept")
    now = int(time.time())
    assert_refused(send(company, openid.logout_token(**({"sub": "kept"} | wrong(now)))))
    assert guest.is_signed_in()


@pytest.mark.parametrize(("signer", "header"), SIGNERS.values(), ids=SIGNERS.keys())
def test_a_token_with_a_wrong_signature_ends_nothing(
    company: Company, openid: OpenIdProvider, signer: Signer | None, header: Claims
) -> None:
    guest, sid = signed_in(company, openid, "signed")
    token = openid.logout_token(sid=sid, sub="signed", signer=signer, header=header)
    assert_refused(send(company, token))
    assert guest.is_signed_in()


def test_an_id_token_is_no_logout_token(company: Company, openid: OpenIdProvider) -> None:
    guest, sid = signed_in(company, openid, "twofold")
    assert_refused(send(company, openid.id_token("twofold", sid)))
    assert guest.is_signed_in()


@pytest.mark.parametrize("claims", [{}, {"aud": ["billing", CLIENT], "header": {"typ": ...}}])
def test_a_sid_without_subject_is_enough_with_several_audiences_and_no_type(
    company: Company, openid: OpenIdProvider, claims: Claims
) -> None:
    guest, sid = signed_in(company, openid, "untyped")
    assert send(company, openid.logout_token(sid=sid, **claims)).status == 200
    assert not guest.is_signed_in()


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "a.b", "\x00", "é", "A" * 9000])
def test_a_token_that_is_none_is_refused(company: Company, token: str) -> None:
    assert_refused(send(company, token))


def test_a_body_without_the_field_is_refused(company: Company, openid: OpenIdProvider) -> None:
    guest = Visitor(company)
    assert_refused(guest.post(PATH, {}))
    assert_refused(guest.post(PATH, {"token": openid.logout_token(sub="a")}))
    token = openid.logout_token(sub="a")
    twice = {"content-type": "application/x-www-form-urlencoded"}
    body = f"logout_token={token}&logout_token={token}"
    assert_refused(guest.request("POST", PATH, content=body.encode(), headers=twice))
    assert guest.request("POST", PATH, content=b"x" * 100_000, headers=twice).status == 413
    assert guest.request("POST", PATH, json={"logout_token": token}).status == 400
    assert guest.get(PATH).status == 404


def test_the_audit_log_says_that_the_provider_ended_it(
    company: Company, openid: OpenIdProvider
) -> None:
    signed_in(company, openid, "audited")
    assert send(company, openid.logout_token(sub="audited")).status == 200
    ((end,),) = company.select("SELECT max(notification_id) FROM ledger.ledger_events")
    path = f"/v1/audit-logs?organization_id={ORGANIZATION}&limit=100&action="
    headers = {"ledger-min-position": str(end)}
    begun = company.data(f"{path}session.begin&actor_id=audited", headers=headers)
    ended = company.data(f"{path}session.end", headers=headers)
    assert [
        each["resource"]["by"]
        for each in ended
        if each["resource"]["id"] == begun[0]["resource"]["id"]
    ] == ["provider"]
