"""Help, and usage errors, which exit with 2 before any connection (contract, Command line)."""

import re
from importlib import import_module
from inspect import signature
from pathlib import Path

import pytest

from ledger.app.cli import arguments as cli
from tests.app.cli.conftest import Ledger
from tests.support.served import run_ledger

ORGANIZATION = ("--organization", "ORG-26-000001")


def test_help_names_every_command(ledger_alone: Ledger) -> None:
    done = ledger_alone("--help")
    assert done.returncode == 0
    # Python 3.11 breaks long descriptions into lines that are indented further.
    listed = re.findall(r"^ {4}(\S+)", done.stdout, re.MULTILINE)
    assert listed == [
        *("serve", "demo", "import", "backup", "restore", "keys", "persons"),
        *("runs", "projections", "seal", "verify", "migrate"),
    ]


@pytest.mark.parametrize("name", [*cli.GROUPS, *(command.name for command in cli.COMMANDS)])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*name.split(), "--help"])
    assert ended.value.code == 0
    assert f"usage: ledger {name}" in capsys.readouterr().out


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name)
def test_the_function_of_a_command_accepts_its_arguments(command: cli.ShellCommand) -> None:
    module, _, name = command.function.partition(":")
    function = getattr(import_module(f"ledger.app.cli.{module}"), name)
    values = {
        options.get("dest", flags[0].strip("-").replace("-", "_"))
        for flags, options in command.arguments
    }
    conninfo = () if command.needs == "nothing" else ("conninfo",)
    bound = signature(function).bind("settings", *conninfo, **dict.fromkeys(values))
    assert set(bound.arguments) == set(signature(function).parameters)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("serve", "--port", "65536"),
        ("serve", "--port", "-1"),
        ("serve", "--port", "http"),
        ("serve", "--port", "8 000"),
        ("serve", "--workers", "0"),
        ("serve", "--workers", "²"),
        ("serve", "extra"),
        ("import",),
        ("import", "a", "b"),
        ("keys",),
        ("keys", "nonsense"),
        ("keys", "revoke"),
        ("keys", "rotate"),
        ("keys", "rotate", "KEY-26-000001", "--grace-seconds", "604801"),
        ("keys", "rotate", "KEY-26-000001", "--grace-seconds", "-1"),
        ("projections",),
        ("runs",),
        ("runs", "erase"),
        ("runs", "erase", "audit.jsonl"),
        ("demo", "--nonsense"),
        ("keys", "create"),
        ("keys", "create", "--permission", "read"),
        ("keys", "create", *ORGANIZATION),
        ("keys", "create", *ORGANIZATION, "--permission"),
        ("keys", "create", *ORGANIZATION, "--permission", "read", "--expires-at", "tomorrow"),
        ("keys", "create", *ORGANIZATION, "--permission", "read", "--expires-at", "2026-02-30"),
        ("keys", "create", *ORGANIZATION, "--permission", "admin"),
        ("keys", "create", *ORGANIZATION, "--permission", "read", "nonsense"),
        ("keys", "create", *ORGANIZATION, "--permission", "read,write"),
        ("keys", "create", "--workspace", "WS-26-000001", "--permission", "read"),
        ("keys", "create", "--admin", *ORGANIZATION),
        ("keys", "create", "--admin", "--workspace", "WS-26-000001"),
        ("keys", "create", "--admin", "--permission", "read"),
        ("keys", "create", "--organization", "ORG-1", "--permission", "read"),
        ("keys", "create", "--organization", "WS-26-000001", "--permission", "read"),
        ("keys", "create", "--organization", "ORG-26-000001\n", "--permission", "read"),
        ("keys", "create", *ORGANIZATION, "--workspace", "x", "--permission", "read"),
        ("keys", "create", "--organization", "ORG-26-٠٠٠٠٠١", "--permission", "read"),
        ("keys", "create", "--admin", "--name", "a\udcff"),
        ("keys", "revoke", "KEY-26-000001\udcff"),
        ("serve", "--host", "a\udcff"),
        ("serve", "--host", ""),
    ],
    ids=lambda arguments: ascii(" ".join(arguments)) if arguments else "nothing",
)
def test_a_usage_error_exits_with_2_and_opens_no_connection(
    arguments: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://127.0.0.1:1/nothing")
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "usage: ledger" in printed.err


def test_an_unreachable_database_is_one_clear_line(ledger_alone: Ledger) -> None:
    done = ledger_alone("keys", "list")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ledger: ")
    assert done.stderr.count("\n") == 1


def test_libpq_variables_lead_no_command_away_from_the_embedded_database(data_dir: Path) -> None:
    """A command once waited ten minutes for a database that seemed to be recovering."""
    elsewhere = {"PGHOSTADDR": "127.0.0.1", "PGSERVICE": "work", "PGTZ": "Mars"}
    data = {"LEDGER_DATA_DIR": str(data_dir), "PATH": "/usr/bin"}
    done = run_ledger(elsewhere | data, "keys", "create", "--admin")
    assert done.stderr.splitlines()[-1] == "Created KEY-26-000001."


def test_settings_that_are_not_valid_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEDGER_IDLE_SWEEP_SECONDS", "often")
    assert cli.main(["keys", "list"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("ledger: These settings are not valid: LEDGER_IDLE_SWEEP_SECONDS (")
    assert "often" not in error
