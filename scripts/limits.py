"""The limits beside our product: what this machine does with nothing of ours in between.

HTTP (`serve_limit`): `bare`, an ASGI function that answers constant bytes; `app`, FastAPI with a
route that only parses a fact, and routes that answer constant bytes of the sizes in `LIMIT_SIZES`.
PostgreSQL: `copy_seconds`, COPY of given rows into tables with the same indexes; `statement_rate`,
prepared statements on many async connections, in processes of their own; `commit_seconds`, one row
and one fsync.
"""

import asyncio
import contextlib
import json
import os
import pickle
import signal
import socket
import statistics
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
from psycopg import sql
from pydantic import BaseModel

HERE = Path(__file__).resolve().parent
SCHEMA = "bench_limit"
PART = 1 << 18  # bytes of a file at a time
SMALL = 100  # bytes: the size that `app` always has a route for
CONSTANT = b'{"data":{"outcome":"recorded"}}'

Message = MutableMapping[str, Any]
Query = tuple[str, dict[str, object]]  # a statement and its named parameters


# HTTP: three small servers


class CloudEvent(BaseModel):
    """A fact as CloudEvents 1.0 writes it: what any FastAPI service would declare to parse one."""

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
    """ASGI without a framework: constant bytes, the body unread."""
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
    """FastAPI with the parsing route, and one constant route for each size in `LIMIT_SIZES`."""
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
    """A loopback port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(
    url: str, server: "subprocess.Popen[bytes]", log: Path, seconds: float = 60
) -> None:
    """Wait for 200 from `url`; raise, with the end of the log, when that does not come."""
    deadline = time.monotonic() + seconds
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
) -> Iterator[None]:
    """Run a server as long as the block lasts, then SIGTERM; after 30 s SIGKILL to its group."""
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
        yield
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@contextlib.contextmanager
def serve_limit(name: str, workers: int, folder: Path, sizes: Sequence[int] = ()) -> Iterator[int]:
    """`bare` or `app` under uvicorn as fast as it goes; yields the port."""
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


# PostgreSQL: COPY of the same rows


@dataclass(frozen=True)
class TableRows:
    """Rows of one table, as COPY's binary format writes them."""

    table: str  # as the product names it, schema and all
    columns: tuple[str, ...]
    data: bytes

    @property
    def clone(self) -> sql.Identifier:
        """The empty table with the same columns and indexes that the rows are copied into."""
        return sql.Identifier(SCHEMA, self.table.replace(".", "_"))

    @property
    def original(self) -> sql.Identifier:
        """The product's table."""
        return sql.Identifier(*self.table.split("."))

    @property
    def names(self) -> sql.Composed:
        """The columns, as a statement lists them."""
        return sql.SQL(", ").join(map(sql.Identifier, self.columns))

    @property
    def copy_in(self) -> sql.Composed:
        """The statement that copies into the clone."""
        return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT BINARY)").format(self.clone, self.names)


def read_rows(
    connection: psycopg.Connection[Any], table: str, columns: Sequence[str], query: str
) -> TableRows:
    """Take the rows of `query` out of the database, ready to be copied in without any encoding."""
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)") as copy,
    ):
        return TableRows(table, tuple(columns), b"".join(bytes(part) for part in copy))


def create_clones(connection: psycopg.Connection[Any], batch: Sequence[TableRows]) -> None:
    """Create the tables to copy into, with the originals' indexes, constraints and defaults."""
    drop_clones(connection)
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
    for rows in batch:
        connection.execute(
            sql.SQL("CREATE TABLE {} (LIKE {} INCLUDING ALL)").format(rows.clone, rows.original)
        )
    connection.commit()


def drop_clones(connection: psycopg.Connection[Any]) -> None:
    """Remove everything that these measurements put into the database."""
    connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(SCHEMA)))
    connection.commit()


def fill_clones(connection: psycopg.Connection[Any], batch: Sequence[TableRows]) -> None:
    """Put all the rows that the originals have now into the tables to copy into."""
    for rows in batch:
        connection.execute(
            sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}").format(
                rows.clone, rows.names, rows.names, rows.original
            )
        )
    connection.commit()


def copy_seconds(
    connection: psycopg.Connection[Any], batches: Sequence[Sequence[TableRows]], seconds: float
) -> list[float]:
    """Copy each batch, again and again for about `seconds`; what each took.

    The tables are emptied, outside the time taken, each time all batches are in: that favours the
    limit, never us.
    """
    taken: list[float] = []
    while sum(taken) < seconds:
        for rows in batches[0]:
            connection.execute(sql.SQL("TRUNCATE {}").format(rows.clone))
        connection.commit()
        taken += [copy_batch(connection, batch) for batch in batches]
    return taken


