"""A service that was started as root runs its processes as an unprivileged user, if it can."""

import os
import shutil
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import ledger
import projections
from ledger.app import privileges
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.embedded.account import Account, default_account, service_account
from ledger.engine.postgres.embedded.place import find_paths
from tests.support.data_dirs import MASTER_KEY
from tests.support.embedded import folder_in_tmp
from tests.support.facts import LINE, activation
from tests.support.served import Installed, Served, free_port, post
from tests.support.views import until

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="changes users, which needs root"
)

SERVICE = service_account() or default_account()

STAY = "As root: the service's processes stay root"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    with folder_in_tmp(0o755) as folder:
        yield folder


@pytest.fixture
def conninfo(server: EmbeddedPostgres, conninfo: str) -> str:
    """A database that the service's user reaches, too."""
    own, theirs = (conninfo_to_dict(url)["host"] for url in (server.url, server.service_url))
    return conninfo.replace(quote(str(own), safe=""), quote(str(theirs), safe=""))


def users(service: Served) -> set[int]:
    """The users of the service's own processes, but for the supervisor."""
    own = [service.sealer(), *service.api_workers()]
    if service.role == "all":
        own += [service.loops(), service.dispatcher()]
    assert sorted(own) == service.named(b"ledger-")
    assert len(service.api_workers()) == service.workers
    return {Path(f"/proc/{pid}").stat().st_uid for pid in own}


def uids(pid: int) -> set[str]:
    """The real, effective, saved and file system's users of a process, and its groups."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {line.partition(":")[0]: line.partition(":")[2].split() for line in status}
    return {*found["Uid"], *found["Groups"]}


def test_started_as_root_no_process_is_roots_or_postgresqls_also_after_a_restart(
    open_folder: Path,
) -> None:
    data_dir = open_folder / "data"
    with Served(data_dir, free_port(), workers=1) as service:
        account = SERVICE.uid
        assert account not in (0, (data_dir / "postgres").stat().st_uid)
        assert users(service) == {account}
        worker = service.api_workers()[0]
        assert uids(worker) == {str(account)}
        with service.client(service.token()) as client:
            assert post(client, activation()).status_code == 201
            assert client.get(f"/v1/execution/{LINE}").status_code == 200
            assert "ledger_log_position" in client.get("/metrics").text
        # The worker can read neither the key's file nor take root back; the supervisor had the key.
        key = data_dir / "master.key"
        assert (key.stat().st_uid, stat.S_IMODE(key.stat().st_mode)) == (0, 0o600)
        until(lambda: list((data_dir / "sealed").glob("*.checkpoint")), "the kept checkpoint")
        os.kill(worker, signal.SIGKILL)
        until(lambda: worker not in service.api_workers(), "the end of the worker")
        service.await_ready()
        assert users(service) == {account}
        assert STAY not in service.output


FORGE = """
ALTER TABLE ledger.ledger_events DISABLE TRIGGER USER;
UPDATE ledger.ledger_events SET state = convert_to(replace(convert_from(state, 'UTF8'),
    'agent_runtime', 'forged_runtime'), 'UTF8');
ALTER TABLE ledger.ledger_events ENABLE TRIGGER USER;
DELETE FROM ledger.tile;
DELETE FROM ledger.checkpoint;
DELETE FROM ledger.node;
UPDATE ledger.signer SET shown_size = 0, stopped_at = NULL, error = NULL, contradicts = false,
    waits_for = NULL;
"""
"""The attack of a superuser who rewrites history, and lets the service take it for a new log."""


def test_a_superuser_who_rewrites_history_reaches_neither_witness_nor_processes(
    data_dir: Path,
) -> None:
    sealed = data_dir / "sealed"
    with Served(data_dir, free_port(), workers=1) as service:
        with service.client(service.token()) as client:
            assert post(client, activation()).status_code == 201
            until(lambda: client.get("/readyz").json()["sealing"]["lag"] == 0, "the seal")
            url = find_paths(data_dir).url()
            witness = {path: path.read_text() for path in sealed.glob("*.checkpoint")}
            own = [service.sealer(), service.loops(), *service.api_workers()]

            def run(command: str) -> str:
                with psycopg.connect(url, autocommit=True) as superuser:
                    superuser.execute("CREATE TEMP TABLE said (line text)")
                    program = f"({command}) 2>&1 || true".replace("'", "''")
                    superuser.execute(f"COPY said FROM PROGRAM '{program}'".encode())
                    return "\n".join(r[0] for r in superuser.execute("SELECT line FROM said"))

            with psycopg.connect(url) as superuser:
                superuser.execute(FORGE.encode())
            assert "Permission denied" in run(f"rm -rf {sealed} && echo gone")
            assert "Permission denied" in run(f"mv {sealed} {data_dir}/away && echo gone")
            for pid in own:
                assert "not permitted" in run(f"kill -9 {pid} && echo killed")
            assert run("id -u") == str((data_dir / "postgres").stat().st_uid)
            until(lambda: client.get("/readyz").json()["sealing"]["stopped"], "the stop")
            assert client.get("/readyz").json()["status"] == "degraded"
            assert [service.sealer(), service.loops(), *service.api_workers()] == own
        with psycopg.connect(url) as superuser:
            superuser.execute(FORGE.encode())
    with (
        Served(data_dir, free_port(), workers=1) as service,
        service.client(service.token()) as client,
    ):
        until(lambda: client.get("/readyz").json()["sealing"]["stopped"], "the stop")
        with psycopg.connect(url) as superuser:
            assert superuser.execute("SELECT FROM ledger.checkpoint").fetchall() == []
    assert {path: path.read_text() for path in sealed.glob("*.checkpoint")} == witness


def test_a_ledger_of_root_is_taken_over_by_the_user(open_folder: Path, conninfo: str) -> None:
    """Where the processes have stayed root, the folder of the last checkpoint is root's."""
    data_dir, account = open_folder / "data", SERVICE
    data_dir.mkdir(mode=0o755)
    sealed = data_dir / "sealed"
    sealed.mkdir(mode=0o700)
    earlier = sealed / "another.checkpoint"
    earlier.write_text("kept by root")
    url = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with Served(data_dir, free_port(), workers=1, **url) as service:
        assert users(service) == {account.uid}
        with service.client(service.token()) as client:
            assert post(client, activation()).status_code == 201
        until(lambda: len(list(sealed.iterdir())) > 1, "the kept checkpoint")
    assert {file.stat().st_uid for file in (sealed, *sealed.iterdir())} == {account.uid}
    assert data_dir.stat().st_uid == 0


