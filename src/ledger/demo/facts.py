"""The shape of a fact: one structured CloudEvent as a plain dict, and the instant it happened."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

Actor = tuple[str, str]
"""Actor type (`user`, `agent`) and id."""


class StoryFact(NamedTuple):
    """A fact with its time as an instant, so that facts sort by time rather than by text."""

    at: datetime
    fact: dict[str, Any]


def rfc3339(at: datetime) -> str:
    """Write a UTC instant with `Z`, with milliseconds if it has any."""
    spec = "milliseconds" if at.microsecond else "seconds"
    return at.replace(tzinfo=None).isoformat(timespec=spec) + "Z"


def tell(
    at: datetime,
    type: str,
    subject: str,
    data: dict[str, Any],
    *,
    source: str,
    id: str,
    actor: Actor | None = None,
) -> StoryFact:
    """Make one fact; keys of `data` that hold None are left out, as a sender would leave them."""
    fact: dict[str, Any] = {
        "specversion": "1.0",
        "id": id,
        "source": source,
        "type": type,
        "subject": subject,
        "time": rfc3339(at),
        "data": {key: value for key, value in data.items() if value is not None},
    }
    if actor is not None:
        fact["actortype"], fact["actorid"] = actor
    return StoryFact(at, fact)
