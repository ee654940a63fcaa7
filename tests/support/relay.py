"""A relay to PostgreSQL that can refuse, cut, delay, swallow, or break off an answer."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

BROKEN_OFF = b"1\0\0\0\4" + b"1\0\0"
"""A whole ParseComplete message (4 bytes long), and the beginning of another message."""

IMPOSSIBLE_LENGTH = b"1\0\0\0\0"
"""A message whose length field is 0: the protocol's shortest length is 4."""

NOTICE = b"N\0\0\0\5\0"
"""A NoticeResponse without any fields."""

_READY = b"Z\0\0\0\5"
"""ReadyForQuery, which ends each exchange, without its last byte, the transaction's status."""

_SYNC = b"S\0\0\0\4"

_FATAL_FIELDS = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
FATAL_MESSAGE = b"E" + (len(_FATAL_FIELDS) + 4).to_bytes(4) + _FATAL_FIELDS
"""The FATAL message with which PostgreSQL ends a connection."""

_LARGE = 10_000


class Relay:
    """A relay that passes on data in threads of its own; ``conninfo`` leads through the relay.

    Without a folder the relay listens on a port of the loopback, as a proxy between two machines
    would.
    """

    def __init__(self, conninfo: str, folder: Path | None = None) -> None:
        parameters = conninfo_to_dict(conninfo)
        name = f".s.PGSQL.{parameters['port']}"
        self.lead_to(conninfo)
        if folder is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.port = int(self._listener.getsockname()[1])
            self.conninfo = make_conninfo(conninfo, host="127.0.0.1", port=str(self.port))
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(folder / name))
            self.conninfo = make_conninfo(conninfo, host=str(folder))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._vanished: set[socket.socket] = set()
        self.swallows = False
        """New connections are accepted but lead nowhere, as if the server's host had vanished."""
        self.vanish_at: bytes | None = None
        """The server vanishes as soon as a client sends these bytes."""
        self.delay = 0.0
        """Seconds before each piece is passed on."""
        self.connections_opened = 0
        """The number of connections that clients have opened."""
        self.syncs = 0
        """The number of round trips by the protocol's Sync messages, one each."""
        self.accepts_connections = True
        """False to close a new connection at once."""
        self.to_break = 0
        """The number of large requests to break: each gets ``broken_answer``, then a close."""
        self.broken_answer = BROKEN_OFF
        self.drops_options = False
        """True to begin sessions without the client's ``options``, as some poolers do."""
        self.to_end = 0
        """The number of exchanges to end: ``FATAL_MESSAGE`` follows all results, then a close."""
        self._listener.listen(64)
        _start(self._serve)

    def lead_to(self, conninfo: str) -> None:
        """Lead new connections to this server, as a proxy does after a failover."""
        parameters = conninfo_to_dict(conninfo)
        self._server = f"{parameters['host']}/.s.PGSQL.{parameters['port']}"

    def cut(self) -> None:
        """End all connections."""
        while self._pairs:
            for end in self._pairs.pop():
                _shut(end)

    def vanish(self) -> None:
        """Let the server vanish from all connections: sent data is accepted and goes nowhere."""
        self.swallows = True
        self._vanished.update(end for pair in self._pairs for end in pair)

    def send_notice(self) -> None:
        """Send all clients a notice, which is no reply to any statement."""
        for client, _ in self._pairs:
            client.sendall(NOTICE)

    def reconnect_server(self) -> None:
        """Lead new connections to the server again; older connections still lead nowhere."""
        self.swallows = False

    def close(self) -> None:
        """Stop listening, and end all connections."""
        _shut(self._listener)
        self._listener.close()
        self.cut()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections_opened += 1
                if not self.accepts_connections:
                    client.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                if self.swallows:
                    self._vanished.update((client, server))
                if self.drops_options:
                    server.sendall(_without_options(client.recv(16_384)))
                self._pairs.append((client, server))
                _start(self._pass_on, client, server, True)
                _start(self._pass_on, server, client, False)

    def _pass_on(self, source: socket.socket, target: socket.socket, from_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16_384):
                if from_client and self.to_break and len(data) > _LARGE:
                    self.to_break -= 1
                    source.sendall(self.broken_answer)
                    break
                if not from_client and self.to_end and data[-6:-1] == _READY:
                    self.to_end -= 1
                    target.sendall(data[:-6] + FATAL_MESSAGE)
                    break
                self.syncs += from_client * data.count(_SYNC)
                if from_client and self.vanish_at is not None and self.vanish_at in data:
                    self.vanish()
                if self.delay:
                    threading.Event().wait(self.delay)
                if source not in self._vanished:
                    target.sendall(data)
        # Unread data in the source is lost by the close, so its peer gets a connection reset.
        source.close()
        _shut(target)


def _without_options(start: bytes) -> bytes:
    """A startup message (length, protocol number, names and values) without ``options``."""
    words = start[8:-2].split(b"\0")
    pairs = zip(words[::2], words[1::2], strict=True)
    sent = b"".join(b"%b\0%b\0" % pair for pair in pairs if pair[0] != b"options")
    return (len(sent) + 9).to_bytes(4) + start[4:8] + sent + b"\0"


def _start(target: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
