"""``ledger projections rebuild`` and ``verify`` (contract, Command line)."""

import contextlib
import os
import pty
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.app.cli import arguments as cli
from ledger.app.settings import Settings
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.views.rebuilding.shadow import shadow
from tests.app.cli.conftest import Ledger
from tests.support.data_dirs import MASTER_KEY
from tests.support.edge import Edge, edge_of
from tests.support.facts import LINE, activation, encode, fact
from tests.support.rebuilding import (
    NAMES,
    Vandal,
    damage,
    ignore_progress,
    leftover_tables,
    rows_of,
    tracking,
    view,
    work,
)
from tests.support.views import head, query

REBUILT = re.compile(
    r"(\w+): generation (\d+) at position (\d+), ([\d,]+) rows; 0 had differed from the log\."
)
VERIFIED = re.compile(r"(\w+): ([\d,]+) rows at position (\d+), (\d+) differing from the log\.")
NAMED = re.compile(
    r"(\w+) (.+): (missing|extra|differs in [\w, ]+); last touched by EVT-\d\d-(\d{6,})"
)


@pytest.fixture
def edge(settings: Settings, conninfo: str) -> Iterator[Edge]:
    """The server, running on the command's database."""
    with edge_of(settings, conninfo) as running:
        running.accept(
            activation(), fact("run.started", "RUN-26-900001", {"service_line_id": LINE})
        )
        yield running


def rebuilt(done: "subprocess.CompletedProcess[str]") -> list[tuple[str, int, int]]:
    """(view, generation, position) of each printed line; there must be no other line."""
    assert (done.returncode, done.stderr) == (0, "")
    matches = [REBUILT.fullmatch(line) for line in done.stdout.splitlines()]
    assert all(matches), done.stdout
    return [(m[1], int(m[2]), int(m[3])) for m in matches if m]


def test_all_views_are_rebuilt_without_the_server(ledger: Ledger, conninfo: str) -> None:
    ledger("import", "-", stdin=b"\n".join(map(encode, (activation(), fact("a", None)))))
    # No projector has followed the log yet: the rebuild also brings the views to its head.
    assert {row[2] for row in tracking(conninfo).values()} == {0}
    listed = [line.split("\t") for line in ledger("projections", "list").stdout.splitlines()[1:]]
    lags = {row[0]: row[4] for row in listed}
    assert lags == dict.fromkeys(NAMES, str(head(conninfo)))
    expected = [(name, 2, head(conninfo)) for name in NAMES]
    assert rebuilt(ledger("projections", "rebuild")) == expected
    assert query(conninfo, "SELECT line_id FROM ledger.execution") == [(LINE,)]
    assert leftover_tables(conninfo) == []


def test_only_the_named_views_are_rebuilt_each_once(ledger: Ledger, conninfo: str) -> None:
    work(conninfo, 24)
    printed = rebuilt(ledger("projections", "rebuild", "run", "event", "run"))
    assert printed == [("run", 2, head(conninfo)), ("event", 2, head(conninfo))]
    expected = dict.fromkeys(NAMES, 1) | {"run": 2, "event": 2}
    assert {name: row[1] for name, row in tracking(conninfo).items()} == expected


def test_views_are_rebuilt_and_verified_while_the_server_runs(
    ledger: Ledger, ledger_fork: Ledger, conninfo: str, edge: Edge
) -> None:
    """Another process prints the same. A verification prints a line for each sound view."""
    rebuilding = ((ledger, NAMES, 2), (ledger_fork, ("execution", "run"), 3))
    for command, names, times in rebuilding:
        assert [row[:2] for row in rebuilt(command("projections", "rebuild", *names))] == [
            (name, times) for name in names
        ]
        assert edge.data(f"/v1/execution/{LINE}")["open_runs"] == 1
    done = ledger_fork("projections", "verify")
    assert (done.returncode, done.stderr) == (0, "")
    matches = [VERIFIED.fullmatch(line) for line in done.stdout.splitlines()]
    assert [(m[1], int(m[3]), int(m[4])) for m in matches if m] == [
        (name, head(conninfo), 0) for name in NAMES
    ]
    assert leftover_tables(conninfo) == []


