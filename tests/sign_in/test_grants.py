"""Grants: which claims of a person give which permissions where (contract, Sign-in, Grants)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.features.sign_in.access.grants import Grants
from tests.support.facts import ORGANIZATION, WORKSPACE
from tests.support.openid import (
    FINANCE,
    Claims,
    Company,
    Grant,
    OpenIdProvider,
    Person,
    alice,
    choose,
    led_to,
    signing_in,
)
from tests.support.visitor import Visited

OTHER = "ORG-26-000002"
HERE: Claims = {"organization_id": ORGANIZATION, "permissions": ["read"]}
THERE: Grant = {
    "claim": "groups",
    "value": "ledger-there",
    "organization_id": OTHER,
    "permissions": ["read", "webhooks:manage"],
}
HOOKS: Grant = {
    "claim": "groups",
    "value": "ledger-hooks",
    "organization_id": ORGANIZATION,
    "permissions": ["webhooks:manage"],
}
NARROW: Grant = {
    "claim": "groups",
    "value": "ledger-narrow",
    "organization_id": ORGANIZATION,
    "workspace_id": WORKSPACE,
    "permissions": ["read", "service_lines:manage"],
}
HOLDS: Grant = {
    "claim": "groups",
    "value": "ledger-holds",
    "organization_id": ORGANIZATION,
    "permissions": ["service_lines:manage"],
}
ADMINISTRATOR: Grant = {"claim": "groups", "value": "ledger-admins", "permissions": ["admin"]}
ALL: tuple[Grant, ...] = (
    FINANCE,
    THERE,
    HOOKS,
    HOLDS,
    NARROW,
    ADMINISTRATOR,
    {"claim": "/realm_access/roles", "value": "ledger", **HERE},
    {"claim": "/https:~1~1example.com~1~0roles", "value": "ledger", **HERE},
    {"claim": "https://example.com/unit", "value": "Köln", **HERE},
    {"claim": "email", "value": "boss@example.com", **HERE},
    {"claim": "level", "value": "1", **HERE},
    {"claim": "flag", "value": "true", **HERE},
    {"claim": "/list/0", "value": "first", **HERE},
)


@pytest.fixture(scope="module")
def company_of_module(server: EmbeddedPostgres, openid: OpenIdProvider) -> Iterator[Company]:
    """A service with many grants, which no test rewrites."""
    with signing_in(server, "company_grants", openid, ALL) as company:
        yield company


@pytest.fixture(scope="module")
def changing_of_module(server: EmbeddedPostgres, openid: OpenIdProvider) -> Iterator[Company]:
    """A service whose file of grants the tests rewrite."""
    with signing_in(server, "company_changing_grants", openid) as company:
        yield company


@pytest.fixture
def changing(changing_of_module: Company, openid: OpenIdProvider) -> Company:
    """The service with a changing file, whose only grant is that of finance again."""
    openid.reset()
    changing_of_module.grant(FINANCE)
    return changing_of_module


def in_groups(openid: OpenIdProvider, *groups: Any, **claims: Any) -> None:
    """Sign in a person of these groups next."""
    openid.person = alice(groups=list(groups), **claims)


def refused(guest: Person) -> Visited:
    """Assert that the person has no grant: 403, and no session."""
    answer = guest.arrive()
    assert answer.status == 403, (answer.status, answer.text)
    assert guest.session is None
    return answer


HOLDING: dict[str, Claims] = {
    "a value among others": {"groups": ["a", "ledger-finance", "b"]},
    "a value that is text": {"groups": "ledger-finance"},
    "a value beside what is no text": {"groups": [1, None, {"a": []}, "ledger-finance"]},
    "a pointer": {"realm_access": {"roles": ["offline", "ledger"]}},
    "a pointer with escapes": {"https://example.com/~roles": "ledger"},
    "a name with slashes": {"https://example.com/unit": ["Köln"]},
    "a verified address": {"email": "boss@example.com", "email_verified": True},
}


@pytest.mark.parametrize("claims", HOLDING.values(), ids=HOLDING.keys())
def test_a_grant_holds_where_the_claim_has_the_value(
    company: Company, openid: OpenIdProvider, claims: Claims
) -> None:
    openid.person = alice(**({"groups": ...} | claims))
    guest = Person(company).signed_in()
    assert guest.is_signed_in()
    assert guest.get("/ui/webhooks").status == 403, "only what is granted"


NOT_HOLDING: dict[str, Claims] = {
    "no claim": {},
    "an empty list": {"groups": []},
    "another case of letters": {"groups": ["Ledger-Finance"]},
    "a blank more": {"groups": ["ledger-finance ", " ledger-finance"]},
    "a part of the value": {"groups": ["ledger-financ", "ledger-finance-2"]},
    "values in one text": {"groups": "a ledger-finance b"},
    "values with commas": {"groups": "ledger-finance,ledger-hooks"},
    "a list in a list": {"groups": [["ledger-finance"]]},
    "an object with the value as name": {"groups": {"ledger-finance": True}},
    "an object with the value": {"groups": {"name": "ledger-finance"}},
    "a member of another name": {"Groups": ["ledger-finance"]},
    "a pointer as a name": {"/realm_access/roles": ["ledger"]},
    "a pointer through text": {"realm_access": "roles"},
    "a pointer through a list": {"realm_access": [{"roles": ["ledger"]}]},
    "a name as a pointer": {"https:": {"": {"example.com": {"unit": "Köln"}}}},
    "another form of the letters": {"https://example.com/unit": ["Ko\u0308ln"]},
    "a number": {"level": 1},
    "a number among others": {"level": [1, 1.0]},
    "a truth": {"flag": True},
    "an address that is not verified": {"email": "boss@example.com", "email_verified": False},
    "an address of which nothing is said": {"email": "boss@example.com", "email_verified": ...},
    "an address verified in words": {"email": "boss@example.com", "email_verified": "true"},
    "an address verified by a number": {"email": "boss@example.com", "email_verified": 1},
    "another address": {"email": "BOSS@example.com", "email_verified": True},
    "the claims of a token": {"organization_id": ORGANIZATION, "permissions": ["admin"]},
}


@pytest.mark.parametrize("claims", NOT_HOLDING.values(), ids=NOT_HOLDING.keys())
def test_a_grant_does_not_hold_where_the_claim_lacks_the_value(
    company: Company, openid: OpenIdProvider, claims: Claims
) -> None:
    openid.person = alice(**({"groups": ...} | claims))
    refused(Person(company))


def test_a_person_without_grant_sees_whom_to_ask_and_the_claims_as_they_came(
    company: Company, openid: OpenIdProvider
) -> None:
    in_groups(openid, "<b>sales</b>", "märz", name="Bob <script>")
    page = refused(Person(company))
    for text in ("alice-0001", "<b>sales</b>", "märz", "alice@example.com", "Bob <script>"):
        assert text in page.text
    assert not page.all("main b")
    assert not [tag for tag in page.all("script") if not tag.get("src")]
    for secret in ("nonce", "at_hash", "c_hash"):
        assert f'"{secret}"' not in page.answer.text


def test_grants_of_one_tenant_unite(company: Company, openid: OpenIdProvider) -> None:
    in_groups(openid, "ledger-finance", "ledger-hooks")
    guest = Person(company).signed_in()
    assert guest.get("/ui").status == 200
    assert guest.get("/ui/webhooks").status == 200


def test_a_grant_of_a_workspace_shows_that_alone(company: Company, openid: OpenIdProvider) -> None:
    inside = company.fresh()
    outside = company.fresh(workspace_id="WS-26-000009")
    in_groups(openid, "ledger-narrow")
    guest = Person(company).signed_in()
    assert guest.get(f"/ui/lines/{inside}").status == 200
    assert guest.get(f"/ui/lines/{outside}").status == 404


def test_a_grant_of_a_workspace_does_not_widen_that_of_the_organization(
    company: Company, openid: OpenIdProvider
) -> None:
    """Permissions unite within one (organization, workspace) alone."""
    line = company.fresh()
    in_groups(openid, "ledger-finance", "ledger-narrow")
    guest = Person(company).signed_in()
    assert choose(guest, ORGANIZATION).status == 303
    assert not guest.get(f"/ui/lines/{line}").all(f'form[action="/ui/lines/{line}/pause"]')
    assert choose(guest, f"{ORGANIZATION}/{WORKSPACE}").status == 303
    assert guest.get(f"/ui/lines/{line}").all(f'form[action="/ui/lines/{line}/pause"]')


def test_the_page_asks_a_person_of_two_organizations_and_remembers(
    company: Company, openid: OpenIdProvider
) -> None:
    line = company.fresh()
    in_groups(openid, "ledger-finance", "ledger-there")
    guest = Person(company)
    parameters = led_to(guest.arrive(f"/ui/lines/{line}"))
    page = guest.get(parameters)
    if page.status == 303:
        assert page.location.startswith("/ui/place")
        page = guest.get(page.location)
    for organization in (ORGANIZATION, OTHER):
        assert organization in page.text
    answer = choose(guest, ORGANIZATION, f"/ui/lines/{line}")
    assert (answer.status, answer.location) == (303, f"/ui/lines/{line}")
    assert guest.get(f"/ui/lines/{line}").status == 200
    assert guest.get("/ui/webhooks").status == 403, "a permission of the other organization"
    assert choose(guest, OTHER).status == 303
    assert guest.get(f"/ui/lines/{line}").status == 404
    assert guest.get("/ui/webhooks").status == 200
    with company.second_node() as node:
        assert guest.on(node).get("/ui/webhooks").status == 200, "remembered on all nodes"


def test_before_a_tenant_is_chosen_no_page_shows_anything(
    company: Company, openid: OpenIdProvider
) -> None:
    line = company.fresh()
    in_groups(openid, "ledger-finance", "ledger-there")
    guest = Person(company).signed_in()
    for path in ("/ui", f"/ui/lines/{line}", "/ui/webhooks", "/ui/runs"):
        answer = guest.get(path)
        assert (answer.status, urlsplit(answer.location).path) == (303, "/ui/place"), path
    assert guest.post(f"/ui/lines/{line}/pause", {"reason": "r"}).status == 401


@pytest.mark.parametrize(
    "organization",
    ["ORG-26-000003", "*", f"{ORGANIZATION}/{WORKSPACE}", f"{OTHER}/{WORKSPACE}", "", "x" * 5000],
)
def test_a_tenant_that_nobody_granted_cannot_be_chosen(
    company: Company, openid: OpenIdProvider, organization: str
) -> None:
    in_groups(openid, "ledger-finance", "ledger-there")
    guest = Person(company).signed_in()
    assert choose(guest, ORGANIZATION).status == 303
    assert choose(guest, organization).status == (422 if len(organization) > 4000 else 404)
    assert guest.get("/ui/webhooks").status == 403, "the former place stays"


def test_the_choice_needs_the_sessions_key_and_an_own_address(
    company: Company, openid: OpenIdProvider
) -> None:
    in_groups(openid, "ledger-finance", "ledger-there")
    guest = Person(company).signed_in()
    assert guest.post("/ui/place", {"place": OTHER, "next": "/ui"}).status == 403
    headers = {"sec-fetch-site": "cross-site"}
    assert guest.post("/ui/place", {"place": OTHER, "next": "/ui"}, headers=headers).status == 403
    assert choose(guest, OTHER, "https://evil.example/ui").location == "/ui"


def test_a_form_belongs_to_the_tenant_that_it_was_shown_for(
    company: Company, openid: OpenIdProvider
) -> None:
    """Of two tabs, one changes the place: the other's form must act on neither place."""
    line = company.fresh()
    in_groups(openid, "ledger-finance", "ledger-holds", "ledger-there", "ledger-narrow")
    guest = Person(company).signed_in()
    assert choose(guest, ORGANIZATION).status == 303
    form = guest.get(f"/ui/lines/{line}").form(f"/ui/lines/{line}/pause")
    assert choose(guest, f"{ORGANIZATION}/{WORKSPACE}").status == 303
    answer = guest.post(f"/ui/lines/{line}/pause", form | {"reason": "Review"})
    assert answer.status == 403
    assert company.data(f"/v1/execution/{line}")["state"] == "running"
    assert choose(guest, ORGANIZATION).status == 303
    assert guest.post(f"/ui/lines/{line}/pause", form | {"reason": "Review"}).status == 303


