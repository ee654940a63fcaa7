"""Connections on which a request does not come to its end, or has a head without end."""

import contextlib
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse

import pytest

from ledger.api.machinery.bodies import Pace
from ledger.api.machinery.connection import Connection
from tests.support.edge import Edge
from tests.support.streaming import Address, listening

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


class Hasty(Connection):
    """One that does not wait for long."""

    patience_seconds = 0.2
    pace = Pace(seconds=0.2)


class Forgetting(Connection):
    """One that is not kept for long."""

    keep_alive_seconds = 0


class Leaving(Connection):
    """One that waits for nobody once the service stops."""

    last_patience_seconds = 0.0


@pytest.fixture(scope="module")
def hasty(edge: Edge) -> Iterator[Address]:
    """The service, in a hurry."""
    with listening(edge, Hasty) as address:
        yield address


@pytest.fixture(scope="module")
def patient(edge: Edge) -> Iterator[Address]:
    """The service as it is."""
    with listening(edge) as address:
        yield address


@contextmanager
def connected(address: Address) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=10) as client:
        yield client


def rest(client: socket.socket) -> bytes:
    """All that comes until the other side ends the connection."""
    parts = []
    while part := client.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def status(client: socket.socket) -> int:
    """An answer's, which is read to its end."""
    response = HTTPResponse(client)
    response.begin()
    response.read()
    return response.status


def ended_while_sending(
    client: socket.socket, part: bytes, most: int, seconds: float = 0.0
) -> bool:
    """Whether the other side ended it before so many parts were sent, each after so long."""
    try:
        for _ in range(most):
            client.sendall(part)
            if select.select([client], [], [], seconds)[0] and not client.recv(65_536):
                return True
    except ConnectionError:
        return True
    return False


def head(edge: Edge, *more: bytes) -> bytes:
    key = edge.token("write").encode()
    lines = (b"POST /v1/facts HTTP/1.1", b"host: x", b"authorization: Bearer " + key, *more)
    return b"\r\n".join((*lines, b"", b""))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\r\n",
        b"GET /heal",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n",
        b"POST /v1/facts HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{",
        HEALTH + b"GET /heal",
    ],
)
def test_what_does_not_go_on_is_ended(hasty: Address, sent: bytes) -> None:
    with connected(hasty) as client:
        client.sendall(sent)
        assert rest(client).count(b"HTTP/1.1 200") == sent.count(HEALTH)


def test_a_body_that_stops_in_the_middle_is_ended_unrecorded(edge: Edge, hasty: Address) -> None:
    """Nor has a silent body less time than one that trickles: 408 tells its sender why."""
    recorded, services = edge.log()[0], edge.service.app.state.services
    usual, services.pace = services.pace, Pace(seconds=5 * Hasty.patience_seconds)
    with connected(hasty) as client:
        kind = b"content-type: application/cloudevents+json"
        client.sendall(head(edge, kind, b"content-length: 100") + b'{"id":')
        assert rest(client).startswith(b"HTTP/1.1 408 ")
    services.pace = usual
    assert edge.log()[0] == recorded


def test_who_has_begun_and_does_not_go_on_holds_no_stop_up(edge: Edge) -> None:
    """It was answered 500, after the whole time that a stop may take."""
    with contextlib.ExitStack() as stack:
        with listening(edge, Leaving) as address:
            client = stack.enter_context(connected(address))
            kind = b"content-type: application/cloudevents+json"
            client.sendall(head(edge, kind, b"content-length: 100") + b'{"id":')
            with connected(address) as other:
                other.sendall(HEALTH)
                assert status(other) == 200
        assert rest(client) == b""


def test_a_head_that_trickles_has_no_more_time(hasty: Address) -> None:
    with connected(hasty) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert ended_while_sending(client, b"x: y\r\n", 400, 0.05)


def test_who_always_has_a_head_begun_goes_on_for_as_long_as_they_end(hasty: Address) -> None:
    with connected(hasty) as client:
        client.sendall(HEALTH[:9])
        end = time.monotonic() + 4 * Hasty.patience_seconds
        while time.monotonic() < end:
            client.sendall(HEALTH[9:] + HEALTH[:9])
            assert status(client) == 200


