"""``/metrics`` and strangers: who may read it, and how many series a refused request can make."""

import re
from collections.abc import Iterator

import pytest

from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import Edge, assert_problem, edge_of

STRANGERS: tuple[dict[str, str], ...] = (
    {"authorization": ""},
    {"authorization": "Bearer unknown"},
    {"authorization": "Bearer elk_" + "A" * 43},
    {"authorization": "", "host": "a b"},
    {"authorization": "", "cookie": "ledger=none", "origin": "https://other.example"},
)
METHODS = ("PUT", "DELETE", "PROPFIND")
"""The methods besides those that every stranger tries."""
COUNTED = re.compile(r"^ledger_http_request_seconds_count\{(.*)\} ", re.M)
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
OPEN = {
    "/", "/docs", "/healthz", "/metrics", "/openapi.json", "/readyz", "/ui/", "/ui/docs.css",
    "/ui/columns", "/ui/sign-in", "/ui/sign-out", "/ui/theme", "/ui/views", "/ui/zone", "none",
}  # fmt: skip
"""The routes that need no credential, and the name for requests that reach no route."""
TOKEN = "scrapes-0123456789"


def series(edge: Edge) -> set[frozenset[tuple[str, str]]]:
    """The labels of each series of requests."""
    return {
        frozenset(LABEL.findall(labels))
        for labels in COUNTED.findall(edge.get("/metrics", TOKEN).text)
    }


def storm(edge: Edge, suffix: str, *strangers: dict[str, str]) -> None:
    """Ask for the path of each route in many ways, none of them with a valid credential."""
    paths = [re.sub(r"\{.*?\}", "x", route.path) for route in edge.service.app.routes]
    assert len(paths) > 80
    for path in (*paths, "/nothing", "/v1/nothing", "/ui/nothing"):
        for method in METHODS:
            edge.request(method, path + suffix, headers=STRANGERS[1])
        for headers in strangers:
            edge.get(path + suffix, headers=headers)
            edge.post(path + suffix, headers=headers, content=b"{")


@pytest.fixture(scope="module")
def own(server: EmbeddedPostgres) -> Iterator[Edge]:
    """A service whose metrics need a token."""
    settings = Settings(master_key=MASTER_KEY, metrics_token=TOKEN)
    with copied(server.url, "metrics_access") as conninfo, edge_of(settings, conninfo) as own:
        yield own


def test_refused_requests_add_few_series_whatever_route_and_method_they_name(own: Edge) -> None:
    own.fresh()
    before = series(own)
    storm(own, "", *STRANGERS)
    once = series(own) - before
    assert len(once) <= 60
    for labels in map(dict, once):
        if labels["status"] in {"400", "401", "404", "405"}:
            assert "route" not in labels
        else:
            assert labels["route"] in OPEN, labels
    # Invented parameters, methods and paths add nothing.
    storm(own, "?a=", STRANGERS[1])
    twice = series(own)
    for number in range(50):
        own.request(f"M{number}", f"/v1/invented-{number}", headers=STRANGERS[0])
        own.request(f"M{number}", "/v1/execution", headers=STRANGERS[0])
    assert series(own) == twice
    assert {dict(labels).get("route") for labels in twice - before} <= {None, *OPEN}


def test_an_answer_to_a_valid_credential_is_counted_by_its_route(own: Edge) -> None:
    assert own.get("/v1/execution").status_code == 200
    assert own.get("/v1/execution?limit=0").status_code == 422
    assert own.get("/v1/execution/LIN-26-999999").status_code == 404
    found = [dict(labels) for labels in series(own)]
    for status in ("200", "422"):
        assert {"route": "/v1/execution", "method": "GET", "status": status} in found
    assert {"method": "GET", "status": "404"} in found
    assert [labels for labels in found if labels["status"] == "404" and "route" in labels] == []


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [("authorization", f"Basic {TOKEN}")],
        [("authorization", f"Bearer {TOKEN}x")],
        [("authorization", f"Bearer {TOKEN[:-1]}")],
        [("authorization", "Bearer \xe4")],
        [("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")],
    ],
)
def test_metrics_that_need_a_token_are_refused_without_it(
    own: Edge, sent: list[tuple[str, str]]
) -> None:
    headers = [(name, value.encode("latin-1")) for name, value in sent or [("authorization", "")]]
    answer = own.get("/metrics", headers=headers)
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in answer.text


def test_the_token_of_the_metrics_opens_the_metrics_alone(own: Edge) -> None:
    assert "ledger_database_up 1.0" in own.get("/metrics", TOKEN).text
    assert own.get("/v1/execution", TOKEN).status_code == 401
    assert own.get("/metrics").status_code == 401, "an API key is not the token"
    for path in ("/healthz", "/readyz"):
        assert own.get(path, headers={"authorization": ""}).status_code == 200


def test_a_wrong_token_of_the_metrics_counts_as_a_failed_authentication(own: Edge) -> None:
    def failures() -> float:
        found = re.search(
            r"^ledger_authentication_failures_total (\S+)$", own.get("/metrics", TOKEN).text, re.M
        )
        assert found is not None
        return float(found[1])

    before = failures()
    own.get("/metrics", "guessed")
    own.get("/metrics", headers={"authorization": ""})
    assert failures() == before + 1