def test_an_administrators_grant_is_of_no_organization(
    company: Company, openid: OpenIdProvider
) -> None:
    line = company.fresh()
    in_groups(openid, "ledger-admins")
    guest = Person(company).signed_in()
    assert guest.get("/ui").status == 200
    assert guest.get(f"/ui/lines/{line}").status == 200


def test_an_administrator_of_an_organization_too_chooses_the_star(
    company: Company, openid: OpenIdProvider
) -> None:
    in_groups(openid, "ledger-admins", "ledger-there")
    line = company.fresh()
    guest = Person(company).signed_in()
    assert choose(guest, OTHER).status == 303
    assert guest.get(f"/ui/lines/{line}").status == 404
    assert choose(guest, "*").status == 303
    assert guest.get(f"/ui/lines/{line}").status == 200


# The file changes.


def test_a_grant_that_leaves_the_file_ends_its_sessions_on_every_node(
    changing: Company, openid: OpenIdProvider
) -> None:
    guest = Person(changing).signed_in()
    in_groups(openid, "ledger-hooks", sub="bob")
    changing.grant(FINANCE, HOOKS)
    bob = Person(changing).signed_in()
    with changing.second_node() as node:
        assert guest.on(node).is_signed_in()
        changing.grant(HOOKS)
        assert not guest.is_signed_in()
        assert not guest.on(node).is_signed_in()
    assert bob.get("/ui/webhooks").status == 200, "another person's session goes on"


