"""A read node on a hot standby takes GETs alone, and answers as the node that writes does."""

import base64
import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi.routing import APIRoute

from ledger.app.features import page_routers, routers
from tests.support.embedded import query
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.served import name_of, post, run_ledger
from tests.support.views import until
from tests.whole.standby.conftest import Cluster, read_node

LINE, RUN, BARE = "LIN-26-500001", "RUN-26-500001", "RUN-26-500002"
FAILED = "RUN-26-500003"
NO_ERRORS = "A read node shows no errors."
WRITES = sorted(
    {
        (method, re.sub(r"\{\w+\}", "LIN-26-500001", route.path))
        for router in (*routers(), *page_routers())
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods - {"GET"}
    }
)


@pytest.fixture(scope="module")
def end(cluster: Cluster) -> int:
    """Report a line with three runs: with input, without, and failed; return the position."""
    data = {"service_line_id": LINE}
    with cluster.client(cluster.node) as client:
        for event in (
            activation(LINE),
            fact("run.started", RUN, {**data, "input": {"secret": "plum"}}),
            fact("run.started", BARE, data),
            fact("run.started", FAILED, data),
            fact("run.failed", FAILED, {"error": {"code": "E1", "message": "pear"}}),
        ):
            written = post(client, event)
            assert written.status_code == 201, written.text
    return int(written.headers["ledger-position"])


@pytest.fixture
def reads(cluster: Cluster, end: int) -> Iterator[httpx.Client]:
    cluster.standby.catch_up()
    with cluster.client(cluster.reader) as client:
        client.headers["ledger-min-position"] = str(end)
        yield client


