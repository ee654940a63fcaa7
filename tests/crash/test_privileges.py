"""A service that was started as root runs its processes as an unprivileged user, if it can."""

import os
import shutil
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import ledger
import projections
from ledger.postgres.embedded.account import Account, default_account
from ledger.service import privileges
from tests.conftest import MASTER_KEY
from tests.support.embedded import folder_in_tmp
from tests.support.facts import LINE, activation
from tests.support.served import Served, free_port, post
from tests.support.views import until

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="changes users, which needs root"
)

STAY = "As root: the service's processes stay root"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can enter."""
    with folder_in_tmp(0o755) as folder:
        yield folder


def users(service: Served) -> set[int]:
    """The users of the service's own processes, but for the supervisor."""
    own = [service.loops(), service.dispatcher(), service.sealer(), *service.api_workers()]
    assert len(own) == 3 + service.workers
    return {Path(f"/proc/{pid}").stat().st_uid for pid in own}


def uids(pid: int) -> set[str]:
    """The real, effective, saved and file system's users of a process, and its groups."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {line.partition(":")[0]: line.partition(":")[2].split() for line in status}
    return {*found["Uid"], *found["Groups"]}


def test_started_as_root_every_process_is_the_user_of_postgresql_also_after_a_restart(
    open_folder: Path,
) -> None:
    data_dir = open_folder / "data"
    with Served(data_dir, free_port()) as service:
        account = data_dir.stat().st_uid
        assert account != 0
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
        assert STAY not in service.said


def test_a_ledger_of_root_is_taken_over_by_the_user(open_folder: Path, conninfo: str) -> None:
    """Earlier versions served as root: the folder of the last checkpoint is root's."""
    data_dir, account = open_folder / "data", default_account()
    data_dir.mkdir(mode=0o755)
    sealed = data_dir / "sealed"
    sealed.mkdir(mode=0o700)
    earlier = sealed / "another.checkpoint"
    earlier.write_text("kept by root")
    url = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with Served(data_dir, free_port(), **url) as service:
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
    with Served(data_dir, free_port(), **url) as service:
        assert users(service) == {default_account().uid}
    info = data_dir.stat()
    assert (info.st_uid, stat.S_IMODE(info.st_mode)) == (default_account().uid, 0o700)


def test_where_the_user_cannot_reach_the_data_the_processes_stay_root_and_say_so(
    open_folder: Path, conninfo: str
) -> None:
    closed = open_folder / "closed"
    closed.mkdir(mode=0o700)
    url = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with Served(closed / "data", free_port(), **url) as service:
        assert users(service) == {0}
        with service.client(service.token()) as client:
            assert post(client, activation()).status_code == 201
    (line,) = [line for line in service.said.splitlines() if line.startswith("As root")]
    name = default_account().name
    assert line == f"{STAY} (user {name} cannot write in {closed / 'data' / 'sealed'})."


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
    with Served(open_folder / "data", free_port(), **url) as service:
        assert users(service) == {0}
    (line,) = [line for line in service.said.splitlines() if line.startswith("As root")]
    assert line.startswith(f"{STAY} (user {default_account().name} cannot read the code in ")
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
    privileges._hand_over(default_account(), [folder])
    assert (folder.stat().st_uid, file.stat().st_uid) == (other.uid, 0)
