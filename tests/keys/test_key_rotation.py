"""API keys over HTTP: a key's secret is replaced (contract, Access)."""

import pytest

from tests.support.edge import Edge, assert_problem
from tests.support.keys_api import Keys


@pytest.fixture(scope="module")
def keys(edge: Edge) -> Keys:
    return Keys(edge)


def test_both_secrets_work_for_a_day_after_a_rotation(keys: Keys) -> None:
    made = keys.create(name="rotated")
    answer = keys.call("POST", f"/{made.id}/rotate")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    data = answer.json()["data"]
    token = data.pop("key")
    assert token != made.token
    assert data == made.data | {"prefix": token[:10]}
    assert keys.data(f"/{made.id}") == data
    keys.edge.clock.advance(hours=23, minutes=59)
    assert (keys.works(made.token), keys.works(token)) == (True, True)
    keys.edge.clock.advance(minutes=2)
    assert (keys.works(made.token), keys.works(token)) == (False, True)


@pytest.mark.parametrize("grace", [0, 60, 604_800])
def test_the_replaced_secret_works_for_the_requested_seconds(keys: Keys, grace: int) -> None:
    made = keys.create()
    assert keys.works(made.token)
    answer = keys.call("POST", f"/{made.id}/rotate", json={"grace_seconds": grace})
    token = answer.json()["data"]["key"]
    keys.forget()
    keys.edge.clock.advance(seconds=max(0.001, grace - 1))
    assert keys.works(made.token) == (grace > 0)
    keys.edge.clock.advance(seconds=2)
    assert (keys.works(made.token), keys.works(token)) == (False, True)


def test_a_replaced_secret_that_a_worker_remembers_gets_no_key_back(keys: Keys) -> None:
    stolen = keys.create(permissions=["read", "keys:manage"])
    assert keys.works(stolen.token), "the worker remembers the secret"
    rotation = {"json": {"grace_seconds": 0}, "headers": {"Idempotency-Key": "after-the-leak"}}
    owner = keys.call("POST", f"/{stolen.id}/rotate", stolen.token, **rotation).json()["data"]
    for again in ({"json": {}}, rotation):
        thief = keys.call("POST", f"/{stolen.id}/rotate", stolen.token, **again)
        assert_problem(thief, 401, "unauthorized")
        assert thief.headers["www-authenticate"] == "Bearer"
    keys.forget()
    keys.edge.clock.advance(seconds=1)
    assert (keys.works(stolen.token), keys.works(owner["key"])) == (False, True)


def test_a_rotation_ends_older_secrets_no_later_than_the_replaced_one(keys: Keys) -> None:
    made = keys.create()
    second = keys.call("POST", f"/{made.id}/rotate", json={"grace_seconds": 3600}).json()["data"]
    third = keys.call("POST", f"/{made.id}/rotate", json={"grace_seconds": 60}).json()["data"]
    tokens = [made.token, second["key"], third["key"]]
    assert [keys.works(token) for token in tokens] == [True, True, True]
    keys.edge.clock.advance(seconds=61)
    assert [keys.works(token) for token in tokens] == [False, False, True]


def test_a_key_may_rotate_itself(keys: Keys) -> None:
    made = keys.create(permissions=["keys:manage"], expires_at=keys.in_(days=1))
    answer = keys.call("POST", f"/{made.id}/rotate", made.token, json={})
    token = answer.json()["data"]["key"]
    assert keys.data(f"/{made.id}", token)["prefix"] == token[:10]


def test_an_expired_key_is_not_rotated(keys: Keys) -> None:
    made = keys.create(expires_at=keys.in_(seconds=1))
    keys.edge.clock.advance(seconds=1)
    assert_problem(keys.call("POST", f"/{made.id}/rotate", json={}), 409, "invalid_state")
