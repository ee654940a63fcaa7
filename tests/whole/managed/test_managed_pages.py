"""Rules for the pages of all things that people manage: each form, and who may send it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tests.support.edge import Edge
from tests.support.visitor import Visited, Visitor, visitor
from tests.support.watches import BLOCKED
from tests.whole.managed import things
from tests.whole.managed.things import Site, Thing


class Form(NamedTuple):
    """A form of a thing's page."""

    name: str
    action: str
    """The action of the audit log."""
    fields: Mapping[str, str] = MappingProxyType({})
    """The fields that a test fills in."""
    page: str = ""
    """The address of its page, behind that of the thing."""
    is_page: bool = False
    """True if the answer is a page, with a secret."""


class Pages(NamedTuple):
    """The pages of a kind of things."""

    thing: Thing
    new: str
    """The address of the form for a new thing, behind that of the list."""
    fields: dict[str, str]
    """The fields of a new thing."""
    row: dict[str, Any]
    """The status on the page then."""
    wrong: dict[str, str]
    refusal: tuple[str, ...]
    """Words of the refusal of the wrong form."""
    forms: tuple[Form, ...]

    @property
    def path(self) -> str:
        return f"/ui/{self.thing.path}"


FORMS = (
    "main form[method=post], dialog form[method=post], dialog.acting, [hx-target='#watch'],"
    " [hx-target='#issue']"
)
"""Parts of pages for those who may change something."""
_APRIL = {"first_day": "2026-04-01", "last_day": "2026-04-14"}
PAGES = (
    Pages(
        things.KEYS,
        "",
        {"name": "Billing", "permission:read": "on", "expires": "30"},
        {"name": "Billing", "permissions": ["read"]},
        {"name": "Mine", "expires": "365", "workspace_id": "WS-26-1"},
        ("Permissions: choose at least one.", "Workspace: has the wrong format."),
        (
            Form("change", "key.update", {"name": "after"}),
            Form("rotate", "key.rotate", is_page=True),
            Form("revoke", "key.revoke"),
        ),
    ),
    Pages(
        things.WEBHOOKS,
        "",
        {"url": things.URL, "which": "chosen", "type:run.failed": "on", "description": "Billing"},
        {"url": things.URL, "event_types": ["run.failed"], "description": "Billing"},
        {"description": "Mine", "which": "chosen", "workspace_id": "WS-26-1"},
        ("URL: ", "Events: ", "Workspace: "),
        (
            Form("change", "webhook.update", {"url": things.URL, "which": "all"}),
            Form("switch", "webhook.update", {"enabled": "false"}),
            Form("recover", "webhook.recover", {"since": "2026-04-15T00:00:00"}),
            Form("test", "webhook.test"),
            Form("rotate-secret", "webhook.rotate_secret", is_page=True),
            Form("remove", "webhook.delete"),
        ),
    ),
    Pages(
        things.WATCHES,
        "/new",
        {"name": "Calm", "severity": "info"},
        {"name": "Calm", "severity": "info", "condition": BLOCKED},
        {"name": "x" * 201, "project_tag": "PROJ-9"},
        ("must have at most 200 characters",),
        (
            Form("change", "watch.update", {"name": "after"}, "/change"),
            Form("switch", "watch.update", {"enabled": "false"}),
            Form("remove", "watch.delete"),
        ),
    ),
    Pages(
        things.STATEMENTS,
        f"/new?{'&'.join(f'{name}={day}' for name, day in _APRIL.items())}",
        {"note": "One\r\nTwo", "reference": "INV-1"},
        {"note": "One\nTwo", "reference": "INV-1"},
        {"reference": "x" * 201, "note": "Kept"},
        ("Reference: must have at most 200 characters",),
        (Form("withdraw", "statement.withdraw", {"reason": "A mistake"}),),
    ),
)