def test_a_missing_data_directory_is_made_for_the_user(open_folder: Path, conninfo: str) -> None:
    data_dir = open_folder / "new" / "data"
    url = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    data_dir.parent.mkdir()
    with Served(data_dir, free_port(), workers=1, role="api", **url) as service:
        assert users(service) == {SERVICE.uid}
    info = data_dir.stat()
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (SERVICE.uid, 0o700)


def test_where_the_user_cannot_reach_the_data_the_processes_stay_root_and_say_so(
    open_folder: Path, conninfo: str
) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    url = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with Served(closed / "data", free_port(), workers=1, **url) as service:
        assert users(service) == {0}
        with service.client(service.token()) as client:
            assert post(client, activation()).status_code == 201
    (line,) = [line for line in service.output.splitlines() if line.startswith("As root")]
    assert line == (
        f"{STAY} (user {SERVICE.name} cannot reach {closed / 'data' / 'sealed'}:"
        f" `chmod o+x {closed}` would let it)."
    )


def test_where_the_user_cannot_read_the_code_the_processes_stay_root_and_say_so(
    open_folder: Path, conninfo: str
) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    for package in (ledger, projections):
        source = Path(package.__file__).parent
        shutil.copytree(source, closed / source.name)
    url = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    url["PYTHONPATH"] = str(closed)
    with Installed(open_folder / "data", free_port(), workers=1, role="api", **url) as service:
        assert users(service) == {0}
    (line,) = [line for line in service.output.splitlines() if line.startswith("As root")]
    assert line.startswith(f"{STAY} (user {SERVICE.name} cannot read the code in ")
    assert str(closed) in line


def test_a_user_whom_the_database_refuses_does_not_run_the_service(conninfo: str) -> None:
    account = default_account()
    assert privileges._obstacle(account, [], [conninfo]) is None
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("CREATE ROLE nobody_connects NOLOGIN")
        refused = conninfo.replace("postgres@", "nobody_connects@")
        try:
            reason = privileges._obstacle(account, [], [conninfo, refused])
        finally:
            connection.execute("DROP ROLE nobody_connects")
    assert reason is not None
    assert reason.startswith("cannot connect to the database: ")


def test_folders_that_are_not_roots_keep_their_owner_and_their_files(open_folder: Path) -> None:
    other = Account("another", 12345, 12345)
    folder = open_folder / "sealed"
    folder.mkdir()
    os.chown(folder, other.uid, other.gid)
    file = folder / "file"
    file.touch()
    privileges._hand_over(SERVICE, [folder])
    assert (folder.stat().st_uid, file.stat().st_uid) == (other.uid, 0)


def test_without_another_user_the_processes_run_as_postgresqls_and_one_line_says_so(
    data_dir: Path,
) -> None:
    """As in an image that has only this user: here the data directory is that user's."""
    account = default_account()
    data_dir.chmod(0o700)
    os.chown(data_dir, account.uid, account.gid)
    with Served(data_dir, free_port(), workers=1) as service:
        assert users(service) == {account.uid}
        with service.client(service.token()) as client:
            assert post(client, activation()).status_code == 201
    assert data_dir.stat().st_uid == account.uid
    (line,) = [line for line in service.output.splitlines() if line.startswith("As root")]
    assert line == (
        f"As root: the service's processes run as user {account.name}, like PostgreSQL, whose"
        f" superuser reaches them ({data_dir} is that user's)."
    )


def test_a_take_over_that_was_killed_half_way_is_completed_and_follows_no_link(
    open_folder: Path,
) -> None:
    sealed, secret = open_folder / "sealed", open_folder / "secret"
    sealed.mkdir()
    secret.touch()
    (sealed / "link").symlink_to(secret)
    files = [sealed / "one", sealed / "two"]
    for file in files:
        file.touch()
    os.chown(files[0], SERVICE.uid, SERVICE.gid)
    privileges._hand_over(SERVICE, [sealed])
    assert {path.stat().st_uid for path in (sealed, *files)} == {SERVICE.uid}
    assert secret.stat().st_uid == 0
