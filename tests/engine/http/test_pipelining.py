"""Connections on which a client sends many requests at once: order, limits and memory."""

import contextlib
import gc
import re
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar
from weakref import WeakSet

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from ledger.engine.http.machinery.bodies import Pace
from ledger.engine.http.machinery.connection import MOST_WAITING, Connection
from ledger.features.feed.stream import Streams
from tests.engine.http.test_connection import rest, status
from tests.support.edge import Edge
from tests.support.streaming import STREAM, Address, listening
from tests.support.views import until

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = HEALTH[:-2] + b"connection: close\r\n\r\n"

ONE_READ = 256 * 1024
"""Bytes that asyncio reads at once; uvloop reads fewer."""


class Watched(Connection):
    """A connection that counts its waiting requests and its held bytes."""

    alive: ClassVar["WeakSet[Watched]"] = WeakSet()
    requests: ClassVar["WeakSet[RequestResponseCycle]"] = WeakSet()
    most_waiting = most_held = 0
    pace = Pace(seconds=0.5)
    head_seconds = 60.0

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        Watched.alive.add(self)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        Watched.requests.add(self.cycle)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        Watched.most_held = max(Watched.most_held, len(self._held))

    def on_message_complete(self) -> None:
        super().on_message_complete()
        waiting = len(self.pipeline) + (not self.cycle.response_complete)
        Watched.most_waiting = max(Watched.most_waiting, waiting)


@pytest.fixture(scope="module")
def watched(edge: Edge) -> Iterator[Address]:
    with listening(edge, Watched) as address:
        yield address


@contextmanager
def connected(address: Address) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=20) as client:
        yield client


