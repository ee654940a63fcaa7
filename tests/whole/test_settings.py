"""The settings that an operator may set."""

import os
from datetime import time
from itertools import combinations
from pathlib import Path

import pytest
from pydantic import ValidationError

from ledger.app.cli import arguments as cli
from ledger.app.composition.database import ConfigurationError, open_vault
from ledger.app.settings import Settings, unknown_settings
from ledger.engine.log.vault import Vault

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "delays"),
    [
        ("5,300,1800,7200", (5, 300, 1800, 7200)),
        ("0", (0,)),
        ("0.5,2592000", (0.5, 2_592_000)),
    ],
)
def test_webhook_retry_delays_are_read_as_seconds(
    monkeypatch: pytest.MonkeyPatch, text: str, delays: tuple[float, ...]
) -> None:
    monkeypatch.setenv("LEDGER_WEBHOOK_RETRY_SECONDS", text)
    assert Settings().webhook_delays == delays


@pytest.mark.parametrize(
    ("text", "at"), [(None, time(3)), ("23:59", time(23, 59)), ("00:00", time(0)), ("", None)]
)
def test_the_time_of_the_nightly_verification_is_read_as_a_time_of_day(
    monkeypatch: pytest.MonkeyPatch, text: str | None, at: time | None
) -> None:
    if text is not None:
        monkeypatch.setenv("LEDGER_VERIFY_AT", text)
    assert Settings().verified_at == at


def open_with(monkeypatch: pytest.MonkeyPatch, key_file: Path) -> Vault:
    monkeypatch.setenv("LEDGER_MASTER_KEY_FILE", str(key_file))
    return open_vault(Settings())


def test_the_master_key_is_read_from_the_named_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("ab" * 32 + "\n")
    key_file.chmod(0o400)
    sealed = Vault(bytes.fromhex("ab" * 32)).seal("purpose", b"text")
    assert open_with(monkeypatch, key_file).open("purpose", sealed) == b"text"


def test_a_named_key_file_that_is_missing_is_refused_and_not_created(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=r"^The master key cannot be read: No such file"):
        open_with(monkeypatch, tmp_path / "key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"ab" * 31, b"\xff" * 64])
def test_a_named_key_file_without_a_key_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "key").write_bytes(content)
    (tmp_path / "key").chmod(0o600)
    with pytest.raises(ConfigurationError, match=r"must be 64 hexadecimal digits"):
        open_with(monkeypatch, tmp_path / "key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o602, 0o777])
@pytest.mark.parametrize("is_named", [True, False])
def test_a_key_file_that_others_than_its_owner_may_use_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: int, is_named: bool
) -> None:
    key_file = tmp_path / "master.key"
    key_file.write_text("ab" * 32 + "\n")
    key_file.chmod(mode)
    name, value = ("MASTER_KEY_FILE", key_file) if is_named else ("DATA_DIR", tmp_path)
    monkeypatch.setenv(f"LEDGER_{name}", str(value))
    with pytest.raises(ConfigurationError, match=r"Others than its owner .*chmod 600"):
        open_vault(Settings())
    key_file.chmod(0o600)
    open_vault(Settings())


