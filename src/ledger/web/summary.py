"""What an event says beyond its type, in one line."""

from collections.abc import Callable, Sequence
from typing import Any

from ledger.web.showing import duration, milliseconds, number, words


def _text(value: Any) -> str:
    return str(value)


def _trigger(value: dict[str, Any]) -> str:
    who = value.get("actor_id")
    return f"set off by {who or words(str(value.get('type')))}"


# In this order. What stands for "nothing" is left out, as is what the page marks otherwise: states,
# causes, signals and their statuses.
_SAYS: Sequence[tuple[str, Callable[[Any], str]]] = (
    ("hold", lambda value: f"{words(value)} hold"),
    ("reason", _text),
    ("blocker_id", lambda value: f"blocker {value}"),
    ("note", _text),
    ("product_line", words),
    ("execution_model", words),
    ("project_tags", ", ".join),
    ("name", _text),
    ("role", words),
    ("hours", lambda value: f"{number(value)} h"),
    ("allocated_hours_per_week", lambda value: f"{number(value)} h a week"),
    ("evidence", lambda value: value if isinstance(value, str) else ""),
    ("threshold_seconds", lambda value: f"nothing for {duration(value)}"),
    ("triggered_by", _trigger),
    ("duration_ms", lambda value: f"took {milliseconds(value)}"),
    ("tokens_used", lambda value: f"{number(value)} tokens"),
    ("late", lambda _: "after its line had closed"),
    ("by_closing", lambda _: "because its line closed"),
    ("event_id", _text),
    ("attempts", lambda value: f"{number(value)} attempts"),
    ("response_status", lambda value: f"answered {value}"),
    ("error", _text),
    ("resource_id", _text),
    ("id", _text),
)


def summary(payload: dict[str, Any]) -> list[str]:
    """A payload's words, part by part; none where it says nothing that is not marked.

    Each part is a text of its own: joined, one that is read from right to left would tear the next.
    """
    said = (say(payload[name]) for name, say in _SAYS if not _is_nothing(payload.get(name)))
    return [part for part in said if part]


def _is_nothing(value: Any) -> bool:
    """Whether there is nothing to say. Zero hours are something: 0 is no False."""
    return value is None or value is False or value in ("", [], {})
