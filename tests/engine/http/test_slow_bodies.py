"""A body must arrive within its time limit, or at a fair pace (contract, Access)."""

import gzip
import json
import random
import select
import socket
from collections.abc import Iterator
from functools import partial
from http.client import HTTPResponse

import pytest

from ledger.engine.http.machinery.bodies import Pace
from ledger.engine.http.machinery.connection import Connection
from tests.support.edge import Edge
from tests.support.facts import encode, fact
from tests.support.streaming import Address
from tests.support.visitor import visitor

SHORT = 0.5
UNREACHABLE, EASY, FAIR = Pace(SHORT, 1e9), Pace(SHORT, 100), Pace(SHORT, 20)
"""Under the first pace a body has SHORT seconds. Every sender keeps the second pace, and the third
one also where a sender has to wait for a processor."""


@pytest.fixture(params=[UNREACHABLE])
def pace(edge: Edge, request: pytest.FixtureRequest) -> Iterator[Pace]:
    """The pace that the service demands in the test."""
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


def trickle(client: socket.socket, body: bytes, part: int, seconds: float) -> int:
    """Send a body in parts, at intervals, until it is answered. Return the number of bytes sent."""
    for start in range(0, len(body), part):
        if is_answered(client, seconds):
            return start
        client.sendall(body[start : start + part])
    return len(body)


def is_answered(client: socket.socket, seconds: float) -> bool:
    """True if an answer arrives within so many seconds."""
    return bool(select.select([client], [], [], seconds)[0])


def answered(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    answer = HTTPResponse(client)
    answer.begin()
    return answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read()


def is_ended(client: socket.socket) -> bool:
    """True if the other side ends the connection: by a reset if a byte was still on its way."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def assert_timed_out(client: socket.socket) -> None:
    """Assert that the answer is a 408, and that the connection ends after it."""
    status, headers, body = answered(client)
    problem = json.loads(body)
    assert (status, problem["code"], problem["title"]) == (408, "timeout", "Request Timeout")
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert is_ended(client)


@pytest.mark.parametrize("is_packed", [False, True])
def test_a_body_that_trickles_is_a_408_and_records_nothing(
    edge: Edge, address: Address, pace: Pace, is_packed: bool
) -> None:
    before = "SELECT max(notification_id) FROM ledger.ledger_events"
    body = gzip.compress(random.Random(1).randbytes(5_000)) if is_packed else b" " * 5_000
    more = ("content-encoding: gzip",) if is_packed else ()
    paths = "/v1/facts", f"/v1/execution/{edge.fresh()}/pause"
    heads = [head(edge, len(body), path, *more) for path in paths]
    stored = edge.select(before)
    for sent in heads:
        with socket.create_connection(address, timeout=10) as client:
            client.sendall(sent)
            assert 0 < trickle(client, body, 1, 0.02) < len(body)
            assert_timed_out(client)
    assert edge.select(before) == stored


def test_a_body_that_never_begins_is_a_408(edge: Edge, address: Address, pace: Pace) -> None:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(head(edge, 10))
        assert_timed_out(client)


def test_a_form_that_stops_half_way_is_a_408_page(edge: Edge, address: Address, pace: Pace) -> None:
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(b"POST /ui/sign-in HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\ntoken=")
        status, headers, body = answered(client)
        assert (status, headers["connection"]) == (408, "close")
        assert b"<h1>" in body
        assert client.recv(1) == b""


@pytest.mark.parametrize("pace", [FAIR], indirect=True)
def test_a_slow_body_at_a_fair_pace_is_accepted(edge: Edge, address: Address, pace: Pace) -> None:
    body = encode(fact("execution.checked_in", edge.fresh(), {"note": "n" * 50}))
    assert len(body) / 20 * 0.08 > SHORT * 1.5, (
        "under the unreachable pace the body would time out half-way"
    )
    with socket.create_connection(address, timeout=10) as client:
        client.sendall(head(edge, len(body)))
        assert trickle(client, body, 20, 0.08) == len(body)
        assert answered(client)[0] == 201


@pytest.mark.parametrize("pace", [EASY], indirect=True)
def test_a_body_that_stops_times_out_once_its_average_pace_is_too_slow(
    edge: Edge, address: Address, pace: Pace
) -> None:
    """The bytes that have arrived prolong the time limit in proportion, and no further."""
    connect = partial(socket.create_connection, address, timeout=10)
    with connect() as client, connect() as silent:
        client.sendall(head(edge, 10_000) + b" " * 400)
        silent.sendall(head(edge, 10_000))
        assert is_answered(silent, 30)
        assert not is_answered(client, 0), "400 bytes are worth four seconds"
        assert is_answered(client, 30)
        for timed_out in (silent, client):
            assert_timed_out(timed_out)


def test_a_complete_body_is_accepted_however_short_the_time_limit_is(
    edge: Edge, pace: Pace
) -> None:
    """The time limit is for the body. The decision about it may take longer."""
    assert edge.send(fact("execution.checked_in", edge.fresh())).status_code == 201
    assert visitor(edge).get("/ui").status == 200


def test_a_body_has_a_minute_and_then_must_keep_64_kib_a_second(edge: Edge) -> None:
    assert edge.service.app.state.services.pace == Pace(60, 64 * 1024)
    assert Connection.head_seconds < 60, "a silent connection is closed earlier"
