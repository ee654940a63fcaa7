"""A ledger is backed up while it serves, and restored whole into an empty place, or not at all."""

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
from psycopg.rows import tuple_row

from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.embedded.account import Account, command_as, default_account, give
from ledger.engine.postgres.embedded.programs import find_programs
from scripts.rehearse.pages import commands
from tests.engine.log.test_migrate import BEFORE, REFUSED
from tests.support.data_dirs import MASTER_KEY, copy_of
from tests.support.databases import copied, empty
from tests.support.embedded import folder_in_tmp, query
from tests.support.facts import LINE, activation, encode, fact
from tests.support.forked import Forked
from tests.support.served import LEDGER, Served, free_port, post, run_ledger
from tests.support.soak import repeated
from tests.support.views import until

KEY = {"LEDGER_MASTER_KEY": MASTER_KEY}

# All rights and definitions. The reader's name has the number of its database.
_RIGHTS = r"""
SELECT what, name, owner, regexp_replace(rights, 'ledger_api_\d+', 'reader', 'g') FROM (
    SELECT 'relation' AS what, relname AS name, relowner::regrole::text AS owner,
        concat(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char",
            relowner)), relrowsecurity, relforcerowsecurity) AS rights
    FROM pg_class WHERE relnamespace = 'ledger'::regnamespace
    UNION ALL
    SELECT 'column', concat(attrelid::regclass, '.', attname), '', attacl::text FROM pg_attribute
    WHERE attrelid::regclass::text LIKE 'ledger.%' AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 'function', oid::regprocedure::text, proowner::regrole::text,
        concat(proacl, prosecdef, proconfig, md5(pg_get_functiondef(oid)))
    FROM pg_proc WHERE pronamespace = 'ledger'::regnamespace
    UNION ALL
    SELECT 'policy', concat(tablename, '.', policyname), '', concat(roles, cmd, qual)
    FROM pg_policies WHERE schemaname = 'ledger'
    UNION ALL
    SELECT 'trigger', pg_get_triggerdef(oid), '', tgenabled::text FROM pg_trigger
    WHERE NOT tgisinternal
    UNION ALL
    -- A restored dump says a AND b AND c, where the migration said (a AND b) AND c.
    SELECT 'constraint', concat(conrelid::regclass, '.', conname), '',
        translate(pg_get_constraintdef(oid), '()', '')
    FROM pg_constraint WHERE connamespace = 'ledger'::regnamespace
    UNION ALL
    SELECT 'schema', nspname, nspowner::regrole::text, nspacl::text FROM pg_namespace
    WHERE nspname = 'ledger'
) AS found ORDER BY 1, 2, 4
"""
_TABLES = """
SELECT relname FROM pg_class WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r'
ORDER BY relname
"""
_SESSION = """
INSERT INTO ledger.session VALUES ('SES-0000000000000001', sha256('x'), 'token', null,
    'KEY-26-000001', null, 'ORG-26-000001', null, '{read}', '{}', 'x', now(), now(), now(), now(),
    now() + interval '1 day', 'Firefox', '192.0.2.0/24')
"""
_WAITS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name LIKE '{}%'
"""
_SESSIONS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND application_name = 'psql'
"""


def rows(conninfo: str) -> dict[str, list[tuple[str]]]:
    """Every row of every table, but the reader's name, which has the number of its database."""
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        found = {
            table: connection.execute(
                f"SELECT t::text FROM ledger.{table} AS t ORDER BY 1".encode()
            ).fetchall()
            for (table,) in connection.execute(_TABLES).fetchall()
        }
    found["setting"] = [row for row in found["setting"] if "ledger_api" not in row[0]]
    return found


