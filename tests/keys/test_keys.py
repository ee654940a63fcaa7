"""API keys over HTTP: a key's whole life (contract, Access)."""

from typing import Any

import pytest

from ledger.engine.values.values import parse_instant
from ledger.features.keys.key_uses import KeyUses
from ledger.features.keys.tokens import is_well_formed
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, WORKSPACE
from tests.support.keys_api import NOBODYS, OTHER_ORGANIZATION, SHOWN, Keys, every_command


@pytest.fixture(scope="module")
def keys(edge: Edge) -> Keys:
    return Keys(edge)


# Creating.


def test_a_new_key_is_answered_in_full_with_its_secret_and_works_at_once(keys: Keys) -> None:
    expires_at = keys.in_(days=30)
    body = {"name": "é", "permissions": ["write", "read"], "expires_at": expires_at}
    answer = keys.call("POST", json=body)
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    assert int(answer.headers["ledger-position"]) == keys.head()
    data = answer.json()["data"]
    token = data.pop("key")
    assert is_well_formed(token)
    assert set(data) == SHOWN
    assert data["prefix"] == token[:10]
    assert (data["name"], data["permissions"]) == ("é", ["write", "read"])
    assert (data["organization_id"], data["workspace_id"]) == (ORGANIZATION, None)
    assert (data["expires_at"], data["revoked_at"]) == (expires_at, None)
    assert data["last_used_at"] is None
    (maker,) = [k for k in keys.data("?limit=100") if k["prefix"] == keys.token[:10]]
    assert data["created_by"] == {"type": "api_key", "id": maker["id"]}
    assert parse_instant(data["created_at"]) >= keys.edge.clock()
    assert keys.works(token)
    shown = keys.call("GET", f"/{data['id']}")
    assert shown.json()["data"] == data
    assert token not in shown.text
    assert shown.headers["cache-control"] == "private, no-cache"


def test_no_answer_event_or_table_holds_a_secret(keys: Keys) -> None:
    made = keys.create()
    keys.call("POST", f"/{made.id}/rotate", json={})
    rows = repr(keys.edge.select("SELECT * FROM ledger.api_key, ledger.former_secret")).encode()
    states = keys.edge.select("SELECT convert_from(state, 'UTF8') FROM ledger.ledger_events")
    for text in (rows, repr(states).encode(), keys.call("GET", "?limit=100").content):
        assert made.token[10:].encode() not in text
        assert made.token[4:47].encode() not in text


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "/permissions"),
        ({"permissions": []}, "/permissions"),
        ({"permissions": "read"}, "/permissions"),
        ({"permissions": ["read", "read"]}, "/permissions"),
        ({"permissions": ["reed"]}, "/permissions/0"),
        ({"permissions": ["read"], "name": ""}, "/name"),
        ({"permissions": ["read"], "name": "x" * 201}, "/name"),
        ({"permissions": ["read"], "expires_at": "tomorrow"}, "/expires_at"),
        ({"permissions": ["read"], "expires_at": "2026-04-15T12:00:00Z"}, "/expires_at"),
        ({"permissions": ["read"], "expires_at": "2100-01-01T00:00:00Z"}, "/expires_at"),
        ({"permissions": ["read"], "expires_at": 5}, "/expires_at"),
        ({"permissions": ["read"], "organization_id": "ORG-1"}, "/organization_id"),
        ({"permissions": ["read"], "workspace_id": 5}, "/workspace_id"),
        ({"permissions": ["read"], "secret": "elk_"}, "/secret"),
    ],
    ids=str,
)
def test_a_wrong_field_is_named_recorded_and_makes_no_key(
    keys: Keys, body: dict[str, Any], place: str
) -> None:
    before = keys.head()
    problem = assert_problem(keys.call("POST", json=body), 422, "invalid_request")
    assert place in [error["pointer"] for error in problem["errors"]]
    assert keys.entries(before) == [("key.create", "invalid_request", None)]
    assert keys.head() == before + 1


def test_an_administrator_names_the_organization_of_a_key(keys: Keys) -> None:
    answer = keys.call("POST", token=keys.admin, json={"permissions": ["read"]})
    problem = assert_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == ["/organization_id"]
    made = keys.create(keys.admin, organization_id=OTHER_ORGANIZATION, workspace_id=WORKSPACE)
    assert made.data["organization_id"] == OTHER_ORGANIZATION
    assert made.data["workspace_id"] == WORKSPACE


