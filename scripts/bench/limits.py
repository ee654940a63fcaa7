"""The limits of our product: the speed of this machine without the product's code.

HTTP (`serve_limit`): `bare` is an ASGI function that answers constant bytes. `app` is FastAPI with
a route that only parses a fact, and routes that answer constant bytes of the sizes in
`LIMIT_SIZES`. PostgreSQL: `statement_rate` executes prepared statements on many async connections,
in separate processes. The limits of writing rows are in `copy_limit.py`.
"""

import asyncio
import contextlib
import itertools
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import psycopg
import uvloop
from fastapi import FastAPI, Response
from pydantic import BaseModel

HERE = Path(__file__).resolve().parent
SMALL = 100  # bytes: `app` always has a route for this size
READY_WITHIN = 60.0  # seconds
CONSTANT = b'{"data":{"outcome":"recorded"}}'

Message = MutableMapping[str, Any]
Query = tuple[str, dict[str, object]]  # a statement and its named parameters


# HTTP: two small servers


class CloudEvent(BaseModel):
    """A fact as CloudEvents 1.0, declared as in any FastAPI service."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str | None = None
    time: datetime | None = None
    datacontenttype: str | None = None
    actortype: str | None = None
    actorid: str | None = None
    data: dict[str, Any]


async def bare(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """ASGI without a framework: answers constant bytes, and does not read the body."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    length = str(len(CONSTANT)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": CONSTANT})


def constant_route(api: FastAPI, size: int) -> None:
    """Add `GET /bytes/{size}`, answering that many bytes of JSON."""
    content = b'"' + b"x" * (size - 2) + b'"'

    async def constant() -> Response:
        return Response(content, media_type="application/json")

    api.add_api_route(f"/bytes/{size}", constant)


def build_app() -> FastAPI:
    """FastAPI with the parsing route, and a constant route for each size in `LIMIT_SIZES`."""
    api = FastAPI(openapi_url=None)

    @api.post("/fact")
    async def fact(event: CloudEvent) -> Response:
        return Response(CONSTANT, status_code=201, media_type="application/json")

    for size in os.environ.get("LIMIT_SIZES", "").split(","):
        if size:
            constant_route(api, int(size))
    return api


app = build_app()


def free_port() -> int:
    """A loopback port on which no process listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait for 200 from `url`. If it does not come in time, raise, with the end of the log."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
            urllib.request.urlopen(url, timeout=2),
        ):
            return
        if server.poll() is not None:
            break
        time.sleep(0.05)
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"{url} did not become ready; the server's log ends with:\n{tail}")


@contextlib.contextmanager
def serve(
    command: Sequence[str], ready: str, log: Path, env: dict[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a server during the block, then send SIGTERM; after 30 s SIGKILL to its group."""
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=os.environ | (env or {}),
            start_new_session=True,
        )
    try:
        wait_until_ready(ready, server, log)
        yield server
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@contextlib.contextmanager
def serve_limit(name: str, workers: int, folder: Path, sizes: Sequence[int] = ()) -> Iterator[int]:
    """Serve `bare` or `app` by uvicorn in its fastest form; yield the port."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        f"limits:{name}",
        "--app-dir",
        str(HERE),
        "--port",
        str(port),
    ]
    command += [
        "--workers",
        str(workers),
        "--http",
        "httptools",
        "--loop",
        "uvloop",
        "--no-access-log",
        "--lifespan",
        "off",
    ]
    ready = f"http://127.0.0.1:{port}/bytes/{SMALL}"  # `bare` answers on any path
    env = {"LIMIT_SIZES": ",".join(str(size) for size in {SMALL, *sizes})}
    with serve(command, ready, folder / f"{name}-{port}.log", env):
        yield port


# PostgreSQL: one statement from many connections


@dataclass
class StatementJob:
    """The statements to execute, distributed over a number of connections."""

    url: str
    queries: list[Query]
    connections: int
    seconds: float
    warm_up: float = 0.3


def statement_rate(job: StatementJob, processes: int) -> float:
    """Executions per second. The processes share the connections, as the product's workers do.

    No statement is executed twice before all have been executed.
    """
    shares = [
        job.connections // processes + (n < job.connections % processes) for n in range(processes)
    ]
    command = [sys.executable, str(Path(__file__).resolve())]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in shares
    ]
    try:
        for n, (child, share) in enumerate(zip(children, shares, strict=True)):
            part = {"connections": share, "queries": job.queries[n::processes]}
            pipe(child.stdin).write(pickle.dumps(job.__dict__ | part))
            pipe(child.stdin).flush()
        for child in children:
            pipe(child.stdout).readline()  # connected
        for child in children:
            pipe(child.stdin).write(b"go\n")
            pipe(child.stdin).flush()
        return sum(float(json.loads(pipe(child.stdout).readline())) for child in children)
    finally:
        for child in children:
            pipe(child.stdin).close()
            pipe(child.stdout).close()
            child.wait(10)


def pipe(end: IO[bytes] | None) -> IO[bytes]:
    """The end of a pipe that was requested of Popen, so it is not None."""
    assert end is not None
    return end


async def execute_statements(job: StatementJob) -> float:
    """Connect, report it, wait for the start, execute until the time is over; return the rate."""
    connections = [
        await psycopg.AsyncConnection.connect(job.url, autocommit=True)
        for _ in range(job.connections)
    ]
    print("ready", flush=True)
    sys.stdin.buffer.readline()
    began = time.perf_counter() + job.warm_up
    stop = began + job.seconds

    async def client(connection: psycopg.AsyncConnection[Any], queries: Sequence[Query]) -> int:
        count = 0
        cursor = connection.cursor(binary=True)
        for query in itertools.cycle(queries):
            if (now := time.perf_counter()) >= stop:
                break
            await cursor.execute(*query, prepare=True)
            await cursor.fetchall()
            count += now >= began
        return count

    shares = [job.queries[n :: job.connections] for n in range(job.connections)]
    counts = await asyncio.gather(*map(client, connections, shares))
    rate = sum(counts) / (time.perf_counter() - began)
    for connection in connections:
        await connection.close()
    return rate


if __name__ == "__main__":
    print(
        json.dumps(uvloop.run(execute_statements(StatementJob(**pickle.load(sys.stdin.buffer))))),
        flush=True,
    )
