"""Pages of other origins: listed ones read answers, never by a cookie (contract, Access)."""

import http.client
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.schema.walls import reader_of
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import Edge, assert_problem, edge_of
from tests.support.facts import ORGANIZATION, activation
from tests.support.streaming import STREAM, listening

APP = "https://app.example.com"
LOCAL = "http://localhost:5173"
STRANGER = "https://evil.example.com"
EXPOSED = {"Ledger-Position", "ETag", "Retry-After", "Idempotency-Replayed", "X-Request-Id"}
REQUEST_HEADERS = (
    "authorization, content-type, content-encoding, idempotency-key, ledger-min-position, "
    "if-none-match, last-event-id, x-request-id"
)


@pytest.fixture(scope="module")
def open_edge(server: EmbeddedPostgres) -> Iterator[Edge]:
    """A service that two origins may call."""
    settings = Settings(master_key=MASTER_KEY, cors_origins=f"{APP}, {LOCAL}")
    with copied(server.url, "cors") as conninfo, edge_of(settings, conninfo) as edge:
        yield edge


def of_cors(answer: httpx.Response) -> dict[str, str]:
    """The answer's headers that speak to browsers about origins."""
    return {n: v for n, v in answer.headers.items() if n.startswith("access-control-")}


def preflight(
    edge: Edge, path: str, method: str, origin: str = APP, requested: str | None = None
) -> httpx.Response:
    headers = {"origin": origin, "access-control-request-method": method, "authorization": ""}
    if requested is not None:
        headers["access-control-request-headers"] = requested
    return edge.request("OPTIONS", path, headers=headers)


@pytest.mark.parametrize("origin", [APP, LOCAL])
def test_a_listed_origin_reads_every_answer_below_v1(open_edge: Edge, origin: str) -> None:
    line = open_edge.fresh()
    answers = {
        200: open_edge.get(f"/v1/execution/{line}", headers={"origin": origin}),
        401: open_edge.get("/v1/execution", "garbage", headers={"origin": origin}),
        404: open_edge.get("/v1/nothing", headers={"origin": origin}),
        405: open_edge.request("PUT", "/v1/facts", headers={"origin": origin}),
        422: open_edge.get("/v1/execution?limit=0", headers={"origin": origin}),
        400: open_edge.get("/v1/execution?cursor=x", headers={"origin": origin}),
    }
    for status, answer in answers.items():
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == origin
        exposed = set(answer.headers["access-control-expose-headers"].split(", "))
        assert exposed == EXPOSED
        assert answer.headers["vary"] == "Authorization, Accept-Encoding, Origin"


def test_an_answer_that_holds_still_a_head_and_an_export_are_read_too(open_edge: Edge) -> None:
    line = open_edge.fresh()
    tag = open_edge.get(f"/v1/execution/{line}").headers["etag"]
    token = open_edge.token("audit:read")
    answers = (
        open_edge.get(f"/v1/execution/{line}", headers={"origin": APP, "if-none-match": tag}),
        open_edge.request("HEAD", f"/v1/execution/{line}", headers={"origin": APP}),
        open_edge.get(
            f"/v1/audit-logs/export?organization_id={ORGANIZATION}", token, headers={"origin": APP}
        ),
    )
    assert [answer.status_code for answer in answers] == [304, 200, 200]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == APP


def test_a_request_that_failed_is_reported_to_the_page(open_edge: Edge) -> None:
    """A browser would report an answer without the header as a broken connection."""
    revoked = "SELECT ON ledger.execution_count"
    with psycopg.connect(open_edge.conninfo, autocommit=True) as connection:
        role = reader_of(connection)
        connection.execute(f"REVOKE {revoked} FROM {role}".encode())
        answer = open_edge.get("/v1/execution/summary", headers={"origin": APP})
        connection.execute(f"GRANT {revoked} TO {role}".encode())
    assert_problem(answer, 500, "internal_error")
    assert answer.headers["access-control-allow-origin"] == APP


