"""An API key in the answers of commands and reads (contract, Access)."""

from datetime import datetime
from typing import Any

from ledger.domain.api_key import ApiKey
from ledger.language.rendering import time_text


def describe_key(key: ApiKey, last_used_at: datetime | None = None) -> dict[str, Any]:
    """A key as those who manage keys see it, without any secret."""
    by = key.created_by
    return {
        "id": key.id,
        "name": key.name,
        "organization_id": key.organization_id,
        "workspace_id": key.workspace_id,
        "permissions": key.permissions,
        "created_at": time_text(key.created_at),
        "created_by": {"type": by.type, "id": by.id} if by is not None else None,
        "expires_at": time_text(key.expires_at),
        "last_used_at": time_text(last_used_at),
        "revoked_at": time_text(key.revoked_at),
        "prefix": key.prefix,
    }
