"""The page below a path prefix, in a real browser behind a real nginx."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.browser import show_one_path, watched
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import Edge, edge_of
from tests.support.facts import fact
from tests.support.nginx import PREFIX, behind_nginx, needs_nginx
from tests.support.soak import repeated
from tests.support.streaming import listening

pytestmark = needs_nginx


@pytest.fixture(scope="module")
def below(server: EmbeddedPostgres) -> Iterator[Edge]:
    settings = Settings(master_key=MASTER_KEY, root_path=PREFIX)
    with copied(server.url, "below_browser") as conninfo, edge_of(settings, conninfo) as edge:
        yield edge


@pytest.mark.parametrize("strips", repeated([False, True], 0), ids=["passes on", "strips"])
def test_a_person_pauses_a_line_and_sees_it_move(
    chromium: Browser, below: Edge, tmp_path: Path, strips: bool
) -> None:
    line_id = below.fresh()
    token = below.token("read", "service_lines:manage")
    with (
        listening(below) as address,
        behind_nginx(tmp_path, address, strips) as outside,
        watched(chromium, f"{outside}{PREFIX}") as watch,
    ):
        page = watch.context.new_page()
        page.set_default_timeout(15_000)
        page.goto(f"{outside}{PREFIX}/")
        page.locator("input[name=token]").fill(token)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(f"{outside}{PREFIX}/ui")
        # Filters fetch and push addresses; the search redirects.
        page.get_by_text("Filters", exact=True).click()
        page.locator("select[name=state]").select_option("running")
        page.wait_for_url(f"{outside}{PREFIX}/ui?state=running")
        search = page.get_by_role("searchbox", name="Search by name or ID")
        search.fill(line_id)
        search.press("Enter")
        page.wait_for_url(f"{outside}{PREFIX}/ui/lines/{line_id}")
        # The stream is open, and an event refreshes the page.
        expect(page.locator("[data-live]")).to_contain_text("live")
        below.accept(fact("execution.checked_in", line_id, {"note": "meanwhile"}))
        expect(page.get_by_text("execution.checked_in").first).to_be_visible()
        page.get_by_role("button", name="Pause…").click()
        page.get_by_role("dialog").get_by_label("Reason").fill("Review")
        page.get_by_role("button", name="Pause this line").click()
        expect(page.locator(".standing .state")).to_have_text("paused")
        page.route(f"{outside}{PREFIX}/openapi.json", show_one_path)
        page.get_by_role("link", name="API").click()
        page.wait_for_url(f"{outside}{PREFIX}/docs")
        expect(page.locator(".opblock").first).to_be_visible()
        page.go_back()
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_url(f"{outside}{PREFIX}/")
        expect(page.locator("input[name=token]")).to_be_visible()
