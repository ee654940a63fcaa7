"""A real ``ledger serve`` in processes of its own, with a client, to be killed in every way."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from ledger.app.cli.arguments import main
from ledger.app.cli.keys import make_key
from ledger.app.composition.writing import writing
from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import running
from ledger.features.keys.model import Permission
from tests.support.facts import ORGANIZATION
from tests.support.forked import Entry, Forked
from tests.support.views import until

LEDGER = str(Path(sys.executable).parent / "ledger")

_PREFIX = "LEDGER_"
"""Variables with this prefix are settings."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Served:
    """A ``ledger serve`` on a data directory, started by ``with`` and ended with its processes."""

    command: Sequence[str] | None = None
    """The command line of ``ledger``, if an interpreter of its own runs it: else a fork does."""
    entry: Entry = staticmethod(main)

    def __init__(
        self,
        data_dir: Path,
        port: int,
        workers: int = 2,
        host: str = "127.0.0.1",
        role: str = "all",
        **environment: str,
    ) -> None:
        self.data_dir, self.port, self.workers, self.host = data_dir, port, workers, host
        self.role = role
        self.environment = {**os.environ, "LEDGER_DATA_DIR": str(data_dir), **environment}
        self.log = data_dir.with_suffix(f".{port}.log")
        self.address = f"http://127.0.0.1:{port}"

    def __enter__(self) -> Self:
        self.begin()
        try:
            self.await_ready()
        except BaseException:
            self.end()
            raise
        return self

    def begin(self) -> None:
        """Start the service's first process, and wait for nothing."""
        # An earlier start on the same port has written that it serves.
        self._log_start = len(self.log.read_bytes()) if self.log.exists() else 0
        self.process: subprocess.Popen[bytes] | Forked
        options = ("--host", self.host, "--port", str(self.port), "--role", self.role)
        arguments = ("serve", *options, "--workers", str(self.workers))
        if self.command is None:
            self.log.touch()
            self.process = Forked(arguments, self.environment, self.log, self.log, self.entry)
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    def __exit__(self, *_: object) -> None:
        self.end()

    def await_ready(self) -> None:
        """Wait until the service serves, with all its workers."""

        def ready() -> bool:
            assert self.process.poll() is None, self.output
            written = self.log.read_bytes()[self._log_start :]
            return b"Serving on" in written and len(self.api_workers()) >= self.workers

        until(ready, f"the service; it said: {self.output}", 40.0)

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def end(self) -> None:
        """Stop the service, and kill each process of it that is left."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        for pid in [self.process.pid, *self.processes()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def token(self, *more: Permission) -> str:
        """A new key for the tests' organization, which may read and write."""
        settings = Settings(
            **{
                name.removeprefix(_PREFIX).lower(): value
                for name, value in self.environment.items()
                if name.startswith(_PREFIX)
            }
        )
        with contextlib.ExitStack() as stack:
            conninfo = settings.database_url
            if conninfo is None:
                postgres = running(settings.data_dir, purpose="tests")
                conninfo = stack.enter_context(postgres).url
            _, token = make_key(
                stack.enter_context(writing(settings, conninfo)),
                name="test",
                organization_id=ORGANIZATION,
                workspace_id=None,
                permissions=("read", "write", *more),
            )
            return token

    # Living processes, found by the log, which children inherit as their standard error.

    def processes(self) -> list[int]:
        """Every process of this service but the supervisor, PostgreSQL among them."""
        log, found = str(self.log.resolve()), set()
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/fd/2") == log or self._is_postgres(pid):
                    found.add(pid)
        return sorted(found - {self.process.pid})

    def _is_postgres(self, pid: int) -> bool:
        """True if a process works in the database's folder, whatever its environment is."""
        folder = (self.data_dir / "postgres").resolve()
        return os.readlink(f"/proc/{pid}/cwd") == str(folder)

    def api_workers(self) -> list[int]:
        """The processes that hold the listening socket, but for the supervisor."""
        return self.named(b"ledger-api")

    def loops(self) -> int:
        """The process of projector and sweeper."""
        (loops,) = self.named(b"ledger-loops")
        return loops

    def dispatcher(self) -> int:
        """The process that sends webhooks."""
        (dispatcher,) = self.named(b"ledger-dispatch")
        return dispatcher

    def sealer(self) -> int:
        """The process that seals the log."""
        (sealer,) = self.named(b"ledger-sealer")
        return sealer

    def writer(self) -> int:
        """The process that appends for all workers."""
        (writer,) = self.named(b"ledger-writer")
        return writer

    def named(self, name: bytes) -> list[int]:
        """The processes that show this name."""
        return [pid for pid in self.processes() if name_of(pid).startswith(name)]

    def postmaster(self) -> int:
        """The embedded server's first process."""
        words = (self.data_dir / "postgres" / "postmaster.pid").read_text().split()
        return int(words[0])

    def client(self, token: str, **options: Any) -> httpx.Client:
        """A client with one keep-alive connection."""
        headers = {"authorization": f"Bearer {token}"}
        # The address is plain HTTP: loading the certificates of authorities would take 8 ms.
        plain = {"timeout": 20.0, "verify": False}
        return httpx.Client(base_url=self.address, headers=headers, **{**plain, **options})


class Installed(Served):
    """A service as an operator starts it: an interpreter of its own loads the code."""

    command = (LEDGER,)


def name_of(pid: int) -> bytes:
    """The name of a process, with a newline; empty once the process is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_bytes()
    except OSError:
        return b""


def run_ledger(
    environment: Mapping[str, str], *arguments: str, entry: Entry = main
) -> "subprocess.CompletedProcess[str]":
    """Run a short ``ledger`` command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        command = Forked(arguments, environment, output, errors, entry)
        try:
            code = command.wait(120)
        finally:
            command.kill()
        return subprocess.CompletedProcess(arguments, code, output.read_text(), errors.read_text())


@contextlib.contextmanager
def serving_at(data_dir: Path, **options: Any) -> Iterator[Served]:
    """A running service on a free port."""
    with Served(data_dir, free_port(), **options) as served:
        yield served


STRUCTURED = {"content-type": "application/cloudevents+json"}


def post(client: httpx.Client, event: dict[str, Any]) -> httpx.Response:
    """Report one fact."""
    return client.post("/v1/facts", content=json.dumps(event).encode(), headers=STRUCTURED)


def is_refused(served: Served) -> bool:
    """True if no process listens at the port."""
    try:
        socket.create_connection(("127.0.0.1", served.port), timeout=30).close()
    except ConnectionRefusedError:
        return True
    return False


def connections(served: Served) -> dict[int, int]:
    """The number of the service's connections, by API worker."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, *rest = line.split()
        if state == "01" and int(local.split(":")[1], 16) == served.port:
            inodes.add(f"socket:[{rest[5]}]")
    return {pid: len(descriptors(pid) & inodes) for pid in served.api_workers()}


def descriptors(pid: int) -> set[str]:
    """The open files of a process, without those that it closes meanwhile, as at its start."""
    held = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            held.add(os.readlink(entry))
    return held