@pytest.mark.parametrize("command", [["serve", "--port", "0"], ["migrate"], ["demo"]])
def test_a_command_with_a_refused_key_begins_no_ledger(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: list[str],
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("ab" * 32 + "\n")
    key_file.chmod(0o644)
    monkeypatch.setenv("LEDGER_MASTER_KEY_FILE", str(key_file))
    monkeypatch.setenv("LEDGER_DATA_DIR", str(tmp_path / "data"))
    assert cli.main(command) == 1
    assert "chmod 600" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_key_that_the_ledger_made_itself_is_its_owners_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LEDGER_DATA_DIR", str(tmp_path))
    before = os.umask(0)
    try:
        open_vault(Settings())
    finally:
        os.umask(before)
    assert (tmp_path / "master.key").stat().st_mode & 0o777 == 0o600
    open_vault(Settings())


def test_a_master_key_and_a_key_file_together_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEDGER_MASTER_KEY", SECRET)
    monkeypatch.setenv("LEDGER_MASTER_KEY_FILE", "key")
    assert cli.main(["keys", "list"]) == 1
    error = capsys.readouterr().err
    assert "LEDGER_MASTER_KEY and LEDGER_MASTER_KEY_FILE must not both be set" in error
    assert SECRET not in error


PROVIDER = {
    "JWKS_URL": "https://id.example.com/keys",
    "JWT_ISSUER": "https://id.example.com/",
    "JWT_AUDIENCE": "execution-ledger",
}


def set_provider(monkeypatch: pytest.MonkeyPatch, **more: str | None) -> None:
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://127.0.0.1:1/nothing")
    for name, value in (PROVIDER | more).items():
        if value is not None:
            monkeypatch.setenv(f"LEDGER_{name}", value)


@pytest.mark.parametrize(
    "url",
    [
        "https://id.example.com/keys",
        "https://id.example.com:8443/realms/x/keys?tenant=1",
        "https://10.0.0.7/keys",
        "http://localhost:9000/keys",
        "http://127.0.0.1/keys",
        "http://127.8.8.8:1/keys",
        "http://[::1]:9000/keys",
    ],
)
def test_three_settings_together_configure_an_identity_provider(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    assert Settings().provider is None
    set_provider(monkeypatch, JWKS_URL=url)
    assert Settings().provider == (url, PROVIDER["JWT_ISSUER"], PROVIDER["JWT_AUDIENCE"])


def test_the_token_of_the_metrics_is_not_shown_among_the_settings() -> None:
    settings = Settings(metrics_token=SECRET)
    assert settings.metrics_token == SECRET
    assert SECRET not in repr(settings)


MALFORMED = {
    "WEBHOOK_RETRY_SECONDS": (
        "", ",", "5,", "5, 300", "-1", "soon", "nan", "inf", "1e3", "2592001", ",".join(["1"] * 21),
    ),
    "LOG_FORMAT": ("xml", ""),
    "ACCESS_LOG": ("verbose", ""),
    "VERIFY_AT": ("24:00", "3:00", "03:60", "03:00:00", "03:00Z", "night"),
    "IDLE_AFTER_DEFAULT": ("100000000000",),
    "IDLE_AFTER_AGENT_RUNTIME": ("0",),
    "IDLE_SWEEP_SECONDS": ("inf", "nan", "86401"),
    "DATA_DIR": ("",),  # which is not the working directory
    "CORS_ORIGINS": (
        "*", "null", ",", "https://a.example,", "https://a.example https://b.example", "a.example",
        "//a.example", "https://", "https://*.example.com", "https://a.example/",
        "https://a.example/path", "https://a.example?", "https://user@a.example",
        "https://A.example", "HTTPS://a.example", "https://ä.example", "https://a.example:443",
        "http://a.example:80", "https://a.example:0", "https://a.example:65536",
        "https://a.example:", "ftp://a.example", "file://",
    ),
    "ROOT_PATH": (
        "ledger", "//ledger", "/ledger//", "/a//b", "/a/../b", "/.", "/a b", "/ä", "/a%2Fb", "/a?b",
        "/a#b", '/a"b', "/a\\b", "https://example.com/ledger", "/v1", "/ui/", "/ui/ledger", "/docs",
        "/openapi.json", "/healthz", "/readyz", "/metrics", "/" + "a" * 200,
    ),
    "PUBLIC_URL": (
        "", "ledger.example.com", "//ledger.example.com", "ftp://ledger.example.com", "https://",
        "https:///ledger", "https://ledger.example.com/", "https://ledger.example.com/ledger/",
        "https://ledger.example.com//ledger", "https://ledger.example.com/a/../b",
        "https://ledger.example.com?x=1", "https://ledger.example.com/x?y",
        "https://ledger.example.com#x", f"https://me:{SECRET}@ledger.example.com",
        "https://ledger example.com", "http://ledger.example.com", "http://10.0.0.7",
        "http://localhost.example.com", "https://" + "a" * 2000,
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in MALFORMED.items() for text in texts]
)
def test_a_malformed_setting_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str
) -> None:
    monkeypatch.setenv(f"LEDGER_{name}", text)
    with pytest.raises(ValidationError):
        Settings()


REPORTED = {
    "DATABASE_URL": (
        "", " ", f"mysql://ledger:{SECRET}@db/ledger", f"postgresql://ledger:{SECRET}@[::1/ledger",
        f"postgresql://ledger:{SECRET}@db/ledger?no_such=1",
        f"postgresql://ledger:{SECRET}\udcff@db/ledger",
    ),
    "API_DATABASE_URL": ("", "  ", f"mysql://reads:{SECRET}@db/ledger", "no url"),
    "METRICS_TOKEN": (
        "", " ", f"{SECRET} ", f"{SECRET}\n", f"{SECRET}\xe4", f"={SECRET}", "x" * 1001,
    ),
    "JWKS_URL": (
        "", "id.example.com/keys", "ftp://id.example.com/keys", "file:///etc/keys", "https://",
        "http://id.example.com/keys", "http://localhost.example.com/keys",
        "http://127.0.0.1.example.com/keys", "http://10.0.0.7/keys", "http://[::2]/keys",
        f"https://ledger:{SECRET}@id.example.com/keys", "https://id.example.com/keys#1",
        "https://id.example.com/" + "k" * 2000, f"https://{SECRET}\udcff.example.com/keys",
    ),
    "JWT_ISSUER": ("", " "),
    "JWT_AUDIENCE": ("", "\n"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in REPORTED.items() for text in texts]
)
def test_an_invalid_setting_is_reported_by_its_name_without_its_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    set_provider(monkeypatch, **{name: text})
    assert cli.main(["keys", "list"]) == 1
    error = capsys.readouterr().err
    must = "must " if name.endswith("DATABASE_URL") else ""
    assert error.startswith(f"ledger: These settings are not valid: LEDGER_{name} ({must}")
    assert (error.count("\n"), SECRET in error) == (1, False)


@pytest.mark.parametrize("missing", [*combinations(PROVIDER, 1), *combinations(PROVIDER, 2)])
def test_an_incomplete_identity_provider_configuration_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: tuple[str, ...]
) -> None:
    set_provider(monkeypatch, **dict.fromkeys(missing))
    assert cli.main(["keys", "list"]) == 1
    expected = (
        "ledger: These settings are not valid:"
        " LEDGER_JWKS_URL, LEDGER_JWT_ISSUER and LEDGER_JWT_AUDIENCE must be set together.\n"
    )
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("text", "origins"),
    [
        ("", set()),
        ("https://app.example.com", {"https://app.example.com"}),
        (
            "http://localhost:5173, https://b.example",
            {"http://localhost:5173", "https://b.example"},
        ),
        ("http://[::1]:3000,http://10.0.0.7", {"http://[::1]:3000", "http://10.0.0.7"}),
    ],
)
def test_the_origins_of_other_pages_are_a_list(
    monkeypatch: pytest.MonkeyPatch, text: str, origins: set[str]
) -> None:
    monkeypatch.setenv("LEDGER_CORS_ORIGINS", text)
    assert Settings().origins == origins


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", ""),
        ("/", ""),
        ("/ledger", "/ledger"),
        ("/ledger/", "/ledger"),
        ("/tools/execution-ledger_2.0~a", "/tools/execution-ledger_2.0~a"),
        ("/v1x", "/v1x"),
        ("/tools/v1", "/tools/v1"),
    ],
)
def test_the_prefix_of_all_paths_is_read_without_a_slash_at_its_end(
    monkeypatch: pytest.MonkeyPatch, text: str, path: str
) -> None:
    monkeypatch.setenv("LEDGER_ROOT_PATH", text)
    assert Settings().root_path == path


