"""A way to PostgreSQL that can be shut, cut, or broken off in the middle of an answer."""

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

_READY = b"Z\0\0\0\5"
"""What ends each exchange, but for the last byte."""

_ENDED = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0"
ENDED = b"E" + (len(_ENDED) + 4).to_bytes(4) + _ENDED
"""What PostgreSQL says as it ends a connection."""

_LARGE = 10_000


class Relay:
    """Passes on what comes, in threads of its own; ``conninfo`` leads through it."""

    def __init__(self, conninfo: str, folder: Path) -> None:
        place = conninfo_to_dict(conninfo)
        name = f".s.PGSQL.{place['port']}"
        self.conninfo = make_conninfo(conninfo, host=str(folder))
        self._server = f"{place['host']}/{name}"
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
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
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / name))
        self._listener.listen(64)
        _start(self._serve)

    def cut(self) -> None:
        """End all connections."""
        while self._pairs:
            for end in self._pairs.pop():
                _shut(end)

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
