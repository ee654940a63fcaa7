"""HEAD on paths that take GET, through the real HTTP server (RFC 9110, 9.3.2)."""

import gc
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from types import AsyncGeneratorType

import pytest

from ledger.features.feed.stream import Streams
from tests.support.edge import Edge
from tests.support.facts import ORGANIZATION
from tests.support.streaming import listening
from tests.support.views import until


@pytest.fixture
def connection(edge: Edge) -> Iterator[HTTPConnection]:
    """A single connection: a body after the headers of a HEAD would break the next answer."""
    with listening(edge) as address, closing(HTTPConnection(*address, timeout=30)) as connection:
        yield connection


def ask(
    connection: HTTPConnection, method: str, path: str, token: str, accepted: str = "identity"
) -> tuple[HTTPResponse, bytes]:
    """The answer and its body."""
    headers = {"authorization": f"Bearer {token}", "accept-encoding": accepted}
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer, answer.read()


def lasting_headers(answer: HTTPResponse) -> dict[str, str]:
    """The headers without those that differ from request to request."""
    headers = {name.lower(): value for name, value in answer.getheaders()}
    differing = ("x-request-id", "date", "transfer-encoding")
    return {n: v for n, v in headers.items() if n not in differing}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/execution?limit=1", 200),
        (f"/v1/audit-logs/export?organization_id={ORGANIZATION}", 200),
        ("/v1/execution/{line}", 200),
        ("/v1/execution/LIN-26-999999", 404),
        ("/v1/execution?limit=0", 422),
        ("/v1/facts", 405),
        ("/nothing", 404),
        ("/healthz", 200),
        ("/readyz", 200),
        ("/openapi.json", 200),
        ("/docs", 200),
        ("/", 200),
        ("/ui", 401),
        ("/ui/static/page.css", 200),
        ("/docs/static/swagger-ui.css", 200),
    ],
)
@pytest.mark.parametrize("accepted", ["gzip", "identity"])
def test_head_has_the_status_and_headers_of_get_and_no_body(
    edge: Edge, connection: HTTPConnection, path: str, status: int, accepted: str
) -> None:
    token = edge.token("read", "audit:read")
    path = path.format(line=edge.fresh())
    answer, text = ask(connection, "GET", path, token, accepted)
    head, body = ask(connection, "HEAD", path, token, accepted)
    assert (head.status, answer.status) == (status, status)
    assert lasting_headers(head) == lasting_headers(answer)
    assert (body, bool(text)) == (b"", True)


def test_head_is_refused_without_a_valid_token_or_the_permission(
    edge: Edge, connection: HTTPConnection
) -> None:
    line = edge.fresh()
    for token, status in (("wrong", 401), (edge.token("write"), 403)):
        assert ask(connection, "HEAD", f"/v1/execution/{line}", token)[0].status == status


def half_read() -> list[object]:
    """The exports whose rows are neither read to their end nor given up."""
    made = (each for each in gc.get_objects() if isinstance(each, AsyncGeneratorType))
    return [each for each in made if each.__name__ == "_written" and each.ag_frame is not None]


@pytest.mark.parametrize(
    ("path", "type_"),
    [
        ("/v1/events/stream", "text/event-stream"),
        (f"/v1/audit-logs/export?format=csv&organization_id={ORGANIZATION}", "text/csv"),
        ("/v1/events/export", "application/x-ndjson"),
    ],
)
def test_head_of_a_stream_or_an_export_ends_after_the_headers(
    edge: Edge, connection: HTTPConnection, path: str, type_: str
) -> None:
    token = edge.token("read", "audit:read")
    edge.fresh()
    for _ in range(3):
        head, body = ask(connection, "HEAD", path, token)
        assert (head.status, body) == (200, b"")
        assert head.headers["content-type"].startswith(type_)
    streams = edge.service.app.state.services.of(Streams)
    until(lambda: len(streams) == 0, "the streams' end")
    until(lambda: not half_read(), "the end of rows that nobody reads")
    assert ask(connection, "GET", "/healthz", token)[0].status == 200