def test_between_two_requests_nothing_is_due(hasty: Address) -> None:
    """Clients and proxies keep a connection for a minute; one that we end takes a request along."""
    with connected(hasty) as client:
        client.sendall(HEALTH)
        assert status(client) == 200
        for _ in range(2):
            with connected(hasty) as other:
                rest(other)  # so long somebody else was waited for in vain
        client.sendall(HEALTH)
        assert status(client) == 200
        client.sendall(b"\r\n")
        assert rest(client) == b"", "what has begun must go on"


def test_between_two_requests_there_is_time_but_not_for_ever(edge: Edge) -> None:
    with listening(edge, Forgetting) as address, connected(address) as client:
        client.sendall(HEALTH)
        assert rest(client).count(b"HTTP/1.1 200") == 1
    assert Connection.keep_alive_seconds > 60


def test_a_stream_and_a_slow_answer_are_not_the_clients_turn(edge: Edge, hasty: Address) -> None:
    key = edge.token("read").encode()
    line = edge.fresh()
    with connected(hasty) as client:
        client.sendall(
            b"GET /v1/events/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
            + key
            + b"\r\n\r\n"
        )
        told = client.recv(65_536)
        assert b"200 OK" in told
        with connected(hasty) as other:
            rest(other)  # so long somebody else was waited for in vain
        edge.post(f"/v1/execution/{line}/pause", json={"reason": "r"})
        while b"execution.paused" not in told:
            part = client.recv(65_536)
            assert part, "the stream goes on"
            told += part


def test_a_head_without_end_is_refused(patient: Address) -> None:
    with connected(patient) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
        assert ended_while_sending(client, b"x-more: " + b"y" * 8_000 + b"\r\n", 10_000)


def test_a_head_that_is_too_large_is_told(patient: Address) -> None:
    with connected(patient) as client:
        client.sendall(b"GET /healthz?" + b"y" * 70_000)
        assert rest(client).startswith(b"HTTP/1.1 431 ")


def test_a_head_that_is_too_large_is_told_behind_the_answers_before_it(patient: Address) -> None:
    with connected(patient) as client:
        client.sendall(HEALTH + b"GET /healthz?" + b"y" * 70_000)
        assert re.findall(rb"HTTP/1.1 (\d+)", rest(client)) == [b"200", b"431"]


def test_many_requests_at_once_are_no_large_head(edge: Edge, patient: Address) -> None:
    """Those that came with the beginning of another were counted as part of its head."""
    large = HEALTH[:-2] + b"x-more: " + b"y" * 1_000 + b"\r\n\r\n"
    kind = b"content-type: application/json"
    posted = head(edge, kind, b"content-length: 100000") + b" " * 100_000
    last = HEALTH[:-2] + b"connection: close\r\n\r\n"
    for sent, answers in ((large * 100, [b"200"] * 100), (posted * 2, [b"400"] * 2)):
        with connected(patient) as client:
            client.sendall(sent + last[:9])
            told = client.recv(65_536)
            client.sendall(last[9:])
            told += rest(client)
        assert re.findall(rb"HTTP/1.1 (\d+)", told) == [*answers, b"200"]


def test_large_heads_in_many_parts_are_taken(patient: Address) -> None:
    with connected(patient) as client:
        for _ in range(5):
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
            for _ in range(6):
                client.sendall(b"x-more: " + b"y" * 10_000 + b"\r\n")
            client.sendall(b"\r\n")
            assert status(client) == 200


def test_the_body_of_what_was_refused_already_is_no_head(edge: Edge, patient: Address) -> None:
    size = 9 * 1024 * 1024
    with connected(patient) as client:
        client.sendall(
            head(
                edge,
                b"content-type: application/cloudevents-batch+json",
                b"content-length: %d" % size,
            )
        )
        for _ in range(size // 65_536):
            client.sendall(b" " * 65_536)
        assert status(client) == 413
        client.sendall(HEALTH)
        assert status(client) == 200
