"""Builders of CloudEvents with sensible defaults."""

import itertools
import json
from typing import Any

ORGANIZATION = "ORG-26-000001"
WORKSPACE = "WS-26-000001"
LINE = "LIN-26-000001"
RUN = "RUN-26-900001"

_ids = itertools.count(1)


def fact(type: str, subject: str | None, data: Any = None, **attributes: Any) -> dict[str, Any]:
    """A structured CloudEvent; its id is fresh unless given."""
    event = {
        "specversion": "1.0",
        "id": f"fact-{next(_ids)}",
        "source": "/tests",
        "type": type,
        "data": {} if data is None else data,
    }
    if subject is not None:
        event["subject"] = subject
    return event | attributes


def activation(
    line: str = LINE, model: str = "agent_runtime", product: str = "agent_gateway", **more: Any
) -> dict[str, Any]:
    """The activation of a line; ``time`` and the like go to the event, the rest to its data."""
    attributes = {k: more.pop(k) for k in ("id", "time", "source") if k in more}
    data = {
        "organization_id": ORGANIZATION,
        "workspace_id": WORKSPACE,
        "product_line": product,
        "execution_model": model,
    }
    return fact("service_line.activated", line, data | more, **attributes)


def encode(event: Any) -> bytes:
    return json.dumps(event).encode()