@contextmanager
def uncollected() -> Iterator[None]:
    """Without the garbage collector: only objects without references are freed."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def statuses(text: bytes) -> list[bytes]:
    return re.findall(rb"HTTP/1.1 (\d+)", text)


def fill(client: socket.socket, part: bytes) -> None:
    """Send until the service takes no more."""
    client.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        while True:
            client.sendall(part)


@pytest.mark.parametrize("number", [1, MOST_WAITING, MOST_WAITING + 1, 3 * MOST_WAITING, 1000])
def test_pipelined_requests_are_answered_in_order_and_few_of_them_wait(
    watched: Address, number: int
) -> None:
    requests = [b"GET /nowhere/%d HTTP/1.1\r\nhost: x\r\n\r\n" % n for n in range(number)]
    Watched.most_waiting = 0
    with connected(watched) as client:
        client.sendall(b"".join(requests[::2]))
        client.sendall(b"".join(requests[1::2]) + LAST)
        received = rest(client)
    assert statuses(received) == [b"404"] * number + [b"200"]
    assert Watched.most_waiting <= MOST_WAITING


def test_a_partial_request_after_several_whole_requests_is_completed(watched: Address) -> None:
    """The part was held back with the others. No answer was due then, so nothing read on."""
    with connected(watched) as client:
        for _ in range(3):
            client.sendall(HEALTH * 40 + HEALTH[:9])
            received = b""
            while len(statuses(received)) < 40 or not received.endswith(b"}"):
                received += client.recv(65_536)
            for part in (HEALTH[9:20], HEALTH[20:]):
                until(
                    lambda: (
                        not any(getattr(connection, "_held", b"") for connection in Watched.alive)
                    ),
                    "all data to be parsed",
                )
                client.sendall(part)
            assert statuses(client.recv(65_536)) == [b"200"]


def test_heads_that_end_between_two_reads_are_counted(watched: Address) -> None:
    """The end of a head is four bytes, which may arrive one at a time."""
    Watched.most_waiting = 0
    with connected(watched) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = HEALTH * 40 + LAST
        for start in range(0, len(stream), 7):
            client.sendall(stream[start : start + 7])
        assert statuses(rest(client)) == [b"200"] * 41
    assert Watched.most_waiting <= MOST_WAITING


def test_a_body_behind_as_many_requests_as_may_wait_is_read_completely(
    edge: Edge, watched: Address
) -> None:
    key = edge.token("write").encode()
    body = b" " * 300_000 + b"\r\n\r\n" * 1_000
    posted = (
        b"POST /v1/facts HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer " + key + b"\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    for before in (MOST_WAITING - 2, MOST_WAITING - 1, MOST_WAITING, 2 * MOST_WAITING + 3):
        with connected(watched) as client:
            client.sendall(HEALTH * before + posted + body + HEALTH * before + LAST)
            expected = [b"200"] * before + [b"400"] + [b"200"] * (before + 1)
            assert statuses(rest(client)) == expected


def test_a_connection_whose_client_reads_no_answers_is_no_longer_read(watched: Address) -> None:
    Watched.most_waiting = Watched.most_held = 0
    with connected(watched) as client, connected(watched) as other:
        fill(client, HEALTH * 4096)
        assert 1 < Watched.most_waiting <= MOST_WAITING
        assert 0 < Watched.most_held <= ONE_READ
        other.sendall(LAST)
        assert statuses(rest(other)) == [b"200"]


@pytest.mark.parametrize("is_reset", [False, True])
def test_a_closed_connection_is_freed_with_all_its_requests(
    watched: Address, is_reset: bool
) -> None:
    """A cycle of connection and requests would wait for the collector, which runs seldom."""
    with uncollected():
        with connected(watched) as client:
            fill(client, HEALTH * 4096)
            assert len(Watched.alive) == 1
            if is_reset:
                linger = b"\1\0\0\0\0\0\0\0"
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        until(lambda: not Watched.alive, "the end of the connection and of all that it held")


def test_an_event_stream_ends_with_its_connection_though_a_request_came_after_it(
    edge: Edge, watched: Address
) -> None:
    """uvicorn reports the lost connection only to the latest request."""
    key = edge.token("read").encode()
    request = b"GET " + STREAM.encode() + b" HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
    streams = edge.service.app.state.services.of(Streams)
    with connected(watched) as client:
        client.sendall(request + key + b"\r\n\r\n" + HEALTH)
        until(lambda: len(streams) == 1, "the stream")

    def is_over() -> bool:
        edge.fresh()  # the service notices that the client has gone when it sends an event
        return len(streams) == 0

    until(is_over, "the end of the stream")


def ended_while_trickling(client: socket.socket, most: int) -> bool:
    """True if the service closed the connection before ``most`` bytes were sent, one per 50 ms."""
    try:
        for _ in range(most):
            client.sendall(b" ")
            if select.select([client], [], [], 0.05)[0] and not client.recv(65_536):
                return True
    except ConnectionError:
        return True
    return False


def posted(size: int) -> bytes:
    return b"POST /v1/facts HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size


def test_a_connection_is_closed_if_the_rest_of_an_answered_body_trickles(watched: Address) -> None:
    with connected(watched) as client:
        client.sendall(posted(1_000))
        assert statuses(client.recv(65_536)) == [b"401"]
        assert ended_while_trickling(client, 200)


def test_the_rest_of_an_answered_body_may_take_long_at_a_fast_pace(watched: Address) -> None:
    """The rest comes at far more than 64 KiB a second, for longer than a slow rest may take."""
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    begun = b"POST /v1/facts HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with connected(watched) as client:
        client.sendall(begun)
        assert status(client) == 401
        end = time.monotonic() + 3 * Watched.pace.seconds
        while time.monotonic() < end:
            client.sendall(chunk)
            select.select([], [], [], 0.02)
        client.sendall(b"0\r\n\r\n" + LAST)
        assert statuses(rest(client)) == [b"200"]


def test_a_connection_stays_open_once_the_rest_of_an_answered_body_has_come(
    watched: Address,
) -> None:
    """Once the body is complete, its time limit no longer applies."""
    with connected(watched) as client, connected(watched) as other:
        client.sendall(posted(5) + b"12")
        assert statuses(client.recv(65_536)) == [b"401"]
        client.sendall(b"345")
        other.sendall(posted(5) + b"12")
        assert statuses(rest(other)) == [b"401"], "this wait took the time limit of a body"
        client.sendall(LAST)
        assert statuses(rest(client)) == [b"200"]


def test_requests_that_were_answered_before_their_bodies_are_freed(watched: Address) -> None:
    """A request must not be held, with all its headers, until the time of its body is over."""
    more = b"".join(b"x-%d: %s\r\n" % (n, b"y" * 400) for n in range(100))
    request = posted(1)[:-2] + more + b"\r\n"
    with uncollected(), connected(watched) as client:
        client.sendall(request)
        for _ in range(30):
            assert status(client) == 401
            client.sendall(b"x" + request)
        assert status(client) == 401
        assert len(Watched.requests) <= 3


BROKEN = b"\1garbage\r\n\r\n"


def test_bytes_that_are_no_request_are_refused_after_the_earlier_answers(watched: Address) -> None:
    """A refusal that is written at once would be taken for the answer to the first request."""
    for number in (0, 1, 5, MOST_WAITING + 3):
        with connected(watched) as client:
            client.sendall(HEALTH * number + BROKEN)
            assert statuses(rest(client)) == [b"200"] * number + [b"400"]


def test_a_malformed_chunked_body_is_refused_after_the_earlier_answers(
    edge: Edge, watched: Address
) -> None:
    key = edge.token("write").encode()
    begun = (
        b"POST /v1/facts HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer " + key + b"\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    for number in (0, 1, 5):
        with connected(watched) as client:
            client.sendall(HEALTH * number + begun + b"1\r\n{\r\nnothing\r\n")
            assert statuses(rest(client)) == [b"200"] * number + [b"400"]


def test_an_event_stream_goes_on_though_garbage_follows_its_request(
    edge: Edge, watched: Address
) -> None:
    key = edge.token("read").encode()
    request = b"GET " + STREAM.encode() + b" HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
    with connected(watched) as client:
        client.sendall(request + key + b"\r\n\r\n")
        received = client.recv(65_536)
        client.sendall(BROKEN)
        line = edge.fresh()
        while line.encode() not in received:
            part = client.recv(65_536)
            assert part
            received += part
        assert statuses(received) == [b"200"]


UPGRADE = b"connection: upgrade\r\nupgrade: h2c\r\n"


def test_a_request_with_an_upgrade_is_answered_in_http_1_1(edge: Edge, watched: Address) -> None:
    """Java's client sends such requests. Their bodies must not be read as further requests."""
    key = edge.token("write").encode()
    body = b'"no fact"'
    request = (
        b"POST /v1/facts HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        b"authorization: Bearer " + key + b"\r\ncontent-length: %d\r\n" % len(body)
    )
    whole = request + UPGRADE + b"\r\n" + body
    with connected(watched) as client:
        client.sendall(whole * 3 + LAST)
        assert statuses(rest(client)) == [b"422"] * 3 + [b"200"]
    for cut in (1, 20, len(request) + 5, len(request) + 20, len(whole) - len(body), len(whole) - 3):
        with connected(watched) as client:
            for part in (HEALTH, whole[:cut], whole[cut:] + whole[:cut], whole[cut:] + LAST):
                client.sendall(part)
                until(
                    lambda: (
                        not any(getattr(connection, "_held", b"") for connection in Watched.alive)
                    ),
                    "all data to be parsed",
                )
            assert statuses(rest(client)) == [b"200", b"422", b"422", b"200"]
    with connected(watched) as client:
        client.sendall(HEALTH[:-2] + UPGRADE + b"\r\n" + HEALTH[:-2] + UPGRADE + b"\r\n" + LAST)
        assert statuses(rest(client)) == [b"200"] * 3
    smuggled = (
        request.replace(b"length: 9", b"length: %d" % len(HEALTH)) + UPGRADE + b"\r\n" + HEALTH
    )
    with connected(watched) as client:
        client.sendall(HEALTH + smuggled + LAST)
        assert statuses(rest(client)) == [b"200", b"400", b"200"], "a body is no request"


