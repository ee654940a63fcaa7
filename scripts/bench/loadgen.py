"""A closed-loop HTTP/1.1 load generator, far cheaper per request than the servers it measures.

`run_load(job)` runs it in a process of its own; by hand: `python loadgen.py URL`. Requests are
encoded beforehand. Each keep-alive connection sends its next request after the last answer. The
generator reads only the status and the length of an answer, with one `find` each, over raw epoll:
no event loop, no callbacks, no headers as objects. Its own CPU time is part of the result. Close to
one second per second means that the generator was the limit, not the server.
"""

import argparse
import contextlib
import gc
import os
import pickle
import select
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from urllib.parse import urlsplit

from processes import Usage, usage_of

ACCEPT_PAUSE = 0.05  # after a burst of connects, so that the workers have accepted them all
BURSTS = 8  # of connects, after which an uneven spread over the workers is accepted
ANSWER_LIMIT = 20.0  # seconds without any answer after which a server counts as hung
TIMER_TICK = 0.002  # seconds by which this loop may be late for a due request
READ_SIZE = 1 << 18


@dataclass
class Job:
    """The requests for a port of this machine, and the time to send them.

    requests  a list of encoded requests for each connection
    seconds   measured, after the warm-up; None: until every request is answered
    repeat    start a list again at its end; otherwise the first end of a list ends the measurement
    rate      requests per second over all connections; None: as fast as answers come
    workers   processes that accept on the port: each gets an equal share of the connections
    gather    seconds between looks for answers: half the CPU time, and latencies longer by as much
    server    the process whose usage is measured once all connections are open; 0: none
    """

    port: int
    requests: list[list[bytes]]
    seconds: float | None = None
    warm_up: float = 0.0
    repeat: bool = False
    rate: float | None = None
    workers: int = 1
    gather: float = 0.0
    server: int = 0


@dataclass
class Result:
    """The answers within the measured time."""

    seconds: float
    responses: int
    statuses: dict[int, int]
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_seconds: float
    spread: list[int]  # connections of each worker; empty if /proc does not show them
    refusal: str = ""  # the beginning of the first answer that was no 2xx
    before: Usage | None = None  # of the server, before the first request

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.responses / self.seconds if self.seconds else 0.0

    @property
    def cpu_share(self) -> float:
        """The share of one core that the generator itself used."""
        return self.cpu_seconds / self.seconds if self.seconds else 0.0


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """One encoded request; header names are given with underscores (`content_type`)."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body or method == "POST":
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def head_of(data: bytes) -> tuple[int, int] | None:
    """Status and whole length of the answer that starts `data`; None if its head is not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    name = data.find(b"content-length:", 0, end)
    if name < 0:
        name = data[:end].lower().find(b"content-length:")
    status = int(data[9:12])
    if name < 0:
        if status in (204, 304):
            return status, end + 4
        raise ValueError(f"an answer without Content-Length: {data[:end]!r}")
    stop = data.find(b"\r\n", name)
    return status, end + 4 + int(data[name + 15 : stop])


def percentile(sorted_values: list[float], share: float) -> float:
    """The value that `share` of the sorted values do not exceed; 0 without values."""
    return (
        sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]
        if sorted_values
        else 0.0
    )


def accepting_process(port: int) -> dict[int, int]:
    """The process at the other end of each connection to `port`, by the client's port (Linux)."""
    clients: dict[str, int] = {}
    try:
        table = Path("/proc/net/tcp").read_text().splitlines()[1:]
    except OSError:
        return {}
    for line in table:
        _, local, remote, state, *rest = line.split()
        if state == "01" and int(local.split(":")[1], 16) == port:
            clients[f"socket:[{rest[5]}]"] = int(remote.split(":")[1], 16)
    found: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    client = clients.get(os.readlink(descriptor))
                    if client is not None:
                        found[client] = int(process.name)
    return found


