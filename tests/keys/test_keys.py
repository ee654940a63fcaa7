"""API keys over HTTP: a key's whole life (contract, Access)."""

from typing import Any

import pytest

from ledger.engine.values.values import parse_instant
from ledger.features.keys.key_uses import KeyUses
from ledger.features.keys.tokens import is_well_formed
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, WORKSPACE
from tests.support.keys_api import OTHER_ORGANIZATION, Keys, every_command


@pytest.fixture(scope="module")
def keys(edge: Edge) -> Keys:
    return Keys(edge)


# A key's life, besides what ``tests/whole/managed`` tests of all managed things.


def test_a_new_key_works_at_once_and_tells_its_maker_and_its_prefix(keys: Keys) -> None:
    made = keys.create()
    assert is_well_formed(made.token)
    assert made.data["prefix"] == made.token[:10]
    (maker,) = [k for k in keys.data("?limit=100") if k["prefix"] == keys.token[:10]]
    assert made.data["created_by"] == {"type": "api_key", "id": maker["id"]}
    assert parse_instant(made.data["created_at"]) >= keys.edge.clock()
    assert keys.works(made.token)


def test_no_answer_event_or_table_holds_a_secret(keys: Keys) -> None:
    made = keys.create()
    keys.call("POST", f"/{made.id}/rotate", json={})
    rows = repr(keys.edge.select("SELECT * FROM ledger.api_key, ledger.former_secret")).encode()
    states = keys.edge.select("SELECT convert_from(state, 'UTF8') FROM ledger.ledger_events")
    for text in (rows, repr(states).encode(), keys.call("GET", "?limit=100").content):
        assert made.token[10:].encode() not in text
        assert made.token[4:47].encode() not in text


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


def test_a_revoked_key_and_its_former_secret_work_no_more(keys: Keys) -> None:
    made = keys.create()
    rotated = keys.call("POST", f"/{made.id}/rotate", json={}).json()["data"]["key"]
    keys.call("DELETE", f"/{made.id}")
    keys.forget()
    assert (keys.works(made.token), keys.works(rotated)) == (False, False)
    data = keys.data(f"/{made.id}")
    assert data == made.data | {"prefix": rotated[:10], "revoked_at": data["revoked_at"]}
    assert parse_instant(data["revoked_at"]) >= keys.edge.clock()


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


def test_a_key_that_expires_makes_and_rotates_no_key_that_outlives_it(keys: Keys) -> None:
    end = keys.in_(days=2)
    request = keys.create(permissions=["read", "keys:manage"], expires_at=end).token
    for later in ({}, {"expires_at": None}, {"expires_at": keys.in_(days=2, seconds=1)}):
        answer = keys.call("POST", token=request, json={"permissions": ["read"]} | later)
        assert_problem(answer, 403, "forbidden")
    made = keys.create(request, expires_at=end)
    for later in (None, keys.in_(days=3)):
        answer = keys.call("PATCH", f"/{made.id}", request, json={"expires_at": later})
        assert_problem(answer, 403, "forbidden")
    assert keys.call("PATCH", f"/{made.id}", request, json={"name": "n"}).status_code == 200
    lasting = keys.create().id
    assert_problem(keys.call("POST", f"/{lasting}/rotate", request, json={}), 403, "forbidden")
    assert keys.call("POST", f"/{made.id}/rotate", request, json={}).status_code == 200
    assert keys.call("DELETE", f"/{lasting}", request).status_code == 204


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
