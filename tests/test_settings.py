"""What an operator may set."""

import pytest
from pydantic import ValidationError

from ledger import cli
from ledger.settings import Settings

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "delays"),
    [
        ("5,300,1800,7200", (5, 300, 1800, 7200)),
        ("0", (0,)),
        ("0.5,2592000", (0.5, 2_592_000)),
    ],
)
def test_the_waits_between_attempts_are_numbers_of_seconds(
    monkeypatch: pytest.MonkeyPatch, text: str, delays: tuple[float, ...]
) -> None:
    monkeypatch.setenv("LEDGER_WEBHOOK_RETRY_SECONDS", text)
    assert Settings().webhook_delays == delays


@pytest.mark.parametrize(
    "text",
    ["", ",", "5,", "5, 300", "-1", "soon", "nan", "inf", "1e3", "2592001", ",".join(["1"] * 21)],
)
def test_anything_else_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("LEDGER_WEBHOOK_RETRY_SECONDS", text)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("IDLE_AFTER_DEFAULT", "100000000000"),
        ("IDLE_AFTER_AGENT_RUNTIME", "0"),
        ("IDLE_SWEEP_SECONDS", "inf"),
        ("IDLE_SWEEP_SECONDS", "nan"),
        ("IDLE_SWEEP_SECONDS", "86401"),
    ],
)
def test_a_time_that_never_comes_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, sent: str
) -> None:
    monkeypatch.setenv(f"LEDGER_{name}", sent)
    with pytest.raises(ValidationError):
        Settings()


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        f"mysql://ledger:{SECRET}@db/ledger",
        f"postgresql://ledger:{SECRET}@[::1/ledger",
        f"postgresql://ledger:{SECRET}@db/ledger?no_such=1",
        f"postgresql://ledger:{SECRET}\udcff@db/ledger",
    ],
)
def test_a_database_url_that_is_none_is_named_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setenv("LEDGER_DATABASE_URL", text)
    assert cli.main(["keys", "list"]) == 1
    expected = "ledger: These settings are not valid: LEDGER_DATABASE_URL.\n"
    assert capsys.readouterr().err == expected


def test_an_empty_data_dir_is_refused_not_taken_for_the_present_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEDGER_DATA_DIR", "")
    with pytest.raises(ValidationError):
        Settings()
