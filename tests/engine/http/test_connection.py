"""Connections with unfinished requests, with silence, or with heads that are too large."""

import contextlib
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse

import pytest

from ledger.engine.http.machinery.bodies import Pace
from ledger.engine.http.machinery.connection import Connection
from tests.support.edge import Edge
from tests.support.streaming import Address, listening

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


class Hasty(Connection):
    """A connection with short time limits for heads and bodies."""

    head_seconds = 0.2
    pace = Pace(seconds=0.2)


class Forgetting(Connection):
    """A connection that is not kept between two requests."""

    keep_alive_seconds = 0


class Brief(Connection):
    """A connection that is kept for a moment between two requests."""

    keep_alive_seconds = 0.3  # type: ignore[assignment]


class Leaving(Connection):
    """A connection that a stopping service closes at once, unfinished requests included."""

    closing_seconds = 0.0


@pytest.fixture(scope="module")
def hasty(edge: Edge) -> Iterator[Address]:
    """The service with short time limits."""
    with listening(edge, Hasty) as address:
        yield address


@pytest.fixture(scope="module")
def patient(edge: Edge) -> Iterator[Address]:
    """The service with its usual time limits."""
    with listening(edge) as address:
        yield address


@contextmanager
def connected(address: Address) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=10) as client:
        yield client


def rest(client: socket.socket) -> bytes:
    """The bytes that arrive until the service closes the connection."""
    parts = []
    while part := client.recv(65_536):
        parts.append(part)
    return b"".join(parts)


def status(client: socket.socket) -> int:
    """The status of the next answer, whose body is read."""
    response = HTTPResponse(client)
    response.begin()
    response.read()
    return response.status


def ended_while_sending(
    client: socket.socket, part: bytes, most: int, seconds: float = 0.0
) -> bool:
    """True if the service closed the connection before ``most`` parts were sent.

    Each part is followed by a pause of ``seconds``.
    """
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
def test_a_connection_with_an_unfinished_request_is_closed(hasty: Address, sent: bytes) -> None:
    with connected(hasty) as client:
        client.sendall(sent)
        assert rest(client).count(b"HTTP/1.1 200") == sent.count(HEALTH)


def test_a_body_that_stops_half_way_is_a_408_and_records_nothing(
    edge: Edge, hasty: Address
) -> None:
    """A silent body has the time of a slow body: its sender gets a 408, not a cut connection."""
    recorded, services = edge.log()[0], edge.service.app.state.services
    usual, services.pace = services.pace, Pace(seconds=5 * Hasty.head_seconds)
    with connected(hasty) as client:
        kind = b"content-type: application/cloudevents+json"
        client.sendall(head(edge, kind, b"content-length: 100") + b'{"id":')
        assert rest(client).startswith(b"HTTP/1.1 408 ")
    services.pace = usual
    assert edge.log()[0] == recorded


def test_an_unfinished_request_does_not_delay_a_stop_and_is_not_answered(edge: Edge) -> None:
    """Without the limit the request was answered 500, after the longest time of a stop."""
    with contextlib.ExitStack() as stack:
        with listening(edge, Leaving) as address:
            client = stack.enter_context(connected(address))
            kind = b"content-type: application/cloudevents+json"
            client.sendall(head(edge, kind, b"content-length: 100") + b'{"id":')
            with connected(address) as other:
                other.sendall(HEALTH)
                assert status(other) == 200
        assert rest(client) == b""


def test_a_head_that_trickles_has_no_more_time_than_a_silent_head(hasty: Address) -> None:
    with connected(hasty) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert ended_while_sending(client, b"x: y\r\n", 400, 0.05)


def test_a_connection_goes_on_as_long_as_the_heads_that_it_begins_are_completed(
    hasty: Address,
) -> None:
    with connected(hasty) as client:
        client.sendall(HEALTH[:9])
        end = time.monotonic() + 4 * Hasty.head_seconds
        while time.monotonic() < end:
            client.sendall(HEALTH[9:] + HEALTH[:9])
            assert status(client) == 200


