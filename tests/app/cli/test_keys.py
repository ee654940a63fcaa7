"""``ledger keys``: a key is shown once, alone, and never again (contract, Command line)."""

import os
import pwd
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from ledger.app.settings import Settings
from ledger.features.keys.tokens import is_well_formed
from tests.app.cli.conftest import Ledger
from tests.support.edge import edge_of
from tests.support.stored import stored_object

ORGANIZATION = ("--organization", "ORG-26-000001")


def keys(conninfo: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(conninfo) as connection:
        return connection.execute(
            "SELECT key_id, name, organization_id, workspace_id, permissions, revoked_at IS NULL"
            " FROM ledger.api_key ORDER BY created_at"
        ).fetchall()


def test_create_prints_one_token_alone(ledger_fork: Ledger, conninfo: str) -> None:
    done = ledger_fork("keys", "create", *ORGANIZATION, "--permission", "read", "--name", "a b")
    assert done.returncode == 0
    assert done.stdout.endswith("\n")
    assert is_well_formed(done.stdout[:-1])
    ((key_id, *key),) = keys(conninfo)
    assert done.stderr == f"Created {key_id}.\n"
    assert key == ["a b", "ORG-26-000001", None, ["read"], True]


def test_permissions_may_be_listed_in_an_option_and_repeated(ledger: Ledger, conninfo: str) -> None:
    options = ("--permission", "read", "write", "--permission", "service_lines:manage", "read")
    workspace = ("--workspace", "WS-26-000007")
    assert ledger("keys", "create", *ORGANIZATION, *options, *workspace).returncode == 0
    ((_, *key),) = keys(conninfo)
    assert key[2:4] == ["WS-26-000007", ["read", "write", "service_lines:manage"]]


def test_list_shows_ids_and_names_and_never_a_key(ledger: Ledger, conninfo: str) -> None:
    tokens = [
        ledger("keys", "create", *ORGANIZATION, "--permission", "read", "--name", "reader").stdout,
        ledger("keys", "create", "--admin", "--name", "chief").stdout,
    ]
    done = ledger("keys", "list")
    assert done.returncode == 0
    created = keys(conninfo)
    assert len(created) == len(tokens)
    for key_id, name, *_ in created:
        assert key_id in done.stdout
        assert name in done.stdout
    assert "elk_" not in done.stdout + done.stderr
    assert all(token.strip()[4:20] not in done.stdout for token in tokens)


def test_list_shows_names_as_they_were_sent(ledger: Ledger) -> None:
    names = ["ci [/deploy]", "[prod] ci", ":rocket: launcher", "[bold]"]
    for name in names:
        create = ("keys", "create", *ORGANIZATION, "--permission", "read", "--name", name)
        assert ledger(*create).returncode == 0
    done = ledger("keys", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in names)


def test_a_key_works_in_a_running_service_until_it_is_revoked(
    ledger: Ledger, conninfo: str, settings: Settings
) -> None:
    with edge_of(settings, conninfo) as edge:
        token = ledger("keys", "create", *ORGANIZATION, "--permission", "read").stdout.strip()
        assert edge.get("/v1/execution", token).status_code == 200
        key_id = keys(conninfo)[-1][0]
        done = ledger("keys", "revoke", key_id)
        assert (done.returncode, done.stdout) == (0, "")
        # This read waits two seconds for a position that no view has.
        edge.get("/v1/execution", token, headers={"ledger-min-position": "1000000"})
        assert edge.get("/v1/execution", token).status_code == 401
    again = ledger("keys", "revoke", key_id)
    assert again.returncode == 1
    assert again.stderr.startswith("ledger: ")


@pytest.mark.parametrize("command", ["revoke", "rotate"])
@pytest.mark.parametrize("key_id", ["KEY-26-999999", "nonsense", "", "LIN-26-000001", "KEY"])
def test_an_unknown_key_cannot_be_revoked_or_rotated(
    ledger: Ledger, command: str, key_id: str
) -> None:
    done = ledger("keys", command, key_id)
    assert (done.returncode, done.stdout) == (1, "")
    expected = f"ledger: There is no key {key_id}: `ledger keys list` shows the ids.\n"
    assert done.stderr == expected


def test_a_key_expires_as_it_was_created_to_and_list_shows_it(
    ledger: Ledger, conninfo: str
) -> None:
    options = (*ORGANIZATION, "--permission", "read", "--expires-at")
    assert ledger("keys", "create", *options, "2091-04-15T08:30:00+02:00").returncode == 0
    assert ledger("keys", "create", *options, "2091-05-01").returncode == 0
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute("SELECT expires_at FROM ledger.api_key ORDER BY 1").fetchall()
    assert [at for (at,) in rows] == [
        datetime(2091, 4, 15, 6, 30, tzinfo=UTC), datetime(2091, 5, 1, tzinfo=UTC)
    ]  # fmt: skip
    listed = ledger("keys", "list").stdout
    assert "2091-04-15T06:30:00Z" in listed
    assert "2091-05-01T00:00:00Z" in listed


def test_a_key_cannot_expire_in_the_past(ledger: Ledger) -> None:
    options = (*ORGANIZATION, "--permission", "read", "--expires-at")
    done = ledger("keys", "create", *options, "2020-01-01")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ledger: --expires-at must lie in the future.\n"


def test_rotate_prints_a_new_secret_alone_and_the_old_one_works_for_the_grace(
    ledger: Ledger, conninfo: str, settings: Settings
) -> None:
    first = ledger("keys", "create", *ORGANIZATION, "--permission", "read").stdout.strip()
    key_id = keys(conninfo)[-1][0]
    second, third = (
        ledger("keys", "rotate", key_id, *grace).stdout.strip()
        for grace in ((), ("--grace-seconds", "0"))
    )
    assert is_well_formed(second)
    with edge_of(settings, conninfo) as edge:
        edge.clock.now = datetime.now(UTC)
        statuses = [edge.get("/v1/execution", t).status_code for t in (first, second, third)]
    assert statuses == [401, 401, 200]


def test_the_creation_and_the_revocation_of_a_key_name_the_user_of_the_operating_system(
    ledger_process: Ledger, conninfo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    # No environment but root's is believed.
    caller = "alice" if os.getuid() == 0 else user
    monkeypatch.setenv("USER", "nobody-else")
    monkeypatch.delenv("SUDO_USER", raising=False)
    assert ledger_process("keys", "create", "--admin").returncode == 0
    monkeypatch.setenv("SUDO_USER", "alice")
    ((key_id, *_),) = keys(conninfo)
    assert ledger_process("keys", "revoke", key_id).returncode == 0
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(
            "SELECT state FROM ledger.ledger_events WHERE originator_id = %s"
            " ORDER BY originator_version",
            (key_id,),
        ).fetchall()
    recorded = [stored_object(state) for (state,) in rows]
    assert [state["actor"] for state in recorded] == [
        {"type": "system", "id": f"cli:{user}"},
        {"type": "system", "id": f"cli:{caller}"},
    ]
    assert [state["reported_by"] for state in recorded] == [f"cli:{user}", f"cli:{caller}"]