def test_only_an_administrator_makes_and_sees_keys_of_administrators(keys: Keys) -> None:
    made = keys.create(keys.admin, permissions=["admin"], name="chief")
    assert (made.data["organization_id"], made.data["workspace_id"]) == (None, None)
    assert keys.edge.get("/v1/execution", made.token).status_code == 200
    assert keys.data(f"/{made.id}", keys.admin)["name"] == "chief"
    assert made.id in [key["id"] for key in keys.data("?limit=100", keys.admin)]
    for token in (keys.token, keys.narrow, keys.other):
        assert made.id not in [key["id"] for key in keys.data("?limit=100", token)]
        assert_problem(keys.call("GET", f"/{made.id}", token), 404, "not_found")
        for method, path, body, _ in every_command(made.id):
            assert_problem(keys.call(method, path, token, json=body), 404, "not_found")
    answer = keys.call("POST", json={"permissions": ["admin"]})
    assert_problem(answer, 403, "forbidden")
    for tenant in ({"organization_id": ORGANIZATION}, {"workspace_id": WORKSPACE}):
        answer = keys.call("POST", token=keys.admin, json={"permissions": ["admin"]} | tenant)
        problem = assert_problem(answer, 422, "invalid_request")
        assert [f"/{name}" for name in tenant] == [e["pointer"] for e in problem["errors"]]
    assert keys.call("DELETE", f"/{made.id}", keys.admin).status_code == 204


# Changing.


def test_a_change_changes_what_it_names_and_nothing_else(keys: Keys) -> None:
    made = keys.create(name="before")
    later = keys.in_(days=1)
    for change in ({"name": "after"}, {"expires_at": later}, {"name": None}, {"expires_at": None}):
        expected = keys.data(f"/{made.id}") | change
        answer = keys.call("PATCH", f"/{made.id}", json=change)
        assert answer.status_code == 200
        assert answer.json()["data"] == expected
        assert keys.data(f"/{made.id}") == expected
        assert answer.headers["cache-control"] == "private, no-cache"
    answer = keys.call("PATCH", f"/{made.id}", json={})
    assert_problem(answer, 422, "invalid_request")
    answer = keys.call("PATCH", f"/{made.id}", json={"permissions": ["write"]})
    assert_problem(answer, 422, "invalid_request")
    answer = keys.call("PATCH", f"/{made.id}", json={"expires_at": keys.in_(hours=-1)})
    assert_problem(answer, 422, "invalid_request")


def test_a_change_that_names_another_tenant_is_a_403(keys: Keys) -> None:
    made = keys.create()
    before = keys.head()
    answer = keys.call("PATCH", f"/{made.id}", json={"organization_id": OTHER_ORGANIZATION})
    assert_problem(answer, 403, "forbidden")
    assert keys.entries(before) == [("key.update", "forbidden", made.id)]


def test_a_key_is_refused_from_the_instant_of_its_expiry_on(keys: Keys) -> None:
    made = keys.create(expires_at=keys.in_(seconds=10))
    keys.edge.clock.advance(seconds=9.999)
    assert keys.works(made.token)
    keys.edge.clock.advance(seconds=0.001)
    answer = keys.edge.get("/v1/execution", made.token)
    assert_problem(answer, 401, "unauthorized")
    # A later expiry makes it work again; so does none.
    for expires_at in (keys.in_(seconds=10), None):
        answer = keys.call("PATCH", f"/{made.id}", json={"expires_at": expires_at})
        assert answer.status_code == 200
        assert keys.works(made.token)
        keys.edge.clock.advance(seconds=10)
        assert keys.works(made.token) == (expires_at is None)


# Revoking.


