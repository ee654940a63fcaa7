"""The settings of sign-in by a provider: which of them hinder a start."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ledger.app.settings import Settings

ISSUER = "https://id.example.com"
WHOLE: dict[str, Any] = {
    "oidc_issuer": ISSUER,
    "oidc_client_id": "ledger",
    "public_url": "https://ledger.example.com",
}
TOKENS: dict[str, Any] = {
    "jwks_url": f"{ISSUER}/keys",
    "jwt_issuer": ISSUER,
    "jwt_audience": "execution-ledger",
}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"oidc_name": "Moser & Söhne"},
        {"oidc_scopes": "openid groups"},
        {"oidc_issuer": "http://localhost:8080/realms/one"},
        {"oidc_issuer": "http://127.0.0.1:8080"},
        {"oidc_issuer": "http://[::1]:8080"},
        {"session_idle_seconds": 600, "session_seconds": 3600},
        {"token_sign_in": False},
        TOKENS,
    ],
)
def test_a_provider_at_which_people_sign_in_is_accepted(more: dict[str, Any]) -> None:
    Settings(**(WHOLE | more))


@pytest.mark.parametrize("left_out", WHOLE.keys())
def test_the_settings_of_a_provider_stand_together(left_out: str) -> None:
    with pytest.raises(ValidationError):
        Settings(
            **{name: value for name, value in WHOLE.items() if name != left_out}
            | {"oidc_name": "Moser"}
        )


@pytest.mark.parametrize(
    "more",
    [
        {"oidc_issuer": "http://id.example.com"},
        {"oidc_issuer": "http://localhost.example.com"},
        {"oidc_issuer": "http://127.0.0.1.example.com"},
        {"oidc_issuer": "https://user:password@id.example.com"},
        {"oidc_issuer": "https://id.example.com?a=b"},
        {"oidc_issuer": "https://id.example.com#a"},
        {"oidc_issuer": "ftp://id.example.com"},
        {"oidc_issuer": ""},
        {"oidc_client_id": ""},
        {"oidc_client_id": "a\nb"},
        {"oidc_scopes": "profile email"},
        {"oidc_scopes": ""},
        {"oidc_name": ""},
        {"public_url": "http://ledger.example.com"},
        {"session_idle_seconds": 0},
        {"session_seconds": 0},
        TOKENS | {"jwt_issuer": "https://other.example.com"},
        TOKENS | {"jwt_issuer": f"{ISSUER}/"},
        TOKENS | {"jwt_audience": "ledger"},
    ],
    ids=str,
)
def test_a_dangerous_or_broken_setting_hinders_the_start(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(**(WHOLE | more))


def test_the_file_of_the_clients_secret_must_be_there_and_have_one(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for text in (None, "", "\n"):
        if text is not None:
            file.write_text(text)
        with pytest.raises(ValidationError):
            Settings(**WHOLE, oidc_client_secret_file=file)
    file.write_text("hunter2\n")
    assert "hunter2" not in repr(Settings(**WHOLE, oidc_client_secret_file=file))
