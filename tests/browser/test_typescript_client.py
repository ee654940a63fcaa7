"""The TypeScript client in a page of another origin, as its package is built."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from scripts.typescript_client.modules import FOLDER
from tests.browser.test_cors import Sites
from tests.client.conftest import RealClock
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import edge_of
from tests.support.receiver import Answer, Receiver, Request
from tests.support.streaming import listening
from tests.support.views import until

WORK = """async ([url, token, line]) => {
  const { Ledger, NotFound } = await import("/index.js");
  const ledger = new Ledger({ url, token, source: "/page" });
  ledger.report("execution.checked_in", line, { note: "one" });
  const value = await ledger.run(line, { name: "whole" }, (whole) =>
    ledger.run(line, { name: "part", parent: whole.name }, (run) => (run.tokens(7), 42)));
  if (!(await ledger.flush()).ok) throw new Error("not flushed");
  const states = [];
  for await (const each of ledger.lines.list({ limit: 1 })) states.push(each.state);
  const types = [];
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 20_000);
  const follower = ledger.events.follow({ service_line_id: line, signal: stop.signal });
  follower.onComplete(() => ledger.report("execution.checked_in", line, { note: "two" }));
  for await (const event of follower) {
    types.push(event.type);
    if (event.payload.note === "two") stop.abort();
  }
  const missing = await ledger.lines.get("LIN-26-999999").catch((error) => error);
  await ledger.lines.pause(line, { reason: "Review" });
  return [value, states, types, missing instanceof NotFound && missing.requestId !== null];
}"""

LEAVE = """async ([url, token, line]) => {
  const { Ledger } = await import("/index.js");
  const send = globalThis.fetch; // only what outlives the page reaches the service
  globalThis.fetch = (to, how) => how.keepalive ? send(to, how) : new Promise(() => {});
  new Ledger({ url, token, source: "/page" }).report("execution.checked_in", line, {});
}"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built package, made aside from the checkout, where others may build."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("package")
    for name in ("package.json", "tsconfig.json"):
        shutil.copy(FOLDER / name, folder)
    shutil.copytree(FOLDER / "src", folder / "src")
    steps = ["install --no-package-lock --no-audit --no-fund", "run build"]
    if (FOLDER / "node_modules/.package-lock.json").exists():  # npm's last word of an installation
        (folder / "node_modules").symlink_to(FOLDER / "node_modules")
        del steps[0]
    for words in steps:
        subprocess.run(["npm", *words.split()], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder / "dist"


@pytest.fixture(scope="module")
def sites(server: EmbeddedPostgres, package: Path) -> Iterator[Sites]:
    def site(request: Request) -> Answer:
        if request.path.endswith(".js"):
            script = {"content-type": "text/javascript"}
            return Answer(body=(package / request.path[1:]).read_bytes(), headers=script)
        return Answer(body=b"<!doctype html>", headers={"content-type": "text/html"})

    with Receiver(site) as listed, Receiver(site) as other:
        settings = Settings(master_key=MASTER_KEY, cors_origins=listed.url)
        with (
            copied(server.url, "typescript_browser") as conninfo,
            edge_of(settings, conninfo, RealClock()) as edge,
            listening(edge) as (host, port),
        ):
            yield Sites(edge, f"http://{host}:{port}", listed.url, other.url)


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with chromium.new_context() as context:
        yield context.new_page()


def test_a_page_of_a_listed_origin_reports_runs_reads_and_follows(page: Page, sites: Sites) -> None:
    line = sites.edge.fresh()
    token = sites.edge.token("read", "write", "service_lines:manage")
    page.goto(f"{sites.listed}/")
    value, states, types, is_missing = page.evaluate(WORK, [sites.address, token, line])
    assert (value, states, is_missing) == (42, ["running"], True)
    runs = ["run.started", "run.started", "run.completed", "run.completed"]
    checked_in = "execution.checked_in"
    assert types == ["execution.started", checked_in, *runs, checked_in]
    child, whole = sites.edge.data(f"/v1/execution/{line}/runs")
    assert (child["parent_run_id"], child["tokens_used"]) == (whole["id"], 7)


def test_a_page_that_is_left_still_sends_its_facts(page: Page, sites: Sites) -> None:
    line = sites.edge.fresh()
    page.goto(f"{sites.listed}/")
    page.evaluate(LEAVE, [sites.address, sites.edge.token("write"), line])
    page.goto(f"{sites.other}/")
    usage = f"/v1/execution/{line}/usage"
    until(lambda: sites.edge.data(usage)["total"]["check_ins"] == 1, "the fact of the page")