def connect(job: Job) -> tuple[list[socket.socket], list[int]]:
    """A socket for each list of requests, and the number of each worker's sockets.

    Workers that share a listening socket accept connections as they happen to wake. One of two
    processes may get 30 of 32 connections, which halves the measured rate. So more connections are
    opened than needed, the same number of each worker stays open, and the others are closed.
    """
    wanted = len(job.requests)
    share = -(-wanted // job.workers)
    sockets: list[socket.socket] = []
    held: dict[int, list[socket.socket]] = {}
    for _ in range(BURSTS):
        sockets += [
            socket.create_connection(("127.0.0.1", job.port), timeout=5) for _ in range(wanted)
        ]
        if job.workers == 1:
            return sockets, [wanted]
        time.sleep(ACCEPT_PAUSE)
        owner = accepting_process(job.port)
        held = {process: [] for process in owner.values()}
        for each in sockets:
            if (process := owner.get(each.getsockname()[1])) is not None:
                held[process].append(each)
        if not held or sum(len(some) >= share for some in held.values()) >= job.workers:
            break
    even = [each for row in zip_longest(*held.values()) for each in row if each is not None]
    chosen = (even or sockets)[:wanted]
    for each in sockets:
        if each not in chosen:
            each.close()
    return chosen, [sum(each in chosen for each in some) for some in held.values()]


class _Connection:
    """One keep-alive connection: its requests, and how much of the present answer is missing."""

    __slots__ = ("head", "missing", "next", "requests", "socket", "started", "status", "unsent")

    def __init__(self, opened: socket.socket, requests: list[bytes]) -> None:
        self.socket = opened
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.requests = requests
        self.next = 0
        self.started = 0.0
        self.status = 0
        self.head = b""
        self.missing = 0  # bytes of the body still to come, once the head is known
        self.unsent: memoryview | None = None


@dataclass
class _Counts:
    began: float
    cpu_began: float
    ended: float = 0.0
    statuses: dict[int, int] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)


