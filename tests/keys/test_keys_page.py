"""The pages of API keys: every form, and what it changes (``/ui/keys``)."""

import json
import shlex
from datetime import timedelta
from typing import get_args

import pytest

from ledger.engine.page.permissions import PERMISSIONS
from ledger.engine.values.values import format_instant
from ledger.features.keys.model import Permission
from ledger.features.keys.tokens import is_well_formed
from tests.support.edge import Edge
from tests.support.keys_api import Keys
from tests.support.visitor import Visited, Visitor, visitor

PATH = "/ui/keys"
READS = {"permission:read": "on"}


@pytest.fixture(scope="module")
def keys(edge: Edge) -> Keys:
    return Keys(edge)


@pytest.fixture
def guest(edge: Edge) -> Visitor:
    """A visitor who manages the organization's keys."""
    return visitor(edge, "read", "write", "audit:read", "keys:manage")


def typed(page: Visited) -> dict[str, str]:
    """The fields of the form for a new key, with their values."""
    for filters in page.all("form.filters"):
        filters.extract()
    return page.form(PATH)


def create(guest: Visitor, page: Visited | None = None, **fields: str) -> Visited:
    """Send the form for a new key that may read, with these fields."""
    return guest.post(PATH, typed(page or guest.get(PATH)) | READS | fields)


def made_by(page: Visited) -> str:
    """The id of the key whose secret the page shows."""
    return str(page.one(".secret a.button")["href"]).removeprefix(f"{PATH}/")


def act(guest: Visitor, key_id: str, form: str, **fields: str) -> Visited:
    """Send a form of the key's page with its values, except for these fields."""
    return guest.submit(guest.get(f"{PATH}/{key_id}"), f"{PATH}/{key_id}/{form}", **fields)


# Creating a key.


def test_the_form_offers_each_permission_in_words() -> None:
    assert list(PERMISSIONS) == [*get_args(Permission)]


def test_a_new_key_is_shown_with_a_command_that_works(keys: Keys, guest: Visitor) -> None:
    fields = typed(guest.get(PATH)) | READS | {"permission:write": "on"}
    page = guest.post(PATH, fields, headers={"origin": "http://ledger.test"})
    secret, command = page.words("pre")
    assert is_well_formed(secret)
    path = "http://ledger.test/v1/execution?limit=5"
    assert command == f"curl -H \"Authorization: Bearer {secret}\" '{path}'"
    assert keys.edge.get(path.removeprefix("http://ledger.test"), secret).status_code == 200
    copied = [str(button["data-copy"]) for button in page.all(".copy")]
    assert copied == [secret, command]
    key_id = made_by(page)
    for path in (PATH, f"{PATH}/{key_id}"):
        assert f"{secret[:10]}…" in guest.get(path).text


def test_a_command_for_a_key_that_may_not_read_lines_works_too(keys: Keys, guest: Visitor) -> None:
    page = guest.post(PATH, typed(guest.get(PATH)) | {"name": "w", "permission:write": "on"})
    secret, command = page.words("pre")
    words = shlex.split(command)
    assert words[3] == f"Authorization: Bearer {secret}"
    assert words[1] == "http://ledger.test/v1/facts"
    answer = keys.edge.send(json.loads(words[-1]), secret)
    assert answer.json()["data"]["outcome"] == "recorded"
    page = guest.post(PATH, typed(guest.get(PATH)) | {"name": "h", "permission:keys:manage": "on"})
    secret, command = page.words("pre")
    path = command.split("http://ledger.test")[1].strip("'")
    assert keys.edge.get(path, secret).status_code == 200


@pytest.mark.parametrize(
    ("expires", "days"), [("30", 30), ("90", 90), ("365", 365), ("never", None), (None, 90)]
)
def test_an_expiry_is_chosen_in_words(
    keys: Keys, guest: Visitor, expires: str | None, days: int | None
) -> None:
    chosen = {} if expires is None else {"expires": expires}
    data = keys.data(f"/{made_by(create(guest, name='n', **chosen))}")
    assert data["expires_at"] == (None if days is None else keys.in_(days=days))


def test_an_expiry_is_typed_in_the_zone_of_the_page(keys: Keys, guest: Visitor) -> None:
    guest.http.cookies.set("ledger_zone", "Europe%2FBerlin", domain="ledger.test")
    page = create(guest, name="n", expires="at", expires_at="2091-01-02T03:04:05")
    assert keys.data(f"/{made_by(page)}")["expires_at"] == "2091-01-02T02:04:05Z"
    page = create(guest, name="n", expires="at", expires_at="nonsense")
    assert page.status == 422
    assert "Expires at: must be a date and a time" in page.words(".refused")[0]
    assert typed(page)["expires_at"] == "nonsense"


def test_the_form_offers_only_the_permissions_that_the_visitor_has(
    keys: Keys, guest: Visitor
) -> None:
    boxes = [str(box["name"]) for box in guest.get(PATH).all(".types input")]
    assert boxes == [f"permission:{p}" for p in ("read", "write", "audit:read", "keys:manage")]
    page = create(guest, name="n", **{"permission:runs:erase": "on"})
    assert page.status == 403
    assert "not within the credential's own" in page.words(".refused")[0]
    admin = Visitor(keys.edge, keys.admin)
    assert len(admin.get(PATH).all(".types input")) == 9