def test_a_session_that_has_ended_does_not_come_back_with_its_grant(
    changing: Company, openid: OpenIdProvider
) -> None:
    guest = Person(changing).signed_in()
    changing.grant()
    assert not guest.is_signed_in()
    changing.grant(FINANCE)
    assert not guest.is_signed_in()
    assert Person(changing).signed_in().is_signed_in()


def test_a_changed_grant_holds_for_living_sessions(
    changing: Company, openid: OpenIdProvider
) -> None:
    in_groups(openid, "ledger-finance", "ledger-hooks")
    guest = Person(changing).signed_in()
    assert guest.get("/ui/webhooks").status == 403
    changing.grant(FINANCE, HOOKS | {"value": "ledger-finance"})
    assert guest.get("/ui/webhooks").status == 200
    changing.grant(HOOKS | {"value": "ledger-finance"})
    assert guest.get("/ui").status == 403
    assert guest.get("/ui/webhooks").status == 200


def test_a_session_keeps_no_claims_that_the_file_did_not_name(
    changing: Company, openid: OpenIdProvider
) -> None:
    in_groups(openid, "ledger-finance", department="a secret of the person's")
    guest = Person(changing).signed_in()
    tables = changing.select(
        "SELECT table_name FROM information_schema.tables"
        " WHERE table_schema = 'ledger' AND table_name LIKE '%session%'"
    )
    rows = [
        str(row)
        for (table,) in tables
        for row in changing.select(f"SELECT t::text FROM ledger.{table} AS t")
    ]
    assert any("ledger-finance" in row for row in rows)
    assert not any("a secret of the person's" in row for row in rows)
    changing.grant({"claim": "department", "value": "a secret of the person's", **HERE})
    assert not guest.is_signed_in()