class _Load:
    """One run of a job. `run` is the loop; the methods that it calls for each answer are small."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.poll = select.epoll()
        self.connections: dict[int, _Connection] = {}
        self.idle: deque[_Connection] = deque()
        self.waiting = 0  # connections with an answer to come
        self.sending = True
        self.due = float("inf")  # with a rate: when the next request is due
        self.refusal = ""
        self.before: Usage | None = None
        self.spread: list[int] = []
        self.counts = _Counts(time.perf_counter(), time.process_time())

    def run(self) -> Result:
        """Connect, send until the time or the requests are over, take the outstanding answers."""
        sockets, self.spread = connect(self.job)
        for opened, requests in zip(sockets, self.job.requests, strict=True):
            connection = _Connection(opened, requests)
            self.connections[opened.fileno()] = connection
            self.poll.register(opened, select.EPOLLIN)
            self.idle.append(connection)
        gc.disable()
        self.before = usage_of(self.job.server) if self.job.server else None
        now = time.perf_counter()
        measured_from = now + self.job.warm_up
        stop = float("inf") if self.job.seconds is None else measured_from + self.job.seconds
        self.counts = _Counts(now, time.process_time())
        self.due = now
        warm = self.job.warm_up == 0
        self._send_due(now)
        while self.waiting or self.sending:
            if self.job.gather:
                time.sleep(self.job.gather)
            self._read_answers()
            now = time.perf_counter()
            if not warm and now >= measured_from:
                warm = True
                self.counts = _Counts(now, time.process_time())
            if now >= stop:
                self.sending = False
            if self.sending:
                self._send_due(now)
        return self._result()

    def _result(self) -> Result:
        counts = self.counts
        ended = counts.ended or time.perf_counter()
        latencies = sorted(counts.latencies)
        for connection in self.connections.values():
            connection.socket.close()
        return Result(
            seconds=ended - counts.began,
            responses=len(latencies),
            statuses=dict(sorted(counts.statuses.items())),
            p50_ms=percentile(latencies, 0.5) * 1e3,
            p95_ms=percentile(latencies, 0.95) * 1e3,
            p99_ms=percentile(latencies, 0.99) * 1e3,
            cpu_seconds=time.process_time() - counts.cpu_began,
            spread=self.spread,
            refusal=self.refusal,
            before=self.before,
        )

    def _read_answers(self) -> None:
        """Wait for sockets, and let each connection read or continue to write."""
        timeout = ANSWER_LIMIT
        if self.job.rate and self.sending and self.idle:
            timeout = max(0.0, self.due - time.perf_counter())
        ready = self.poll.poll(timeout)
        if not ready and timeout == ANSWER_LIMIT:
            raise TimeoutError(f"{self.waiting} requests without an answer for {timeout} s")
        for descriptor, event in ready:
            connection = self.connections[descriptor]
            if connection.unsent is not None and event & select.EPOLLOUT:
                self._write_rest(connection)
            if event & ~select.EPOLLOUT:
                self._read(connection)

    def _read(self, connection: _Connection) -> None:
        data = connection.socket.recv(READ_SIZE)
        if not data:
            raise ConnectionError("the server closed a keep-alive connection")
        if connection.missing:
            connection.missing -= len(data)
            if connection.missing <= 0:
                self._answered(connection)
            return
        if connection.head:
            data = connection.head + data
        head = head_of(data)
        if head is None:
            connection.head = data
            return
        connection.head = b""
        connection.status, length = head
        if not 200 <= connection.status < 300 and not self.refusal:
            self.refusal = data[:600].decode(errors="replace")
        if length <= len(data):
            self._answered(connection)
        else:
            connection.missing = length - len(data)

    def _answered(self, connection: _Connection) -> None:
        connection.missing = 0
        now = time.perf_counter()
        counts = self.counts
        counts.ended = now
        counts.latencies.append(now - connection.started)
        counts.statuses[connection.status] = counts.statuses.get(connection.status, 0) + 1
        self.waiting -= 1
        if not self.sending:
            return
        if self.job.rate is None:
            self._send(connection, now)
        else:
            self.idle.append(connection)

    def _send_due(self, now: float) -> None:
        """Send on idle connections: on all without a rate, else a request for each that is due."""
        idle = self.idle
        if self.job.rate is None:
            while idle:
                self._send(idle.popleft(), now)
            return
        step = 1 / self.job.rate
        while idle and self.due <= now and self.sending:
            # A request without a free connection has waited since it was due, because of the
            # server: its latency counts from then. A delay of one timer tick is this loop's own.
            late = now - self.due
            self._send(idle.popleft(), self.due if late > TIMER_TICK else now)
            self.due += step

    def _send(self, connection: _Connection, started: float) -> None:
        at = connection.next
        if at == len(connection.requests):
            if not self.job.repeat:
                self._ran_out()
                return
            at = 0
        connection.next = at + 1
        connection.started = started
        self.waiting += 1
        data = connection.requests[at]
        sent = connection.socket.send(data)
        if sent < len(data):
            connection.unsent = memoryview(data)[sent:]
            self.poll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _ran_out(self) -> None:
        """End a timed run because a list is empty: fewer connections would be another load."""
        every = all(each.next == len(each.requests) for each in self.connections.values())
        self.sending = self.sending and self.job.seconds is None and not every

    def _write_rest(self, connection: _Connection) -> None:
        assert connection.unsent is not None
        try:
            sent = connection.socket.send(connection.unsent)
        except BlockingIOError:
            return
        connection.unsent = connection.unsent[sent:] if sent < len(connection.unsent) else None
        if connection.unsent is None:
            self.poll.modify(connection.socket, select.EPOLLIN)


def run_load(job: Job) -> Result:
    """Run `job` in a process of its own and wait for its result."""
    done = subprocess.run(
        [sys.executable, "-c", "import loadgen; loadgen.answer_parent()"],
        input=pickle.dumps(job),
        capture_output=True,
        cwd=Path(__file__).parent,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().splitlines()[-1]
        raise RuntimeError(f"the load generator failed: {reason}")
    result = pickle.loads(done.stdout)
    assert isinstance(result, Result)
    return result


def answer_parent() -> None:
    """Run the job that `run_load` writes to standard input; write the result."""
    sys.stdout.buffer.write(pickle.dumps(_Load(pickle.load(sys.stdin.buffer)).run()))


def main() -> None:
    """GET one URL as fast as it answers; print the result."""
    parser = argparse.ArgumentParser(description="A load generator for loopback HTTP servers.")
    parser.add_argument("url", help="what to GET, http://127.0.0.1:PORT/…")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=1, help="processes that accept on the port")
    args = parser.parse_args()
    url = urlsplit(args.url)
    get = request("GET", (url.path or "/") + (f"?{url.query}" if url.query else ""))
    requests = [[get]] * args.connections
    job = Job(url.port or 80, requests, args.seconds, 0.5, repeat=True, workers=args.workers)
    result = _Load(job).run()
    print(
        f"{result.rate:,.0f} answers/s, {result.cpu_share:.0%} of a core for the generator", result
    )


if __name__ == "__main__":
    main()
