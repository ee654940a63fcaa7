"""A way to PostgreSQL that can be shut, cut, slow, swallow all, or break off an answer."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

BROKEN_OFF = b"1\0\0\0\41\0\0"
"""That a statement was parsed, and the beginning of the next message."""

OUT_OF_STEP = b"1\0\0\0\0"
"""No message of the protocol is so short."""

NOTICE = b"N\0\0\0\5\0"
"""A notice without any fields."""

_READY = b"Z\0\0\0\5"
"""What ends each exchange, but for the last byte."""

_ENDED = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
ENDED = b"E" + (len(_ENDED) + 4).to_bytes(4) + _ENDED
"""What PostgreSQL says as it ends a connection."""

_LARGE = 10_000


class Relay:
    """Passes on what comes, in threads of its own; ``conninfo`` leads through it.

    Without a folder it listens on a port of the loopback, as a proxy between two machines would.
    """

    def __init__(self, conninfo: str, folder: Path | None = None) -> None:
        place = conninfo_to_dict(conninfo)
        name = f".s.PGSQL.{place['port']}"
        self._server = f"{place['host']}/{name}"
        if folder is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            port = str(self._listener.getsockname()[1])
            self.conninfo = make_conninfo(conninfo, host="127.0.0.1", port=port)
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(folder / name))
            self.conninfo = make_conninfo(conninfo, host=str(folder))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._vanished: set[socket.socket] = set()
        self.swallows = False
        """Takes new connections and passes nothing on, as in front of a host that has vanished."""
        self.vanish_at: bytes | None = None
        """Vanish as soon as a client sends this."""
        self.delay = 0.0
        """Seconds before each piece is passed on."""
        self.asked = 0
        """Connections that were asked for."""
        self.lets_in = True
        self.to_break = 0
        """How many large messages to read in part, to answer so, and then to be gone."""
        self.broken_answer = BROKEN_OFF
        self.drops_options = False
        """As some poolers do: sessions begin without what the client asks for."""
        self.to_end = 0
        """How many exchanges to end with the connection, after all of their results."""
        self._listener.listen(64)
        _start(self._serve)

    def cut(self) -> None:
        """End all connections."""
        while self._pairs:
            for end in self._pairs.pop():
                _shut(end)

    def vanish(self) -> None:
        """Have the server vanish from all connections: what is sent is taken, and leads nowhere."""
        self.swallows = True
        self._vanished.update(end for pair in self._pairs for end in pair)

    def remark(self) -> None:
        """Send all clients a notice, which answers nothing."""
        for client, _ in self._pairs:
            client.sendall(NOTICE)

    def come_back(self) -> None:
        """Lead new connections to the server again; those from before are not told anything."""
        self.swallows = False

    def close(self) -> None:
        """End it all."""
        _shut(self._listener)
        self._listener.close()
        self.cut()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.asked += 1
                if not self.lets_in:
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

    def _pass_on(self, source: socket.socket, target: socket.socket, is_asking: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(16_384):
                if is_asking and self.to_break and len(data) > _LARGE:
                    self.to_break -= 1
                    source.sendall(self.broken_answer)
                    break
                if not is_asking and self.to_end and data[-6:-1] == _READY:
                    self.to_end -= 1
                    target.sendall(data[:-6] + ENDED)
                    break
                if is_asking and self.vanish_at is not None and self.vanish_at in data:
                    self.vanish()
                if self.delay:
                    threading.Event().wait(self.delay)
                if source not in self._vanished:
                    target.sendall(data)
        # What is left unread in the source is now lost, which its other end is told as an error.
        source.close()
        _shut(target)


def _without_options(start: bytes) -> bytes:
    """A client's first message: its length, the protocol's number, names and values."""
    words = start[8:-2].split(b"\0")
    pairs = zip(words[::2], words[1::2], strict=True)
    kept = b"".join(b"%b\0%b\0" % pair for pair in pairs if pair[0] != b"options")
    return (len(kept) + 9).to_bytes(4) + start[4:8] + kept + b"\0"


def _start(target: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
