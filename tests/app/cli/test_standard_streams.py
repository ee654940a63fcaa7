"""Standard streams that a shell left closed, full or without a reader (contract, Command line)."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from ledger.app.cli.arguments import main
from tests.app.cli.conftest import environment
from tests.support.served import LEDGER, free_port, run_ledger
from tests.support.soak import repeated
from tests.support.views import until

REFUSED = b'{"specversion": "1.0"}\n' * 5000
"""Facts whose refusals are more than any buffer holds."""

STREAMS = ("stdin", "stdout", "stderr")


def redirected(streams: Mapping[int, str], arguments: Sequence[str]) -> int:
    """Run a command whose streams are closed, or lead to a file."""
    for number, path in streams.items():
        os.close(number)
        if path:
            os.open(path, os.O_WRONLY)  # gets the lowest number that is free
        else:
            # An interpreter that finds the stream closed at its start has none either.
            setattr(sys, STREAMS[number], None)
    return main(arguments)


def ledger(conninfo: str, *arguments: str, **streams: str) -> "subprocess.CompletedProcess[str]":
    """A command with other streams: the names of files, or nothing for those that are closed."""
    numbers = {STREAMS.index(name): path for name, path in streams.items()}
    entry = partial(redirected, numbers)
    return run_ledger(environment(conninfo), *arguments, entry=entry)


@contextmanager
def without_reader() -> Iterator[int]:
    """The writing end of a pipe whose reading end is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def test_an_import_of_a_closed_standard_input_says_so(conninfo: str) -> None:
    done = ledger(conninfo, "import", "-", stdin="")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ledger: Cannot read standard input: it is closed."
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("lines", repeated([5000, 1]))
def test_an_import_whose_output_has_no_reader_blames_the_output(
    conninfo: str, tmp_path: Path, lines: int
) -> None:
    file = tmp_path / "refused.jsonl"
    file.write_bytes(REFUSED[: len(REFUSED) // 5000 * lines])
    command = [sys.executable, "-m", "ledger", "import", str(file)]
    with without_reader() as output:
        done = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.PIPE,
            env=environment(conninfo),
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ledger: The output cannot be written: Broken pipe."
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_creating_a_key_that_cannot_be_printed_fails(conninfo: str) -> None:
    done = ledger(conninfo, "keys", "create", "--admin", stdout="/dev/full")
    errors = "ledger: The output cannot be written: No space left on device.\n"
    assert (done.returncode, done.stderr) == (1, errors)


@pytest.mark.parametrize("command", [("keys", "create", "--admin"), ("projections", "list")])
def test_a_command_whose_output_is_closed_does_nothing(
    conninfo: str, command: tuple[str, ...]
) -> None:
    done = ledger(conninfo, *command, stdout="")
    assert (done.returncode, done.stderr) == (1, "ledger: Standard output is closed.\n")


def test_a_closed_standard_error_does_not_lead_messages_to_the_output(conninfo: str) -> None:
    done = ledger(conninfo, "keys", "revoke", "nobody's", stderr="")
    assert (done.returncode, done.stdout) == (1, "")


def is_ready(port: int) -> bool:
    """True if the service takes connections, and is ready."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.ConnectError:
        return False


def test_a_service_with_closed_standard_streams_serves(conninfo: str, tmp_path: Path) -> None:
    port = free_port()
    command = ["sh", "-c", 'exec "$@" <&- >&-', "sh", LEDGER, "serve", "--port", str(port)]
    data = {"LEDGER_DATA_DIR": str(tmp_path / "data")}
    with without_reader() as messages:
        service = subprocess.Popen(command, env=environment(conninfo) | data, stderr=messages)
    with service:
        try:
            streams = Path(f"/proc/{service.pid}/fd")
            until(
                lambda: os.readlink(streams / "2") == os.devnull,
                "the service to replace its stderr",
                60.0,
            )
            assert {os.readlink(streams / "0"), os.readlink(streams / "1")} == {os.devnull}
            until(lambda: is_ready(port), "the service")
        finally:
            service.terminate()
    assert service.returncode == 0