def copy_batch(connection: psycopg.Connection[Any], batch: Sequence[TableRows]) -> float:
    """Copy a batch in one transaction; the seconds it took, the commit included."""
    began = time.perf_counter()
    for rows in batch:
        with connection.cursor() as cursor, cursor.copy(rows.copy_in) as copy:
            copy.write(rows.data)
    connection.commit()
    return time.perf_counter() - began


def copied_table_seconds(
    connection: psycopg.Connection[Any], table: str, columns: Sequence[str], folder: Path
) -> float:
    """The time that COPY takes for all rows of a table, by way of a file: they may be many.

    Into an empty table with the same indexes, in one transaction, the commit included.
    """
    clone, file = TableRows(table, tuple(columns), b""), folder / "rows"
    create_clones(connection, [clone])
    try:
        with connection.cursor() as cursor, file.open("wb") as output:
            out = sql.SQL("COPY {} ({}) TO STDOUT (FORMAT BINARY)").format(
                clone.original, clone.names
            )
            with cursor.copy(out) as copy:
                for part in copy:
                    output.write(part)
        connection.commit()
        began = time.perf_counter()
        with (
            connection.cursor() as cursor,
            file.open("rb") as rows,
            cursor.copy(clone.copy_in) as copy,
        ):
            while part := rows.read(PART):
                copy.write(part)
        connection.commit()
        return time.perf_counter() - began
    finally:
        connection.rollback()
        drop_clones(connection)
        file.unlink(missing_ok=True)


def commit_seconds(url: str, seconds: float) -> float:
    """The median time of a transaction that inserts one row: one fsync."""
    with psycopg.connect(url, autocommit=True) as connection:
        drop_clones(connection)
        connection.execute(f"CREATE SCHEMA {SCHEMA}")
        connection.execute(f"CREATE TABLE {SCHEMA}.commits (n bigint PRIMARY KEY)")
        taken: list[float] = []
        while sum(taken) < seconds:
            began = time.perf_counter()
            connection.execute(
                f"INSERT INTO {SCHEMA}.commits VALUES (%s)", [len(taken)], prepare=True
            )
            taken.append(time.perf_counter() - began)
        drop_clones(connection)
    return statistics.median(taken)


# PostgreSQL: one statement from many connections


@dataclass
class StatementJob:
    """The statements to go through, each connection beginning elsewhere, and how many of those."""

    url: str
    queries: list[Query]
    connections: int
    seconds: float
    warm_up: float = 0.3


def statement_rate(job: StatementJob, processes: int) -> float:
    """Executions a second, the connections shared out over processes as ours are over workers."""
    shares = [
        job.connections // processes + (n < job.connections % processes) for n in range(processes)
    ]
    command = [sys.executable, str(Path(__file__).resolve())]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in shares
    ]
    try:
        for child, share in zip(children, shares, strict=True):
            pipe(child.stdin).write(pickle.dumps(job.__dict__ | {"connections": share}))
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
    """A pipe that was asked for, so it is there."""
    assert end is not None
    return end


async def execute_statements(job: StatementJob) -> float:
    """Connect, say so, wait for the word, execute until the time is over; executions a second."""
    connections = [
        await psycopg.AsyncConnection.connect(job.url, autocommit=True)
        for _ in range(job.connections)
    ]
    print("ready", flush=True)
    sys.stdin.buffer.readline()
    began = time.perf_counter() + job.warm_up
    stop = began + job.seconds

    async def client(connection: psycopg.AsyncConnection[Any], at: int) -> int:
        count = 0
        cursor = connection.cursor(binary=True)
        while (now := time.perf_counter()) < stop:
            at = (at + 1) % len(job.queries)
            await cursor.execute(*job.queries[at], prepare=True)
            await cursor.fetchall()
            count += now >= began
        return count

    counts = await asyncio.gather(*(client(each, 17 * at) for at, each in enumerate(connections)))
    rate = sum(counts) / (time.perf_counter() - began)
    for connection in connections:
        await connection.close()
    return rate


if __name__ == "__main__":
    print(
        json.dumps(uvloop.run(execute_statements(StatementJob(**pickle.load(sys.stdin.buffer))))),
        flush=True,
    )
