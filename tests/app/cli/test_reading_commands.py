"""Commands that only read write nothing, and refuse a schema that is older than the code."""

import os
from pathlib import Path

import psycopg
import pytest

from ledger.app.cli import arguments as cli
from tests.support.data_dirs import MASTER_KEY
from tests.support.embedded import query
from tests.support.served import run_ledger

READING = (
    ("verify",),
    ("projections", "list"),
    ("projections", "verify"),
    ("keys", "list"),
    ("seal", "status"),
)

# Each row of a table with the transaction that wrote it, and each object with its rights.
_TABLES = """
SELECT relname FROM pg_class WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r'
ORDER BY relname
"""
_OBJECTS = """
SELECT relname, xmin::text, relacl::text FROM pg_class
WHERE relnamespace = 'ledger'::regnamespace
UNION ALL
SELECT proname, xmin::text, proacl::text FROM pg_proc
WHERE pronamespace = 'ledger'::regnamespace
UNION ALL
SELECT polname, xmin::text, '' FROM pg_policy
UNION ALL
SELECT rolname, '', rolpassword FROM pg_authid
ORDER BY 1, 2
"""


def everything(conninfo: str) -> list[object]:
    """All that a command could have changed in the database."""
    with psycopg.connect(conninfo) as connection:
        found: list[object] = [connection.execute(_OBJECTS).fetchall()]
        for (table,) in connection.execute(_TABLES).fetchall():
            rows = f"SELECT xmin::text, t::text FROM ledger.{table} AS t"
            found.append(connection.execute(rows.encode()).fetchall())
    return found


def settings_of(conninfo: str, folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "LEDGER_DATABASE_URL": conninfo,
        "LEDGER_MASTER_KEY": MASTER_KEY,
        "LEDGER_DATA_DIR": str(folder),
    }


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_command_that_reads_writes_nothing(
    conninfo: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    folder = tmp_path / "data"
    settings = settings_of(conninfo, folder)
    # Without the key the command reads nevertheless, and makes none.
    del settings["LEDGER_MASTER_KEY"]
    before = everything(conninfo)
    assert len(before) > 30
    ended = run_ledger(settings, *command)
    assert ended.returncode == 0, ended.stderr
    assert everything(conninfo) == before
    assert not folder.exists()


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_command_that_reads_refuses_an_older_schema_in_one_line(
    conninfo: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    query(conninfo, "DELETE FROM ledger.migration")
    ended = run_ledger(settings_of(conninfo, tmp_path / "data"), *command)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    assert "0001_ledger.sql" in ended.stderr
    assert "ledger migrate" in ended.stderr
    assert query(conninfo, "SELECT FROM ledger.migration") == []


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_command_that_reads_refuses_another_master_key(
    conninfo: str, tmp_path: Path, command: tuple[str, ...]
) -> None:
    settings = settings_of(conninfo, tmp_path / "data") | {"LEDGER_MASTER_KEY": "ab" * 32}
    ended = run_ledger(settings, *command)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "not the key of this database" in ended.stderr


@pytest.mark.parametrize(
    "command",
    [
        *READING,
        ("keys", "revoke", "KEY-26-000001"),
        ("keys", "rotate", "KEY-26-000001"),
        ("projections", "rebuild"),
        ("runs", "erase", "--from-audit", "-"),
        ("seal", "adopt", "--reason", "because"),
    ],
    ids=" ".join,
)
def test_a_command_for_a_ledger_that_exists_makes_none_in_another_directory(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: tuple[str, ...],
) -> None:
    monkeypatch.delenv("LEDGER_DATABASE_URL", raising=False)
    empty, missing = tmp_path / "empty", tmp_path / "deep" / "missing"
    empty.mkdir()
    for folder in (empty, missing):
        monkeypatch.setenv("LEDGER_DATA_DIR", str(folder))
        assert cli.main(command) == 1
        printed = capsys.readouterr()
        message = f"ledger: LEDGER_DATA_DIR ({folder}) is no data directory of a ledger.\n"
        assert (printed.out, printed.err) == ("", message)
    assert list(tmp_path.rglob("*")) == [empty]
