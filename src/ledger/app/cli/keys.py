"""The commands about API keys. Results go to standard output."""

import re
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import dict_row

from ledger.app.cli.printing import Row, print_json, print_rows
from ledger.app.composition.database import ConfigurationError
from ledger.app.composition.writing import utc_now, writing
from ledger.app.settings import Settings
from ledger.engine.values.errors import LedgerError, NotFound
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.values import KEY_ID, escaped
from ledger.engine.writer.command import SubjectCommand
from ledger.engine.writer.request import Outcome
from ledger.engine.writer.writer import Writer
from ledger.features.keys import commands as keys
from ledger.features.keys.model import Permission
from ledger.features.keys.tokens import create_token

_KEYS = """
SELECT k.key_id AS id, k.name, k.organization_id, k.workspace_id, k.permissions, k.created_at,
    k.expires_at, u.used_at AS last_used_at, k.revoked_at
FROM ledger.api_key AS k LEFT JOIN ledger.key_use AS u USING (key_id) ORDER BY k.created_at
"""

_DATES = (
    ("created_at", "created %Y-%m-%d"),
    ("expires_at", "expires %Y-%m-%d"),
    ("last_used_at", "used %Y-%m-%d\u00a0%H:%M"),
    ("revoked_at", "revoked %Y-%m-%d"),
)
"""Instants as a terminal shows them: days, and the minute of the last use."""


def create_key(
    settings: Settings,
    conninfo: str,
    *,
    name: str | None,
    organization: str | None,
    workspace: str | None,
    permission: Sequence[Permission] | None,
    admin: bool,
    expires_at: datetime | None,
) -> int:
    """Create a key and print it, alone: the key cannot be shown again."""
    if expires_at is not None and expires_at <= utc_now():
        raise ConfigurationError("--expires-at must lie in the future.")
    with writing(settings, conninfo) as writer:
        key_id, token = make_key(
            writer,
            name=name,
            organization_id=organization,
            workspace_id=workspace,
            permissions=("admin",) if admin else tuple(dict.fromkeys(permission or ())),
            expires_at=expires_at,
        )
    print(token)
    print(f"Created {key_id}.", file=sys.stderr)
    return 0


def make_key(
    writer: Writer,
    *,
    name: str | None,
    organization_id: str | None,
    workspace_id: str | None,
    permissions: tuple[Permission, ...],
    expires_at: datetime | None = None,
) -> tuple[str, str]:
    """Record a new key; return its id and its token. Raises LedgerError."""
    token = create_token()
    outcome = writer.execute(
        keys.CreateApiKey(
            COMMAND_LINE,
            token,
            name=name,
            organization_id=organization_id,
            workspace_id=workspace_id,
            permissions=permissions,
            expires_at=expires_at,
        )
    )
    if isinstance(outcome, LedgerError):
        raise outcome
    return outcome.subject, token


def rotate_key(settings: Settings, conninfo: str, key_id: str, grace_seconds: int) -> int:
    """Give a key a new secret and print it, alone: the secret cannot be shown again."""
    token = create_token()
    grace = timedelta(seconds=grace_seconds)
    _change(settings, conninfo, keys.RotateApiKey(key_id, COMMAND_LINE, token=token, grace=grace))
    print(token)
    return 0


def revoke_key(settings: Settings, conninfo: str, key_id: str) -> int:
    _change(settings, conninfo, keys.RevokeApiKey(key_id, COMMAND_LINE))
    print(f"Revoked {key_id}.", file=sys.stderr)
    return 0


def _change(settings: Settings, conninfo: str, command: SubjectCommand) -> None:
    """Carry out a command about a key. Raises LedgerError."""
    outcome: Outcome = NotFound("")
    # The audit log keeps the subject of a refused command, which must be an id.
    if re.fullmatch(KEY_ID, command.subject_id):
        with writing(settings, conninfo) as writer:
            outcome = writer.execute(command)
    if isinstance(outcome, NotFound):
        raise NotFound(f"There is no key {command.subject_id}: `ledger keys list` shows the ids.")
    if isinstance(outcome, LedgerError):
        raise outcome


def list_keys(_: Settings, conninfo: str, *, as_json: bool) -> int:
    with psycopg.connect(conninfo, row_factory=dict_row) as connection:
        found = connection.execute(_KEYS)
        columns, keys_ = [column.name for column in found.description or ()], found.fetchall()
    if as_json:
        print_json(keys_)
    else:
        print_rows(keys_, columns, [_in_four_columns(key) for key in keys_])
    return 0


def _in_four_columns(key: Row) -> Row:
    """A key's columns for a terminal of 80 columns."""
    tenant = (key["name"], key["organization_id"], key["workspace_id"])
    dates = (f"{key[name]:{form}}" for name, form in _DATES if key[name] is not None)
    return {
        "id": key["id"],
        "name and tenant": "\n".join(escaped(part) for part in tenant if part is not None),
        "permissions": key["permissions"],
        "dates": "\n".join(dates),
    }