class Desk(Site):
    """A visitor who manages things by their pages."""

    def __init__(self, edge: Edge, pages: Pages) -> None:
        super().__init__(edge, pages.thing)
        self.pages, self.path = pages, pages.path
        self.guest = Visitor(edge, self.token)

    def open(self, guest: Visitor, query: str = "") -> Visited:
        """The page with the form for a new thing."""
        page = guest.get(f"{self.path}{self.pages.new}{query}")
        assert page.status == 200, page.text
        return page

    def form_keys(self, guest: Visitor) -> dict[str, str]:
        """The hidden fields of each form of the visitor's session."""
        return {"form_key": guest.get("/ui").form("/ui/zone")["form_key"], "request_key": "k"}

    def addresses(self, thing_id: str) -> list[tuple[str, str]]:
        """The address of each form, and its action."""
        of_thing = [(f"{self.path}/{thing_id}/{f.name}", f.action) for f in self.pages.forms]
        return [(self.path, self.thing.creates), *of_thing]


@pytest.fixture(params=PAGES, ids=lambda pages: pages.thing.path)
def desk(edge: Edge, request: pytest.FixtureRequest) -> Desk:
    return Desk(edge, request.param)


def test_a_form_that_is_sent_twice_sets_up_one_thing(desk: Desk) -> None:
    fields = desk.open(desk.guest).form(desk.path) | desk.pages.fields
    before = {*desk.ids()}
    first, second = (desk.guest.post(desk.path, fields) for _ in range(2))
    (made,) = {*desk.ids()} - before
    row = desk.row(made)
    assert row | desk.pages.row == row
    page = f"{desk.path}/{made}"
    if desk.thing.secret is None:
        assert (first.status, second.status) == (303, 303)
        assert first.location == second.location
        assert first.location.partition("?")[0] == page
        assert len(desk.guest.get(first.location).words(".done")) == 1
        return
    assert first.words("pre")[0] == second.words("pre")[0]
    assert first.one(".secret a.button")["href"] == page
    assert first.answer.headers["cache-control"] == "no-store"
    for path in (desk.path, page):
        assert first.words("pre")[0] not in desk.guest.get(path).answer.text


def test_a_refused_form_says_why_keeps_what_was_typed_and_can_be_sent(desk: Desk) -> None:
    typed, before = desk.pages.wrong, desk.head()
    page = desk.guest.submit(desk.open(desk.guest), desk.path, **typed)
    assert page.status == 422
    (refusal, *_) = page.words(".refused")
    assert "Nothing was changed." in refusal
    for text in desk.pages.refusal:
        assert text in refusal
    form = page.one(f'form[action="{desk.path}"][method=post]')
    assert all(details.has_attr("open") for details in form.find_parents("details"))
    values = page.form(desk.path)
    assert values | typed == values
    assert desk.entries(before) == [(desk.thing.creates, "invalid_request", None)]
    fields = dict.fromkeys({"workspace_id"} & {*values}, "") | desk.pages.fields
    assert desk.guest.submit(page, desk.path, **fields).status in (200, 303)


def test_an_administrator_names_the_organization(desk: Desk) -> None:
    admin = Visitor(desk.edge, desk.admin)
    page = desk.open(admin)
    if "organization_id" in page.form(desk.path):
        refused = admin.submit(page, desk.path, **desk.pages.fields)
        assert refused.status == 422
        assert "Organization: is required" in refused.text
    fields = desk.pages.fields | {"organization_id": desk.organization}
    join = "&" if "?" in desk.pages.new else "?"
    page = desk.open(admin, f"{join}organization_id={desk.organization}")
    assert admin.submit(page, desk.path, **fields).status in (200, 303)
    row = desk.rows()[0]
    assert row | desk.pages.row == row
    assert "organization_id" not in desk.open(desk.guest).form(desk.path)


def test_a_credential_of_a_workspace_sets_up_things_of_that(desk: Desk) -> None:
    guest = Visitor(desk.edge, desk.narrow)
    page = desk.open(guest)
    form = f'form[action="{desk.path}"][method=post]'
    assert page.all(f"{form} [name=workspace_id]:not([type=hidden])") == []
    assert guest.submit(page, desk.path, **desk.pages.fields).status in (200, 303)
    row = desk.rows()[0]
    assert row | desk.pages.row | {"workspace_id": desk.workspace} == row


