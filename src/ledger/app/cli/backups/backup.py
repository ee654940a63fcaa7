"""The command ``ledger backup``: a dump of the database, as it was at one instant."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow, tuple_row

from ledger.app.cli.printing import ShowProgress, progress_bars
from ledger.app.composition.database import ConfigurationError
from ledger.app.settings import Settings
from ledger.engine.postgres.session import pin
from ledger.engine.postgres.tools import ToolFailed, dump_program, running_tool

_CHUNK = 1 << 18
_POLL_SECONDS = 0.2

_IS_LEDGER = "SELECT to_regclass('ledger.ledger_events') IS NOT NULL"

# Estimates: a count would read everything. No statement here waits for the lock of a table.
_ROWS = """
SELECT sum(greatest(reltuples, pg_stat_get_live_tuples(oid)))::bigint FROM pg_class
WHERE relnamespace = 'ledger'::regnamespace AND relkind = 'r'
"""

# The table that the dump reads now, and how many of its rows were read.
_AT = """
SELECT p.relid::bigint, p.tuples_processed
FROM pg_stat_progress_copy AS p JOIN pg_stat_activity AS a USING (pid)
WHERE a.application_name = %s AND p.datname = current_database()
"""


def back_up(settings: Settings, conninfo: str, file: str) -> int:
    """Write the ledger's schema to a file, or to standard output for ``-``.

    The file appears once it is whole. Raises ConfigurationError.
    """
    conninfo = pin(conninfo)
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        if connection.execute(_IS_LEDGER).fetchone() != (True,):
            raise ConfigurationError("There is no ledger in this database.")
        name = f"ledger backup {os.getpid()}"
        named = make_conninfo(conninfo, application_name=name)
        with (
            _output(file) as output,
            progress_bars("Backing up", ["rows"]) as bars,
            _dump(dump_program(connection.info.server_version), named) as dump,
        ):
            size = _copy(dump, output, _progress_of(connection, name, *bars.values()))
    where = "standard output" if file == "-" else file
    print(f"Backed up to {where} ({size:,} bytes).", file=sys.stderr)
    print(_without_key(settings), file=sys.stderr)
    return 0


def _without_key(settings: Settings) -> str:
    source = settings.key_file or "LEDGER_MASTER_KEY"
    return (
        f"The backup does NOT hold the master key ({source}): keep a copy of it, apart from the"
        " backup. Without the key the backup cannot be restored."
    )


@contextmanager
def _dump(program: str, conninfo: str) -> Iterator[IO[bytes]]:
    options = ("--format=custom", "--schema=ledger")
    try:
        with running_tool(program, *options, conninfo=conninfo) as process:
            assert process.stdout is not None
            yield process.stdout
    except ToolFailed as error:
        raise ConfigurationError(f"Nothing was backed up: {error}") from error


def _copy(dump: IO[bytes], output: IO[bytes], progress: Callable[[], None]) -> int:
    size, looked = 0, time.monotonic()
    while chunk := dump.read(_CHUNK):
        output.write(chunk)
        size += len(chunk)
        if time.monotonic() - looked > _POLL_SECONDS:
            progress()
            looked = time.monotonic()
    output.flush()
    return size


def _progress_of(
    connection: psycopg.Connection[TupleRow], name: str, show: ShowProgress
) -> Callable[[], None]:
    """A function that shows how many rows the dump of this name has read."""
    (total,) = connection.execute(_ROWS).fetchone() or (0,)
    read: dict[int, int] = {}

    def poll() -> None:
        read.update(connection.execute(_AT, (name,)).fetchall())
        show(min(sum(read.values()), total), total)

    return poll


@contextmanager
def _output(file: str) -> Iterator[IO[bytes]]:
    """A file that appears under its name when the block has ended without an error.

    Until then it has a temporary name: an interrupted backup does not replace the previous one.
    """
    if file == "-":
        if sys.stdout.isatty():
            raise ConfigurationError("Standard output is a terminal: send it to a file or a pipe.")
        yield sys.stdout.buffer
        return
    path = Path(file)
    if path.exists() and not path.is_file():
        raise ConfigurationError(f"{file} is not a file.")
    try:
        number, temporary = tempfile.mkstemp(".partial", f"{path.name}.", path.parent)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}.") from error
    try:
        with os.fdopen(number, "wb") as output:
            yield output
            output.flush()
            os.fsync(number)
        Path(temporary).replace(path)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}.") from error
    finally:
        Path(temporary).unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(folder)
    os.close(folder)