def test_a_connection_is_scheduled_for_one_slot_at_a_time_and_logs_no_error(
    watched: Address, caplog: pytest.LogCaptureFixture
) -> None:
    """If a callback is scheduled twice, the second call finds nothing and fails."""
    with connected(watched) as client:
        client.sendall(HEALTH * 2)
        received = b""
        while received.count(b'{"status":"ok"}') < 2:
            received += client.recv(65_536)
        for _ in range(20):
            client.sendall(HEALTH)
            assert status(client) == 200
    assert "Traceback" not in caplog.text
    assert not caplog.records


def test_a_head_with_too_many_headers_is_a_431(watched: Address) -> None:
    """Short headers take ten times their bytes in memory."""
    for number, code in ((126, b"200"), (4_000, b"431")):
        with connected(watched) as client:
            client.sendall(LAST[:-2] + b"x: y\r\n" * number + b"\r\n")
            assert statuses(rest(client)) == [code]


def test_a_large_head_that_arrives_in_one_piece_is_a_431_too(watched: Address) -> None:
    with connected(watched) as client:
        client.sendall(HEALTH + LAST[:-2] + b"x: %s\r\n\r\n" % (b"y" * 150_000))
        assert statuses(rest(client)) == [b"200", b"431"]


def test_a_heads_target_and_headers_together_are_limited(watched: Address) -> None:
    target, header = LAST.replace(b"z ", b"z?%s " % (b"y" * 40_000), 1), b"x: %s\r\n\r\n"
    for size, answered in ((20_000, b"200"), (40_000, b"431")):
        with connected(watched) as client:
            client.sendall(target[:-2] + header % (b"y" * size))
            assert statuses(rest(client)) == [answered]
