"""The requests that Slack and PagerDuty take, as JSON Schemas of their published documentation."""

from typing import Any


def plain_text(most: int) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", "text", "emoji"],
        "additionalProperties": False,
        "properties": {
            "type": {"const": "plain_text"},
            "text": {"type": "string", "minLength": 1, "maxLength": most},
            "emoji": {"const": False},
        },
    }


def block(kind: str, **fields: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", *fields],
        "additionalProperties": False,
        "properties": {"type": {"const": kind}, **fields},
    }


_LINK = {
    "type": "object",
    "required": ["type", "text", "verbatim"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "mrkdwn"},
        # A link of ours, and no word of anybody else.
        "text": {"pattern": r"^<https?://[^<>|&\s]+\|Open in the ledger>$", "maxLength": 3000},
        "verbatim": {"const": True},
    },
}

SLACK: dict[str, Any] = {
    # docs.slack.dev: incoming webhooks, chat.postMessage, Block Kit.
    "type": "object",
    "required": ["text", "mrkdwn", "unfurl_links", "unfurl_media", "blocks"],
    "additionalProperties": False,
    "properties": {
        # <, > and & stand only where they are escaped.
        "text": {
            "type": "string",
            "minLength": 1,
            "maxLength": 40_000,
            "pattern": "^([^<>&]|&(amp|lt|gt);)*$",
        },
        "mrkdwn": {"const": False},
        "unfurl_links": {"const": False},
        "unfurl_media": {"const": False},
        "blocks": {
            "type": "array",
            "minItems": 1,
            "maxItems": 50,
            "items": {
                "oneOf": [
                    block("header", text=plain_text(150)),
                    block("section", text=plain_text(3000)),
                    block("section", text=_LINK),
                    block(
                        "context",
                        elements={
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 10,
                            "items": plain_text(3000),
                        },
                    ),
                ]
            },
        },
    },
}

PAGERDUTY: dict[str, Any] = {
    # developer.pagerduty.com: Events API v2, send an alert event; PD-CEF.
    "type": "object",
    "required": ["routing_key", "event_action", "dedup_key"],
    "additionalProperties": False,
    "properties": {
        "routing_key": {"type": "string", "minLength": 1},
        "event_action": {"enum": ["trigger", "acknowledge", "resolve"]},
        "dedup_key": {"type": "string", "maxLength": 255},
        "client": {"type": "string"},
        "client_url": {"type": "string", "format": "uri"},
        "links": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["href"],
                "additionalProperties": False,
                "properties": {"href": {"format": "uri"}, "text": {"type": "string"}},
            },
        },
        "payload": {
            "type": "object",
            "required": ["summary", "source", "severity"],
            "additionalProperties": False,
            "properties": {
                "summary": {"type": "string", "minLength": 1, "maxLength": 1024},
                "source": {"type": "string", "minLength": 1},
                "severity": {"enum": ["critical", "error", "warning", "info"]},
                "timestamp": {"type": "string", "format": "date-time"},
                "component": {"type": "string"},
                "group": {"type": "string"},
                "class": {"type": "string"},
                "custom_details": {"type": "object"},
            },
        },
    },
    "if": {"properties": {"event_action": {"const": "trigger"}}},
    "then": {"required": ["payload"]},
}