BROKEN: dict[str, str] = {
    "no TOML": "[[grant",
    "an unknown table": "[[grants]]\nclaim = 'groups'\n",
    "an unknown key": "[[grant]]\nclaim='a'\nvalue='b'\npermissions=['read']\nwho='x'\n"
    "organization_id='ORG-26-000001'\n",
    "no claim": "[[grant]]\nvalue='b'\npermissions=['read']\norganization_id='ORG-26-000001'\n",
    "a value that is no text": "[[grant]]\nclaim='a'\nvalue=1\npermissions=['read']\n"
    "organization_id='ORG-26-000001'\n",
    "an unknown permission": "[[grant]]\nclaim='a'\nvalue='b'\npermissions=['reed']\n"
    "organization_id='ORG-26-000001'\n",
    "no organization": "[[grant]]\nclaim='a'\nvalue='b'\npermissions=['read']\n",
    "an organization that is no id": "[[grant]]\nclaim='a'\nvalue='b'\npermissions=['read']\n"
    "organization_id='acme'\n",
    "a broken pointer": "[[grant]]\nclaim='/a~2'\nvalue='b'\npermissions=['read']\n"
    "organization_id='ORG-26-000001'\n",
    "bytes that are no text": "\udcff",
}


def test_of_a_broken_file_the_former_grants_stay_and_readiness_tells_it(
    changing: Company, openid: OpenIdProvider
) -> None:
    guest = Person(changing).signed_in()
    for name, text in BROKEN.items():
        changing.grants.write_text(text, errors="surrogateescape")
        changing.reread_grants()
        assert _is_reported_broken(changing), name
        assert guest.is_signed_in(), name
        Person(changing).signed_in()
        changing.grant(FINANCE)
        assert not _is_reported_broken(changing), name


