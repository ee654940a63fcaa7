"""A body must come within its time, or at a fair pace (contract 7)."""

import gzip
import json
import random
import select
import socket
import time
from collections.abc import Iterator
from http.client import HTTPResponse

import pytest

from ledger.api.machinery.bodies import Pace
from ledger.api.machinery.connection import Connection
from tests.support.edge import Edge
from tests.support.facts import encode, fact
from tests.support.streaming import Address, listening
from tests.support.visitor import visitor

SHORT = 0.5
SLOW, QUICK = Pace(SHORT, 1e9), Pace(SHORT, 100)
"""No sender keeps up with the first for longer than that; everybody does with the second."""


@pytest.fixture(scope="module")
def address(edge: Edge) -> Iterator[Address]:
    with listening(edge) as address:
        yield address


@pytest.fixture(params=[SLOW])
def pace(edge: Edge, request: pytest.FixtureRequest) -> Iterator[Pace]:
    """The service, in less of a mind to wait."""
    services = edge.service.app.state.services
    usual, services.pace = services.pace, request.param
    yield services.pace
    services.pace = usual


def head(edge: Edge, size: int, path: str = "/v1/facts", *more: str) -> bytes:
    kind = "application/cloudevents+json" if path == "/v1/facts" else "application/json"
    token = edge.token("write", "service_lines:manage")
    lines = (
        f"POST {path} HTTP/1.1",
        "host: x",
        f"authorization: Bearer {token}",
        f"content-type: {kind}",
        f"content-length: {size}",
        *more,
    )
    return "\r\n".join((*lines, "", "")).encode()


def trickle(client: socket.socket, body: bytes, part: int, seconds: float) -> float:
    """Send a body in parts, one each so many seconds, until it is answered; how long it took."""
    began = time.monotonic()
    for place in range(0, len(body), part):
        if select.select([client], [], [], seconds)[0]:
            break
        client.sendall(body[place : place + part])
    select.select([client], [], [], 10)
    return time.monotonic() - began


def answered(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    answer = HTTPResponse(client)
    answer.begin()
    return answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read()


def assert_timed_out(client: socket.socket) -> None:
    """The answer says so, and the connection ends behind it."""
    status, headers, body = answered(client)
    problem = json.loads(body)
    assert (status, problem["code"], problem["title"]) == (408, "timeout", "Request Timeout")
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert client.recv(1) == b""


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_body_that_trickles_is_a_408_and_leaves_nothing(
    edge: Edge, address: Address, pace: Pace, is_packed: bool
) -> None:
    before = "SELECT max(notification_id) FROM ledger.ledger_events"
    body = gzip.compress(random.Random(1).randbytes(5_000)) if is_packed else b" " * 5_000
    more = ("content-encoding: gzip",) if is_packed else ()
    paths = "/v1/facts", f"/v1/execution/{edge.fresh()}/pause"
    sent = [head(edge, len(body), path, *more) for path in paths]
    known = edge.select(before)
    for one in sent:
        with socket.create_connection(address, timeout=10) as client:
            client.sendall(one)
            assert SHORT * 0.9 < trickle(client, body, 1, 0.02) < SHORT * 6
            assert_timed_out(client)
    assert edge.select(before) == known


def test_a_body_of_which_nothing_comes_is_a_408(edge: Edge, address: Address, pace: Pace) -> None:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(head(edge, 10))
        assert_timed_out(client)


def test_a_form_that_trickles_is_a_page_that_says_so(
    edge: Edge, address: Address, pace: Pace
) -> None:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"POST /ui/sign-in HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\ntoken=")
        status, headers, body = answered(client)
        assert (status, headers["connection"]) == (408, "close")
        assert b"<h1>" in body
        assert client.recv(1) == b""


@pytest.mark.parametrize("pace", [QUICK], indirect=True)
def test_a_long_body_at_a_fair_pace_goes_on(edge: Edge, address: Address, pace: Pace) -> None:
    body = encode(fact("execution.checked_in", edge.fresh(), {"note": "n" * 50}))
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(head(edge, len(body)))
        assert trickle(client, body, 20, 0.08) > SHORT * 1.5
        assert answered(client)[0] == 201


@pytest.mark.parametrize("pace", [QUICK], indirect=True)
def test_a_body_is_judged_again_once_its_pace_would_be_too_slow(
    edge: Edge, address: Address, pace: Pace
) -> None:
    """So many bytes at once are worth so much time, and no more."""
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(head(edge, 10_000) + b" " * 200)
        began = time.monotonic()
        assert_timed_out(client)
        assert SHORT * 2 < time.monotonic() - began < SHORT * 8


def test_a_body_that_is_there_is_not_waited_for(edge: Edge, pace: Pace) -> None:
    """Deciding on it may take as long as it does."""
    assert edge.send(fact("execution.checked_in", edge.fresh())).status_code == 201
    assert visitor(edge).get("/ui").status == 200


def test_there_is_a_minute_and_then_64_kib_a_second(edge: Edge) -> None:
    assert edge.service.app.state.services.pace == Pace(60, 64 * 1024)
    assert Connection.patience_seconds < 60, "a connection that nothing comes on ends before"