@pytest.mark.parametrize(
    ("text", "is_https"),
    [
        (None, False),
        ("https://ledger.example.com", True),
        ("https://ledger.example.com:8443/tools/ledger", True),
        ("https://[2001:db8::1]/x", True),
        ("http://localhost:8000", False),
        ("http://127.0.0.1/ledger", False),
        ("http://[::1]:8000", False),
    ],
)
def test_the_public_address_says_whether_people_come_by_https(
    monkeypatch: pytest.MonkeyPatch, text: str | None, is_https: bool
) -> None:
    if text is not None:
        monkeypatch.setenv("LEDGER_PUBLIC_URL", text)
    assert Settings().public_url == text
    assert Settings().is_public_by_https == is_https


def test_reads_of_the_embedded_database_have_no_url(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LEDGER_DATABASE_URL", raising=False)
    monkeypatch.setenv("LEDGER_API_DATABASE_URL", "postgresql://reads:hush@127.0.0.1:1/nothing")
    assert cli.main(["keys", "list"]) == 1
    error = capsys.readouterr().err
    assert "LEDGER_API_DATABASE_URL needs LEDGER_DATABASE_URL" in error
    assert "hush" not in error


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("VERIFY_AT", "3:00", "must be HH:MM in UTC, such as 03:00, or empty"),
        ("WEBHOOK_RETRY_SECONDS", "5, 300", "must be 1 to 20 numbers of seconds"),
        ("MIGRATE", "maybe", "'auto' or 'never'"),
        ("IDLE_SWEEP_SECONDS", "0", "greater than 0"),
        ("JWT_ISSUER", " ", "must be one line"),
        ("PUBLIC_URL", "http://ledger.example.com", "must be https"),
    ],
)
def test_a_refused_setting_says_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    allowed: str,
) -> None:
    monkeypatch.setenv(f"LEDGER_{name}", text)
    assert cli.main(["keys", "list"]) == 1
    error = capsys.readouterr().err
    assert f"LEDGER_{name} (" in error
    assert allowed in error
    assert error.count("\n") == 1