def test_verify_names_each_damaged_row_and_exits_1(ledger: Ledger, conninfo: str) -> None:
    """Also where another process is rebuilding a view: a verification only reads."""
    work(conninfo)
    right, vandal = rows_of(conninfo), Vandal(conninfo, 9)
    for name in NAMES:
        table = view(name).tables[-1]
        vandal.remove(view(name), table)
        vandal.add(view(name), table)
        vandal.spoil_cell(view(name), table, list(table.columns)[1])
    expected = damage(rows_of(conninfo), right)
    with shadow(conninfo, EnvelopeMapper(), view("run"), ignore_progress):
        done = ledger("projections", "verify")
    assert (done.returncode, done.stderr.strip()) == (1, "")
    matches = [NAMED.fullmatch(line) for line in done.stdout.splitlines()]
    named = [match for match in matches if match]
    assert sorted((m[1], m[2], int(m[4])) for m in named) == sorted(
        (d.table, d.key, d.position) for d in expected
    )
    assert {m[3].split(" ")[0] for m in named} == {"missing", "extra", "differs"}
    # The other lines are summaries of the views.
    pairs = zip(done.stdout.splitlines(), matches, strict=True)
    sums = [VERIFIED.fullmatch(line) for line, match in pairs if not match]
    assert sum(int(m[4]) for m in sums if m) == len(expected)
    assert len(sums) == len(NAMES)
    assert "had differed from the log" in ledger("projections", "rebuild").stdout
    assert rows_of(conninfo) == right


def test_a_rebuild_says_how_many_rows_it_repaired(ledger: Ledger, conninfo: str) -> None:
    work(conninfo, 120)
    for table in view("run").tables:
        Vandal(conninfo, 1).remove(view("run"), table)
    done = ledger("projections", "rebuild", "run")
    assert done.returncode == 0
    assert done.stdout.endswith(" rows; 4 had differed from the log.\n")


def test_a_view_of_another_version_is_rebuilt_and_not_verified(
    ledger: Ledger, conninfo: str
) -> None:
    work(conninfo, 24)
    right = rows_of(conninfo)
    query(conninfo, "UPDATE ledger.projection SET version = 1 WHERE name = 'run'")
    refused = ledger("projections", "verify", "run")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.lstrip() == (
        f"ledger: run has version 1, the code {view('run').version}: rebuild it first.\n"
    )
    done = ledger("projections", "rebuild", "run")
    assert done.returncode == 0
    assert done.stdout.endswith(" rows; not compared with another version's rows.\n")
    assert tracking(conninfo)["run"][:2] == (view("run").version, 2)
    assert rows_of(conninfo) == right


def test_a_view_that_is_being_rebuilt_already_is_refused_in_one_line(
    ledger: Ledger, conninfo: str
) -> None:
    work(conninfo, 24)
    with shadow(conninfo, EnvelopeMapper(), view("run"), ignore_progress):
        done = ledger("projections", "rebuild", "run")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ledger: run is being rebuilt or verified by another process.\n"
    assert leftover_tables(conninfo) == []


def test_rebuilt_views_are_listed_though_another_view_is_refused(
    ledger: Ledger, conninfo: str
) -> None:
    work(conninfo, 24)
    with shadow(conninfo, EnvelopeMapper(), view("run"), ignore_progress):
        done = ledger("projections", "rebuild")
    assert done.returncode == 1
    expected = dict.fromkeys(NAMES, 2) | {"run": 1}
    assert {name: row[1] for name, row in tracking(conninfo).items()} == expected
    printed = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert printed == [name for name in NAMES if name != "run"]


@pytest.mark.parametrize("verb", ["rebuild", "verify"])
@pytest.mark.parametrize("names", [("nonsense",), ("run", "runs"), ("",), ("run;",)])
def test_a_name_that_no_view_has_is_a_usage_error(
    verb: str, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["projections", verb, *names])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"must be one of {', '.join(NAMES)}" in printed.err


@pytest.mark.parametrize("verb", ["rebuild", "verify"])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["projections", verb, "--help"])
    assert ended.value.code == 0
    assert "NAME" in capsys.readouterr().out


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, list[bytes]]]:
    """A terminal to write to; the list holds the written parts once the block has ended."""
    ours, theirs = pty.openpty()
    output: list[bytes] = []
    try:
        yield theirs, output
        os.close(theirs)
        with contextlib.suppress(OSError):
            while part := os.read(ours, 65536):
                output.append(part)
    finally:
        os.close(ours)


def test_the_list_goes_to_stdout_unforged_when_the_progress_bar_goes_to_a_terminal(
    conninfo: str, program: Path, tmp_path: Path
) -> None:
    """The key of a damaged row holds a line of the list and a sequence for terminals."""
    work(conninfo, 24)
    forged = "x\nrun: 1 rows at position 1, 0 differing from the log.\x1b[2J"
    query(
        conninfo,
        "UPDATE ledger.event_line_g1 SET line_id = %s WHERE line_id ="
        " (SELECT min(line_id) FROM ledger.event_line_g1)",
        forged,
    )
    own = {"LEDGER_MASTER_KEY": MASTER_KEY, "LEDGER_DATABASE_URL": conninfo, "TERM": "xterm"}
    with terminal() as (screen, output):
        done = subprocess.run(
            [program, "projections", "verify", "event"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=screen,
            env=os.environ | own,
            cwd=tmp_path,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert b"Verifying event" in b"".join(output)
    assert [bool(NAMED.fullmatch(line)) for line in done.stdout.splitlines()] == [True, True, False]
    assert "\x1b" not in done.stdout