def test_a_revoked_key_stays_listed_and_can_do_and_become_nothing(keys: Keys) -> None:
    made = keys.create()
    rotated = keys.call("POST", f"/{made.id}/rotate", json={}).json()["data"]["key"]
    answer = keys.call("DELETE", f"/{made.id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert int(answer.headers["ledger-position"]) == keys.head()
    keys.forget()
    assert (keys.works(made.token), keys.works(rotated)) == (False, False)
    shown = keys.data(f"/{made.id}")
    assert shown == made.data | {"prefix": rotated[:10], "revoked_at": shown["revoked_at"]}
    assert parse_instant(shown["revoked_at"]) >= keys.edge.clock()
    assert shown in keys.data("?limit=100")
    for method, path, body, _ in every_command(made.id):
        assert_problem(keys.call(method, path, json=body), 409, "invalid_state")


# Every command.


def test_each_command_is_audited_done_or_refused(keys: Keys) -> None:
    before = keys.head()
    made = keys.create(name="audited")
    for method, path, body, _ in every_command(made.id):
        assert keys.call(method, path, json=body).status_code in (200, 204)
    actions = ["key.create", "key.update", "key.rotate", "key.revoke"]
    assert keys.entries(before) == [(action, None, made.id) for action in actions]
    before = keys.head()
    for method, path, body, _ in every_command(made.id):
        keys.call(method, path, json=body)
        keys.call(method, path, keys.edge.token("read"), json=body)
    refused = [entry for entry in keys.entries(before) if entry[1] is not None]
    assert refused == [
        (action, code, made.id)
        for action in actions[1:]
        for code in ("invalid_state", "forbidden")
    ]  # fmt: skip


@pytest.mark.parametrize("key_id", [NOBODYS, "KEY-26-1", "nonsense", "LIN-26-000001"])
def test_an_unknown_key_is_a_404_and_each_command_about_it_is_recorded(
    keys: Keys, key_id: str
) -> None:
    assert_problem(keys.call("GET", f"/{key_id}"), 404, "not_found")
    for method, path, body, action in every_command(key_id):
        before = keys.head()
        assert_problem(keys.call(method, path, json=body), 404, "not_found")
        named = key_id if key_id == NOBODYS else None
        assert keys.entries(before) == [(action, "not_found", named)]


def test_a_request_under_an_idempotency_key_is_replayed_with_its_secret(keys: Keys) -> None:
    headers = {"idempotency-key": "once"}
    body = {"permissions": ["read"], "name": "idempotent"}
    first, again = (keys.call("POST", json=body, headers=headers) for _ in range(2))
    assert first.json() == again.json()
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["cache-control"] == "no-store"
    key_id = first.json()["data"]["id"]
    for method, path, changed, _ in every_command(key_id)[:2]:
        first, again = (keys.call(method, path, json=changed, headers=headers) for _ in range(2))
        assert (first.json(), first.status_code) == (again.json(), 200)
        assert again.headers["idempotency-replayed"] == "true"
    other = keys.call("POST", json=body | {"name": "other"}, headers=headers)
    assert_problem(other, 422, "idempotency_key_reused")


# Within one's own.


def test_a_key_with_more_than_the_credential_has_is_seen_but_not_touched(keys: Keys) -> None:
    keys.edge.token("read", "runs:erase", name="eraser")
    (eraser,) = [key for key in keys.data("?limit=100") if key["name"] == "eraser"]
    for method, path, body, action in every_command(eraser["id"]):
        before = keys.head()
        assert_problem(keys.call(method, path, json=body), 403, "forbidden")
        assert keys.entries(before) == [(action, "forbidden", eraser["id"])]
    assert keys.data(f"/{eraser['id']}") == eraser


@pytest.mark.parametrize(
    "body",
    [
        {"permissions": ["runs:erase"]},
        {"permissions": ["read", "runs:erase"], "name": ""},
        {"permissions": ["read"], "organization_id": OTHER_ORGANIZATION},
        {"permissions": [], "organization_id": OTHER_ORGANIZATION},
    ],
    ids=str,
)
def test_more_than_ones_own_is_a_403_before_any_422(keys: Keys, body: dict[str, Any]) -> None:
    before = keys.head()
    assert_problem(keys.call("POST", json=body), 403, "forbidden")
    assert keys.entries(before) == [("key.create", "forbidden", None)]
    assert keys.entries(before, OTHER_ORGANIZATION) == []


def test_a_credential_of_a_workspace_makes_keys_of_that_workspace_only(keys: Keys) -> None:
    for named in ({}, {"workspace_id": WORKSPACE}, {"organization_id": ORGANIZATION}):
        made = keys.create(keys.narrow, **named)
        assert (made.data["organization_id"], made.data["workspace_id"]) == (
            ORGANIZATION, WORKSPACE
        )  # fmt: skip
    for workspace in (None, "WS-26-000002"):
        body = {"permissions": ["read"], "workspace_id": workspace}
        assert_problem(keys.call("POST", token=keys.narrow, json=body), 403, "forbidden")
    of_organization = keys.create().id
    assert of_organization not in [key["id"] for key in keys.data("?limit=100", keys.narrow)]
    for method, path, body, _ in every_command(of_organization):
        assert_problem(keys.call(method, path, keys.narrow, json=body), 404, "not_found")


def test_a_key_that_expires_makes_and_rotates_no_key_that_outlives_it(keys: Keys) -> None:
    end = keys.in_(days=2)
    asking = keys.create(permissions=["read", "keys:manage"], expires_at=end).token
    for later in ({}, {"expires_at": None}, {"expires_at": keys.in_(days=2, seconds=1)}):
        answer = keys.call("POST", token=asking, json={"permissions": ["read"]} | later)
        assert_problem(answer, 403, "forbidden")
    made = keys.create(asking, expires_at=end)
    for later in (None, keys.in_(days=3)):
        answer = keys.call("PATCH", f"/{made.id}", asking, json={"expires_at": later})
        assert_problem(answer, 403, "forbidden")
    assert keys.call("PATCH", f"/{made.id}", asking, json={"name": "n"}).status_code == 200
    lasting = keys.create().id
    assert_problem(keys.call("POST", f"/{lasting}/rotate", asking, json={}), 403, "forbidden")
    assert keys.call("POST", f"/{made.id}/rotate", asking, json={}).status_code == 200
    assert keys.call("DELETE", f"/{lasting}", asking).status_code == 204


# Lists.


def test_the_list_is_walked_newest_first_and_filtered(keys: Keys) -> None:
    organization = "ORG-26-000077"
    token = keys.edge.token("read", "keys:manage", organization_id=organization)
    made = [keys.create(token, workspace_id=f"WS-26-00010{n % 2}").id for n in range(5)]
    everything = [key["id"] for key in keys.data("?limit=100", token)]
    assert everything[:-1] == made[::-1]
    walked, path = [], "?limit=2"
    while True:
        page = keys.call("GET", path, token).json()
        walked += [key["id"] for key in page["data"]]
        path = f"?limit=2&cursor={page['meta']['cursor']}"
        if not page["meta"]["has_more"]:
            break
    assert walked == everything
    assert keys.call("GET", path, token).json()["data"] == []
    of_one = keys.data("?workspace_id=WS-26-000101&limit=100", token)
    assert [key["id"] for key in of_one] == [made[3], made[1]]
    assert keys.data(f"?organization_id={OTHER_ORGANIZATION}", token) == []
    of_organization = keys.data(f"?organization_id={organization}&limit=100", keys.admin)
    assert [key["id"] for key in of_organization] == everything
    answer = keys.call("GET", f"{path}&workspace_id=WS-26-000101", token)
    assert_problem(answer, 400, "invalid_cursor")
    assert_problem(keys.call("GET", "?cursor=nonsense", token), 400, "invalid_cursor")


def test_a_list_shows_what_the_position_that_it_names_has(keys: Keys) -> None:
    made = keys.create()
    for path in ("?limit=1", f"/{made.id}"):
        answer = keys.call("GET", path, headers={"ledger-min-position": str(keys.head())})
        assert answer.status_code == 200
        assert int(answer.headers["ledger-position"]) == keys.head()
        later = keys.call("GET", path, headers={"ledger-min-position": str(keys.head() + 1)})
        assert_problem(later, 503, "behind")


# Use.


def write_uses(keys: Keys) -> int:
    written: int = keys.edge.service.app.state.services.of(KeyUses).run_once()
    return written


def test_the_last_use_is_shown_once_it_was_written_and_never_a_minute_late(keys: Keys) -> None:
    made = keys.create()
    write_uses(keys)
    assert keys.data(f"/{made.id}")["last_used_at"] is None
    assert keys.works(made.token)
    assert write_uses(keys) >= 1
    first = keys.in_()
    assert keys.data(f"/{made.id}")["last_used_at"] == first
    for seconds, expected in ((39, first), (2, keys.in_(seconds=41))):
        keys.edge.clock.advance(seconds=seconds)
        keys.forget()
        assert keys.works(made.token)
        write_uses(keys)
        assert keys.data(f"/{made.id}")["last_used_at"] == expected
    patched = keys.call("PATCH", f"/{made.id}", json={"name": "used"})
    assert patched.json()["data"]["last_used_at"] == expected


def test_a_refused_token_is_no_use_of_its_key(keys: Keys) -> None:
    made = keys.create(expires_at=keys.in_(seconds=1))
    keys.edge.clock.advance(seconds=1)
    assert not keys.works(made.token)
    write_uses(keys)
    assert keys.data(f"/{made.id}")["last_used_at"] is None
