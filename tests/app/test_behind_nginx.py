"""The service behind a real nginx, below a prefix, as the documentation sets it up."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import Edge, edge_of
from tests.support.facts import activation, fact
from tests.support.nginx import PREFIX, behind_nginx, needs_nginx
from tests.support.proxies import disguises, status_of
from tests.support.service import BATCH
from tests.support.streaming import Address, listening

pytestmark = needs_nginx


@pytest.fixture(scope="module")
def below(server: EmbeddedPostgres) -> Iterator[tuple[Edge, Address]]:
    """A service below the prefix, and its own address."""
    settings = Settings(master_key=MASTER_KEY, root_path=PREFIX)
    with (
        copied(server.url, "nginx") as conninfo,
        edge_of(settings, conninfo) as edge,
        listening(edge) as address,
    ):
        yield edge, address


@pytest.fixture(params=[False, True], ids=["passes on", "strips"])
def site(
    below: tuple[Edge, Address], request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Edge, str]]:
    """The service, and the address of an nginx before it."""
    edge, address = below
    with behind_nginx(tmp_path, address, strips=request.param) as outside:
        yield edge, outside


def client_of(edge: Edge, outside: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {edge.token('read', 'write', 'service_lines:manage')}"}
    return httpx.Client(base_url=outside + PREFIX, headers=headers, timeout=20)


def test_the_api_answers_below_the_prefix_and_nowhere_else(site: tuple[Edge, str]) -> None:
    edge, outside = site
    line = edge.fresh()
    with client_of(edge, outside) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get(f"/v1/execution/{line}").json()["data"]["state"] == "running"
        assert client.head(f"/v1/execution/{line}").status_code == 200
        assert client.options("/v1/execution").headers["allow"] == "GET, HEAD"
        assert client.patch("/v1/webhooks/WHK-26-000001", json={}).status_code == 403
        paused = client.post(f"/v1/execution/{line}/pause", json={"reason": "x"})
        assert paused.json()["data"]["state"] == "paused"
        document = client.get("/openapi.json").json()
        assert [server["url"] for server in document["servers"]] == [PREFIX]
        assert client.get(f"{outside}/healthz").status_code == 404


def test_a_large_batch_passes(site: tuple[Edge, str]) -> None:
    """By itself nginx refuses bodies above 1 MB."""
    edge, outside = site
    line = edge.fresh()
    note = {"hours": 0.1, "note": "n" * 2000}
    batch = [fact("execution.checked_in", line, note) for _ in range(1000)]
    body = json.dumps(batch).encode()
    assert len(body) > 2_000_000
    with client_of(edge, outside) as client:
        answer = client.post("/v1/facts", content=body, headers=BATCH)
    assert {item["outcome"] for item in answer.json()["data"]} == {"recorded"}


def test_a_stream_tells_of_an_event_while_it_is_open(site: tuple[Edge, str]) -> None:
    edge, outside = site
    line = edge.fresh_id()
    with (
        client_of(edge, outside) as client,
        client.stream("GET", "/v1/events/stream") as answer,
    ):
        lines = answer.iter_lines()
        assert next(lines)
        edge.accept(activation(line))
        event = next(line for line in lines if line.startswith("data: {"))
    assert json.loads(event.removeprefix("data: "))["service_line_id"] == line


def test_a_person_signs_in_and_every_file_of_the_page_is_there(site: tuple[Edge, str]) -> None:
    edge, outside = site
    with httpx.Client(follow_redirects=True, timeout=20) as browser:
        front = browser.get(outside + PREFIX)
        assert 'action="/ledger/ui/sign-in"' in front.text
        # As a browser does, which names no other origin.
        headers = {"origin": outside}
        form = {"token": edge.token("read"), "next": ""}
        board = browser.post(f"{outside}{PREFIX}/ui/sign-in", data=form, headers=headers)
        assert (board.status_code, str(board.url)) == (200, f"{outside}{PREFIX}/ui")
        script = board.text.partition('src="')[2].partition('"')[0]
        assert script.startswith(f"{PREFIX}/ui/static/")
        assert browser.get(outside + script).status_code == 200


def test_the_metrics_are_refused_in_whatever_disguise_and_the_node_itself_has_them(
    site: tuple[Edge, str], below: tuple[Edge, Address]
) -> None:
    _, outside = site
    _, inside = below
    port = httpx.URL(outside).port
    assert port is not None
    for target in disguises(PREFIX):
        assert status_of(*inside, target) == 200, target
        for method in ("GET", "HEAD", "POST"):
            assert status_of("127.0.0.1", port, target, method) == 403, target
    for target in disguises():
        assert status_of("127.0.0.1", port, target) == 404, target
    assert status_of("127.0.0.1", port, f"{PREFIX}/readyz") == 200