def test_each_form_of_a_thing_is_carried_out_once_though_it_is_sent_twice(desk: Desk) -> None:
    for form in desk.pages.forms:
        made = desk.make()["id"]
        page = f"{desk.path}/{made}"
        address, before = f"{page}/{form.name}", desk.head()
        fields = desk.guest.get(page + form.page).form(address) | {**form.fields}
        for _ in range(2):
            answer = desk.guest.post(address, fields)
            assert answer.status == (200 if form.is_page else 303), answer.text
        assert desk.entries(before) == [(form.action, None, made)], "sent twice, carried out once"
        if not form.is_page:
            assert len(desk.guest.get(answer.location).words(".done")) == 1
            assert (answer.location.partition("?")[0] == page) == (made in desk.ids())
        assert (desk.guest.get(page).status == 404) == (made not in desk.ids())


def test_the_address_of_a_form_leads_to_the_page_that_it_is_on(desk: Desk) -> None:
    for form in desk.pages.forms:
        page = f"{desk.path}/{desk.thing.nobodys}"
        answer = desk.guest.get(f"{page}/{form.name}")
        assert form.page or (answer.status, answer.location) == (303, page)


def test_a_form_of_no_session_changes_nothing(desk: Desk) -> None:
    made = desk.make()
    before = desk.head()
    for path, _ in desk.addresses(made["id"]):
        for key in ({}, {"form_key": ""}, {"form_key": "x" * 32}):
            assert desk.guest.post(path, {"name": "n", "request_key": "k"} | key).status == 403
    assert desk.head() == before
    assert desk.row(made["id"]) == made


def test_without_the_permission_no_page_has_a_form_and_no_form_is_accepted(desk: Desk) -> None:
    made = desk.make()
    tenant = {"organization_id": desk.organization}
    reader = visitor(desk.edge, "read", "audit:read", **tenant)
    for path in (desk.path, f"{desk.path}/{made['id']}"):
        page = reader.get(path)
        assert page.all(FORMS) == []
        if page.status == 403:
            assert f"({desk.thing.rights[-1]})." in page.text
    keys, before = desk.form_keys(reader), desk.head()
    addresses = desk.addresses(made["id"])
    for path, _ in addresses:
        assert reader.post(path, keys | desk.pages.fields).status == 403
    refused = [(action, "forbidden") for _, action in addresses]
    assert [entry[:2] for entry in desk.entries(before)] == refused
    assert desk.row(made["id"]) == made


def test_a_thing_of_another_tenant_does_not_exist(desk: Desk) -> None:
    neighbour = Site(desk.edge, desk.thing)
    theirs, mine = neighbour.make(), desk.make(workspace_id=things.SIBLING)
    keys = {
        name: value
        for name, value in desk.open(desk.guest).form(desk.path).items()
        if name in ("form_key", "request_key")
    }
    for thing_id in (theirs["id"], desk.thing.nobodys, f"{desk.thing.prefix}-26-1"):
        assert desk.guest.get(f"{desk.path}/{thing_id}").status == 404
        before = desk.head()
        for form in desk.pages.forms:
            address = f"{desk.path}/{thing_id}/{form.name}"
            assert desk.guest.post(address, keys | {**form.fields}).status == 404
        refused = [(form.action, "not_found") for form in desk.pages.forms]
        found = desk.entries(before) or neighbour.entries(before)
        assert [entry[:2] for entry in found] == refused
    assert Visitor(desk.edge, desk.narrow).get(f"{desk.path}/{mine['id']}").status == 404
    assert neighbour.row(theirs["id"]) == theirs


def test_the_list_is_walked_and_filtered(desk: Desk) -> None:
    made = [desk.make(workspace_id="WS-26-000910")["id"] for _ in range(3)]
    page = desk.guest.get(f"{desk.path}?workspace_id=WS-26-000910&limit=2")
    assert [row["id"] for row in page.all("main tbody tr")] == [made[2], made[1]]
    older = desk.guest.get(str(page.one('a[rel="next"]')["href"]))
    assert [row["id"] for row in older.all("main tbody tr")] == [made[0]]
    nothing = desk.guest.get(f"{desk.path}?workspace_id=WS-26-9")
    assert "match these filters" in nothing.one(".empty h2").get_text()