def test_assistants_need_a_public_address_and_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LEDGER_MCP", "true")
    assert cli.main(["serve"]) == 1
    assert "LEDGER_MCP needs LEDGER_PUBLIC_URL" in capsys.readouterr().err
    monkeypatch.setenv("LEDGER_PUBLIC_URL", "https://ledger.example.com")
    assert Settings().mcp
    monkeypatch.setattr(
        "ledger.app.settings.find_spec", lambda name: None if name == "mcp" else name
    )
    assert cli.main(["serve"]) == 1
    assert "pip install 'execution-ledger[mcp]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("LEDGER_DATA_DIRECTORY", "LEDGER_DATA_DIRECTORY is no setting of the ledger; did you"
         " mean LEDGER_DATA_DIR?"),
        ("LEDGER_VERFIY_AT", "LEDGER_VERFIY_AT is no setting of the ledger; did you mean"
         " LEDGER_VERIFY_AT?"),
        ("ledger_log_fromat", "ledger_log_fromat is no setting of the ledger; did you mean"
         " LEDGER_LOG_FORMAT?"),
        ("ledger_host", "ledger_host is no setting of the ledger, but an option:"
         " ledger serve --host."),
        ("LEDGER_", "LEDGER_ is no setting of the ledger."),
        ("LEDGER_\x1b[2J", r"LEDGER_\x1b[2J is no setting of the ledger."),
    ],
)  # fmt: skip
def test_an_unknown_setting_is_named_with_the_nearest_one_and_never_its_value(
    name: str, message: str
) -> None:
    assert unknown_settings({name: SECRET, "LEDGER_DATA_DIR": "x", "PATH": "y"}) == [message]


def test_each_option_of_serve_is_named_for_a_setting_of_its_name() -> None:
    (serve,) = (command for command in cli.COMMANDS if command.name == "serve")
    options = sorted(flag.removeprefix("--") for flags, _ in serve.arguments for flag in flags)
    assert unknown_settings({f"LEDGER_{option.upper()}": SECRET for option in options}) == [
        f"LEDGER_{option.upper()} is no setting of the ledger, but an option:"
        f" ledger serve --{option}."
        for option in options
    ]


def test_a_command_names_unknown_settings_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], conninfo: str
) -> None:
    monkeypatch.setenv("LEDGER_DATABASE_URL", conninfo)
    monkeypatch.setenv("LEDGER_MASTER_KEY", "0f" * 32)
    monkeypatch.setenv("LEDGER_WEBHOOK_ALLOW_PRIVATES", SECRET)
    assert cli.main(["keys", "list"]) == 0
    error = capsys.readouterr().err
    assert error.startswith("ledger: LEDGER_WEBHOOK_ALLOW_PRIVATES is no setting of the ledger;")
    assert SECRET not in error
