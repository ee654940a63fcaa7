"""The proof of an event and the page Integrity, in a real browser."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import assert_accessible, enter
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.sealing import seal
from tests.support.verifier import PATH


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("witness")


def test_an_events_page_changes_to_sealed_by_itself_and_its_file_is_proved(
    page: Page, edge: Edge, folder: Path, tmp_path: Path
) -> None:
    enter(page, edge.token("read"))
    line = edge.fresh("capacity")
    (item,) = edge.accept(fact("execution.checked_in", line, {"hours": 1}))
    event = item["event_ids"][0]
    page.goto(f"/ui/events/{event}")
    expect(page.get_by_role("heading", name="Not sealed yet")).to_be_visible()
    assert_accessible(page)
    seal(edge.conninfo, folder)
    expect(page.get_by_role("heading", name="Sealed", exact=True)).to_be_visible()
    assert_accessible(page)
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Download proof").click()
    download = downloading.value
    assert download.suggested_filename == f"{event}.proof.json"
    file = tmp_path / download.suggested_filename
    download.save_as(file)
    assert json.loads(file.read_text())["leaf_index"] >= 0
    command = page.locator("#seal code").first.text_content() or ""
    assert command.split() == ["python", "verifier.py", "proof", file.name]
    done = subprocess.run(
        [sys.executable, "-I", PATH, *command.split()[2:]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "proved")


def test_the_page_integrity_follows_the_log(page: Page, edge: Edge, folder: Path) -> None:
    line = edge.fresh("capacity")
    seal(edge.conninfo, folder)
    enter(page, edge.token("read"))
    page.goto("/ui")
    page.get_by_role("link", name="Integrity").click()
    size = page.locator("dt", has_text="Size").locator("+ dd")
    before = size.text_content() or ""
    assert_accessible(page)
    edge.accept(fact("execution.checked_in", line, {"hours": 1}))
    seal(edge.conninfo, folder)
    expect(size).not_to_have_text(before, timeout=15_000)
    expect(page.locator("dt", has_text="Not sealed yet").locator("+ dd")).to_have_text("no event")
