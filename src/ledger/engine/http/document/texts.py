"""The document's texts about the whole service: tags, token, headers, webhooks."""

from typing import Any

from ledger.engine.http.document.schemas import Schema
from ledger.engine.http.models import reference

ABOUT = """
The whole truth about work in progress: product lines report facts, the log keeps them for ever,
and reads are answered from views. Every answer carries `Ledger-Position`. Send this position back
as `Ledger-Min-Position`, and the next read shows at least everything up to it.
"""

BEARER = "HTTPBearer"
SECURITY: Schema = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key (`elk_…`), or a JWT if the service has an identity provider.",
}

TAGS: dict[str, str] = {
    "facts": "Report what happened.",
    "execution": "Lines: what they do now, and what they did at any instant of the past.",
    "runs": "Runs of lines, with their inputs and outputs.",
    "directory": "What people call workspaces, projects and resources.",
    "search": "Finding lines, runs, workspaces, projects, resources and blockers by name or id.",
    "usage": "Hours, runs, tokens and time of many lines, in total and grouped.",
    "statements": "The usage of a period, issued as a document that stays and can be proved.",
    "watches": "Conditions with a clock, the alerts that they open, and who reports.",
    "feeds": "Follow what happens.",
    "webhooks": "Have events delivered.",
    "deliveries": "What endpoints of webhooks receive. Programs that only send need none of it.",
    "keys": "Who may do what: create, rotate and revoke API keys.",
    "sessions": "Who is signed in to the pages: list and end sessions.",
    "audit": "Who wrote what, refused writes too.",
    "proof": "Check offline that nothing in the log was changed.",
    "operations": "Health and metrics, without a token.",
}

_POSITION: Schema = {"type": "integer", "minimum": 0}
_TEXT: Schema = {"type": "string"}

HEADERS: dict[str, Schema] = {
    "Ledger-Position": {
        "description": "The position of the log that the answer shows. Send it back as"
        " `Ledger-Min-Position`, and the next read shows at least everything up to it.",
        "schema": _POSITION,
    },
    "X-Request-Id": {
        "description": "The request's id: its own `X-Request-Id`, or a new one.",
        "schema": _TEXT,
    },
    "ETag": {
        "description": "The version of the answer; send it as `If-None-Match`.",
        "schema": _TEXT,
    },
    "Idempotency-Replayed": {
        "description": "`true` if the answer is that of an earlier request under the same"
        " `Idempotency-Key`.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Retry-After": {
        "description": "The seconds after which to send the request again.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "WWW-Authenticate": {"description": "How to authenticate: `Bearer`.", "schema": _TEXT},
    "Content-Disposition": {"description": "The file's name.", "schema": _TEXT},
}
"""The headers that clients act on, by name. The contract lists those for caches and browsers."""

EVERY = ("Ledger-Position", "X-Request-Id")
HEADER_OF = {"If-None-Match": "ETag", "Idempotency-Key": "Idempotency-Replayed"}
"""Parameter → the header in the answers of routes that take it."""
WITH_STATUS = {
    304: ("ETag",),
    401: ("WWW-Authenticate",),
    409: ("Idempotency-Replayed",),
    422: ("Idempotency-Replayed",),
    429: ("Retry-After",),
    503: ("Retry-After",),
}
FILES = ("application/x-ndjson", "text/csv")
NOT_MODIFIED = "The caller's entity tag is still valid"

_SIGNED = {
    "webhook-id": "The event's id, the same in each attempt.",
    "webhook-timestamp": "The attempt's time, in seconds since 1970.",
    "webhook-signature": "The signatures by Standard Webhooks: `v1,` and base64, space-separated.",
}

_MESSAGE: Schema = {
    "allOf": [
        reference("Event"),
        {
            "type": "object",
            "properties": {"sequence": {"type": "integer", "minimum": 0}},
            "required": ["sequence"],
        },
    ],
}

MESSAGE: dict[str, Any] = {
    "description": "An event of the feed, with its number at the endpoint. A test has the type"
    " `webhook.test` and the number 0.",
    "required": True,
    "content": {"application/json": {"schema": _MESSAGE}},
}
"""The body of a delivery: a component that clients of the service do not need."""


def delivery() -> dict[str, Any]:
    return {
        "post": {
            "operationId": "receive_event",
            "tags": ["deliveries"],
            "summary": "An event is delivered",
            "description": "A gap in `sequence` means that an event is missing."
            " Verify the signature before anything else (Standard Webhooks).",
            "security": [],
            "parameters": [
                {
                    "name": name,
                    "in": "header",
                    "required": True,
                    "description": description,
                    "schema": {"type": "string"},
                }
                for name, description in _SIGNED.items()
            ],
            "requestBody": {"$ref": "#/components/requestBodies/WebhookMessage"},
            "responses": {
                "204": {"description": "Delivered; any 2xx within 10 s means the same."},
                "410": {"description": "The endpoint is gone, and is disabled at once."},
            },
        }
    }