@pytest.fixture(scope="module")
def story(server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database with two facts."""
    facts = [activation(), fact("execution.checked_in", LINE)]
    file = tmp_path_factory.mktemp("told") / "facts.jsonl"
    file.write_bytes(b"\n".join(map(encode, facts)))
    with copied(server.url, "told_backup") as conninfo:
        assert run_ledger(settings_of(conninfo), "import", str(file)).returncode == 0
        yield "told_backup"


@pytest.fixture
def filled(server: EmbeddedPostgres, story: str) -> Iterator[str]:
    """A database with two facts, and the login of reads."""
    with copied(server.url, "kept_backup", story) as conninfo:
        assert run_ledger(settings_of(conninfo), "migrate").returncode == 0
        yield conninfo


@pytest.fixture
def vacant(server: EmbeddedPostgres) -> Iterator[str]:
    """An empty database."""
    with empty(server.url, "vacant_backup") as conninfo:
        yield conninfo


def settings_of(conninfo: str) -> dict[str, str]:
    return {**os.environ, "LEDGER_DATABASE_URL": conninfo, **KEY}


@contextmanager
def open_transaction(conninfo: str, statement: str) -> Iterator[None]:
    """A transaction that is open during the block, and then rolled back."""
    with psycopg.connect(conninfo) as connection:
        connection.execute(statement.encode())
        yield
        connection.rollback()


def command(conninfo: str, errors: Path, *arguments: str) -> Forked:
    return Forked(arguments, settings_of(conninfo), Path(os.devnull), errors)


# A running service, of the user who runs the tests, and of an ordinary one where that is root.

ACCOUNTS = [None]
if sys.platform == "linux" and os.geteuid() == 0:
    ACCOUNTS.append(default_account())


class ServedAs(Served):
    """A service that an account started."""

    def __init__(self, data_dir: Path, account: Account | None) -> None:
        super().__init__(data_dir, free_port(), workers=1)
        self.account = account
        self.command = command_as(account, LEDGER) if account else None

    def follow(
        self, program: Path, heading: str, number: int = 0
    ) -> "subprocess.CompletedProcess[str]":
        """Run a block of the page on operating, as the account, next to the data directory."""
        folder = self.data_dir.parent
        script = commands("operating.md", heading, number).replace("/safe", f"{folder}/safe")
        typed, serves, _ = script.partition("LEDGER_DATA_DIR=restored ledger serve")
        assert bool(serves) == (heading == "Restore")
        shell = ("/bin/bash", "-e", "-o", "pipefail", "-c", typed)
        done = subprocess.run(
            command_as(self.account, *shell) if self.account else shell,
            cwd=folder,
            env=self.environment | {"PATH": f"{program.parent}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (done.stdout, done.stderr)
        return done


@contextmanager
def reporting(client: httpx.Client) -> Iterator[list[str]]:
    """Check-ins without end, at most ten a second; their ids once they were recorded."""
    recorded: list[str] = []
    stopping = threading.Event()

    def report() -> None:
        while not stopping.wait(0.1):
            event = fact("execution.checked_in", LINE)
            assert post(client, event).status_code == 201
            recorded.append(event["id"])

    thread = threading.Thread(target=report)
    thread.start()
    try:
        yield recorded
    finally:
        stopping.set()
        thread.join()


@pytest.mark.parametrize("account", repeated(ACCOUNTS), ids=["oneself", "another"][: len(ACCOUNTS)])
def test_a_running_service_is_backed_up_and_restored_as_the_page_on_operating_says(
    account: Account | None, program: Path, template: Path
) -> None:
    if account is not None:
        program = Path(LEDGER)
        if not account.reaches(program.parent):
            pytest.skip("the account cannot run the command")
    with folder_in_tmp(0o755 if account is None else 0o700) as folder:
        if account is None:
            copy_of(template, folder / ".ledger")
        give(folder, account)
        with ServedAs(folder / ".ledger", account) as service:
            token = service.token()
            with service.client(token) as client:
                assert post(client, activation()).status_code == 201
                with reporting(client) as recorded:
                    until(lambda: len(recorded) > 5, "the first check-ins")
                    before = recorded[:]
                    assert service.follow(program, "Back up").stdout == "Backed up to ledger.dump\n"
                    after = len(recorded)
                    until(lambda: len(recorded) > after, "a check-in behind the backup")
            service.follow(program, "Back up", 1)
        info = (folder / "ledger.dump").stat()
        assert stat.S_IMODE(info.st_mode) == 0o600
        assert info.st_uid == (account.uid if account else os.geteuid())
        assert len(list(folder.glob("ledger.dump*"))) == 1

        # The data directory is lost; another one is filled and served.
        again = ServedAs(folder / "restored", account)
        restored = again.follow(program, "Restore", 1)
        assert restored.stdout.count(" 0 differences") == 3
        assert restored.stdout.count(" 0 differing") == 9
        with again, again.client(token) as client:
            history = client.get(f"/v1/execution/{LINE}/history", params={"limit": 100}).json()
            assert {one["fact"]["id"] for one in history["data"] if one["fact"]} >= set(before)
            assert post(client, fact("execution.checked_in", LINE)).status_code == 201


def test_a_backup_writes_nothing_and_says_that_the_key_is_not_in_it(
    filled: str, tmp_path: Path
) -> None:
    file, before = tmp_path / "ledger.dump", rows(filled)
    made = run_ledger(settings_of(filled), "backup", str(file))
    assert (made.returncode, made.stdout) == (0, "")
    assert made.stderr.splitlines() == [
        f"Backed up to {file} ({file.stat().st_size:,} bytes).",
        "The backup does NOT hold the master key (LEDGER_MASTER_KEY): keep a copy of it, apart from"
        " the backup. Without the key the backup cannot be restored.",
    ]
    assert rows(filled) == before, "a backup writes nothing"


def test_a_backup_of_a_version_before_0_1_0_is_refused_in_one_line_and_nothing_is_restored(
    filled: str, vacant: str, tmp_path: Path
) -> None:
    file = str(tmp_path / "ledger.dump")
    query(filled, BEFORE["by twelve files"])
    assert run_ledger(settings_of(filled), "backup", file).returncode == 0
    restored = run_ledger(settings_of(vacant), "restore", file)
    assert (restored.returncode, restored.stdout) == (1, "")
    assert restored.stderr == f"ledger: {REFUSED}\n"
    assert query(vacant, "SELECT FROM pg_namespace WHERE nspname = 'ledger'") == []


# A backup is whole or is not there, and so is a restored ledger.


def test_an_interrupted_backup_leaves_the_one_before(filled: str, tmp_path: Path) -> None:
    file = tmp_path / "ledger.dump"
    file.write_bytes(b"yesterday's")
    with open_transaction(filled, "LOCK TABLE ledger.api_key"):
        made = command(filled, tmp_path / "errors", "backup", str(file))
        until(lambda: query(filled, _WAITS.format("ledger backup")), "the dump to wait")
        assert len(list(tmp_path.glob("ledger.dump*"))) == 2
        made.send_signal(signal.SIGINT)
        made.wait(30)
    assert made.returncode == 130
    assert [path.read_bytes() for path in tmp_path.glob("ledger.dump*")] == [b"yesterday's"]


def test_a_backup_whose_server_ends_the_session_fails_and_leaves_nothing(
    filled: str, tmp_path: Path
) -> None:
    with open_transaction(filled, "LOCK TABLE ledger.api_key"):
        made = command(filled, tmp_path / "errors", "backup", str(tmp_path / "ledger.dump"))
        until(lambda: query(filled, _WAITS.format("ledger backup")), "the dump to wait")
        end = _WAITS.format("ledger backup").replace("pid", "pg_terminate_backend(pid)", 1)
        assert query(filled, end) == [(True,)]
        made.wait(30)
    assert made.returncode == 1
    errors = (tmp_path / "errors").read_text()
    assert errors.startswith("ledger: Nothing was backed up: pg_dump: ")
    assert errors.count("\n") == 1
    assert list(tmp_path.glob("ledger.dump*")) == []


def test_a_killed_restore_leaves_an_empty_database_and_a_second_try_restores_rows_and_rights(
    filled: str, vacant: str, program: Path, tmp_path: Path
) -> None:
    """Policies, triggers and constraints are compared, too. The backup came through a pipe.

    A killed command ends the input of psql, which must not take that for the end of the file.
    A row differs from the log: it is restored as it was, and named. Sessions have ended.
    """
    file = str(tmp_path / "ledger.dump")
    query(filled, _SESSION)
    query(filled, "UPDATE ledger.execution_record SET organization_id = 'ORG-26-000009'")
    with open(file, "wb") as piped:
        subprocess.run([program, "backup", "-"], env=settings_of(filled), stdout=piped, check=True)
    with open_transaction(vacant, "CREATE SCHEMA ledger"):
        restoring = command(vacant, tmp_path / "errors", "restore", file)
        until(lambda: query(vacant, _WAITS.format("psql")), "the restore to wait")
        restoring.kill()
        restoring.wait(30)
    until(lambda: not query(vacant, _SESSIONS), "the end of psql")
    assert query(vacant, "SELECT nspname FROM pg_namespace WHERE nspname = 'ledger'") == []
    restored = run_ledger(settings_of(vacant), "restore", file)
    assert restored.returncode == 1
    assert "its column organization_id says ORG-26-000009" in restored.stdout
    assert restored.stdout.count(" 0 differing") == 9
    assert "\nIt DIFFERS, as the lines above say." in restored.stderr
    assert len(rows(filled)) > 40
    assert rows(vacant) == rows(filled) | {"session": []} != rows(filled)
    assert query(vacant, _RIGHTS) == query(filled, _RIGHTS)


def test_a_backup_that_was_cut_off_is_refused_and_nothing_restored(
    filled: str, vacant: str, tmp_path: Path
) -> None:
    file = tmp_path / "ledger.dump"
    assert run_ledger(settings_of(filled), "backup", str(file)).returncode == 0
    os.truncate(file, file.stat().st_size - 100)
    ended = run_ledger(settings_of(vacant), "restore", str(file))
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert query(vacant, "SELECT nspname FROM pg_namespace WHERE nspname = 'ledger'") == []


# Refusals, each in one line, before anything is made.


def test_a_restore_refuses_a_target_that_is_not_empty(
    filled: str, vacant: str, tmp_path: Path
) -> None:
    file = str(tmp_path / "ledger.dump")
    assert run_ledger(settings_of(filled), "backup", file).returncode == 0
    before = rows(filled)
    query(vacant, "CREATE TABLE words (word text)")
    for conninfo, held in ((filled, "the schema ledger"), (vacant, "the table public.words")):
        ended = run_ledger(settings_of(conninfo), "restore", file)
        assert ended.returncode == 1
        assert ended.stderr == (
            f"ledger: The database is not empty, it has {held}: a backup is restored into an empty"
            " one.\n"
        )
    assert rows(filled) == before


def test_a_restore_refuses_another_key_a_missing_one_and_a_file_that_is_no_backup(
    filled: str, tmp_path: Path
) -> None:
    file, data_dir = str(tmp_path / "ledger.dump"), tmp_path / "data"
    assert run_ledger(settings_of(filled), "backup", file).returncode == 0
    foreign = str(tmp_path / "foreign.dump")
    dump = [find_programs(None) / "bin" / "pg_dump", "-Fc", "--exclude-schema=ledger"]
    subprocess.run([*dump, "-f", foreign, filled], check=True)
    bare = {k: v for k, v in os.environ.items() if not k.startswith("LEDGER_")}
    bare["LEDGER_DATA_DIR"] = str(data_dir)
    for settings, keys, message in (
        ({}, file, f"The master key of the backup is not known here: put it into {data_dir}/"),
        ({"LEDGER_MASTER_KEY": "ab" * 32}, file, "The master key is not the key of this backup."),
        (KEY, foreign, f"{foreign} is not a backup of a ledger."),
        (KEY, __file__, f"{__file__} cannot be read as a backup: "),
        (KEY, str(tmp_path / "none"), f"Cannot read {tmp_path}/none: No such file or directory."),
    ):
        ended = run_ledger(bare | settings, "restore", keys)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
        assert ended.stderr.startswith(f"ledger: {message}")
    assert not data_dir.exists()


def test_a_backup_refuses_a_folder_without_a_ledger_and_makes_none(
    vacant: str, tmp_path: Path
) -> None:
    bare = {k: v for k, v in os.environ.items() if not k.startswith("LEDGER_")}
    bare["LEDGER_DATA_DIR"] = str(tmp_path / "data")
    none = f"LEDGER_DATA_DIR ({tmp_path / 'data'}) is no data directory of a ledger."
    for settings, message in (
        (bare, none),
        (settings_of(vacant), "There is no ledger in this database."),
    ):
        ended = run_ledger(settings, "backup", str(tmp_path / "ledger.dump"))
        assert (ended.returncode, ended.stderr) == (1, f"ledger: {message}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_backup_replaces_nothing_but_a_file(filled: str, tmp_path: Path) -> None:
    for file in ("/dev/null", str(tmp_path)):
        ended = run_ledger(settings_of(filled), "backup", file)
        assert (ended.returncode, ended.stderr) == (1, f"ledger: {file} is not a file.\n")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
