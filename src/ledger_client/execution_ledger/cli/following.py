"""Events as they are recorded: ``tail``, and ``webhooks listen``."""

import base64
import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import click
import httpx
import msgspec

from execution_ledger._operations import LIST_EVENTS
from execution_ledger._requests import request_of
from execution_ledger._sync.follow import Follow
from execution_ledger.cli.asking import Connection, parameters
from execution_ledger.cli.grammar import command, when
from execution_ledger.cli.session import connected
from execution_ledger.cli.showing import Show, columns, say

EVENTS = columns(
    "TIME=occurred_at EVENT=id TYPE=type LINE=service_line_id SUBJECT=subject.id ACTOR=actor.id "
    "PAYLOAD=payload"
)
FORWARDED = columns("EVENT=id TYPE=type LINE=service_line_id ANSWER=answer")
FORWARD_SECONDS = 15.0
"""How long the receiver may take to answer, in seconds: as long as for a webhook of the service."""


class ServerEvent(NamedTuple):
    """An event as the service sends it, with fields that this version may not know."""

    id: str
    position: int
    event: dict[str, Any]


def _decoded(text: bytes) -> ServerEvent:
    event = msgspec.json.decode(text)
    return ServerEvent(event["id"], event["position"], event)


class Nowhere:
    """A store that stores nothing: the position is lost with the process."""

    def load(self) -> None:
        """None: there is no position."""

    def save(self, cursor: str) -> None:
        """Do nothing."""


def _followed(
    ledger: Connection, since: str | None, options: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Each event recorded since an instant or after an event, and then each new one."""
    if since is not None and since.startswith("EVT-"):
        after = since
    else:
        period = {} if since is None else {"from_": since}
        answer = ledger.attempt(request_of(LIST_EVENTS, (), {**period, "limit": 1}))
        found = ledger.document(LIST_EVENTS, answer)["data"] if since is not None else []
        position = found[0]["position"] - 1 if found else int(answer.headers["ledger-position"])
        after = f"EVT-00-{position:06}"  # only the number counts
    follow: Any = Follow(ledger, Nowhere(), {**parameters(options), "after": after}, _decoded)
    return (each.event for each in follow)


def _since(value: str) -> str:
    """Parse an instant, or the id of an event."""
    return value if value.startswith("EVT-") else when(value)


FILTERS = "line type workspace organization"


@command(
    "tail",
    ["elk tail --line LIN-26-000042 --since 1h", "elk tail --type run.failed --json | jq .payload"],
    [click.Option(["--since"], type=_since, help="From this instant, or after this event.")],
    FILTERS,
)
def tail(show: Show, since: str | None, **options: Any) -> None:
    """Follow events as they are recorded, until Ctrl-C. A lost connection is opened again."""
    for event in _followed(connected(), since, options):
        show.row(event, EVENTS)


@command(
    "listen",
    [
        "elk webhooks listen --forward-to localhost:4242/hook",
        "ELK_WEBHOOK_SECRET=whsec_… elk webhooks listen --forward-to localhost:4242",
    ],
    [click.Option(["--forward-to", "target"], required=True, help="The address of a receiver.")],
    FILTERS,
)
def listen(show: Show, target: str, **options: Any) -> None:
    """Forward new events to an address, signed as webhooks are.

    Each start makes a new secret and prints it first; ELK_WEBHOOK_SECRET gives one of your own. An
    event is forwarded once: a failure of the receiver is printed, not retried.
    """
    target = target if "://" in target else f"http://{target}"
    secret = os.environ.get("ELK_WEBHOOK_SECRET") or _new_secret()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    events = _followed(connected(), None, options)
    show.row({"id": "secret", "type": secret}, {"SECRET": "id", "VALUE": "type"})
    say(f"Forwarding new events to {target}.")
    # A separate client: the receiver must never get the ledger's token.
    with httpx.Client(timeout=FORWARD_SECONDS, follow_redirects=False) as receiver:
        for sequence, event in enumerate(events, 1):
            answer = _forwarded(receiver, target, key, {**event, "sequence": sequence})
            show.row({**event, "answer": answer}, FORWARDED)


def _new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def _forwarded(receiver: httpx.Client, target: str, key: bytes, event: dict[str, Any]) -> str:
    """Send an event; return the status of the answer, or the reason for none."""
    body, now = msgspec.json.encode(event), int(time.time())
    signed = hmac.digest(key, f"{event['id']}.{now}.".encode() + body, hashlib.sha256)
    headers = {
        "content-type": "application/json",
        "webhook-id": event["id"],
        "webhook-timestamp": str(now),
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }
    try:
        return str(receiver.post(target, content=body, headers=headers).status_code)
    except httpx.HTTPError as error:
        return str(error) or type(error).__name__


webhooks = click.Group("webhooks", help="Receive events as webhooks.", commands=[listen])

COMMANDS = (tail, webhooks)
