"""``ledger persons``: the names of persons are listed, and forgotten (contract, Command line)."""

import json
from datetime import UTC, datetime

import psycopg
import pytest

from tests.app.cli.conftest import Ledger

USED = datetime(2026, 11, 30, 9, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def persons(conninfo: str) -> None:
    """Two persons who have signed in."""
    rows = [("0oa1", "Ada Lovelace", "ada@example.com", USED), ("user:x", None, None, USED)]
    with psycopg.connect(conninfo) as connection:
        insert = "INSERT INTO ledger.person VALUES (%s, %s, %s, %s, '{}')"
        connection.cursor().executemany(insert, rows)


def test_the_list_has_each_person_with_name_address_and_last_sign_in(ledger: Ledger) -> None:
    done = ledger("persons", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "sub\tname\temail\tlast_sign_in_at",
        "0oa1\tAda Lovelace\tada@example.com\t2026-11-30T09:00:00Z",
        "user:x\t\t\t2026-11-30T09:00:00Z",
    ]
    first, second = json.loads(ledger("persons", "list", "--json").stdout)
    assert first == {
        "sub": "0oa1", "name": "Ada Lovelace", "email": "ada@example.com",
        "last_sign_in_at": "2026-11-30T09:00:00Z",
    }  # fmt: skip
    assert (second["name"], second["email"]) == (None, None)


def test_a_person_is_forgotten_once_and_nobody_else(ledger: Ledger, conninfo: str) -> None:
    done = ledger("persons", "forget", "0oa1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Forgot 0oa1.\n")
    assert [each["sub"] for each in json.loads(ledger("persons", "list", "--json").stdout)] == [
        "user:x"
    ]
    again = ledger("persons", "forget", "0oa1")
    message = "ledger: There is no person 0oa1: `ledger persons list` shows the subs.\n"
    assert (again.returncode, again.stderr) == (1, message)


def test_forgetting_leaves_the_log_and_the_sessions(ledger: Ledger, conninfo: str) -> None:
    rows = (
        "SELECT (SELECT count(*) FROM ledger.ledger_events), (SELECT count(*) FROM ledger.session)"
    )
    with psycopg.connect(conninfo) as connection:
        before = connection.execute(rows).fetchone()
        assert ledger("persons", "forget", "0oa1").returncode == 0
        assert connection.execute(rows).fetchone() == before


@pytest.mark.parametrize("sub", ["0OA1", "0oa", "%", "x"])
def test_a_sub_is_compared_to_the_letter(ledger: Ledger, sub: str) -> None:
    assert ledger("persons", "forget", sub).returncode == 1
    assert len(json.loads(ledger("persons", "list", "--json").stdout)) == 2


def test_a_command_without_sub_is_wrong(ledger: Ledger) -> None:
    with pytest.raises(SystemExit) as ended:
        ledger("persons", "forget")
    assert ended.value.code == 2
