"""Standard streams that a shell left closed, full or without a reader (contract, Command line)."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import environment
from tests.support.served import LEDGER, free_port
from tests.support.views import until

REFUSED = b'{"specversion": "1.0"}\n' * 5000
"""Facts whose refusals are more than any buffer holds."""


def ledger(conninfo: str, *arguments: str, shell: str = "", **streams: object) -> tuple[int, str]:
    """The exit code and stderr of a command under a shell's redirections."""
    command = ["sh", "-c", f'exec "$@" {shell}', "sh", sys.executable, "-m", "ledger", *arguments]
    done = subprocess.run(
        command,
        stderr=subprocess.PIPE,
        env=environment(conninfo),
        timeout=60,
        check=False,
        **streams,  # type: ignore[call-overload]
    )
    return done.returncode, done.stderr.decode()


@contextmanager
def without_reader() -> Iterator[int]:
    """The writing end of a pipe whose reading end is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def test_an_import_of_a_closed_standard_input_says_so(conninfo: str) -> None:
    code, errors = ledger(conninfo, "import", "-", shell="<&-")
    assert code == 1
    assert errors.splitlines()[-1] == "ledger: Cannot read standard input: it is closed."
    assert "Traceback" not in errors


@pytest.mark.parametrize("lines", [1, 5000])
def test_an_import_whose_output_has_no_reader_blames_the_output(
    conninfo: str, tmp_path: Path, lines: int
) -> None:
    file = tmp_path / "refused.jsonl"
    file.write_bytes(REFUSED[: len(REFUSED) // 5000 * lines])
    with without_reader() as output:
        code, errors = ledger(conninfo, "import", str(file), stdout=output)
    assert code == 1
    assert errors.splitlines()[-1] == "ledger: The output cannot be written: Broken pipe."
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors


def test_creating_a_key_that_cannot_be_printed_fails(conninfo: str) -> None:
    errors = "ledger: The output cannot be written: No space left on device.\n"
    assert ledger(conninfo, "keys", "create", "--admin", shell=">/dev/full") == (1, errors)


@pytest.mark.parametrize("command", [("keys", "create", "--admin"), ("projections", "list")])
def test_a_command_whose_output_is_closed_does_nothing(
    conninfo: str, command: tuple[str, ...]
) -> None:
    errors = "ledger: Standard output is closed.\n"
    assert ledger(conninfo, *command, shell=">&-") == (1, errors)


def test_a_closed_standard_error_does_not_lead_messages_to_the_output(conninfo: str) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as output:
        code, _ = ledger(conninfo, "keys", "revoke", "nobody's", shell="2>&-", stdout=writing)
        os.close(writing)
        assert (code, output.read()) == (1, "")


def is_ready(port: int) -> bool:
    """Whether the service takes connections, and is ready."""
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
