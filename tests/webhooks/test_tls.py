"""Sending over TLS: the name is verified though the address is pinned."""

import asyncio
import contextlib
import os
import socket
import ssl
import threading
from pathlib import Path

import pytest

from tests.support.certificate import create_contexts
from tests.support.receiver import Receiver
from tests.webhooks.sending import SOON, failed, resolves, send, send_all, send_to


def test_over_tls_the_name_is_verified_and_the_address_pinned(tmp_path: Path) -> None:
    server, client = create_contexts(tmp_path, "hooks.example")
    named: list[str] = []
    server.sni_callback = lambda connection, name, context: named.append(name)
    with Receiver(ssl_context=server) as receiver:
        url = f"https://hooks.example:{receiver.port}/in"
        first, second = send_all([url] * 2, ssl_context=client, resolve=resolves("127.0.0.1"))
        assert [request.connection for request in receiver.requests] == [1, 1]
        assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"
    assert first.delivered
    assert second.delivered
    assert named == ["hooks.example"]


@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_with_another_name_or_an_unknown_issuer_fails(
    tmp_path: Path, trusted: bool
) -> None:
    server, client = create_contexts(tmp_path, "hooks.example" if not trusted else "other.example")
    context: ssl.SSLContext | None = client if trusted else None
    with Receiver(ssl_context=server) as receiver:
        url = f"https://hooks.example:{receiver.port}/"
        attempt = send(url, ssl_context=context, resolve=resolves("127.0.0.1"))
        assert failed(attempt) == "TLS failed"
        assert receiver.requests == []
        receiver.await_closed()


def test_a_server_that_does_not_speak_tls_fails() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    assert failed(send_to(talk, "https")) == "TLS failed"


def test_a_server_that_breaks_tls_after_the_handshake_is_a_failure(tmp_path: Path) -> None:
    server, client = create_contexts(tmp_path, "hooks.example")

    def talk(listener: socket.socket) -> None:
        plain, _ = listener.accept()
        with server.wrap_socket(plain, server_side=True) as tls:
            tls.recv(4096)
            os.write(tls.fileno(), b"no record of TLS" * 10)
            # If the server closed before it had read everything, the connection would break.
            with contextlib.suppress(OSError):
                while os.read(tls.fileno(), 4096):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk, args=(listener,))
        thread.start()
        url = f"https://hooks.example:{listener.getsockname()[1]}/"
        attempt = send(url, ssl_context=client, resolve=resolves("127.0.0.1"))
        thread.join(10)
    assert failed(attempt) == "TLS failed"


def test_a_tls_handshake_that_is_never_answered_ends_and_is_closed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        attempt = send(f"https://127.0.0.1:{port}/", deadline=SOON)
        assert failed(attempt) == "timed out"
        connection, _ = silent.accept()
        with connection:
            connection.settimeout(10)
            while connection.recv(4096):
                pass
