"""Signing in by ``oidc-provider``, a certified provider: the long form, for `make oidc`.

`make oidc` installs the provider's package (Node 20) and runs this module; without the package the
module is skipped. The short form in CI is ``tests/browser/test_sign_in_by_provider.py``.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import Edge, edge_of
from tests.support.openid import FINANCE, Person, led_to, write_grants
from tests.support.served import free_port
from tests.support.service import Clock
from tests.support.streaming import listening
from tests.support.strict_provider import (
    CLIENT,
    PACKAGE,
    SECRET,
    StrictProvider,
    running_strict_provider,
)
from tests.support.views import until

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not PACKAGE.exists(), reason="`make oidc` installs the provider"),
]


class Town(NamedTuple):
    """A service, and the strict provider that it trusts."""

    edge: Edge
    provider: StrictProvider
    address: str

    def arrive(self, next: str = "/ui") -> Person:
        """A person who has come back from the provider with a session."""
        guest = Person(self.edge, self.address)
        back = self.provider.visit(guest.leave(next), f"{self.address}/ui/oidc/callback?")
        assert led_to(guest.come_back(back.removeprefix(self.address))) == next
        assert guest.session is not None
        return guest


@pytest.fixture
def town(
    server: EmbeddedPostgres, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Town]:
    """The parameter, if there is one, has further settings."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    (tmp_path / "secret").write_text(SECRET)
    write_grants(tmp_path / "grants.toml", FINANCE)
    with (
        running_strict_provider(address, tmp_path / "provider.log") as provider,
        copied(server.url, "edge_strict_town") as conninfo,
    ):
        settings = Settings(
            master_key=MASTER_KEY,
            idle_sweep_seconds=3600,
            watch_seconds=3600,
            public_url=address,
            oidc_issuer=provider.issuer,
            oidc_client_id=CLIENT,
            oidc_client_secret_file=tmp_path / "secret",
            oidc_grants=tmp_path / "grants.toml",
            **getattr(request, "param", {}),
        )
        clock = Clock(datetime.now(UTC))
        with edge_of(settings, conninfo, clock) as edge, listening(edge, port=port):
            yield Town(edge, provider, address)


def test_a_strict_provider_signs_in_and_its_rotated_refresh_tokens_are_used_once(
    town: Town,
) -> None:
    town.provider.person("anna", name="Anna", groups=["ledger-finance"])
    guest = town.arrive("/ui/runs")
    for _ in range(3):
        town.edge.clock.advance(seconds=310)
        assert guest.is_signed_in()
    town.provider.person("anna", groups=["nobodys"])
    town.edge.clock.advance(seconds=310)
    assert not guest.is_signed_in()


@pytest.mark.parametrize(
    "town", [{"oidc_scopes": "openid profile email offline_access"}], indirect=True
)
def test_a_scope_that_the_strict_provider_does_not_grant_keeps_nobodys_rights(town: Town) -> None:
    """Without a request for consent it grants no ``offline_access``, and gives a refresh token."""
    town.provider.person("dora", groups=["ledger-finance"])
    guest = town.arrive()
    for _ in range(2):
        town.edge.clock.advance(seconds=310)
        assert guest.is_signed_in()
    town.provider.person("dora", groups=["nobodys"])
    town.edge.clock.advance(seconds=310)
    assert not guest.is_signed_in()


def test_the_end_of_the_providers_session_ends_the_ledgers_by_the_back_channel(
    town: Town,
) -> None:
    town.provider.person("bruno", groups=["ledger-finance"])
    guest, other = town.arrive(), town.arrive()
    town.edge.clock.advance(seconds=2)
    page = town.provider.http.get("/session/end")
    assert page.status_code == 200
    secret = page.text.split('name="xsrf" value="')[1].split('"')[0]
    confirmed = town.provider.http.post(
        "/session/end/confirm", data={"xsrf": secret, "logout": "yes"}
    )
    assert confirmed.status_code in (200, 302, 303), confirmed.text
    until(lambda: not guest.is_signed_in(), "the logout by the back channel")
    assert not other.is_signed_in(), "one session of the provider, one sid"


def test_signing_out_leads_to_a_page_that_the_strict_provider_accepts(town: Town) -> None:
    town.provider.person("carla", groups=["ledger-finance"])
    guest = town.arrive()
    address = led_to(guest.submit(guest.get("/ui"), "/ui/sign-out"))
    assert address.startswith(f"{town.provider.issuer}/session/end")
    assert town.provider.http.get(address).status_code == 200
    assert not guest.is_signed_in()
