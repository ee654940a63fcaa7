"""Headers and refusals that all routes share, unknown ones too (contract, Reading and Access)."""

import json
import re
from urllib.parse import unquote

import pytest

from ledger.engine.http.lean import LeanRoute
from tests.support.edge import Edge, assert_problem
from tests.support.facts import fact
from tests.whole.test_every_route import PERMISSIONS, READS, label

UNKNOWN = "LIN-26-999999"
JSON = {"content-type": "application/json"}


def test_an_unknown_path_is_a_404(edge: Edge) -> None:
    for path in ("/nothing", "/v1", "/v1/execution/a/b/c", "/v1/facts/x", "/v2/execution"):
        assert_problem(edge.get(path), 404, "not_found")


def test_the_title_of_a_refusal_is_the_name_of_its_status(edge: Edge) -> None:
    """RFC 9457, 4.2.1: a problem of the type ``about:blank`` has no other title."""
    line = edge.fresh()
    refusals = (
        ("Not Found", edge.get("/nothing")),
        ("Method Not Allowed", edge.request("PUT", "/v1/execution")),
        ("Unprocessable Content", edge.get("/v1/execution?limit=0")),
        ("Unprocessable Content", edge.send(fact("run.requested", None, {"service_line_id": 1}))),
        ("Bad Request", edge.get("/v1/execution?cursor=none")),
        ("Bad Request", edge.post("/v1/facts", content=b"{", headers=JSON)),
        ("Content Too Large", edge.post("/v1/facts", content=b" " * 9_000_000, headers=JSON)),
        ("Unsupported Media Type", edge.post("/v1/facts", content=b"{}")),
        ("Conflict", edge.send(fact("service_line.resumed", line))),
        ("Unauthorized", edge.get("/v1/execution", headers={"authorization": "Bearer none"})),
    )
    for title, answer in refusals:
        assert (answer.json()["type"], answer.json()["title"]) == ("about:blank", title)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/facts", "POST"),
        ("PUT", "/v1/facts", "POST"),
        ("POST", "/v1/execution", "GET, HEAD"),
        ("DELETE", f"/v1/execution/{UNKNOWN}", "GET, HEAD"),
        ("GET", f"/v1/execution/{UNKNOWN}/pause", "POST"),
        ("PATCH", "/v1/runs/RUN-26-000001", "GET, HEAD"),
        ("DELETE", "/v1/runs/RUN-26-000001/erase", "POST"),
        ("OPTIONS", "/v1/execution", "GET, HEAD"),
        ("TRACE", "/v1/execution", "GET, HEAD"),
        ("NONSENSE", "/v1/execution", "GET, HEAD"),
        ("PUT", "/v1/webhooks", "GET, HEAD, POST"),
        ("OPTIONS", "/v1/webhooks/WHK-26-000001", "DELETE, GET, HEAD, PATCH"),
        ("PUT", "/ui/webhooks", "GET, HEAD, POST"),
    ],
)
def test_another_method_is_a_405_that_names_the_allowed_methods(
    edge: Edge, method: str, path: str, allowed: str
) -> None:
    answer = edge.request(method, path)
    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


def test_an_answer_repeats_the_request_id(edge: Edge) -> None:
    for path in ("/v1/execution", "/nothing", "/healthz"):
        answer = edge.get(path, headers={"x-request-id": "req-1.a:b/c"})
        assert answer.headers["x-request-id"] == "req-1.a:b/c"


@pytest.mark.parametrize("sent", ["", "x" * 129, "with space", "caf\xe9", "<script>", "a\tb"])
def test_an_invalid_request_id_is_replaced(edge: Edge, sent: str) -> None:
    headers = [(b"x-request-id", sent.encode("latin-1"))]
    made = edge.get("/nothing", headers=headers).headers["x-request-id"]
    assert made != sent
    assert made.isalnum()


def test_each_request_gets_an_id_of_its_own(edge: Edge) -> None:
    made = {edge.get("/nothing").headers["x-request-id"] for _ in range(10)}
    assert len(made) == 10


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("/v1/execution", None, 200),
        ("/v1/execution", "garbage", 401),
        ("/v1/execution?limit=0", None, 422),
        ("/v1/execution?cursor=x", None, 400),
        (f"/v1/execution/{UNKNOWN}", None, 404),
        ("/v1/facts", None, 405),
        ("/nothing", None, 404),
        ("/healthz", None, 200),
        ("/readyz", None, 200),
        ("/metrics", None, 200),
        ("/openapi.json", None, 200),
        ("/docs", None, 200),
        ("/", None, 200),
        ("/ui", None, 401),
    ],
)
def test_every_answer_carries_the_position(
    edge: Edge, path: str, token: str | None, status: int
) -> None:
    edge.fresh()
    answer = edge.get(path, token)
    assert answer.status_code == status
    assert int(answer.headers["ledger-position"]) == edge.log()[0][0]


