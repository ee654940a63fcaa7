"""The embedded PostgreSQL under real kills of its owner and of its postmaster."""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger.engine.postgres.embedded import (
    AttachedPostgres,
    DirectoryInUse,
    EmbeddedPostgres,
    EmbeddedPostgresError,
    running,
)
from ledger.engine.postgres.embedded.account import environment
from ledger.engine.postgres.embedded.lock import FileLock
from ledger.engine.postgres.embedded.place import ServerPaths, find_paths
from ledger.engine.postgres.embedded.server import answers
from tests.support.data_dirs import copy_of
from tests.support.embedded import (
    Command,
    postgres_processes,
    query,
    remember,
    served,
    terminated_at_end,
    until,
    words,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_second_start_finds_the_rows_of_the_first(data_dir: Path) -> None:
    with served(data_dir) as server:
        remember(server.url, "kept")
        assert server.poll() is None
        settings = "current_setting('{}')".format
        names = ("fsync", "synchronous_commit", "data_checksums", "timezone", "listen_addresses")
        values = query(server.url, f"SELECT {', '.join(map(settings, names))}")
        assert values == [("on", "on", "on", "UTC", "")]
        # The database sorts by code point, whatever the C library does, and knows all letters.
        locales = "SELECT datlocprovider, datlocale FROM pg_database WHERE datname = 'ledger'"
        assert query(server.url, locales) == [("b", "C.UTF-8")]
        assert query(server.url, "SELECT lower('Ä'), 'B' < 'a', 'a-c' < 'ab'") == [
            ("ä", True, True)
        ]
    assert server.poll() == 0
    assert postgres_processes(data_dir) == []
    server.stop()

    with served(data_dir, settings={"work_mem": "9MB", "max_connections": "17"}) as server:
        assert "kept" in words(server.url)
        assert query(server.url, "SHOW work_mem") == [("9MB",)]
        assert query(server.url, "SHOW max_connections") == [("17",)]
    # As root, the service's own user passes through to its files.
    assert stat.S_IMODE(data_dir.stat().st_mode) == (0o711 if os.geteuid() == 0 else 0o700)
    assert stat.S_IMODE((data_dir / "postgres").stat().st_mode) == 0o700


def test_a_relative_directory_is_resolved_from_where_the_command_started(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data_dir.parent)
    monkeypatch.setenv("PGPORT", "5999")  # a developer's own settings lead neither side astray
    with served(Path(".ledger")) as server:
        monkeypatch.chdir("/")
        assert query(server.url, "SHOW data_directory") == [(str(data_dir / "postgres"),)]


@pytest.mark.parametrize("name", ["x" * 150, "a,b", "\udcff"], ids=ascii)
def test_a_directory_unfit_for_a_socket_gets_its_socket_in_tmp(
    folder: Path, data_dir: Path, name: str
) -> None:
    subprocess.run(["cp", "-a", str(data_dir), str(folder / name)], check=True)
    with served(folder / name) as server:
        socket_dir = find_paths(folder / name).socket_dir
        info = socket_dir.stat()
        assert socket_dir.parent == Path("/tmp")
        assert stat.S_IMODE(info.st_mode) == (0o710 if os.geteuid() == 0 else 0o700)
        assert info.st_uid == (folder / name / "postgres").stat().st_uid
        assert query(server.url, "SELECT 1") == [(1,)]

    socket_dir.chmod(0o755)
    with pytest.raises(EmbeddedPostgresError, match="open to others"):
        server.start()
    socket_dir.rmdir()


def test_acknowledged_rows_survive_kill_9_of_the_owner_and_no_process_lives_on(
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


def test_a_killed_postmaster_is_restarted_once_its_last_backend_has_ended(data_dir: Path) -> None:
    with served(data_dir) as server:
        remember(server.url, "kept")
        # A backend amid a computation does not see that its postmaster has died, and goes on.
        busy = psycopg.connect(server.url, autocommit=True)
        backend = busy.info.backend_pid
        compute = threading.Thread(target=_ignore_loss, args=(busy,))
        compute.start()
        until(lambda: _runs(backend), "the computation")
        os.kill(backend, signal.SIGSTOP)  # on a busy machine the computation would end before
        first = server.pid
        os.kill(first, signal.SIGKILL)
        until(lambda: server.poll() is not None, "the death of the postmaster")
        assert server.poll() == -signal.SIGKILL
        assert backend in postgres_processes(data_dir)

        os.kill(backend, signal.SIGCONT)
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
            assert serve.find("ready") is None
            short.finish()
            assert short.find("stopped")
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
    with contextlib.suppress(ZeroDivisionError), running(data_dir, purpose="import") as database:
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
            assert user.find("stopped")
        owner.finish()
        assert owner.find("stopped")


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
            assert command.find("stopped"), command.lines


def test_a_start_is_not_misled_by_pid_files_that_name_a_foreign_process(data_dir: Path) -> None:
    paths = find_paths(data_dir)
    with Command(data_dir) as owner:
        postmaster, _ = owner.await_ready()
        os.kill(postmaster, signal.SIGKILL)
        until(lambda: postgres_processes(data_dir) == [], "the end of PostgreSQL")
        owner.kill()
    uid = paths.database.stat().st_uid
    with terminated_at_end(subprocess.Popen(["sleep", "60"], user=uid)) as foreign:
        for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            lines = (paths.database / name).read_text().split("\n")
            assert lines[0] == str(postmaster)
            (paths.database / name).write_text("\n".join([str(foreign.pid), *lines[1:]]))
        with served(data_dir) as server:
            assert query(server.url, "SELECT 1") == [(1,)]
        assert foreign.poll() is None


def test_an_empty_pid_file_does_not_prevent_a_start(data_dir: Path) -> None:
    paths = find_paths(data_dir)
    (paths.database / "postmaster.pid").write_text("")
    with served(data_dir) as server:
        assert query(server.url, "SELECT 1") == [(1,)]


def test_an_orphaned_server_of_the_ledger_is_stopped(data_dir: Path) -> None:
    paths = find_paths(data_dir)
    with FileLock(paths.base / "server.lock", paths.account) as lock:
        assert lock.try_exclusive()
        orphan = _server_without_owner(paths, pass_fds=(lock.fd,))
    with terminated_at_end(orphan):
        until(lambda: answers(paths, "ledger"), "the orphan")
        with served(data_dir) as server:
            assert orphan.wait(0) == 0
            assert query(server.url, "SELECT 1") == [(1,)]


def test_a_server_that_is_not_the_ledgers_is_left_alone(data_dir: Path) -> None:
    paths = find_paths(data_dir)
    with terminated_at_end(_server_without_owner(paths)) as foreign:
        until(lambda: answers(paths, "ledger"), "the server")
        with pytest.raises(EmbeddedPostgresError, match=rf"not ours \(pid {foreign.pid}\)"):
            EmbeddedPostgres(data_dir).start()
        assert query(paths.url(), "SELECT 1") == [(1,)]


def _server_without_owner(paths: ServerPaths, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        paths.command("postgres", "-D", str(paths.database), "-k", str(paths.socket_dir), "-h", ""),
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment(),
        **options,
    )


def test_a_start_that_fails_names_its_cause_in_one_line(data_dir: Path) -> None:
    with pytest.raises(EmbeddedPostgresError) as failure:
        EmbeddedPostgres(data_dir, settings={"shared_buffers": "none"}).start()
    assert 'invalid value for parameter "shared_buffers"' in str(failure.value)
    assert "\n" not in str(failure.value)
    with served(data_dir) as server:  # the failed start holds no lock
        assert server.poll() is None


def test_a_recovery_that_fails_names_its_cause_and_not_the_later_errors(
    folder: Path, template: Path
) -> None:
    copy_of(template, folder / "data")
    for segment in (folder / "data" / "postgres" / "pg_wal").glob("0*"):
        os.truncate(segment, 0)
    with pytest.raises(EmbeddedPostgresError, match=r"could not locate a valid checkpoint record"):
        EmbeddedPostgres(folder / "data").start()


def test_an_impossible_data_directory_is_one_clear_line(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(EmbeddedPostgresError, match="cannot be used"):
        EmbeddedPostgres(folder / "file" / ".ledger").start()


def test_a_long_log_is_set_aside(data_dir: Path) -> None:
    paths = find_paths(data_dir)
    os.truncate(paths.log, 11 * 1024 * 1024)
    with served(data_dir):
        assert paths.log.stat().st_size < 100_000
    assert paths.log.with_name("postgres.log.1").stat().st_size == 11 * 1024 * 1024


def test_the_server_is_not_started_from_another_thread(folder: Path) -> None:
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
