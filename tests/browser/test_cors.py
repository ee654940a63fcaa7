"""A page of another origin calls the API, as a real browser allows it."""

from collections.abc import Iterator
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, Error, Page

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import Edge, edge_of
from tests.support.facts import activation
from tests.support.receiver import Answer, Receiver, Request
from tests.support.streaming import listening

ASK = """async ([address, token, method, path, headers, body]) => {
  const answer = await fetch(address + path, {
    method, headers: {Authorization: `Bearer ${token}`, ...headers}, body,
  });
  return [answer.status, answer.headers.get("Ledger-Position"), await answer.text()];
}"""

FOLLOW = """async ([address, token]) => {
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 15_000);
  const answer = await fetch(address + "/v1/events/stream", {
    headers: {Authorization: `Bearer ${token}`, "Last-Event-ID": "EVT-26-000001"},
    signal: stop.signal,
  });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("execution.started")) {
    const {value, done} = await reader.read();
    if (done) return text;
    text += value;
  }
  stop.abort();
  return "execution.started";
}"""


class Sites(NamedTuple):
    """A service with its address, and the addresses of two sites; it allows one."""

    edge: Edge
    address: str
    listed: str
    other: str


def any_page(_: Request) -> Answer:
    return Answer(body=b"<!doctype html>", headers={"content-type": "text/html"})


@pytest.fixture(scope="module")
def sites(server: EmbeddedPostgres) -> Iterator[Sites]:
    with Receiver(any_page) as listed, Receiver(any_page) as other:
        settings = Settings(master_key=MASTER_KEY, cors_origins=listed.url)
        with (
            copied(server.url, "cors_browser") as conninfo,
            edge_of(settings, conninfo) as edge,
            listening(edge) as (host, port),
        ):
            yield Sites(edge, f"http://{host}:{port}", listed.url, other.url)


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with chromium.new_context() as context:
        yield context.new_page()


def test_a_script_of_a_listed_origin_reports_reads_and_follows(page: Page, sites: Sites) -> None:
    edge, at = sites.edge, sites.address
    token = edge.token("read", "write", "webhooks:manage")
    line = edge.fresh_id()
    sent = activation(line)
    attributes = {f"ce-{n}": v for n, v in sent.items() if n not in ("data", "datacontenttype")}
    page.goto(f"{sites.listed}/")

    def ask(method: str, path: str, headers: dict[str, str], body: str | None = None) -> list[str]:
        answer: list[str] = page.evaluate(ASK, [at, token, method, path, headers, body])
        return answer

    data = page.evaluate("JSON.stringify", sent["data"])
    reported = ask("POST", "/v1/facts", attributes | {"Content-Type": "application/json"}, data)
    assert reported[0] == 201, reported
    position = reported[1]
    assert position.isdigit()
    read = ask("GET", f"/v1/execution/{line}", {"Ledger-Min-Position": position})
    assert read[0] == 200
    assert line in read[2]
    headers = {"Idempotency-Key": "a", "Content-Type": "application/json"}
    changed = ask("PATCH", "/v1/webhooks/WHK-26-999999", headers, '{"enabled": false}')
    assert changed[0] == 404
    assert '"not_found"' in changed[2]
    assert page.evaluate(FOLLOW, [at, token]) == "execution.started"


def test_a_script_of_another_origin_reads_nothing(page: Page, sites: Sites) -> None:
    edge, at = sites.edge, sites.address
    token = edge.token("read")
    page.goto(f"{sites.other}/")
    with pytest.raises(Error, match="Failed to fetch"):
        page.evaluate(ASK, [at, token, "GET", "/v1/execution", {}, None])


def test_a_script_of_a_listed_origin_reads_no_page(page: Page, sites: Sites) -> None:
    page.goto(f"{sites.listed}/")
    with pytest.raises(Error, match="Failed to fetch"):
        page.evaluate("address => fetch(address + '/ui')", sites.address)