def refused(answer: httpx.Response, code: str) -> None:
    assert (answer.status_code, answer.json().get("code")) == (503, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_every_route_that_writes_is_refused_as_read_only(
    reads: httpx.Client, method: str, path: str
) -> None:
    answer = reads.request(method, path, content=b"{}")
    if path.startswith("/v1"):
        refused(answer, "read_only")
    else:
        assert answer.status_code == 503
        assert answer.headers["content-type"].startswith("text/html")
        assert "This node only reads" in answer.text


def test_a_write_is_refused_before_its_body_its_path_and_its_key_are_looked_at(
    reads: httpx.Client,
) -> None:
    refused(reads.post("/v1/nothing"), "read_only")
    refused(reads.post("/v1/facts", content=b"{", headers={"authorization": ""}), "read_only")


def test_requests_that_write_nothing_go_on(reads: httpx.Client) -> None:
    assert reads.head(f"/v1/execution/{LINE}").status_code == 200
    assert reads.options("/v1/facts").status_code == 405  # as on any node without origins
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
        assert reads.get(path).status_code == 200, path
    assert re.search(r"^ledger_beat_age_seconds [0-9.]+$", reads.get("/metrics").text, re.M)


def test_each_kind_of_read_answers_as_on_the_node_that_writes(
    cluster: Cluster, reads: httpx.Client, end: int
) -> None:
    with cluster.client(cluster.node) as node:
        at = node.get(f"/v1/execution/{LINE}/history").json()
    paths = [
        "/v1/execution",
        f"/v1/execution/{LINE}",
        f"/v1/execution/{LINE}/history",
        f"/v1/execution/{LINE}/timeline?to={at['data'][-1]['recorded_at']}",
        f"/v1/execution/{LINE}?as_of={at['data'][0]['recorded_at']}",
        f"/v1/runs/{BARE}",
        "/v1/runs/export?format=jsonl",
        "/v1/execution/export?sort=state_since",
        f"/v1/search?q={LINE}",
        "/v1/directory?type=workspace",
        f"/v1/events?service_line_id={LINE}",
        "/v1/events/export?format=jsonl",
        f"/v1/audit-logs?organization_id={ORGANIZATION}",
        "/v1/webhooks",
    ]
    with cluster.client(cluster.node) as node:
        for path in paths:
            answer, expected = reads.get(path), node.get(path)
            assert answer.status_code == 200, (path, answer.text)
            assert answer.content == expected.content, path
            assert "as_of" in path or int(answer.headers["ledger-position"]) >= end


def test_a_stream_tells_of_events_as_they_are_replicated(
    cluster: Cluster, reads: httpx.Client
) -> None:
    with (
        cluster.client(cluster.node) as node,
        reads.stream("GET", "/v1/events/stream?type=execution.checked_in") as stream,
    ):
        lines = stream.iter_lines()
        assert stream.status_code == 200
        note = fact("execution.checked_in", LINE, {"note": "streamed"})
        assert post(node, note).status_code == 201
        assert '"streamed"' in next(line for line in lines if line.startswith("data:"))


def test_a_proof_is_answered_from_the_standby(cluster: Cluster, reads: httpx.Client) -> None:
    def proof() -> httpx.Response:
        return reads.get("/v1/log/proof/inclusion?position=1", headers={"ledger-min-position": "0"})

    until(lambda: proof().status_code == 200, "the seal of the first event")
    with cluster.client(cluster.node) as node:
        size = proof().json()["tree_size"]
        same = node.get(f"/v1/log/proof/inclusion?position=1&size={size}").json()
        assert proof().json()["leaf_hash"] == same["leaf_hash"]
        assert base64.b64decode(same["leaf_hash"])
        assert reads.get("/v1/log/key").text == node.get("/v1/log/key").text


@pytest.mark.parametrize(
    "path", [f"/v1/runs/{RUN}", "/v1/runs", f"/v1/execution/{LINE}/runs", "/v1/runs?as_of={}"]
)
def test_an_answer_that_would_hold_a_runs_payload_is_refused(
    cluster: Cluster, reads: httpx.Client, path: str
) -> None:
    with cluster.client(cluster.node) as node:
        last = node.get(f"/v1/execution/{LINE}/history").json()["data"][-1]["recorded_at"]
    refused(reads.get(path.format(last)), "read_only")
    assert reads.head(path.format(last)).status_code == 503


def test_unaudited_reads_are_granted_where_the_operator_allows_them_and_leave_nothing(
    cluster: Cluster, visitor: httpx.Client, end: int
) -> None:
    allowed = read_node(
        cluster.folder / "unaudited", cluster.standby.url, LEDGER_UNAUDITED_READS="true"
    )
    with allowed, cluster.client(allowed) as client:
        until(lambda: client.get("/readyz").status_code == 200, "the read node")
        answer = client.get(f"/v1/runs/{RUN}", headers={"ledger-min-position": str(end)})
        assert answer.json()["data"]["input"] == {"secret": "plum"}
        page = visitor.get(f"{allowed.address}/ui/runs")
        assert (page.text.count("pear"), page.text.count(NO_ERRORS)) == (1, 0)
    # The node's end would have recorded what waited.
    read = f"/v1/audit-logs?organization_id={ORGANIZATION}&outcome=read"
    with cluster.client(cluster.node) as node:
        assert node.get(read).json()["data"] == []


def test_a_read_is_no_use_of_a_key(cluster: Cluster, reads: httpx.Client) -> None:
    token = cluster.node.token()
    cluster.standby.catch_up()
    headers = {"authorization": f"Bearer {token}"}
    uses = "SELECT count(*) FROM ledger.key_use WHERE key_id = (SELECT key_id FROM ledger.api_key"
    uses += " ORDER BY created_at DESC LIMIT 1)"
    second = read_node(cluster.folder / "second", cluster.standby.url)
    with second, cluster.client(second) as client:
        assert client.get("/v1/execution", headers=headers).status_code == 200
    assert query(cluster.standby.primary, uses) == [(0,)]


@pytest.fixture
def visitor(cluster: Cluster, reads: httpx.Client) -> Iterator[httpx.Client]:
    """A visitor of both nodes, who signed in on the one that writes."""
    with httpx.Client() as visitor:
        answer = visitor.post(f"{cluster.node.address}/ui/sign-in", data={"token": cluster.token})
        assert answer.status_code == 303, answer.text
        cluster.standby.catch_up()
        yield visitor


def test_a_page_is_shown_to_a_visitor_who_signed_in_on_another_node(
    cluster: Cluster, visitor: httpx.Client
) -> None:
    page = visitor.get(f"{cluster.reader.address}/ui/lines/{LINE}")
    assert page.status_code == 200
    assert LINE in page.text
    hidden = visitor.get(f"{cluster.reader.address}/ui/runs/{RUN}")
    assert hidden.status_code == 503
    assert "plum" not in hidden.text


@pytest.mark.parametrize("path", [f"/ui/lines/{LINE}", f"/ui/lines/{LINE}/runs", "/ui/runs"])
def test_a_page_of_runs_is_shown_without_the_errors(
    cluster: Cluster, visitor: httpx.Client, path: str
) -> None:
    page = visitor.get(f"{cluster.reader.address}{path}")
    assert page.status_code == 200
    assert (page.text.count("pear"), page.text.count(NO_ERRORS)) == (0, 1)
    for run in (RUN, BARE, FAILED):
        assert run in page.text


def test_a_read_node_has_workers_only(cluster: Cluster) -> None:
    names = {name_of(pid) for pid in cluster.reader.processes()}
    assert names == {b"ledger-api-1\n"}


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"LEDGER_MASTER_KEY": "ab" * 32}, "The master key is not the key of this database"),
        ({"LEDGER_MASTER_KEY": None}, "The master key is not known here"),
        ({"LEDGER_DATABASE_URL": None}, "A read node needs a database of others"),
    ],
)
def test_a_read_node_refuses_in_one_line_what_it_cannot_serve(
    cluster: Cluster, more: dict[str, str | None], line: str
) -> None:
    folder = cluster.folder / "refused"
    variables = {**cluster.reader.environment, "LEDGER_DATA_DIR": str(folder), **more}
    environment = {name: value for name, value in variables.items() if value is not None}
    ended = run_ledger(environment, "serve", "--role", "read", "--port", "0")
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert line in ended.stderr
    assert not (folder / "master.key").exists()


def test_a_read_node_works_on_the_primary_too(cluster: Cluster, end: int) -> None:
    on_primary = read_node(cluster.folder / "beside", cluster.standby.primary)
    with on_primary, cluster.client(on_primary) as client:
        until(lambda: client.get("/readyz").status_code == 200, "the read node")
        refused(post(client, fact("execution.checked_in", LINE)), "read_only")
        answer = client.get(f"/v1/execution/{LINE}", headers={"ledger-min-position": str(end)})
        assert answer.status_code == 200