def test_a_stream_is_read_from_its_start(open_edge: Edge) -> None:
    token = open_edge.token("read")
    with listening(open_edge) as (host, port):
        connection = http.client.HTTPConnection(host, port, timeout=20)
        headers = {"Authorization": f"Bearer {token}", "Origin": APP}
        connection.request("GET", STREAM, headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["access-control-allow-origin"] == APP
        connection.close()


@pytest.mark.parametrize(
    "origin",
    [
        STRANGER, "null", "", "*", "http://app.example.com", "https://app.example.com:444",
        "https://app.example.com/", "https://APP.example.com", "https://app.example.com.evil.com",
        f"{APP}, {LOCAL}",
    ],
)  # fmt: skip
def test_another_origin_gets_the_answer_without_leave_to_read_it(
    open_edge: Edge, origin: str
) -> None:
    answer = open_edge.get("/v1/execution", headers={"origin": origin})
    assert answer.status_code == 200
    assert of_cors(answer) == {}
    assert "Origin" in answer.headers["vary"]
    refused = preflight(open_edge, "/v1/execution", "GET", origin)
    assert_problem(refused, 405, "method_not_allowed")
    assert of_cors(refused) == {}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "DELETE"])
def test_a_preflight_needs_no_token_and_allows_the_methods_of_the_api(
    open_edge: Edge, method: str
) -> None:
    answer = preflight(open_edge, "/v1/webhooks/WHK-26-000001", method, requested="authorization")
    assert (answer.status_code, answer.content) == (204, b"")
    assert method in answer.headers["access-control-allow-methods"].split(", ")
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.headers["access-control-max-age"] == "600"
    assert "access-control-allow-credentials" not in answer.headers
    assert "Origin" in answer.headers["vary"]
    assert answer.headers["x-request-id"]
    assert "content-length" not in answer.headers


def test_a_preflight_allows_the_headers_of_the_api_and_each_attribute_of_a_fact(
    open_edge: Edge,
) -> None:
    plain = preflight(open_edge, "/v1/facts", "POST", requested=REQUEST_HEADERS)
    assert plain.headers["access-control-allow-headers"].lower() == REQUEST_HEADERS
    attributes = "ce-id, CE-Source,ce-specversion, ce-traceparent, ce-own1"
    answer = preflight(
        open_edge, "/v1/facts", "POST", requested=f"{attributes}, x-own, ce-, ce_x, ce-%"
    )
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    assert allowed[len(REQUEST_HEADERS.split(", ")) :] == [
        "ce-id", "ce-source", "ce-specversion", "ce-traceparent", "ce-own1",
    ]  # fmt: skip


def test_a_preflight_for_a_path_that_does_not_exist_lets_the_page_read_the_404(
    open_edge: Edge,
) -> None:
    for path in ("/v1/nothing", "/v1/execution/LIN%2F26"):
        assert preflight(open_edge, path, "POST").status_code == 204
        assert open_edge.post(path, headers={"origin": APP}).status_code == 404


def test_options_without_the_question_of_a_preflight_are_a_405(open_edge: Edge) -> None:
    answer = open_edge.request("OPTIONS", "/v1/execution", headers={"origin": APP})
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/", "/ui", "/docs", "/healthz", "/metrics", "/openapi.json"])
def test_nothing_except_the_api_is_read_by_another_origin(open_edge: Edge, path: str) -> None:
    assert of_cors(open_edge.get(path, headers={"origin": APP})) == {}
    assert of_cors(preflight(open_edge, path, "GET")) == {}


def test_a_session_of_the_page_opens_nothing_below_v1(open_edge: Edge) -> None:
    """The API takes no cookie, so a page of another origin gains nothing by a visitor's session."""
    token = open_edge.token("read")
    entered = open_edge.post("/ui/sign-in", data={"token": token})
    cookie = entered.headers["set-cookie"].split(";")[0]
    headers = {"origin": APP, "cookie": cookie, "authorization": ""}
    assert_problem(open_edge.get("/v1/execution", headers=headers), 401, "unauthorized")


def test_without_the_setting_no_origin_is_allowed(edge: Edge) -> None:
    answer = edge.get("/v1/execution", headers={"origin": APP})
    assert answer.status_code == 200
    assert of_cors(answer) == {}
    assert_problem(preflight(edge, "/v1/execution", "GET"), 405, "method_not_allowed")


def test_a_fact_of_a_listed_origin_is_recorded(open_edge: Edge) -> None:
    line = open_edge.fresh_id()
    sent = activation(line)
    answer = open_edge.post(
        "/v1/facts",
        json=sent,
        headers={"origin": APP, "content-type": "application/cloudevents+json"},
    )
    assert answer.json()["data"]["outcome"] == "recorded"
    assert answer.headers["access-control-allow-origin"] == APP
