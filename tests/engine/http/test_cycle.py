"""What a connection writes for an answer, and what it refuses to write."""

import asyncio
from typing import Any

import pytest
import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from ledger.engine.http.machinery.connection import Connection

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True


def start(status: int = 200, **headers: str) -> Message:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}


def body(part: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": part, "more_body": more}


def sent(*messages: Message, request: bytes = GET) -> Wire:
    """Have an application answer a request with these messages."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async def play() -> Wire:
        config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None)
        config.load()
        state, wire = ServerState(), Wire()
        state.default_headers = [(b"date", b"now")]
        connection = Connection(config, state, {})
        connection.connection_made(wire)
        connection.data_received(request)
        await asyncio.gather(*state.tasks)
        connection.connection_lost(None)
        return wire

    return asyncio.run(play())


def test_an_answer_of_known_length_is_one_write() -> None:
    wire = sent(start(content_length="2", etag='"a"'), body(b"{}"))
    head = b'HTTP/1.1 200 OK\r\ndate: now\r\ncontent-length: 2\r\netag: "a"\r\n\r\n'
    assert wire.written == [head + b"{}"]


def test_the_head_of_a_streamed_answer_does_not_wait_for_its_body() -> None:
    wire = sent(start(), body(b"ab", more=True), body(b""))
    head, *parts = wire.written
    assert head.endswith(b"transfer-encoding: chunked\r\n\r\n")
    assert parts == [b"2\r\nab\r\n", b"0\r\n\r\n"]


def test_the_parts_of_an_answer_of_known_length_are_written_as_they_come() -> None:
    wire = sent(start(content_length="4"), body(b"ab", more=True), body(b"cd"))
    assert [part[-2:] for part in wire.written] == [b"ab", b"cd"]


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_has_no_length_and_no_chunks(status: int) -> None:
    (head,) = sent(start(status), body(b"")).written
    assert b"chunked" not in head


@pytest.mark.parametrize("value", ["a\r\nset-cookie: b", "a\nb", "a\rb", "a\0b", "a\x7fb"])
def test_no_header_with_a_control_character_is_written(value: str) -> None:
    """It could begin another header, or another answer."""
    wire = sent(start(content_length="2", location=value), body(b"{}"))
    assert not wire.written
    assert wire.is_closed


@pytest.mark.parametrize("part", [b"a", b"abc"])
def test_an_answer_of_another_length_than_declared_ends_the_connection(part: bytes) -> None:
    assert sent(start(content_length="2"), body(part)).is_closed


def test_the_answer_to_an_http_1_0_client_ends_the_connection() -> None:
    wire = sent(start(content_length="2"), body(b"{}"), request=GET.replace(b"1.1", b"1.0"))
    assert b"\r\nconnection: close\r\n" in wire.written[0]
    assert wire.is_closed


def test_nothing_is_written_behind_a_complete_answer() -> None:
    whole = start(content_length="2"), body(b"{}")
    assert len(sent(*whole, body(b"{}")).written) == 1
