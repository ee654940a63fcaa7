"""Signing in by a provider of another site in a real browser: the short form, which CI runs.

The provider is Canaille (``tests/support/iam.py``). ``make oidc`` has the long form, against
``oidc-provider`` (``tests/sign_in/test_strict_provider.py``); the hostile provider of
``tests/sign_in/test_hostile_provider.py`` needs no browser.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.browser import Watch, assert_accessible, screenshot, watched
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import Edge, edge_of
from tests.support.embedded import folder_in_tmp
from tests.support.facts import ORGANIZATION
from tests.support.iam import CLIENT, SECRET, Iam, running_iam
from tests.support.openid import FINANCE, write_grants
from tests.support.served import free_port
from tests.support.service import Clock
from tests.support.streaming import listening

OTHER = "ORG-26-000002"
ABROAD = FINANCE | {"value": "ledger-abroad", "organization_id": OTHER}
AT_THE_PROVIDER = r"elsewhere: GET http://localhost:"


class Office(NamedTuple):
    """A service that a browser reaches, and the provider that it trusts."""

    edge: Edge
    iam: Iam
    address: str


@pytest.fixture(scope="module")
def office(server: EmbeddedPostgres) -> Iterator[Office]:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    with (
        running_iam() as iam,
        folder_in_tmp(0o755) as folder,
        copied(server.url, "edge_office") as conninfo,
    ):
        iam.trust(address)
        (folder / "secret").write_text(SECRET)
        write_grants(folder / "grants.toml", FINANCE, ABROAD)
        settings = Settings(
            master_key=MASTER_KEY,
            idle_sweep_seconds=3600,
            watch_seconds=3600,
            public_url=address,
            oidc_issuer=iam.issuer,
            oidc_client_id=CLIENT,
            oidc_client_secret_file=folder / "secret",
            oidc_name="Canaille",
            oidc_scopes="openid profile email groups",
            oidc_grants=folder / "grants.toml",
        )
        with (
            edge_of(settings, conninfo, Clock(datetime.now(UTC))) as edge,
            listening(edge, port=port),
        ):
            yield Office(edge, iam, address)


@pytest.fixture
def watch(chromium: Browser, office: Office) -> Iterator[Watch]:
    """A browser that knows nobody; its errors are checked at the end."""
    with watched(chromium, office.address) as watch:
        watch.context.set_default_timeout(60_000)
        watch.expect(AT_THE_PROVIDER)
        yield watch


@pytest.fixture
def page(watch: Watch) -> Page:
    return watch.context.new_page()


def test_a_link_to_a_line_is_two_clicks_away_from_the_line(
    page: Page, watch: Watch, office: Office
) -> None:
    watch.expect("status of 401")
    office.iam.person("Anna", "ledger-finance")
    line = office.edge.fresh()
    message = f"data:text/html,<a href='{office.address}/ui/lines/{line}'>the line</a>"
    page.goto(message)
    page.get_by_role("link", name="the line").click()
    button = page.get_by_role("link", name="Sign in with Canaille")
    expect(button).to_be_visible()
    assert_accessible(page)
    screenshot(page, "sign-in-by-provider", 390)
    button.click()
    page.wait_for_url(f"/ui/lines/{line}")
    expect(page.get_by_role("heading", level=1)).to_contain_text(line)
    expect(page.locator("body")).to_contain_text("Anna")
    for cookie in watch.context.cookies(office.address):
        assert "ledger_flow" not in str(cookie.get("name"))
    (only,) = (each for each in watch.context.cookies() if each.get("name") == "ledger_session")
    assert (only.get("sameSite"), only.get("httpOnly"), only.get("path")) == ("Strict", True, "/")
    # The link in the message works again, though the browser keeps the Strict cookie back.
    page.goto(message)
    page.get_by_role("link", name="the line").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(line)


def test_a_person_of_two_organizations_chooses_and_changes_it_in_the_header(
    page: Page, office: Office
) -> None:
    office.iam.person("Bruno", "ledger-finance", "ledger-abroad")
    here = office.edge.fresh()
    there = office.edge.fresh(
        organization_id=OTHER, token=office.edge.token("write", organization_id=OTHER)
    )
    page.goto("/")
    page.get_by_role("link", name="Sign in with Canaille").click()
    page.wait_for_url("**/ui/place**")
    assert_accessible(page)
    screenshot(page, "place", 390)
    page.get_by_role("button", name=ORGANIZATION).click()
    expect(page.get_by_role("link", name=here)).to_be_visible()
    expect(page.get_by_role("link", name=there)).to_have_count(0)
    page.get_by_title("Choose an organization").click()
    page.get_by_role("button", name=OTHER).click()
    expect(page.get_by_role("link", name=there)).to_be_visible()
    expect(page.get_by_role("link", name=here)).to_have_count(0)


def test_a_person_without_grant_reads_whom_to_ask(page: Page, watch: Watch, office: Office) -> None:
    watch.expect("status of 403")
    office.iam.person("Carla", "nobodys")
    page.goto("/")
    page.get_by_role("link", name="Sign in with Canaille").click()
    expect(page.locator("body")).to_contain_text("nobodys")
    assert_accessible(page)
    screenshot(page, "no-grant", 390)
    assert "ledger_session" not in {each.get("name") for each in watch.context.cookies()}


def test_two_tabs_that_both_sign_in_stay_signed_in(
    page: Page, watch: Watch, office: Office
) -> None:
    office.iam.person("Dora", "ledger-finance")
    other = watch.context.new_page()
    for each in (page, other):
        each.goto("/")
    for each in (page, other):
        each.get_by_role("link", name="Sign in with Canaille").click()
    for each in (page, other):
        each.wait_for_url("/ui")
        each.reload()
        expect(each.get_by_role("heading", level=1)).to_have_text("All lines")


def test_signing_out_goes_by_way_of_the_provider_and_back_shows_nothing(
    page: Page, watch: Watch, office: Office
) -> None:
    watch.expect("status of 401")
    office.iam.person("Emil", "ledger-finance")
    page.goto("/")
    page.get_by_role("link", name="Sign in with Canaille").click()
    page.wait_for_url("/ui")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{office.address}/")
    page.goto("/ui")
    expect(page.get_by_role("link", name="Sign in with Canaille")).to_be_visible()
