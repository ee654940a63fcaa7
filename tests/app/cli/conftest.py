"""The ``ledger`` command on the test's database: in this process, or by another interpreter."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ledger.app.cli import arguments as cli
from tests.support.data_dirs import MASTER_KEY

Ledger = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ledger(
    conninfo: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Ledger:
    """Runs ``ledger("keys", "list")`` in this interpreter; gives its exit code, stdout, stderr."""
    monkeypatch.setenv("LEDGER_DATABASE_URL", conninfo)
    monkeypatch.setenv("LEDGER_MASTER_KEY", MASTER_KEY)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        file = tmp_path / "stdin"
        file.write_bytes(stdin)
        with file.open(encoding="utf-8") as stream:
            monkeypatch.setattr(sys, "stdin", stream)
            code = cli.main(arguments)
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, printed.out, printed.err)

    return run


@pytest.fixture
def ledger_process(conninfo: str, tmp_path: Path) -> Ledger:
    """Runs each command by an interpreter of its own, as an operator does."""
    return _process(conninfo, tmp_path, sys.executable, "-m", "ledger")


@pytest.fixture
def ledger_fork(conninfo: str, tmp_path: Path, program: Path) -> Ledger:
    """Runs each command in a process of its own, which has loaded the code before."""
    return _process(conninfo, tmp_path, str(program))


@pytest.fixture
def ledger_alone(tmp_path: Path, program: Path) -> Ledger:
    """Runs each command in a process of its own, which can reach no database."""
    return _process("postgresql://127.0.0.1:1/nothing", tmp_path, str(program))


def environment(conninfo: str) -> dict[str, str]:
    """The environment of a process that uses this database."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("LEDGER_")}
    return inherited | {"LEDGER_MASTER_KEY": MASTER_KEY, "LEDGER_DATABASE_URL": conninfo}


def _process(conninfo: str, folder: Path, *command: str) -> Ledger:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(conninfo),
            cwd=folder,
            timeout=60,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return run