def test_a_visitor_whose_key_expires_makes_keys_that_end_with_it(keys: Keys) -> None:
    end = keys.instant(days=3)
    made = keys.create(permissions=["read", "keys:manage"], expires_at=format_instant(end))
    guest = Visitor(keys.edge, made.token)
    page = guest.get(PATH)
    assert [str(o["value"]) for o in page.all('[name="expires"] option')] == ["own", "at"]
    data = keys.data(f"/{made_by(create(guest, name='n'))}")
    assert data["expires_at"] == format_instant(end)
    later = f"{end + timedelta(days=1):%Y-%m-%dT%H:%M:%S}"
    page = create(guest, name="n", expires="at", expires_at=later)
    assert page.status == 403
    assert "The key would outlive the credential" in page.words(".refused")[0]


def test_an_administrator_gives_everything(keys: Keys) -> None:
    admin = Visitor(keys.edge, keys.admin)
    key_id = made_by(create(admin, name="chief", which="all"))
    assert keys.data(f"/{key_id}", keys.admin)["permissions"] == ["admin"]
    assert "Everything, in all organizations" in admin.get(f"{PATH}/{key_id}").text


# Changing a key.


def test_the_name_and_the_expiry_are_changed(keys: Keys, guest: Visitor) -> None:
    made = keys.create(name="before", expires_at=keys.in_(days=5))
    page = act(guest, made.id, "change", name="after")
    assert (page.status, page.location) == (303, f"{PATH}/{made.id}?done=change")
    assert "Key saved." in guest.get(page.location).text
    data = keys.data(f"/{made.id}")
    assert (data["name"], data["expires_at"]) == ("after", made.data["expires_at"])
    act(guest, made.id, "change", expires="365")
    assert keys.data(f"/{made.id}")["expires_at"] == keys.in_(days=365)
    act(guest, made.id, "change", expires="never", name="")
    data = keys.data(f"/{made.id}")
    assert (data["name"], data["expires_at"]) == (None, None)
    page = act(guest, made.id, "change", expires="at", expires_at="2001-01-01T00:00")
    assert page.status == 422
    assert "Expires at: lies in the past." in page.words(f'form[action$="{made.id}/change"]')[0]


@pytest.mark.parametrize(
    ("grace", "words"),
    [("86400", "works until 2026"), ("3600", "works until 2026"), ("0", "refused within 2 s")],
)
def test_a_rotation_shows_the_new_secret_and_how_long_the_old_one_works(
    keys: Keys, guest: Visitor, grace: str, words: str
) -> None:
    made = keys.create(name="rotated")
    page = act(guest, made.id, "rotate", grace_seconds=grace)
    secret = page.words("pre")[0]
    assert is_well_formed(secret)
    assert secret != made.token
    assert words in page.text
    keys.edge.clock.advance(seconds=1)
    keys.forget()
    assert (keys.works(secret), keys.works(made.token)) == (True, grace != "0")


def test_a_revoked_key_is_shown_as_such_and_has_no_forms(keys: Keys, guest: Visitor) -> None:
    made = keys.create(name="former")
    page = act(guest, made.id, "revoke")
    assert page.location == f"{PATH}/{made.id}?done=revoke"
    page = guest.get(page.location)
    assert "Key revoked." in page.text
    assert page.all(f'form[action^="{PATH}"]') == []
    assert page.words("dl .state") == ["revoked"]
    keys.forget()
    assert not keys.works(made.token)


def test_a_key_that_was_revoked_meanwhile_refuses_its_forms(keys: Keys, guest: Visitor) -> None:
    made = keys.create(name="raced")
    page = guest.get(f"{PATH}/{made.id}")
    keys.call("DELETE", f"/{made.id}")
    for name in ("change", "rotate", "revoke"):
        refused = guest.submit(page, f"{PATH}/{made.id}/{name}")
        assert refused.status == 409
        assert "The key is already revoked." in refused.text


# The words of the list.


def test_a_key_that_may_more_than_the_visitor_has_no_forms(keys: Keys, guest: Visitor) -> None:
    keys.edge.token("read", "runs:erase", name="eraser")
    (eraser,) = [key for key in keys.data("?limit=100") if key["name"] == "eraser"]
    page = guest.get(f"{PATH}/{eraser['id']}")
    assert "This key has permissions that yours lacks" in page.text
    assert page.all(f'form[action^="{PATH}"]') == []


def test_the_list_says_of_each_key_whether_it_works(keys: Keys, guest: Visitor) -> None:
    active = keys.create(name="lasting")
    soon = keys.create(name="soon", expires_at=keys.in_(days=3))
    over = keys.create(name="over", expires_at=keys.in_(seconds=1))
    gone = keys.create(name="gone")
    keys.call("DELETE", f"/{gone.id}")
    keys.edge.clock.advance(seconds=1)
    page = guest.get(PATH)
    states = {key.id: page.words(f"#{key.id} td")[0] for key in (active, soon, over, gone)}
    assert states[active.id] == "active never expires"
    assert states[soon.id].startswith("active expires in 2 d 23 h")
    assert states[over.id].startswith("expired since 2026-")
    assert states[gone.id].startswith("revoked since 2026-")
    assert page.words(f"#{active.id} .tag") == ["Read lines, runs and events"]


def test_a_keys_id_leads_to_its_page_or_to_its_writes(keys: Keys, guest: Visitor) -> None:
    made = keys.create()
    found = guest.get(f"/ui/search?q={made.id.lower()}")
    assert found.location == f"{PATH}/{made.id}"
    auditor = visitor(keys.edge, "read", "audit:read")
    found = auditor.get(f"/ui/search?q={made.id}")
    assert found.location == f"/ui/audit?actor_id={made.id}"
    entry = guest.get("/ui/audit?action=key.create")
    assert f"{PATH}/{made.id}" in [str(a["href"]) for a in entry.all("td a")]
