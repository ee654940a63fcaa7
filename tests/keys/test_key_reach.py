"""Keys are within the permissions, the tenant and the life of the key that makes them.

An ability is a permission at a place. The model gives each key its set of abilities, and "within
one's own" then is the subset relation.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple, get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ledger.engine.values.principal import COMMAND_LINE, Grant, Principal
from ledger.features.keys.commands import CreateApiKey, RevokeApiKey, RotateApiKey, UpdateApiKey
from ledger.features.keys.model import SINGLE_PERMISSIONS, Permission
from ledger.features.keys.tokens import create_token
from tests.support.ledger import Item, Ledger

WHOLE = None
ORGANIZATIONS, WORKSPACES = ("ORG-26-000001", "ORG-26-000002"), ("WS-26-000001", "WS-26-000002")
TENANTS = [(o, w) for o in ORGANIZATIONS for w in (WHOLE, *WORKSPACES)]
ALL = frozenset((p, tenant) for p in get_args(Permission) for tenant in TENANTS)

Ability = tuple[str, tuple[str, str | None]]


def abilities(
    permissions: Iterable[str], organization: str | None, workspace: str | None
) -> frozenset[Ability]:
    """The acts that a credential may do, each at a place."""
    if "admin" in permissions:
        return ALL
    return frozenset(
        (permission, tenant)
        for permission in permissions
        for tenant in TENANTS
        if tenant[0] == organization and workspace in (WHOLE, tenant[1])
    )


SINGLE = st.frozensets(st.sampled_from(SINGLE_PERMISSIONS), min_size=1)
REACHES = st.one_of(
    st.tuples(SINGLE, st.sampled_from(TENANTS)).map(lambda both: (both[0], *both[1])),
    st.just((frozenset({"admin"}), None, None)),
)

NEAR = st.one_of(
    st.tuples(
        st.sampled_from([frozenset({"read"}), frozenset({"read", "write"})]),
        st.sampled_from(TENANTS[:2]),
    ).map(lambda both: (both[0], *both[1])),
    REACHES,
)
"""Reaches, many of them within each other: commands then get past the first checks."""


@given(own=REACHES, other=REACHES)
def test_a_credential_covers_exactly_the_keys_whose_abilities_it_has(own: Any, other: Any) -> None:
    principal = Principal("KEY-26-000001", "api_key", *own)
    assert principal.covers(*other) == (abilities(*other) <= abilities(*own))
    assert principal.covers(*own), "a credential covers itself"


@given(first=REACHES, second=REACHES, third=REACHES)
def test_a_key_covers_also_the_keys_of_the_keys_that_it_covers(
    first: Any, second: Any, third: Any
) -> None:
    one, two = (Principal("KEY", "api_key", *reach) for reach in (first, second))
    if one.covers(*second) and two.covers(*third):
        assert one.covers(*third)


class Key(NamedTuple):
    """A key as the model knows it."""

    id: str
    permissions: frozenset[Any]
    organization: str | None
    workspace: str | None
    expires_at: datetime | None
    revoked: bool = False

    @property
    def abilities(self) -> frozenset[Ability]:
        return abilities(self.permissions, self.organization, self.workspace)

    @property
    def principal(self) -> Principal:
        return Principal(
            self.id, "api_key", self.permissions, self.organization, self.workspace
        )  # fmt: skip

    def sees(self, other: "Key") -> bool:
        return "admin" in self.permissions or (
            other.organization == self.organization
            and self.workspace in (WHOLE, other.workspace)
        )  # fmt: skip


def lives_longer(expires_at: datetime | None, than: datetime | None) -> bool:
    return than is not None and (expires_at is None or expires_at > than)


class Manager:
    """Carries out commands and predicts their outcomes."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.keys: list[Key] = []

    def create(
        self, by: Key | None, reach: Any, expires_at: datetime | None
    ) -> tuple[str | None, str | None]:
        """Create a key; return the (actual, predicted) code of the refusal, or None."""
        permissions, *tenant = reach
        command = CreateApiKey(
            by.principal if by is not None else COMMAND_LINE,
            create_token(),
            name=None,
            organization_id=tenant[0],
            workspace_id=tenant[1],
            permissions=permissions,
            expires_at=expires_at,
        )
        item = self.ledger.execute(command)
        if item.outcome == "recorded":
            self.keys.append(Key(str(item.subject), permissions, *tenant, expires_at))
        predicted = None
        if by is not None and (
            self.has_ended(by)
            or not abilities(*reach) <= by.abilities
            or lives_longer(expires_at, by.expires_at)
        ):
            predicted = "forbidden"
        elif expires_at is not None and expires_at <= self.ledger.clock():
            predicted = "invalid_request"
        return item.code, predicted

    def change(
        self, what: str, by: Key, key: Key, expires_at: datetime | None
    ) -> tuple[str | None, str | None]:
        """Change, rotate or revoke a key; return the (actual, predicted) code, or None."""
        item = self._carry_out(what, by, key, expires_at)
        if item.outcome == "recorded":
            index = self.keys.index(key)
            if what == "update":
                self.keys[index] = key._replace(expires_at=expires_at)
            elif what == "revoke":
                self.keys[index] = key._replace(revoked=True)
        return item.code, self._predict(what, by, key, expires_at)

    def _carry_out(self, what: str, by: Key, key: Key, expires_at: datetime | None) -> Item:
        principal = by.principal
        if what == "update":
            return self.ledger.execute(UpdateApiKey(key.id, principal, expires_at=expires_at))
        if what == "rotate":
            grace = timedelta(hours=1)
            command = RotateApiKey(key.id, principal, token=create_token(), grace=grace)
            return self.ledger.execute(command)
        return self.ledger.execute(RevokeApiKey(key.id, principal))

    def _predict(self, what: str, by: Key, key: Key, expires_at: datetime | None) -> str | None:
        if self.has_ended(by):
            return "forbidden"
        if not by.sees(key):
            return "not_found"
        life = {"update": expires_at, "rotate": key.expires_at, "revoke": by.expires_at}[what]
        if not key.abilities <= by.abilities or lives_longer(life, by.expires_at):
            return "forbidden"
        if what == "update" and expires_at is not None and expires_at <= self.ledger.clock():
            return "invalid_request"
        if key.revoked or (what == "rotate" and self.has_ended(key)):
            return "invalid_state"
        return None

    def has_ended(self, key: Key) -> bool:
        now = self.ledger.clock()
        return key.revoked or (key.expires_at is not None and key.expires_at <= now)


