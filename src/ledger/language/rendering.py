"""JSON that commands, views and reads make alike: of a value, of a key, of a webhook endpoint.

Views store JSON texts, so that reads pass them on without parsing.
"""

from datetime import datetime
from typing import Any

import msgspec

from ledger.domain.api_key import ApiKey
from ledger.domain.endpoint import Endpoint
from ledger.domain.values import format_instant

_encode = msgspec.json.Encoder().encode


def time_text(instant: datetime | None) -> str | None:
    """An instant as the API shows it."""
    return None if instant is None else format_instant(instant)


def json_text(value: Any) -> str:
    return _encode(value).decode()


def members(value: dict[str, Any]) -> str:
    """The JSON members of an object without its braces, to be joined with other members."""
    return json_text(value)[1:-1]


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


def describe_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as its owner sees it, without the secret, which is shown only once."""
    return {
        "id": endpoint.id,
        "url": endpoint.url,
        "event_types": endpoint.event_types,
        "organization_id": endpoint.organization_id,
        "workspace_id": endpoint.workspace_id,
        "description": endpoint.description,
        "enabled": endpoint.enabled,
        "disabled_reason": endpoint.disabled_reason,
        "disabled_at": time_text(endpoint.disabled_at),
        "created_at": time_text(endpoint.created_at),
        "updated_at": time_text(endpoint.updated_at),
    }
