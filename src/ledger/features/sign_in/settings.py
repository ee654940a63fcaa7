"""The settings of signing in to the pages, and of sessions there (contract, Sign-in)."""

from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

from ledger.engine.values.origins import is_guarded


class OpenId(NamedTuple):
    """The identity provider at which people sign in."""

    issuer: str
    client_id: str
    client_secret: str | None
    """None: a public client."""
    name: str
    """Shown on the sign-in page."""
    scopes: str
    public_url: str

    @property
    def redirect_uri(self) -> str:
        """The address at which the provider's answer arrives."""
        return f"{self.public_url}/ui/oidc/callback"


class SignInSettings(BaseSettings):
    """The settings of signing in. ``Settings`` adds those that others need too."""

    public_url: str | None
    jwt_issuer: str | None
    jwt_audience: str | None
    root_path: str

    oidc_issuer: str | None = Field(
        default=None,
        max_length=2000,
        description="The issuer of the identity provider at which people sign in to the page.",
    )
    oidc_client_id: str | None = Field(
        default=None, max_length=500, description="The id by which the provider knows the ledger."
    )
    oidc_client_secret_file: Path | None = Field(
        default=None, description="The file with the client's secret. Unset: a public client."
    )
    oidc_name: str | None = Field(
        default=None,
        max_length=60,
        description="The provider's name on the sign-in page. Unset: the issuer's host.",
    )
    oidc_scopes: str = Field(
        default="openid profile email",
        max_length=1000,
        description="The scopes that are asked for, separated by blanks.",
    )
    oidc_grants: Path | None = Field(
        default=None,
        description="The TOML file of grants. Unset: the claims of a token give the rights.",
    )
    session_idle_seconds: int = Field(
        default=43_200,
        ge=60,
        le=31_536_000,
        description="Seconds without use after which a session ends.",
    )
    session_seconds: int = Field(
        default=604_800,
        ge=1,
        le=31_536_000,
        description="Seconds after which a session ends in any case.",
    )
    token_sign_in: bool = Field(
        default=True, description="Whether people may sign in with a key or token too."
    )

    @property
    def open_id(self) -> OpenId | None:
        """The provider at which people sign in; None if they use only tokens."""
        if self.oidc_issuer is None or self.oidc_client_id is None or self.public_url is None:
            return None
        file = self.oidc_client_secret_file
        return OpenId(
            self.oidc_issuer,
            self.oidc_client_id,
            None if file is None else read_secret(file, "LEDGER_OIDC_CLIENT_SECRET_FILE"),
            self.oidc_name or urlsplit(self.oidc_issuer).netloc,
            self.oidc_scopes,
            self.public_url,
        )

    @field_validator("oidc_issuer")
    @classmethod
    def _check_issuer(cls, text: str | None) -> str | None:
        if text is None:
            return None
        url = urlsplit(text)
        is_plain = text.isprintable() and " " not in text and not url.query and not url.fragment
        if url.scheme not in ("https", "http") or not url.hostname or not is_plain:
            raise ValueError("must be a URL without query and fragment")
        if url.username is not None or url.password is not None:
            raise ValueError("must not name a user or a password")
        # An attacker on the way to the provider could sign in as anybody.
        if not is_guarded(url.scheme, url.hostname):
            raise ValueError("must be https, unless the host is this machine")
        return text

    @field_validator("oidc_client_id", "oidc_name")
    @classmethod
    def _check_line(cls, text: str | None) -> str | None:
        if text is not None and not (text.strip() == text != "" and text.isprintable()):
            raise ValueError("must be one line, and not begin or end with a blank")
        return text

    @field_validator("oidc_scopes")
    @classmethod
    def _check_scopes(cls, text: str) -> str:
        if "openid" not in text.split():
            raise ValueError("must have openid among them")
        return text

    @model_validator(mode="after")
    def _names_the_provider_wholly(self) -> Self:
        needed = (self.oidc_issuer, self.oidc_client_id)
        others = (self.oidc_client_secret_file, self.oidc_name, self.oidc_grants)
        if all(value is None for value in (*needed, *others)):
            return self
        if None in (*needed, self.public_url):
            raise ValueError(
                "LEDGER_OIDC_ISSUER, LEDGER_OIDC_CLIENT_ID and LEDGER_PUBLIC_URL must be set"
                " together"
            )
        if self.oidc_client_secret_file is not None:
            read_secret(self.oidc_client_secret_file, "LEDGER_OIDC_CLIENT_SECRET_FILE")
        if self.public_url is not None and not self.public_url.endswith(self.root_path):
            raise ValueError("LEDGER_PUBLIC_URL must end with LEDGER_ROOT_PATH")
        # The actor of a write is the provider's name of a person, without the provider.
        if self.jwt_issuer is not None and self.jwt_issuer != self.oidc_issuer:
            raise ValueError("LEDGER_JWT_ISSUER and LEDGER_OIDC_ISSUER must not differ")
        # A token that the provider gives for signing in would be one for the API, too.
        if self.oidc_client_id == self.jwt_audience:
            raise ValueError("LEDGER_OIDC_CLIENT_ID and LEDGER_JWT_AUDIENCE must differ")
        return self


def read_secret(file: Path, setting: str) -> str:
    """The first line of a file. Raises ValueError if it cannot be read, or is empty."""
    try:
        secret = file.read_text().split("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{setting} cannot be read: {error}") from error
    if not secret:
        raise ValueError(f"the file of {setting} must have its secret in the first line")
    return secret
