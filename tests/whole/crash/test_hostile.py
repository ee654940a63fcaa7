"""Clients that send requests without end and never read: their cost to a real worker."""

import contextlib
import re
import selectors
import socket
import time
from pathlib import Path

import pytest

from tests.support.data_dirs import MASTER_KEY
from tests.support.served import serving_at
from tests.support.soak import repeated
from tests.support.views import until

CONNECTIONS = 200
SECONDS = 1.0
REQUESTS = {
    "without a Host": b"GET / HTTP/1.1\r\n\r\n",
    "a page": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
}


def flood(address: tuple[str, int], request: bytes) -> list[socket.socket]:
    """Connections that have sent as many requests as the service takes within ``SECONDS``."""
    part, clients = request * 4096, selectors.DefaultSelector()
    for _ in range(CONNECTIONS):
        client = socket.create_connection(address)
        client.setblocking(False)
        clients.register(client, selectors.EVENT_WRITE)
    end = time.monotonic() + SECONDS
    while clients.get_map() and time.monotonic() < end:
        for key, _ in clients.select(0.1):
            client = key.fileobj
            assert isinstance(client, socket.socket)
            try:
                client.send(part)
            except BlockingIOError:
                pass
            except OSError:  # ended by the service
                clients.unregister(client)
                client.close()
    return [key.fileobj for key in clients.get_map().values()]  # type: ignore[misc]


def megabytes(pid: int, entry: str) -> float:
    """Memory of a process: ``VmRSS`` now, ``VmHWM`` at the most."""
    found = re.search(rf"{entry}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


@pytest.mark.parametrize("kind", repeated(REQUESTS))
def test_a_flood_of_requests_does_not_grow_a_workers_memory(
    conninfo: str, tmp_path: Path, kind: str
) -> None:
    """A single connection once took a gigabyte in six seconds, which was never freed."""
    environment = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with serving_at(tmp_path / "data", workers=1, **environment) as served:
        (worker,) = served.api_workers()
        with served.client("none") as client:
            assert client.get("/healthz").status_code == 200
            before = megabytes(worker, "VmRSS")
            hostile = flood(("127.0.0.1", served.port), REQUESTS[kind])
            assert client.get("/healthz").status_code == 200
            for connection in hostile:
                with contextlib.suppress(OSError):
                    connection.close()
            until(
                lambda: megabytes(worker, "VmRSS") < before + 30,
                "the memory to be freed",
                40.0,
            )
            assert megabytes(worker, "VmHWM") < 300
            assert client.get("/healthz").status_code == 200
        assert "Traceback" not in served.output
