"""A webhook endpoint in the answers of commands and reads (contract, Feeds)."""

from typing import Any

from ledger.domain.endpoint import Endpoint
from ledger.language.rendering import time_text


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
