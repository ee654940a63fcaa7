"""The commands about API keys. Results go to standard output."""

import sys
from datetime import datetime, timedelta

import psycopg
from psycopg.rows import tuple_row
from rich.table import Table

from ledger.application.commands import keys
from ledger.application.writer import Writer
from ledger.cli.printing import print_table
from ledger.domain.api_key import Permission
from ledger.domain.errors import LedgerError
from ledger.intake.principal import COMMAND_LINE
from ledger.intake.tokens import create_token
from ledger.service.composition.writing import writing
from ledger.settings import Settings

_KEYS = """
SELECT k.key_id, k.name, k.organization_id, k.workspace_id, k.permissions, k.created_at,
    k.expires_at, u.used_at, k.revoked_at
FROM ledger.api_key AS k LEFT JOIN ledger.key_use AS u USING (key_id) ORDER BY k.created_at
"""


def create_key(
    settings: Settings,
    conninfo: str,
    *,
    name: str | None,
    organization_id: str | None,
    workspace_id: str | None,
    permissions: tuple[Permission, ...],
    expires_at: datetime | None = None,
) -> int:
    """Create a key and print it, alone: the key cannot be shown again."""
    with writing(settings, conninfo) as writer:
        print(
            make_key(
                writer,
                name=name,
                organization_id=organization_id,
                workspace_id=workspace_id,
                permissions=permissions,
                expires_at=expires_at,
            )
        )
    return 0


def make_key(
    writer: Writer,
    *,
    name: str | None,
    organization_id: str | None,
    workspace_id: str | None,
    permissions: tuple[Permission, ...],
    expires_at: datetime | None = None,
) -> str:
    """Record a new key; return its token. Raises LedgerError."""
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
    return token


def rotate_key(settings: Settings, conninfo: str, key_id: str, grace: timedelta) -> int:
    """Give a key a new secret and print it, alone: the secret cannot be shown again."""
    token = create_token()
    command = keys.RotateApiKey(key_id, COMMAND_LINE, token=token, grace=grace)
    with writing(settings, conninfo) as writer:
        outcome = writer.execute(command)
    if isinstance(outcome, LedgerError):
        raise outcome
    print(token)
    return 0


def revoke_key(settings: Settings, conninfo: str, key_id: str) -> int:
    """Revoke a key."""
    with writing(settings, conninfo) as writer:
        outcome = writer.execute(keys.RevokeApiKey(key_id, COMMAND_LINE))
    if isinstance(outcome, LedgerError):
        raise outcome
    print(f"Revoked {key_id}.", file=sys.stderr)
    return 0


def list_keys(conninfo: str) -> int:
    """Print every key's id, name, tenant and permissions, its expiry and its last use."""
    table = Table("id", "name", "organization", "workspace", "permissions")
    for instant in ("created", "expires", "last used", "revoked"):
        table.add_column(instant, no_wrap=True)
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        for (
            key_id,
            name,
            organization,
            workspace,
            permissions,
            *instants,
        ) in connection.execute(_KEYS):
            table.add_row(
                key_id,
                name or "",
                organization or "",
                workspace or "",
                " ".join(permissions),
                *(f"{at:%Y-%m-%d %H:%M}" if at is not None else "" for at in instants),
            )
    print_table(table)
    return 0