def test_a_file_that_is_gone_is_a_broken_one(changing: Company, openid: OpenIdProvider) -> None:
    guest = Person(changing).signed_in()
    changing.grants.unlink()
    changing.reread_grants()
    assert _is_reported_broken(changing)
    assert guest.is_signed_in()


def _is_reported_broken(company: Company) -> bool:
    answer = company.get("/readyz")
    assert answer.status_code == 200
    body = answer.json()
    is_broken = bool(body.get("grants", {}).get("broken"))
    assert not is_broken or body["status"] == "degraded"
    return is_broken


@pytest.mark.parametrize("text", [None, *BROKEN.values()], ids=["no file", *BROKEN.keys()])
def test_a_broken_file_says_why_at_the_start(tmp_path: Path, text: str | None) -> None:
    """``ledger serve`` then does not start (tests/whole/crash)."""
    file = tmp_path / "grants.toml"
    if text is not None:
        file.write_text(text, errors="surrogateescape")
    assert Grants(file).why_broken


def test_without_a_file_the_claims_of_a_token_are_read(
    server: EmbeddedPostgres, openid: OpenIdProvider
) -> None:
    openid.reset()
    with signing_in(server, "company_without_grants", openid, None) as company:
        refused(Person(company))
        tenant = {"organization_id": ORGANIZATION, "permissions": ["read", "another:service"]}
        for claims in (
            {"organization_id": ORGANIZATION},
            {"permissions": ["read"]},
            tenant | {"organization_id": "acme"},
            tenant | {"permissions": "read"},
            tenant | {"workspace_id": 7},
        ):
            openid.person = alice(**claims)
            refused(Person(company))
        openid.person = alice(**tenant)
        guest = Person(company).signed_in()
        assert guest.get("/ui").status == 200
        assert guest.get("/ui/webhooks").status == 403
        openid.person = alice(permissions=["admin"])
        assert Person(company).signed_in().get("/ui").status == 200
