"""Settings: the only reader of the environment. Each variable has the prefix ``LEDGER_``."""

import re
from collections.abc import Mapping
from datetime import time, timedelta
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple, Self
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import AnyHttpUrl, Field, TypeAdapter, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from ledger.engine.telemetry.lines import LogFormat
from ledger.engine.values.origins import ORIGIN, is_guarded, is_origin, is_this_machine
from ledger.engine.values.values import escaped
from ledger.features.sign_in.settings import SignInSettings, read_secret
from ledger.features.webhooks.model import channel

_PREFIX = "LEDGER_"

_OPTIONS = ("HOST", "PORT", "ROLE", "WORKERS")
"""The options of ``ledger serve``, which other programs take as variables."""

_LONGEST_WAIT = 2_592_000
"""Seconds (30 days): the longest wait in a schedule of deliveries."""

_LONGEST_QUIET = 3_153_600_000
"""Seconds (100 years): an instant so long ago is still within the range of dates."""


_URL = TypeAdapter(AnyHttpUrl)

_SMTP_URL = re.compile(
    r"(?P<scheme>smtp|smtp\+starttls|smtps)://(?:(?P<user>[A-Za-z0-9._~%+-]+)@)?"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-f:.]+\])"
    r"(?::(?P<port>[1-9]\d{0,4}))?/?"
)

