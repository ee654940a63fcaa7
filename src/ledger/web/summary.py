"""The payload of an event, in one line."""

from collections.abc import Callable, Sequence
from typing import Any

from ledger.web.showing import Zone, duration, milliseconds, number, words

_UTC = Zone("UTC")


def _text(value: Any) -> str:
    return str(value)


def _trigger(value: dict[str, Any]) -> str:
    who = value.get("actor_id")
    return f"triggered by {who or words(str(value.get('type')))}"


# In the order of the line. Empty values are left out. So are states, causes, signals and their
# statuses: the page shows them by marks of their own.
_SAYS: Sequence[tuple[str, Callable[[Any], str]]] = (
    ("hold", lambda value: f"{words(value)} hold"),
    ("reason", _text),
    ("blocker_id", lambda value: f"blocker {value}"),
    ("assignee", lambda value: f"assigned to {value}"),
    ("due_at", lambda value: f"due {_UTC.plain(value)} UTC"),
    ("note", _text),
    ("product_line", words),
    ("execution_model", words),
    ("project_tags", ", ".join),
    ("name", _text),
    ("role", words),
    ("hours", lambda value: f"{number(value)} h"),
    ("allocated_hours_per_week", lambda value: f"{number(value)} h per week"),
    ("evidence", lambda value: value if isinstance(value, str) else ""),
    ("threshold_seconds", lambda value: f"no activity for {duration(value)}"),
    ("triggered_by", _trigger),
    ("external_id", _text),
    ("parent_run_id", lambda value: f"part of {value}"),
    ("lease_seconds", lambda value: f"lease of {duration(value)}"),
    ("duration_ms", lambda value: f"took {milliseconds(value)}"),
    ("tokens_used", lambda value: f"{number(value)} tokens"),
    ("lease_expired", lambda _: "because its lease ended"),
    ("late", lambda _: "in place of an earlier ending"),
    ("by_closing", lambda _: "because the line was closed"),
    ("event_id", _text),
    ("attempts", lambda value: f"{number(value)} attempts"),
    ("response_status", lambda value: f"response {value}"),
    ("error", _text),
    ("resource_id", _text),
    ("id", _text),
)


def summary(payload: dict[str, Any]) -> list[str]:
    """The texts for a payload's fields; an empty list if there is no field to show.

    The texts stay apart, so that the page can isolate each one: text that is read from right to
    left would otherwise reorder the text next to it.
    """
    said = (say(payload[name]) for name, say in _SAYS if not _is_nothing(payload.get(name)))
    return [part for part in said if part]


def _is_nothing(value: Any) -> bool:
    """Whether a value is empty. Zero is not empty: 0 hours are shown."""
    return value is None or value is False or value in ("", [], {})
