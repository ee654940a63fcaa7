"""The settings of mail, which are checked at the start."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from ledger.app.settings import Settings
from ledger.features.webhooks.model.channel import MailServer

SECRET = "hunter2"


def settings(**values: str) -> Settings:
    return Settings(**{"mail_from": "ledger@example.com", "mail_domains": "*"} | values)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("smtp://mail.example.com", ("mail.example.com", 25, "none")),
        ("smtp+starttls://mail.example.com", ("mail.example.com", 587, "starttls")),
        ("smtps://mail.example.com:4650", ("mail.example.com", 4650, "tls")),
        ("smtp://[::1]:2525/", ("::1", 2525, "none")),
    ],
)
def test_the_mail_server_is_read_from_its_address(url: str, found: tuple[str, int, str]) -> None:
    server = settings(smtp_url=url, mail_domains="Example.com, example.net").mail_server
    assert isinstance(server, MailServer)
    assert server[:3] == found
    assert (server.user, server.password, server.sender) == (None, None, "ledger@example.com")
    assert server.domains == {"example.com", "example.net"}


def test_the_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET} \n")
    found = settings(smtp_url="smtps://me%40home@mail.example.com", smtp_password_file=str(file))
    assert found.mail_server is not None
    assert (found.mail_server.user, found.mail_server.password) == ("me@home", f"{SECRET} ")
    assert SECRET not in repr(found)


@pytest.mark.parametrize(
    "url",
    [
        "", "mail.example.com", "http://mail.example.com", "smtp://", "smtp://mail.example.com:0",
        "smtp://mail.example.com:65536", "smtp://mail.example.com/path",
        "smtp://mail.example.com?x", f"smtps://me:{SECRET}@mail.example.com",
        "smtp://me@mail.example.com", "smtps://mail.example.com\n",
    ],
)  # fmt: skip
def test_a_malformed_mail_server_is_refused_without_its_value(url: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("x")
    values = {"smtp_password_file": str(file)} if "@" in url else {}
    with pytest.raises(ValidationError) as caught:
        settings(smtp_url=url, **values)
    assert SECRET not in "".join(error["msg"] for error in caught.value.errors())


@pytest.mark.parametrize("sender", ["", "ledger", "Ledger <l@example.com>", "l@example.com\n"])
def test_a_sender_that_is_no_address_is_refused(sender: str) -> None:
    with pytest.raises(ValidationError):
        settings(mail_from=sender)


@pytest.mark.parametrize("domains", ["*.example.com", "a@example.com", ",", "example.com;x"])
def test_domains_that_are_none_are_refused(domains: str) -> None:
    with pytest.raises(ValidationError):
        settings(mail_domains=domains)


def test_a_user_needs_a_password_and_a_password_a_user(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("x")
    with pytest.raises(ValidationError, match="must be set together"):
        settings(smtp_url="smtps://me@mail.example.com")
    with pytest.raises(ValidationError, match="must be set together"):
        settings(smtp_url="smtps://mail.example.com", smtp_password_file=str(file))
    with pytest.raises(ValidationError, match="must be set together"):
        settings(smtp_password_file=str(file))


@pytest.mark.parametrize("content", [None, b"", b"\nx", b"\xff"])
def test_a_password_file_that_has_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValidationError, match="LEDGER_SMTP_PASSWORD_FILE"):
        settings(smtp_url="smtps://me@mail.example.com", smtp_password_file=str(file))


def test_without_server_sender_and_domains_there_is_no_mail() -> None:
    whole = {
        "smtp_url": "smtp://mail.example.com",
        "mail_from": "l@example.com",
        "mail_domains": "*",
    }
    assert Settings(**whole).channel_rules.mail_domains == {"*"}
    for name in whole:
        rest = {key: value for key, value in whole.items() if key != name}
        assert Settings(**rest).mail_server is None
        assert Settings(**rest).channel_rules.mail_domains is None