def soon(ledger: Ledger) -> st.SearchStrategy[datetime | None]:
    now = ledger.clock()
    return st.sampled_from([None, *(now + timedelta(hours=hours) for hours in (-1, 1, 2, 5))])


@settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_no_sequence_of_commands_makes_a_key_that_reaches_beyond_its_maker(
    ledger: Ledger, data: st.DataObject
) -> None:
    manager = Manager(ledger)
    roots = data.draw(st.lists(NEAR, min_size=1, max_size=3))
    for reach in roots:
        manager.create(None, reach, data.draw(soon(ledger)))
    for _ in range(data.draw(st.integers(4, 14))):
        ledger.clock.advance(minutes=data.draw(st.sampled_from([0, 20, 70])))
        if not manager.keys:
            return
        by, key = (data.draw(st.sampled_from(manager.keys)) for _ in range(2))
        what = data.draw(st.sampled_from(["create", "create", "update", "rotate", "revoke"]))
        expires_at = data.draw(soon(ledger))
        if what == "create":
            actual, predicted = manager.create(by, data.draw(NEAR), expires_at)
        else:
            actual, predicted = manager.change(what, by, key, expires_at)
        assert actual == predicted, (what, by, key, expires_at)


@example(permissions=frozenset({"read"}))
@settings(
    max_examples=5,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(permissions=SINGLE)
def test_the_end_of_an_identity_providers_token_bounds_no_key(
    ledger: Ledger, permissions: frozenset[Any]
) -> None:
    ends = (ledger.clock() + timedelta(hours=1)).timestamp()
    user = Principal("user:alice", "user", permissions, ORGANIZATIONS[0], None, Grant(ends, b""))
    command = CreateApiKey(
        user,
        create_token(),
        name=None,
        organization_id=ORGANIZATIONS[0],
        workspace_id=None,
        permissions=permissions,
    )
    item = ledger.execute(command)
    assert item.outcome == "recorded"
    rows = ledger.rows(
        "SELECT created_by_type, created_by_id, expires_at FROM ledger.api_key"
        f" WHERE key_id = '{item.subject}'"
    )
    assert [tuple(row.values()) for row in rows] == [("user", "alice", None)]


@pytest.mark.parametrize("what", ["revoked", "expired"])
def test_a_key_that_has_just_ended_makes_no_other_key(ledger: Ledger, what: str) -> None:
    manager = Manager(ledger)
    reach = (frozenset({"keys:manage"}), ORGANIZATIONS[0], None)
    manager.create(None, reach, ledger.clock() + timedelta(minutes=1))
    (key,) = manager.keys
    if what == "revoked":
        assert ledger.execute(RevokeApiKey(key.id, COMMAND_LINE)).outcome == "recorded"
    else:
        ledger.clock.advance(minutes=1)
    # A worker may remember the key for two seconds more.
    item = ledger.execute(
        CreateApiKey(
            key.principal,
            create_token(),
            name=None,
            organization_id=ORGANIZATIONS[0],
            workspace_id=None,
            permissions=("keys:manage",),
            expires_at=ledger.clock() + timedelta(seconds=1),
        )
    )
    assert item.refusal == (403, "forbidden")
