"""The headers of every answer that are for caches and browsers (contract, Access)."""

from collections.abc import Iterator

import httpx
import pytest

from ledger.app.settings import Settings
from tests.support.edge import Edge, edge_of
from tests.support.facts import ORGANIZATION, fact
from tests.support.streaming import Address, Listener, listening
from tests.support.visitor import visitor
from tests.support.webhook_api import URL, Hooks

VARY = "Authorization, Accept-Encoding, Origin"
CACHEABLE, SECRET = "private, no-cache", "no-store"


@pytest.fixture(scope="module")
def address(edge: Edge) -> Iterator[Address]:
    with listening(edge) as address:
        yield address


def assert_api_headers(answer: httpx.Response, cache_control: str = CACHEABLE) -> None:
    """Assert that each of the three headers is there, once."""
    headers = answer.headers
    assert headers.get_list("cache-control") == [cache_control]
    assert headers.get_list("vary") == [VARY]
    assert headers.get_list("x-content-type-options") == ["nosniff"]


@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("GET", "/v1/execution", None, 200),
        ("HEAD", "/v1/execution", None, 200),
        ("GET", "/v1/execution", "wrong", 401),
        ("GET", "/v1/execution?limit=0", None, 422),
        ("GET", "/v1/execution/LIN-26-999999", None, 404),
        ("GET", "/v1/facts", None, 405),
        ("POST", "/v1/facts", None, 415),
        ("GET", "/v1", None, 404),
        ("GET", "/v1/nothing", None, 404),
        ("GET", f"/v1/audit-logs/export?organization_id={ORGANIZATION}", None, 200),
        ("GET", "/v1/log/key", None, 503),
    ],
)
def test_every_answer_of_the_api_has_the_cache_headers(
    edge: Edge, method: str, path: str, token: str | None, status: int
) -> None:
    answer = edge.request(method, path, token)
    assert answer.status_code == status
    assert_api_headers(answer)


def test_a_304_has_the_cache_headers(edge: Edge) -> None:
    path = f"/v1/execution/{edge.fresh()}"
    cached = edge.get(path, headers={"if-none-match": edge.get(path).headers["etag"]})
    assert cached.status_code == 304
    assert_api_headers(cached)


def test_an_accepted_write_has_the_cache_headers(edge: Edge) -> None:
    line = edge.fresh()
    assert_api_headers(edge.send(fact("execution.checked_in", line)))
    assert_api_headers(edge.post(f"/v1/execution/{line}/pause", json={"reason": "r"}))


def test_an_event_stream_has_the_cache_headers(edge: Edge, address: Address) -> None:
    with Listener(address, edge.token("read")) as listener:
        headers = listener.opened().answer.headers
        assert headers.get_all("cache-control") == [CACHEABLE]
        assert headers.get_all("vary") == [VARY]
        assert headers.get_all("x-content-type-options") == ["nosniff"]


def test_an_answer_with_a_secret_may_not_be_stored(hooks: Hooks) -> None:
    edge, key = hooks.edge, {"idempotency-key": "made-once"}
    body = {"url": URL, "event_types": ["*"]}
    made = [edge.post("/v1/webhooks", json=body, headers=key) for _ in range(2)]
    assert [answer.status_code for answer in made] == [201, 201]
    assert made[1].headers["idempotency-replayed"] == "true"
    path = f"/v1/webhooks/{made[0].json()['data']['id']}"
    rotated = [edge.post(f"{path}/rotate-secret", headers=key) for _ in range(2)]
    assert rotated[1].headers["idempotency-replayed"] == "true"
    for answer in (*made, *rotated):
        assert "whsec_" in answer.text
        assert_api_headers(answer, SECRET)
    without = (
        edge.get(path),
        edge.request("PATCH", path, json={"description": "d"}),
        edge.post("/v1/webhooks", json={}),
        edge.post(f"{path}x/rotate-secret"),
    )
    for answer in without:
        assert "whsec_" not in answer.text
        assert_api_headers(answer)


@pytest.mark.parametrize(
    "path",
    [
        "/", "/docs", "/docs/static/swagger-ui.css", "/healthz", "/readyz", "/metrics",
        "/openapi.json", "/nothing", "/v1x", "/ui", "/ui/nothing", "/ui/static/page.css",
    ],
)  # fmt: skip
def test_answers_outside_the_api_forbid_sniffing_and_vary_by_encoding_alone(
    edge: Edge, path: str
) -> None:
    headers = visitor(edge).get(path).answer.headers
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("vary") == ["Accept-Encoding"]
    assert CACHEABLE not in headers.get_list("cache-control")


def test_answers_insist_on_https_where_the_public_address_is_https(
    settings: Settings, conninfo: str
) -> None:
    public = settings.model_copy(update={"public_url": "https://ledger.example.com"})
    with edge_of(public, conninfo) as edge:
        for path in ("/v1/execution", "/v1/nothing", "/ui", "/ui/sign-in", "/", "/healthz",
                     "/openapi.json", "/nothing"):  # fmt: skip
            answer = edge.get(path)
            assert answer.headers.get_list("strict-transport-security") == ["max-age=31536000"]
        refused = edge.get("/healthz", headers=[("host", "")])
        assert refused.status_code == 400
        assert refused.headers["strict-transport-security"] == "max-age=31536000"


def test_answers_do_not_insist_on_https_where_no_public_address_is_set(edge: Edge) -> None:
    for path in ("/v1/execution", "/ui", "/nothing"):
        assert "strict-transport-security" not in edge.get(path).headers
