"""The commands about API keys. Results go to standard output."""

import sys

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
SELECT key_id, name, organization_id, workspace_id, permissions, created_at, revoked_at
FROM ledger.api_key ORDER BY created_at
"""


def create_key(
    settings: Settings,
    conninfo: str,
    *,
    name: str | None,
    organization_id: str | None,
    workspace_id: str | None,
    permissions: tuple[Permission, ...],
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
        )
    )
    if isinstance(outcome, LedgerError):
        raise outcome
    return token


def revoke_key(settings: Settings, conninfo: str, key_id: str) -> int:
    """Revoke a key."""
    with writing(settings, conninfo) as writer:
        outcome = writer.execute(keys.RevokeApiKey(key_id, COMMAND_LINE))
    if isinstance(outcome, LedgerError):
        raise outcome
    print(f"Revoked {key_id}.", file=sys.stderr)
    return 0


def list_keys(conninfo: str) -> int:
    """Print every key's id, name, tenant and permissions."""
    table = Table("id", "name", "organization", "workspace", "permissions", "created", "revoked")
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        for (
            key_id,
            name,
            organization,
            workspace,
            permissions,
            created,
            revoked,
        ) in connection.execute(_KEYS):
            table.add_row(
                key_id,
                name or "",
                organization or "",
                workspace or "",
                " ".join(permissions),
                f"{created:%Y-%m-%d %H:%M}",
                f"{revoked:%Y-%m-%d %H:%M}" if revoked else "",
            )
    print_table(table)
    return 0
