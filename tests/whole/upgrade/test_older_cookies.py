"""People who had signed in to a ledger of the version before sessions sign in again, in words."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.app.composition.database import open_vault, prepare_database
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.edge import Edge, edge_of
from tests.support.openid import FINANCE, OpenIdProvider, Person, write_grants
from tests.support.restored import OLD_LEDGERS

OLD = OLD_LEDGERS[-1]


@pytest.fixture(scope="module")
def upgraded(server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    """A ledger of the version before, under today's service, which trusts a provider."""
    folder: Path = tmp_path_factory.mktemp("upgraded")
    write_grants(folder / "grants.toml", FINANCE)
    with OpenIdProvider() as provider, OLD.restored(server.url) as conninfo:
        more = provider.settings(folder) | {"oidc_grants": folder / "grants.toml"}
        settings = OLD.settings.model_copy(update=more)
        prepare_database(settings, conninfo)
        provider.clock = clock = OLD.clock
        with edge_of(settings, conninfo, clock) as edge:
            yield edge


def older_cookie(edge: Edge) -> str:
    """A cookie as the version before made it: a key that still holds, sealed."""
    kept = {
        "token": OLD.keys["organization"],
        "form_key": "k" * 32,
        "expires": int(edge.clock().timestamp()) + 3600,
        "secure": True,
    }
    sealed = open_vault(OLD.settings).seal("ui/session", json.dumps(kept).encode())
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def test_an_older_cookie_leads_to_the_sign_in_page_and_from_there_to_a_session(
    upgraded: Edge,
) -> None:
    guest = Person(upgraded)
    for name in ("ledger_session", "__Host-ledger_session"):
        guest.http.cookies.set(name, older_cookie(upgraded), "ledger.test", "/")
    for page in (guest.get("/ui/runs"), guest.post("/ui/sign-out", {"form_key": "k" * 32})):
        assert page.status == 401
        assert page.all('a[href^="/ui/oidc/sign-in"]')
        assert page.all("#token")
    assert guest.get("/").status == 200
    assert guest.signed_in("/ui/runs").get("/ui/sessions").status == 200


def test_a_key_of_then_signs_in_and_is_listed_as_a_session(upgraded: Edge) -> None:
    guest = Person(upgraded)
    assert guest.sign_in(OLD.keys["organization"]).status == 303
    assert guest.get("/ui/sessions").status == 200
    shown = upgraded.data("/v1/sessions", OLD.keys["admin"])
    assert [each["by"] for each in shown].count("token") == 1
