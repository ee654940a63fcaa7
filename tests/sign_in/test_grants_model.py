"""Grants against a model of ten lines, and pointers against a plain resolver (RFC 6901)."""

import re
import tempfile
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.features.sign_in.access.grants import CHECK_SECONDS, Grants, _found
from tests.support.openid import FINANCE, Claims, Grant, write_grants

Tenants = dict[tuple[str | None, str | None], set[str]]

NAMES = st.sampled_from(["0", "email", "a~1/b"])
TEXTS = st.sampled_from(["x", "x,y"])
"""Grants have the first one."""
LEAVES = TEXTS | st.sampled_from([["x"], ["x,y", "x"], ["y", 1, ["x"]], None, 1])
VALUES = LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(NAMES, LEAVES, min_size=1)
CLAIMS = st.builds(
    lambda *values: dict(zip(["0", "email", "a~1/b", "email_verified"], values, strict=True)),
    *[VALUES] * 3,
    st.sampled_from([True, False, "true"]),
)
POINTERS = st.lists(NAMES, min_size=1, max_size=2).map(
    lambda names: "".join("/" + name.replace("~", "~0").replace("/", "~1") for name in names)
)
TENANTS = st.sampled_from(
    [
        {"organization_id": "ORG-26-000001", "permissions": ["read"]},
        {"organization_id": "ORG-26-000001", "permissions": ["write", "audit:read"]},
        {
            "organization_id": "ORG-26-000001",
            "workspace_id": "WS-26-000001",
            "permissions": ["write"],
        },
        {"permissions": ["admin"]},
    ]
)
GRANTS = st.lists(
    st.builds(
        lambda claim, tenant: {"claim": claim, "value": "x"} | tenant, NAMES | POINTERS, TENANTS
    ),
    min_size=3,
    max_size=8,
)


def resolved(claims: Any, claim: str) -> Any:
    """The value of a claim by its name, or where a pointer leads; None: there is none."""
    if not claim.startswith("/"):
        return claims.get(claim)
    for part in claim.split("/")[1:]:
        name = re.sub("~[01]", lambda found: "~/"[int(found[0][1])], part)
        if isinstance(claims, list) and re.fullmatch("0|[1-9][0-9]*", name):
            claims = dict(enumerate(claims)).get(int(name))
        else:
            claims = claims.get(name) if isinstance(claims, dict) else None
    return claims


def granted(grants: list[Grant], claims: Claims) -> Tenants:
    may: Tenants = {}
    for grant in grants:
        value = resolved(claims, grant["claim"])
        is_granted = grant["value"] in value if isinstance(value, list) else grant["value"] == value
        is_address = re.fullmatch("email|/email(/.*)?", grant["claim"])
        if is_address and claims.get("email_verified") is not True:
            is_granted = False
        if is_granted:
            tenant = grant.get("organization_id"), grant.get("workspace_id")
            may.setdefault(tenant, set()).update(grant["permissions"])
    return may


def judged(grants: Grants, stored: str) -> Tenants:
    tenants = grants.judge(stored)
    assert all(each.tenant == tenant for tenant, each in tenants.items())
    return {tenant: set(each.permissions) for tenant, each in tenants.items()}


@given(st.tuples(GRANTS, GRANTS), CLAIMS)
def test_a_session_has_what_the_file_of_now_grants_to_the_claims_that_it_stored(
    files: tuple[list[Grant], list[Grant]], claims: Claims
) -> None:
    """A claim that only a later file names was not kept, so that no grant by it holds."""
    with tempfile.TemporaryDirectory() as folder:
        path, ticks = Path(folder, "grants.toml"), count(0, CHECK_SECONDS)
        write_grants(path, *files[0])
        grants = Grants(path, lambda: next(ticks))
        stored = grants.stored_claims(claims)
        named = {grant["claim"] for grant in files[0]}
        for file in files:
            write_grants(path, *file)
            named_grants = [grant for grant in file if grant["claim"] in named]
            assert judged(grants, stored) == granted(named_grants, claims)


@given(CLAIMS, NAMES | POINTERS)
def test_a_claim_is_found_where_a_plain_resolver_finds_it(claims: Claims, claim: str) -> None:
    assert _found(claims, claim) == resolved(claims, claim)


@pytest.mark.parametrize(
    ("claim", "claims"), [("/list/00", {"list": ["x"]}), ("/email/0", {"email": ["x"]})]
)
def test_a_pointer_with_a_zero_too_many_or_into_an_unverified_address_grants_nothing(
    tmp_path: Path, claim: str, claims: Claims
) -> None:
    """RFC 6901, 4: an index has no leading zeros."""
    write_grants(tmp_path / "grants.toml", FINANCE | {"claim": claim, "value": "x"})
    grants = Grants(tmp_path / "grants.toml")
    assert judged(grants, grants.stored_claims(claims)) == {}


def test_a_file_that_was_away_is_whole_again_with_the_same_grants(tmp_path: Path) -> None:
    file, ticks = tmp_path / "grants.toml", count(0, CHECK_SECONDS)
    grant = {"claim": "0", "value": "x", "permissions": ["admin"]}
    write_grants(file, grant)
    grants = Grants(file, lambda: next(ticks))
    file.unlink()
    grants.check()
    assert grants.why_broken == "LEDGER_OIDC_GRANTS is no file"
    assert judged(grants, '{"0": "x"}') == {(None, None): {"admin"}}
    write_grants(file, grant)
    grants.check()
    assert grants.why_broken is None


def test_a_file_that_is_empty_at_the_start_is_broken(tmp_path: Path) -> None:
    file = tmp_path / "grants.toml"
    file.write_text("")
    assert Grants(file).why_broken