def test_the_time_limit_of_a_head_does_not_run_between_two_requests(hasty: Address) -> None:
    """Clients and proxies keep a connection for a minute.

    If the service closes it first, a request that is on its way is lost.
    """
    with connected(hasty) as client:
        client.sendall(HEALTH)
        assert status(client) == 200
        for _ in range(2):
            with connected(hasty) as other:
                rest(other)  # passes the time after which a silent connection is closed
        client.sendall(HEALTH)
        assert status(client) == 200
        client.sendall(b"\r\n")
        assert rest(client) == b"", "the begun head has a time limit again"


def test_a_connection_is_closed_when_no_request_follows_in_time(edge: Edge) -> None:
    with listening(edge, Forgetting) as address, connected(address) as client:
        client.sendall(HEALTH)
        assert rest(client).count(b"HTTP/1.1 200") == 1
    assert Connection.keep_alive_seconds > 60


def test_the_time_of_an_idle_connection_counts_from_its_last_answer(edge: Edge) -> None:
    """One timer runs on while requests come, so it fires in the middle of them."""
    with listening(edge, Brief) as address, connected(address) as client:
        sent, end = 0.0, time.monotonic() + 3 * Brief.keep_alive_seconds
        while time.monotonic() < end:
            sent = time.monotonic()
            client.sendall(HEALTH)
            assert status(client) == 200
        assert rest(client) == b""
        # The event loop's clock counts milliseconds.
        assert time.monotonic() - sent >= Brief.keep_alive_seconds - 0.01


def test_an_open_event_stream_is_not_closed_though_its_client_sends_nothing(
    edge: Edge, hasty: Address
) -> None:
    key = edge.token("read").encode()
    line = edge.fresh()
    with connected(hasty) as client:
        client.sendall(
            b"GET /v1/events/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
            + key
            + b"\r\n\r\n"
        )
        received = client.recv(65_536)
        assert b"200 OK" in received
        with connected(hasty) as other:
            rest(other)  # passes the time after which a silent connection is closed
        edge.post(f"/v1/execution/{line}/pause", json={"reason": "r"})
        while b"execution.paused" not in received:
            part = client.recv(65_536)
            assert part, "the stream goes on"
            received += part


def test_a_connection_with_an_endless_head_is_closed(patient: Address) -> None:
    with connected(patient) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
        assert ended_while_sending(client, b"x-more: " + b"y" * 8_000 + b"\r\n", 10_000)


def test_a_head_that_is_too_large_is_a_431(patient: Address) -> None:
    with connected(patient) as client:
        client.sendall(b"GET /healthz?" + b"y" * 70_000)
        assert rest(client).startswith(b"HTTP/1.1 431 ")


def test_a_431_comes_after_the_answers_to_earlier_requests(patient: Address) -> None:
    with connected(patient) as client:
        client.sendall(HEALTH + b"GET /healthz?" + b"y" * 70_000)
        assert re.findall(rb"HTTP/1.1 (\d+)", rest(client)) == [b"200", b"431"]


def test_many_requests_at_once_do_not_count_as_a_large_head(edge: Edge, patient: Address) -> None:
    """Requests that arrive together with the beginning of a head are no part of that head."""
    large = HEALTH[:-2] + b"x-more: " + b"y" * 1_000 + b"\r\n\r\n"
    kind = b"content-type: application/json"
    posted = head(edge, kind, b"content-length: 100000") + b" " * 100_000
    last = HEALTH[:-2] + b"connection: close\r\n\r\n"
    for sent, answers in ((large * 100, [b"200"] * 100), (posted * 2, [b"400"] * 2)):
        with connected(patient) as client:
            client.sendall(sent + last[:9])
            received = client.recv(65_536)
            client.sendall(last[9:])
            received += rest(client)
        assert re.findall(rb"HTTP/1.1 (\d+)", received) == [*answers, b"200"]


def test_heads_just_below_the_limit_are_accepted_in_many_parts(patient: Address) -> None:
    with connected(patient) as client:
        for _ in range(5):
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n")
            for _ in range(6):
                client.sendall(b"x-more: " + b"y" * 10_000 + b"\r\n")
            client.sendall(b"\r\n")
            assert status(client) == 200


def test_the_rest_of_a_refused_body_is_not_taken_for_a_head(edge: Edge, patient: Address) -> None:
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