def test_the_operators_paths_answer_without_a_token_and_name_no_tenant(edge: Edge) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"):
        assert edge.get(path, headers={"authorization": ""}).status_code == 200
    text = edge.get("/metrics").text
    assert "ORG-" not in text
    assert "LIN-" not in text


def test_metrics_have_one_series_for_all_methods_that_no_route_accepts(edge: Edge) -> None:
    """A client can send some thirty methods to each route, and a process never drops a series."""
    methods = ("PUT", "OPTIONS", "TRACE", "PROPFIND", "MKCALENDAR", "M-SEARCH", "ANYTHING")
    for method in methods:
        assert edge.request(method, "/v1/execution/summary").status_code == 405
    counted = r"ledger_http_request_seconds_count\{(.*)\} (.*)"
    series = dict(re.findall(counted, edge.get("/metrics").text))
    others = 'method="other",status="405"'
    assert float(series[others]) >= len(methods)
    assert {re.findall('method="(.*?)"', labels)[0] for labels in series} <= {
        "GET", "HEAD", "POST", "PATCH", "DELETE", "other",
    }  # fmt: skip


def test_the_api_page_loads_files_of_the_service_alone(edge: Edge) -> None:
    page = edge.get("/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert re.findall(r"<script(?![^>]*\ssrc=)", page.text) == []
    files = re.findall(r"""<(?:link|script)[^>]*\s(?:href|src)="([^"]+)\"""", page.text)
    assert len(files) >= 5
    for file in [*files, "/openapi.json"]:
        assert edge.get(file).status_code == 200, file


# Hostile paths and parameters: no server error, and no answer that repeats them.


@pytest.mark.parametrize(
    "path",
    [
        "/v1/execution/LIN-26-%00",
        "/v1/execution/LIN-26-100001%00",
        "/v1/execution/LIN-26-%00/runs",
        "/v1/runs/RUN-26-%00",
    ],
)
def test_an_id_with_nul_is_a_404(edge: Edge, path: str) -> None:
    assert_problem(edge.get(path), 404, "not_found")


@pytest.mark.parametrize("path", ["/v1/execution", "/v1/execution/summary", "LINE/runs"])
@pytest.mark.parametrize("name", ["workspace_id", "project_tag"])
def test_a_parameter_with_nul_is_a_422(edge: Edge, path: str, name: str) -> None:
    if path == "LINE/runs":
        path, name = f"/v1/execution/{edge.fresh()}/runs", "triggered_by"
    assert_problem(edge.get(f"{path}?{name}=a%00b"), 422, "invalid_request")


@pytest.mark.parametrize("name", ["from", "to"])
@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_bound_outside_the_years_1_to_9999_is_a_422(edge: Edge, name: str, at: str) -> None:
    answer = edge.get(f"/v1/execution/{edge.fresh()}/runs", params={name: at})
    assert_problem(answer, 422, "invalid_request")


STRANGE = (
    "LIN-26-999999", "LIN-26-100001%0A", "LIN-26-%D9%A1%D9%A1%D9%A1%D9%A1%D9%A1%D9%A1",
    "%20LIN-26-100001", "lin-26-100001", "LIN-26-0100001", "%FF%FE", "%ED%A0%80",
    "%F0%9F%92%A9", "%2e%2e", "%27%20OR%201=1--", "%25s", "%25(line_id)s", "x" * 4000, "null", "0",
)  # fmt: skip
"""Ids that nothing has."""


@pytest.mark.parametrize("route", [r for r in READS if "_id}" in r.path], ids=label)
def test_an_unknown_id_is_a_404_that_does_not_repeat_it(edge: Edge, route: LeanRoute) -> None:
    edge.fresh()
    token = edge.token(*PERMISSIONS)
    for identifier in STRANGE:
        answer = edge.get(re.sub("{.*?}", identifier, route.path), token)
        assert_problem(answer, 404, "not_found")
        for text in (identifier, unquote(identifier)):
            assert len(text) < 5 or text not in answer.text


@pytest.mark.parametrize("action", ["pause", "resume"])
@pytest.mark.parametrize("identifier", ["LIN%00", "LIN-26-100001%0A", "LIN-26-%D9%A1", "%FF"])
def test_pausing_or_resuming_an_unknown_id_is_a_404(
    edge: Edge, action: str, identifier: str
) -> None:
    answer = edge.post(f"/v1/execution/{identifier}/{action}", json={"reason": "x"})
    assert_problem(answer, 404, "not_found")


def test_the_path_of_the_summary_is_not_taken_for_a_line(edge: Edge) -> None:
    assert "total" in edge.data("/v1/execution/summary")
    assert_problem(edge.get("/v1/execution/summary/runs"), 404, "not_found")


def test_a_filter_may_hold_any_printable_text(edge: Edge) -> None:
    for value in ("%", "%s", "{where}", "'; DROP", "\\", "�", "💩", "x" * 2000):
        answer = edge.get("/v1/execution", params={"workspace_id": value, "project_tag": value})
        assert (answer.status_code, answer.json()["data"]) == (200, [])
    assert json.loads(edge.get("/v1/execution?project_tag=a,,b").text)["data"] == []
