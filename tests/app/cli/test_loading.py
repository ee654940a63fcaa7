"""``ledger import``, ``demo`` and ``projections list`` (contract, Command line)."""

import gzip
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from ledger.app.cli import load as loading
from ledger.app.cli.arguments import main
from ledger.engine.log.event_log import Log
from tests.app.cli.conftest import Ledger, environment
from tests.support.facts import LINE, activation, encode, fact
from tests.support.forked import CONTEXT, Forked
from tests.support.rebuilding import NAMES
from tests.support.served import name_of
from tests.support.soak import repeated
from tests.support.views import head, until


def events(conninfo: str) -> int:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(
            "SELECT count(*) FROM ledger.ledger_events WHERE originator_id !~ '^REF-'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def lines(*items: object) -> bytes:
    return b"\n".join(i if isinstance(i, bytes) else encode(i) for i in items) + b"\n"


GOOD = [activation(id="i-1"), fact("execution.checked_in", LINE, {"note": "ü"}, id="i-2")]
MIXED = [
    GOOD[0],
    b"",
    b"{broken",
    GOOD[1],
    GOOD[1],
    fact("execution.checked_in", "LIN-26-999999", id="i-3"),
    b"   ",
    fact("nonsense", LINE, id="i-4"),
    b'{"a": NaN}',
    b"\xff\xfe",
    b'{"id": 1, "id": 2}',
    b"[]",
    fact("execution.checked_in", LINE, {"hours": 1}, id="i-2"),
    b" " + encode(fact("execution.checked_in", LINE, id="i-5")) + b" \r",
]


def test_facts_are_recorded_once_and_are_duplicates_in_a_second_import(
    ledger: Ledger, conninfo: str, tmp_path: Path
) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_bytes(lines(*GOOD))
    first = ledger("import", str(file))
    assert (first.returncode, first.stdout) == (0, ""), first.stderr
    assert "2 recorded, 0 duplicate, 0 refused" in first.stderr
    held = events(conninfo)
    again = ledger("import", str(file))
    assert (again.returncode, again.stdout) == (0, "")
    assert "0 recorded, 2 duplicate, 0 refused" in again.stderr
    assert events(conninfo) == held


def test_refused_and_broken_lines_are_listed_and_the_rest_recorded(
    ledger: Ledger, conninfo: str, tmp_path: Path
) -> None:
    file = tmp_path / "facts.jsonl"
    file.write_bytes(lines(*MIXED))
    done = ledger("import", str(file))
    assert done.returncode == 1
    assert "3 recorded, 1 duplicate, 8 refused" in done.stderr
    listed = done.stdout.splitlines()
    numbers = [line.split(":")[0] for line in listed]
    assert numbers == [f"line {n}" for n in (3, 6, 8, 9, 10, 11, 12, 13)]
    assert "not_found" in listed[1]
    assert "i-3" in listed[1]
    assert "fact_conflict" in listed[-1]
    assert events(conninfo) == 3
    again = ledger("import", str(file))
    assert (again.returncode, again.stdout) == (1, done.stdout)
    assert "0 recorded, 4 duplicate, 8 refused" in again.stderr


class Import(Forked):
    """A running ``ledger import -``; the test writes its standard input, a pipe."""

    def __init__(self, conninfo: str, folder: Path) -> None:
        reading, writing = CONTEXT.Pipe(duplex=False)
        self._written = folder / "output", folder / "errors"
        entry = partial(import_from, reading)
        super().__init__(("import", "-"), environment(conninfo), *self._written, entry)
        reading.close()
        self.stdin = os.fdopen(os.dup(writing.fileno()), "wb")
        writing.close()

    def communicate(self, stdin: bytes = b"") -> tuple[bytes, bytes]:
        """Write the rest of the input, and await the end; what was written to stdout and stderr."""
        with suppress(BrokenPipeError):
            self.stdin.write(stdin)
        self.end_input()
        self.wait(60)
        output, errors = (path.read_bytes() for path in self._written)
        return output, errors

    def end_input(self) -> None:
        with suppress(BrokenPipeError):
            self.stdin.close()


def import_from(reading: Connection, arguments: Sequence[str]) -> int:
    sys.stdin = os.fdopen(reading.fileno(), closefd=False)
    return main(arguments)


@contextmanager
def importing(conninfo: str, folder: Path) -> Iterator[tuple[Import, int]]:
    """An import that is reading its input, and the id of its parser process."""
    command = Import(conninfo, folder)
    try:
        until(lambda: parsers(command.pid), "the parser")
        yield command, parsers(command.pid)[0]
    finally:
        command.kill()
        command.wait(20)
        command.end_input()


def parsers(pid: int) -> list[int]:
    """The ids of the parser processes that an import has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if name_of(int(child)) == b"ledger-parser\n"]


def test_an_import_whose_parser_is_killed_says_so(conninfo: str, tmp_path: Path) -> None:
    with importing(conninfo, tmp_path) as (command, parser):
        os.kill(parser, signal.SIGKILL)
        _, errors = command.communicate(lines(*GOOD))
        assert command.returncode == 1
        last = errors.decode().splitlines()[-1]
        assert last == "ledger: The process that parses the file has ended."
        assert b"Traceback" not in errors


def test_a_parser_ends_with_its_import(conninfo: str, tmp_path: Path) -> None:
    with (
        importing(conninfo, tmp_path) as (command, parser),
        open(os.pidfd_open(parser), "rb") as end,
    ):
        assert not wait([end], 0)
        command.kill()
        assert wait([end], 15)


def close_for_all(conninfo: str) -> None:
    """Refuse new connections to the database, and terminate the present ones."""
    name = conninfo_to_dict(conninfo)["dbname"]
    with psycopg.connect(conninfo, dbname="postgres", autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            (name,),
        )


def test_an_import_that_loses_its_database_ends_and_names_the_line(
    conninfo: str, tmp_path: Path
) -> None:
    # An import once read on to the end, waited for each group, and listed each line as refused.
    with importing(conninfo, tmp_path) as (command, _):
        command.stdin.write(lines(*GOOD))
        command.stdin.flush()
        until(lambda: events(conninfo) == 2, "the first lines")
        close_for_all(conninfo)
        command.stdin.write(lines(b"", activation("LIN-26-000077")))
        command.stdin.flush()
        assert command.wait(30) == 1, "the import does not wait for more input"
        output, errors = command.communicate()
        assert output == b""
        assert errors.decode().splitlines()[-2:] == [
            "2 recorded, 0 duplicate, 0 refused",
            "ledger: The database accepts no more: facts from line 4 on may be missing."
            " Import the file again later.",
        ]


def test_an_import_where_the_clock_is_wrong_says_so(
    ledger: Ledger, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Log, "wall", staticmethod(lambda: time.time() + 3600))
    done = ledger("import", "-", stdin=lines(*GOOD))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        "ledger: The clock of this node differs from the database's by more than 5 s: facts from"
        " line 1 on may be missing. Import the file again later."
    )
    assert events(conninfo) == 0


def test_an_import_whose_database_refuses_writes_ends_and_names_the_line(
    ledger: Ledger, conninfo: str, tmp_path: Path
) -> None:
    """The database's disk is full."""
    file = tmp_path / "facts.jsonl"
    file.write_bytes(lines(b"", *GOOD))
    with psycopg.connect(conninfo) as connection:
        connection.execute(
            "CREATE FUNCTION public.full_disk() RETURNS boolean LANGUAGE plpgsql"
            " AS $$ BEGIN RAISE disk_full; END $$"
        )
        # A trigger would be removed before the import: the code makes no such one.
        connection.execute(
            "ALTER TABLE ledger.ledger_events ADD CONSTRAINT full_disk"
            " CHECK (public.full_disk()) NOT VALID"
        )
    done = ledger("import", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        "ledger: The database accepts no more: facts from line 2 on may be missing."
        " Import the file again later."
    )
    assert events(conninfo) == 0


def test_a_dash_reads_standard_input_without_a_last_newline(conninfo: str, tmp_path: Path) -> None:
    with importing(conninfo, tmp_path) as (command, _):
        _, errors = command.communicate(lines(*GOOD).rstrip())
    assert command.returncode == 0
    assert b"2 recorded" in errors
    assert events(conninfo) == 2


def test_facts_that_trickle_in_are_recorded_as_they_come(conninfo: str, tmp_path: Path) -> None:
    whole, begun = lines(*GOOD, b"nonsense"), lines(fact("execution.checked_in", LINE, id="i-6"))
    with importing(conninfo, tmp_path) as (command, _):
        command.stdin.write(whole + begun[:20])
        command.stdin.flush()
        until(lambda: events(conninfo) == 2, "the facts that came whole")
        command.stdin.write(begun[20:])
        command.stdin.flush()
        until(lambda: events(conninfo) == 3, "the fact that came in two parts")
        _, errors = command.communicate()
        assert b"3 recorded, 0 duplicate, 1 refused" in errors


def test_an_oversized_line_is_dropped_while_it_is_read_and_refused_alone(
    conninfo: str, tmp_path: Path
) -> None:
    with importing(conninfo, tmp_path) as (command, parser):
        held = {pid: peak_memory(pid) for pid in (command.pid, parser)}
        command.stdin.write(lines(GOOD[0]))
        for _ in range(200):
            command.stdin.write(b"x" * 1_000_000)
        command.stdin.write(b"\n" + b" " * 1_000_000 + b"\n" + lines(GOOD[1]).rstrip())
        command.stdin.flush()
        command.stdin.write(b" " * 300_000 + b"\r\n")
        command.stdin.flush()
        until(lambda: events(conninfo) == 2, "the facts around it")
        for pid, before in held.items():
            assert peak_memory(pid) - before < 64_000, "kB"
        listed, errors = command.communicate()
    refusal = "line 2: too_large A fact may have at most 256 KiB.\n"
    assert (command.returncode, listed.decode()) == (1, refusal)
    assert b"2 recorded, 0 duplicate, 1 refused" in errors


def peak_memory(pid: int) -> int:
    """The peak of a process's memory so far, in kB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def test_an_import_of_large_lines_holds_at_most_a_batch_in_memory(
    conninfo: str, tmp_path: Path
) -> None:
    """Neither lines nor refusals pile up: a thousand such lines are a quarter of a gigabyte."""
    large = encode(fact("execution.checked_in", LINE, {"note": "x" * 250_000})) + b"\n"
    with importing(conninfo, tmp_path) as (command, _):
        before = peak_memory(command.pid)
        for _ in range(450):
            command.stdin.write(large)
        command.stdin.flush()
        assert peak_memory(command.pid) - before < 80_000, "kB"
        _, errors = command.communicate()
    assert b"0 recorded, 0 duplicate, 450 refused" in errors


def test_an_empty_file_is_imported(ledger: Ledger) -> None:
    done = ledger("import", "-", stdin=b"")
    assert done.returncode == 0
    assert "0 recorded" in done.stderr


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_one_clear_line(ledger: Ledger, name: str) -> None:
    done = ledger("import", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith(f"ledger: Cannot read {name}: ")


def test_a_compressed_file_is_refused_in_one_line_and_not_line_by_line(
    ledger: Ledger, tmp_path: Path
) -> None:
    (tmp_path / "facts.jsonl.gz").write_bytes(gzip.compress(lines(*GOOD)))
    done = ledger("import", "facts.jsonl.gz")
    assert (done.returncode, done.stdout) == (1, "")
    message = "ledger: facts.jsonl.gz is compressed: unpack it first, as with `zcat`."
    assert done.stderr.splitlines()[-1] == message


@pytest.mark.parametrize(
    "event",
    [
        fact("execution.checked_in", LINE, id="odd", time="0001-01-01T00:00:00+01:00"),
        fact("execution.checked_in", LINE, {"note": "\udc00"}, id="odd"),
    ],
    ids=["a time before the calendar", "a lone low surrogate"],
)
def test_an_odd_line_is_listed_and_does_not_end_the_import(
    ledger: Ledger, conninfo: str, event: dict[str, object]
) -> None:
    done = ledger("import", "-", stdin=lines(GOOD[0], event, GOOD[1]))
    assert done.returncode == 1
    assert done.stdout.startswith("line 2: invalid_request")
    assert events(conninfo) == 2


def test_an_id_cannot_forge_lines_of_the_list(ledger: Ledger) -> None:
    odd = fact("nonsense", LINE, id="x) fine\nline 7: recorded (\x1b[2J")
    done = ledger("import", "-", stdin=lines(odd))
    assert len(done.stdout.splitlines()) == 1
    assert "\x1b" not in done.stdout


def test_projections_list_names_each_view_and_its_lag(ledger: Ledger, conninfo: str) -> None:
    ledger("import", "-", stdin=lines(*GOOD))
    done = ledger("projections", "list")
    assert done.returncode == 0
    header, *rows = (line.split("\t") for line in done.stdout.splitlines())
    assert header == ["projection", "version", "generation", "position", "lag", "state", "error"]
    assert sorted(row[0] for row in rows) == sorted(NAMES)
    assert {int(row[3]) + int(row[4]) for row in rows} == {head(conninfo)}
    assert {row[5] for row in rows} == {"live"}


@pytest.mark.parametrize("facts", repeated([600, None]))
def test_the_demo_loads_its_story_once_over_the_past_weeks_and_prints_a_token_each_time(
    ledger: Ledger, conninfo: str, facts: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo is recorded at the times at which it happens. ``test_demo.py`` checks all of it."""
    story = loading.story
    monkeypatch.setattr(loading, "story", lambda now: islice(story(now), facts))
    done = ledger("demo")
    assert done.returncode == 0, done.stderr
    assert "0 refused" in done.stdout
    page = "Page:  start the service with `ledger serve`; it prints the page's address"
    assert done.stdout.splitlines()[-1] == page
    assert "past" not in done.stdout
    with psycopg.connect(conninfo) as connection:
        first, last = connection.execute(
            "SELECT min(recorded_at), max(recorded_at) FROM ledger.ledger_events"
        ).fetchone() or (None, None)
    assert first is not None
    assert last - first > timedelta(days=30)
    held = events(conninfo)
    assert held > (facts or 5000)
    again = ledger("demo")
    assert again.returncode == 0
    assert "already holds" in again.stdout
    tokens = [line for d in (done, again) for line in d.stdout.split() if line.startswith("elk_")]
    assert len(set(tokens)) == 2
    assert events(conninfo) == held + 1


@pytest.mark.soak
def test_a_demo_of_which_facts_are_refused_fails(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = next(loading.story(datetime.now(UTC)))
    other = encode(first | {"data": first["data"] | {"name": "Another"}})
    assert ledger("import", "-", stdin=other).returncode == 0
    story = loading.story
    monkeypatch.setattr(loading, "story", lambda now: islice(story(now), 20))
    done = ledger("demo")
    assert done.returncode == 1
    assert "Told the story: 19 facts recorded, 1 refused." in done.stdout
    assert done.stderr.splitlines()[-1] == "ledger: The story is not whole: facts were refused."


@pytest.mark.soak
def test_a_demo_in_a_log_with_a_key_says_when_its_past_begins(
    ledger: Ledger, conninfo: str
) -> None:
    """No event is recorded before the key's event, which is of today."""
    assert ledger("keys", "create", "--admin").returncode == 0
    done = ledger("demo")
    assert (done.returncode, "0 refused" in done.stdout) == (0, True)
    with psycopg.connect(conninfo) as connection:
        first, last = connection.execute(
            "SELECT min(recorded_at), max(recorded_at) FROM ledger.ledger_events"
        ).fetchone() or (None, None)
    assert last - first < timedelta(hours=1)
    expected = (
        f"The log already has an event of {first:%Y-%m-%d}: the story's past begins on that day."
    )
    assert done.stdout.splitlines()[0] == expected
