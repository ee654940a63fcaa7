"""Helpers for tests of the embedded PostgreSQL: other commands, living processes, stored words.

Other commands are real processes, which stop when their standard input ends. Living processes are
read from /proc, so these helpers need Linux.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psycopg

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.embedded.account import give
from ledger.engine.postgres.embedded.place import ServerPaths
from ledger.engine.postgres.embedded.programs import SYSTEM_DIR

_ROOM = 4 * 1024**3

# Another `ledger` command, which prints its progress and stops when its standard input ends.
COMMAND = """
import pathlib, sys
from ledger.engine.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError, running

folder, purpose = pathlib.Path(sys.argv[1]), sys.argv[2]
say = lambda line: print(line, flush=True)
try:
    if purpose == "serve":
        server = EmbeddedPostgres(folder, announce=say)
        server.start()
        say(f"ready {server.pid} {server.url}")
        sys.stdin.read()
        server.stop()
    else:
        with running(folder, purpose=purpose, announce=say) as database:
            say(f"ready {getattr(database, 'pid', 0)} {database.url}")
            sys.stdin.read()
    say("stopped")
except EmbeddedPostgresError as exc:
    say(f"refused {exc}")
"""


class Command:
    """A process that runs ``COMMAND``; its output is kept in ``lines``."""

    def __init__(self, folder: Path, purpose: str = "serve", **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(folder), purpose],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join()
        self.process.stdout.close()

    def _read(self) -> None:
        self.lines.extend(line.rstrip("\n") for line in iter(self.process.stdout.readline, ""))

    def find(self, word: str) -> str | None:
        return next((line for line in self.lines if line.startswith(word)), None)

    def await_line(self, word: str) -> str:
        until(lambda: self.find(word) or self.process.poll() is not None, f"{word}: {self.lines}")
        self.process.poll() is None or self.reader.join()
        assert self.find(word), self.lines
        return self.find(word)

    def await_ready(self) -> tuple[int, str]:
        _, pid, url = self.await_line("ready").split(" ", 2)
        return int(pid), url

    def finish(self) -> None:
        """Let the process stop, and wait until it has stopped."""
        self.end_input()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)

    def end_input(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def until(condition: Callable[[], Any], awaited: str, limit: float = 20) -> None:
    tick, began = threading.Event(), time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        assert waited < limit, f"waited {limit} s for: {awaited}"
        tick.wait(min(0.01 + waited / 10, 0.1))


def postgres_processes(folder: Path) -> list[int]:
    """The living processes whose working directory is below this folder, as PostgreSQL's are."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(int(entry.name))
    return found


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def remember(url: str, word: str) -> None:
    query(url, "CREATE TABLE IF NOT EXISTS words (word text)")
    query(url, f"INSERT INTO words VALUES ('{word}')")


def words(url: str) -> list[str]:
    return [word for (word,) in query(url, "SELECT word FROM words ORDER BY word")]


def make_private(paths: ServerPaths) -> None:
    """Make the empty folder of a database, into which PostgreSQL's user copies another."""
    paths.database.mkdir(mode=0o700)
    give(paths.database, paths.account)


@contextlib.contextmanager
def nothing_lives_on(folder: Path) -> Iterator[None]:
    try:
        yield
        assert postgres_processes(folder) == []
    finally:
        for pid in postgres_processes(folder):
            os.kill(pid, signal.SIGQUIT)
        until(lambda: not postgres_processes(folder), "the end of a failed test's processes")


def remove_databases_elsewhere(folder: Path) -> None:
    """Remove the databases that root keeps elsewhere for data directories below (``place.py``)."""
    for data_dir, names, _ in os.walk(folder):
        database = Path(data_dir, "postgres").resolve()
        if "postgres" in names and SYSTEM_DIR in database.parents:
            shutil.rmtree(database.parent, ignore_errors=True)


def memory() -> Path | None:
    """The folder whose files are kept in memory, if this system has one with enough free space."""
    folder = Path("/dev/shm")
    has_room = os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > _ROOM
    return folder if has_room else None


@contextlib.contextmanager
def folder_in_tmp(mode: int, parent: Path | None = None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ledger-test-", dir=parent))
    folder.chmod(mode)
    try:
        with nothing_lives_on(folder):
            yield folder
    finally:
        remove_databases_elsewhere(folder)
        shutil.rmtree(folder)


@contextlib.contextmanager
def terminated_at_end(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def served(data_dir: Path, **options: Any) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(data_dir, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
