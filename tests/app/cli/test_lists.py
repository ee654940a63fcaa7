"""Lists of commands: a table on a terminal, TSV in a pipe, JSON (contract, Command line)."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.app.cli.conftest import Ledger, environment
from tests.support.embedded import query

ORGANIZATION, WORKSPACE = "ORG-26-000001", "WS-26-000007"
PERMISSIONS = ("read", "service_lines:manage", "webhooks:manage", "keys:manage")
LISTS = (("keys", "list"), ("projections", "list"), ("seal", "status"))


def on_a_terminal(conninfo: str, program: Path, columns: int, *arguments: str) -> list[str]:
    """The lines of a command's output on a terminal of so many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = environment(conninfo) | {"TERM": "dumb"}
    env.pop("COLUMNS", None)
    process = subprocess.Popen([program, *arguments], env=env, stdout=theirs)
    os.close(theirs)
    screen = b""
    try:
        while piece := os.read(ours, 65536):
            screen += piece
    except OSError:
        pass  # the terminal has no other end any more
    os.close(ours)
    assert process.wait(60) == 0
    return screen.decode().split("\r\n")


def make(ledger: Ledger, name: str, *options: str) -> str:
    """Create a key; return its id, as the command says it."""
    done = ledger(
        "keys", "create", "--organization", ORGANIZATION, "--name", name, *options,
        "--permission", *PERMISSIONS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    message, _, key_id = done.stderr.strip().partition(" ")
    assert message == "Created"
    return key_id.removesuffix(".")


def test_a_terminal_of_80_columns_shows_each_key_whole(
    ledger: Ledger, conninfo: str, program: Path
) -> None:
    long = "a-name-of-many-parts-without-a-blank-" * 5
    ids = [
        make(ledger, "reports", "--workspace", WORKSPACE, "--expires-at", "2091-05-01"),
        make(ledger, long),
    ]
    lines = on_a_terminal(conninfo, program, 80, "keys", "list")
    assert max(map(len, lines)) <= 80
    words = " ".join(lines).split()
    for whole in (*ids, "reports", ORGANIZATION, WORKSPACE, *PERMISSIONS, "2091-05-01"):
        assert whole in words
    assert long in "".join(part for part in words if part in long)


def test_a_narrow_terminal_cuts_no_id(ledger: Ledger, conninfo: str, program: Path) -> None:
    key_id = make(ledger, "reports")
    screen = " ".join(on_a_terminal(conninfo, program, 20, "keys", "list"))
    assert {key_id, ORGANIZATION, "service_lines:manage"} <= set(screen.split())


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_a_pipe_gets_a_line_of_names_and_a_line_of_tabbed_cells_for_each_row(
    ledger: Ledger, command: tuple[str, ...]
) -> None:
    key_id = make(ledger, "billing [x] :rocket:", "--expires-at", "2091-04-15T08:30:00+02:00")
    done = ledger(*command)
    assert (done.returncode, done.stderr) == (0, "")
    blocks = [block.splitlines() for block in done.stdout.split("\n\n")]
    for names, *rows in blocks:
        assert rows
        assert {row.count("\t") for row in rows} == {names.count("\t")}
    if command[0] == "keys":
        titles, cells = (line.split("\t") for line in blocks[0])
        key = dict(zip(titles, cells, strict=True))
        assert (key["id"], key["name"]) == (key_id, "billing [x] :rocket:")
        assert (key["permissions"], key["workspace_id"]) == (" ".join(PERMISSIONS), "")
        assert key["expires_at"] == "2091-04-15T06:30:00Z"


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_a_list_is_printed_as_json(ledger: Ledger, command: tuple[str, ...]) -> None:
    key_id = make(ledger, "Grüße")
    done = ledger(*command, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    listed: Any = json.loads(done.stdout)
    if command[0] == "keys":
        (key,) = listed
        assert key["created_at"].endswith("Z")
        fields = (key["id"], key["name"], key["permissions"], key["revoked_at"])
        assert fields == (key_id, "Grüße", list(PERMISSIONS), None)
    elif command[0] == "projections":
        assert {view["state"] for view in listed} == {"live"}
        assert "execution" in [view["projection"] for view in listed]
    else:
        assert (listed["size"], listed["nodes"], listed["former_origins"]) == (0, [], [])


def test_control_characters_are_escaped(ledger: Ledger, conninfo: str, program: Path) -> None:
    make(ledger, "k")
    # As the owner of the database can write it.
    name = "\x1b]0;owned\x07\x1b[2J\u202e\x9b\r\nKEY-26-000099\tadmin"
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("UPDATE ledger.api_key SET name = %s", (name,))
    piped = ledger("keys", "list")
    screen = "\n".join(on_a_terminal(conninfo, program, 80, "keys", "list"))
    verified = ledger("verify")
    assert verified.returncode == 1
    for text in (piped.stdout, screen, ledger("keys", "list", "--json").stdout, verified.stdout):
        assert "owned" in text
        assert text.replace("\n", "").replace("\t", "").isprintable(), ascii(text)
        assert sum(line.startswith("KEY-26-000099") for line in text.splitlines()) == 0
    assert len(piped.stdout.splitlines()) == 2


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\u202eabc", "a\tb"])
def test_a_key_cannot_be_created_under_a_name_with_control_characters(
    ledger: Ledger, conninfo: str, name: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        ledger("keys", "create", "--admin", "--name", name)
    assert ended.value.code == 2
    assert query(conninfo, "SELECT FROM ledger.api_key") == []