_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""The characters of a bearer token in a header (RFC 6750, 2.1)."""

_ROOT_PATH = re.compile(r"(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")

_TIME_OF_DAY = re.compile(r"(([01][0-9]|2[0-3]):[0-5][0-9])?")

_SECONDS = re.compile(r"[0-9]{1,7}(\.[0-9]{1,6})?(,[0-9]{1,7}(\.[0-9]{1,6})?){0,19}")

OWN_PATHS = frozenset(
    {"v1", "ui", "docs", "openapi.json", "healthz", "readyz", "metrics", "mcp", ".well-known"}
)
"""The first parts of our own paths."""


class Provider(NamedTuple):
    """An identity provider whose tokens the service accepts."""

    jwks_url: str
    issuer: str
    audience: str


_MAIL_SCHEMES: Mapping[str, tuple[channel.MailSecurity, int]] = {
    "smtp": ("none", 25),
    "smtp+starttls": ("starttls", 587),
    "smtps": ("tls", 465),
}


class Settings(SignInSettings):
    """The settings of an operator (contract, Command line)."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True)

    database_url: str | None = Field(
        default=None, description="A PostgreSQL 15+ URL. Unset: an embedded server in the data dir."
    )
    api_database_url: str | None = Field(
        default=None,
        description="A PostgreSQL URL by which the API reads. Unset: a login of the ledger's own.",
    )
    migrate: Literal["auto", "never"] = Field(
        default="auto",
        description="Whether a start brings the schema up to date, or refuses one that is not.",
    )
    unaudited_reads: bool = Field(
        default=False,
        description="Whether a read node answers with runs' data, whose readers it can't record.",
    )
    data_dir: Path = Field(
        default=Path(".ledger"), description="Where the embedded server and the master key live."
    )
    master_key: str | None = Field(
        default=None,
        description="64 hexadecimal digits of the key that wraps run keys. Unset: a file has them.",
    )
    master_key_file: Path | None = Field(
        default=None,
        description="The file with the master key. Unset: a 0600 file in the data dir.",
    )
    idle_after_agent_runtime: int = Field(
        default=900,
        ge=1,
        le=_LONGEST_QUIET,
        description="Seconds without activity until an agent line is idle.",
    )
    idle_after_default: int = Field(
        default=86_400,
        ge=1,
        le=_LONGEST_QUIET,
        description="Seconds without activity until a line of any other model is idle.",
    )
    idle_sweep_seconds: float = Field(
        default=5,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds from one search for idle lines to the next.",
    )
    watch_seconds: float = Field(
        default=5,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="Seconds from one round of watches to the next.",
    )
    verify_at: str = Field(
        default="03:00",
        description="When stored data are compared with the log each night, UTC. Empty: never.",
    )
    webhook_retry_seconds: str = Field(
        default="5,300,1800,7200",
        description="Seconds to wait after each failed attempt of a delivery, except the last.",
    )
    webhook_allow_private: bool = Field(
        default=False,
        description="Whether webhooks may go to private, loopback and link-local addresses.",
    )

    jwks_url: str | None = Field(
        default=None,
        max_length=2000,
        description="URL of the identity provider's key set. Unset: only API keys are accepted.",
    )
    jwt_issuer: str | None = Field(
        default=None,
        max_length=2000,
        description="The required `iss` of a token.",
    )
    jwt_audience: str | None = Field(
        default=None,
        max_length=2000,
        description="The required `aud` of a token, which may name other audiences too.",
    )

    cors_origins: str = Field(
        default="",
        max_length=20_000,
        description="Origins whose pages may call the API from a browser, separated by commas.",
    )
    root_path: str = Field(
        default="",
        max_length=200,
        description="The path prefix below which a proxy serves everything, such as `/ledger`.",
    )

    metrics_token: str | None = Field(
        default=None,
        max_length=1000,
        repr=False,
        description="The bearer token without which `/metrics` is refused. Unset: it is open.",
    )

    public_url: str | None = Field(
        default=None,
        max_length=2000,
        description="The address by which people reach the service. https: answers insist on it.",
    )

    mcp: bool = Field(
        default=False,
        description="Whether assistants may ask at `/mcp`. Needs `LEDGER_PUBLIC_URL`.",
    )
    mcp_payloads: bool = Field(
        default=False,
        description="Whether assistants may read the input, output and error of runs.",
    )

    smtp_url: str | None = Field(
        default=None,
        max_length=2000,
        description="The mail server, such as `smtp+starttls://user@mail.example.com:587`.",
    )
    smtp_password_file: Path | None = Field(
        default=None, description="The file with the password of the mail server's user."
    )
    mail_from: str | None = Field(
        default=None, max_length=320, description="The address from which mails come."
    )
    mail_domains: str = Field(
        default="",
        max_length=20_000,
        description="The domains that mails may go to, separated by commas. `*`: any.",
    )

    log_format: LogFormat = Field(
        default="text", description="The form of the log's lines: text, or a JSON object each."
    )
    access_log: bool = Field(
        default=False, description="Whether the log has a line for each answered request."
    )

    @property
    def key_file(self) -> Path | None:
        """The file with the master key; None if the environment has the key."""
        if self.master_key is not None:
            return None
        return self.master_key_file or self.data_dir / "master.key"

    @property
    def witness_folder(self) -> Path:
        """The folder of the last checkpoint outside of the database."""
        return self.data_dir / "sealed"

    @property
    def origins(self) -> frozenset[str]:
        """The origins whose pages may call the API."""
        return frozenset(map(str.strip, filter(None, self.cors_origins.split(","))))

    @property
    def is_public_by_https(self) -> bool:
        """True if people reach the service only by https."""
        return self.public_url is not None and self.public_url.startswith("https:")

    @property
    def channel_rules(self) -> channel.ChannelRules:
        """The addresses that endpoints of channels to people may have."""
        server = self.mail_server
        return channel.ChannelRules(
            any_host=self.webhook_allow_private,
            mail_domains=None if server is None else server.domains,
            mail_from=None if server is None else server.sender,
        )

    @property
    def mail_server(self) -> channel.MailServer | None:
        """The server for mails; None unless its address, the sender and the domains are set."""
        if self.smtp_url is None or self.mail_from is None or not self.mail_domains:
            return None
        url = urlsplit(self.smtp_url)
        security, port = _MAIL_SCHEMES[url.scheme]
        file = self.smtp_password_file
        return channel.MailServer(
            host=url.hostname or "",
            port=url.port or port,
            security=security,
            user=None if url.username is None else unquote(url.username),
            password=None if file is None else read_secret(file, "LEDGER_SMTP_PASSWORD_FILE"),
            sender=self.mail_from,
            domains=frozenset(map(str.strip, self.mail_domains.lower().split(","))),
        )

    @property
    def provider(self) -> Provider | None:
        """The provider whose tokens are accepted besides API keys; None if only API keys are."""
        if self.jwks_url is None or self.jwt_issuer is None or self.jwt_audience is None:
            return None
        return Provider(self.jwks_url, self.jwt_issuer, self.jwt_audience)

    @property
    def verified_at(self) -> time | None:
        """The time of day, in UTC, of the nightly verification; None without one."""
        return time.fromisoformat(self.verify_at) if self.verify_at else None

    @property
    def webhook_delays(self) -> tuple[float, ...]:
        return tuple(map(float, self.webhook_retry_seconds.split(",")))

    @field_validator("database_url", "api_database_url")
    @classmethod
    def _check_address(cls, text: str | None) -> str | None:
        # libpq reads an empty URL as its own defaults. An empty variable is more likely a mistake.
        if text is not None and not text.strip():
            raise ValueError("must not be empty")
        try:
            conninfo_to_dict(text or "")
        except (psycopg.ProgrammingError, UnicodeEncodeError) as error:
            raise ValueError("must be a PostgreSQL URL") from error
        return text

    @field_validator(
        "data_dir",
        "master_key_file",
        "smtp_password_file",
        "oidc_client_secret_file",
        "oidc_grants",
        mode="before",
    )
    @classmethod
    def _check_name(cls, path: object) -> object:
        if path == "":
            raise ValueError("must not be empty")
        return path

    @model_validator(mode="after")
    def _reads_a_database_of_its_own(self) -> Self:
        # The embedded server's URL follows from the data directory.
        if self.api_database_url is not None and self.database_url is None:
            raise ValueError("LEDGER_API_DATABASE_URL needs LEDGER_DATABASE_URL")
        return self

    @model_validator(mode="after")
    def _has_one_master_key(self) -> Self:
        if self.master_key is not None and self.master_key_file is not None:
            raise ValueError("LEDGER_MASTER_KEY and LEDGER_MASTER_KEY_FILE must not both be set")
        return self

    @field_validator("jwt_issuer", "jwt_audience")
    @classmethod
    def _check_claim(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(r"\S.*", text):
            raise ValueError("must be one line, and not begin with a blank")
        return text

    @field_validator("jwks_url")
    @classmethod
    def _check_trusted_url(cls, text: str | None) -> str | None:
        if text is None:
            return None
        try:
            url = _URL.validate_python(text)
        except ValueError as error:
            raise ValueError("must be a URL") from error
        if url.username is not None or url.password is not None or url.fragment is not None:
            raise ValueError("must not name a user, a password or a fragment")
        # An attacker who can change the provider's response on its way could forge tokens.
        if not is_guarded(url.scheme, url.host or ""):
            raise ValueError("must be https, unless the host is this machine")
        return str(url)

    @model_validator(mode="after")
    def _names_a_provider_wholly(self) -> Self:
        # Without an issuer and an audience, the service would accept tokens of another issuer, and
        # tokens for another service.
        provided = [self.jwks_url, self.jwt_issuer, self.jwt_audience]
        if any(value is None for value in provided) and provided != [None, None, None]:
            raise ValueError(
                "LEDGER_JWKS_URL, LEDGER_JWT_ISSUER and LEDGER_JWT_AUDIENCE must be set together"
            )
        return self

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, text: str) -> str:
        for origin in text.split(",") if text else ():
            if not is_origin(origin.strip()):
                raise ValueError(
                    "must be origins as browsers send them, such as https://app.example.com,"
                    " separated by commas: without path, usual port or *"
                )
        return text

    @field_validator("root_path")
    @classmethod
    def _check_prefix(cls, text: str) -> str:
        path = text.removesuffix("/")
        if _ROOT_PATH.fullmatch(path) is None:
            raise ValueError("must be a path such as /ledger, of letters, digits, - . _ and ~")
        # Nobody could tell if a proxy has stripped the prefix /ui from a request for /ui.
        if path and path.split("/")[1] in OWN_PATHS:
            raise ValueError("must not begin like a path of the service's own, such as /v1 or /ui")
        return path

    @field_validator("metrics_token")
    @classmethod
    def _check_metrics_token(cls, text: str | None) -> str | None:
        if text is not None and not _BEARER.fullmatch(text):
            raise ValueError("must have letters, digits and -._~+/ alone, with = at the end only")
        return text

    @field_validator("public_url")
    @classmethod
    def _check_public_url(cls, text: str | None) -> str | None:
        if text is None:
            return None
        scheme, _, rest = text.partition("://")
        authority, slash, path = rest.partition("/")
        origin = ORIGIN.fullmatch(f"{scheme}://{authority}")
        if origin is None or not is_origin(origin[0]) or not _ROOT_PATH.fullmatch(slash + path):
            raise ValueError(
                "must be an address such as https://example.com or https://example.com/ledger"
            )
        if not is_guarded(scheme, origin["host"]):
            raise ValueError("must be https, unless the host is this machine")
        return text

    @model_validator(mode="after")
    def _has_what_assistants_need(self) -> Self:
        if self.mcp and self.public_url is None:
            raise ValueError("LEDGER_MCP needs LEDGER_PUBLIC_URL")
        if self.mcp and not (find_spec("mcp") and find_spec("execution_ledger")):
            raise ValueError("LEDGER_MCP needs: pip install 'execution-ledger[mcp]'")
        return self

    @field_validator("smtp_url")
    @classmethod
    def _check_mail_server(cls, text: str | None) -> str | None:
        if text is None:
            return None
        found = _SMTP_URL.fullmatch(text)
        port = found and found["port"]
        if found is None or (port is not None and int(port) > 65_535):
            raise ValueError(
                "must be smtp://, smtp+starttls:// or smtps:// with a host, and at most a user and"
                " a port: the password is in LEDGER_SMTP_PASSWORD_FILE"
            )
        if found["scheme"] == "smtp" and found["user"] and not is_this_machine(found["host"]):
            raise ValueError("must not be smtp:// with a user: the password would not be encrypted")
        return text

    @field_validator("mail_from")
    @classmethod
    def _check_sender(cls, text: str | None) -> str | None:
        if text is not None and not channel.is_mail_address(text):
            raise ValueError("must be a mail address, such as ledger@example.com")
        return text

    @field_validator("mail_domains")
    @classmethod
    def _check_mail_domains(cls, text: str) -> str:
        if text and not all(channel.MAIL_DOMAIN.fullmatch(one.strip()) for one in text.split(",")):
            raise ValueError("must be domains such as example.com, separated by commas, or *")
        return text

    @model_validator(mode="after")
    def _has_the_password_of_the_mail_user(self) -> Self:
        named = self.smtp_url is not None and urlsplit(self.smtp_url).username is not None
        if named != (self.smtp_password_file is not None):
            raise ValueError(
                "LEDGER_SMTP_PASSWORD_FILE and a user in LEDGER_SMTP_URL must be set together"
            )
        if self.smtp_password_file is not None:
            read_secret(self.smtp_password_file, "LEDGER_SMTP_PASSWORD_FILE")
        return self

    @field_validator("verify_at")
    @classmethod
    def _check_time_of_day(cls, text: str) -> str:
        if not _TIME_OF_DAY.fullmatch(text):
            raise ValueError("must be HH:MM in UTC, such as 03:00, or empty")
        return text

    @field_validator("webhook_retry_seconds")
    @classmethod
    def _at_most_a_month(cls, text: str) -> str:
        if not _SECONDS.fullmatch(text):
            raise ValueError("must be 1 to 20 numbers of seconds, such as 5,300,1800.5")
        if any(float(part) > _LONGEST_WAIT for part in text.split(",")):
            raise ValueError(f"each wait must be at most {_LONGEST_WAIT} seconds (30 days)")
        return text

    def idle_after(self, execution_model: str) -> timedelta:
        """The time without activity after which a line of this model is idle (contract, State)."""
        if execution_model == "agent_runtime":
            return timedelta(seconds=self.idle_after_agent_runtime)
        return timedelta(seconds=self.idle_after_default)


def unknown_settings(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each variable with our prefix that is no setting, such as a misspelt one."""
    names = {name.upper() for name in Settings.model_fields}
    sentences = []
    for variable in sorted(environment):
        name = variable.upper().removeprefix(_PREFIX)
        if variable.upper().startswith(_PREFIX) and name not in names:
            nearest = get_close_matches(name, names, 1)
            hint = f"; did you mean {_PREFIX}{nearest[0]}?" if nearest else "."
            if name in _OPTIONS:
                hint = f", but an option: ledger serve --{name.lower()}."
            sentences.append(f"{escaped(variable)} is no setting of the ledger{hint}")
    return sentences
