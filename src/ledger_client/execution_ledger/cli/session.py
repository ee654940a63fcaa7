"""The ledger and token that commands use: from the environment, the keyring or a file.

A token that ``elk login`` stored is sent only to the origin that it was checked with. By plain http
it goes only to this machine.
"""

import os
import re
from contextlib import suppress
from pathlib import Path

import click
import httpx
import msgspec

from execution_ledger._requests import Settings, is_loopback, settings_of
from execution_ledger.cli.asking import Connection
from execution_ledger.errors import NotConfigured

SERVICE = "execution-ledger"
"""The name in the keyring, and of the folder in the user's configuration."""
TIMEOUT_SECONDS = 30.0


class Stored(msgspec.Struct):
    """The user's file: the current ledger, and tokens by origin."""

    url: str | None = None
    tokens: dict[str, str | None] = {}
    """None if the token is in the keyring."""


def stored_in() -> Path:
    """The path of the user's file."""
    return Path(click.get_app_dir(SERVICE)) / "elk.json"


def connected() -> Connection:
    """Connect to the ledger of the environment, else of the last login. Raises NotConfigured."""
    return connection_to(settings())


def connection_to(settings: Settings) -> Connection:
    """Connections that are closed when the command ends."""
    ledger, context = Connection(settings), click.get_current_context()
    context.call_on_close(ledger.close)
    context.find_root().obj = ledger  # for the message about an answer that a command cannot read
    return ledger


def settings() -> Settings:
    """The address and token that apply now. Raises NotConfigured."""
    stored = _read()
    url, token = os.environ.get("ELK_URL") or stored.url, os.environ.get("ELK_TOKEN")
    if url is None:
        raise NotConfigured("Log in first: elk login URL; or set ELK_URL and ELK_TOKEN.")
    if not token:
        url = checked(url)
        token = _token_of(stored, origin_of(url))
    if not token:
        raise NotConfigured(f"There is no token for {url}: elk login {url}; or set ELK_TOKEN.")
    return settings_for(url, token)


def settings_for(url: str, token: str) -> Settings:
    """The settings for an address and a token. Raises UsageError."""
    if not re.fullmatch(r"[!-~]+", token.strip()):
        raise click.UsageError("A token is one word, such as elk_….")
    source = os.environ.get("ELK_SOURCE") or "/elk"
    return settings_of(url, token.strip(), source, TIMEOUT_SECONDS)


def checked(url: str) -> str:
    """Check that a stored token may be sent to an address. Raises UsageError."""
    if "://" not in url:
        url = f"{'http' if is_loopback(httpx.URL(f'//{url}').host) else 'https'}://{url}"
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise click.UsageError(f"This is no address: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise click.UsageError("The address is https://…, without user or password.")
    if parsed.query or parsed.fragment:
        raise click.UsageError("The address has no ? and no #.")
    if parsed.scheme == "http" and not is_loopback(parsed.host):
        raise click.UsageError("A token goes by http to this machine alone: use https://.")
    return url.rstrip("/")


def origin_of(url: str) -> str:
    """The scheme, host and port of an address."""
    parsed = httpx.URL(url)
    return f"{parsed.scheme}://{parsed.host}:{parsed.port or {'http': 80}.get(parsed.scheme, 443)}"


def keep(url: str, token: str) -> str:
    """Store a token for the origin of an address; return where it is stored."""
    stored, origin = _read(), origin_of(url)
    in_keyring = _put_in_keyring(origin, token)
    stored.url = url
    stored.tokens = {**stored.tokens, origin: None if in_keyring else token}
    _write(stored)
    return "the keyring" if in_keyring else f"{stored_in()} (only you can read it)"


def forget(url: str | None) -> str | None:
    """Delete the token of an address, by default the current one; return the address."""
    stored = _read()
    url = url or stored.url
    origin = origin_of(url) if url else ""
    if origin not in stored.tokens:
        return None
    if stored.tokens.pop(origin) is None:
        import keyring

        with suppress(keyring.errors.KeyringError):
            keyring.delete_password(SERVICE, origin)
    if stored.url and origin_of(stored.url) == origin:
        stored.url = None
    _write(stored)
    return url


def _put_in_keyring(origin: str, token: str) -> bool:
    """Store a token in the keyring; return True if the keyring has it now."""
    import keyring

    # Backends raise errors of their own, and some lose a password silently.
    with suppress(Exception):
        keyring.set_password(SERVICE, origin, token)
        return keyring.get_password(SERVICE, origin) == token
    return False


def _token_of(stored: Stored, origin: str) -> str | None:
    token = stored.tokens.get(origin)
    if token is not None or origin not in stored.tokens:
        return token
    import keyring

    try:
        return keyring.get_password(SERVICE, origin)
    except keyring.errors.KeyringError as error:
        raise NotConfigured(f"The keyring does not give the token: {error}") from error


def _read() -> Stored:
    path = stored_in()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Stored)
    except FileNotFoundError:
        return Stored()
    except msgspec.DecodeError as error:
        raise NotConfigured(f"{path} is damaged: {error}. Log in again without it.") from error


def _write(stored: Stored) -> None:
    path = stored_in()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    # Nobody else may read the file at any moment, whatever the umask is.
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(stored))
    part.replace(path)
