"""The words of alerts: durations, blockers, and texts of people, cut if they are long."""

from datetime import datetime

from ledger.features.lines.model.execution import Execution

_MOST = 500

_CUT = 120
"""The characters of a reason or an assignee that a sentence has."""


def plain(text: str) -> str:
    """The text without control characters and line ends, cut at ``_MOST`` characters."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"


def been(what: str, seconds: int) -> str:
    """``has been blocked for 2 h``; ``is blocked`` for a watch without a time."""
    return f"has been {what} for {length_text(seconds)}" if seconds else f"is {what}"


def of_blocker(line: Execution, blocker_id: str, joined: str) -> str:
    """The cause and the reason of a blocker, and who should act by when."""
    blocker = line.blockers[blocker_id]
    cause, an = blocker.cause.replace("_", " "), "an" if blocker.cause[0] in "aeiou" else "a"
    text = f"{joined}{an} {cause}{because(blocker.reason)}"
    if blocker.assignee is None and blocker.due_at is None:
        return text
    by = "" if blocker.due_at is None else f" by {_day_text(blocker.due_at)}"
    return f"{text}. {cut(blocker.assignee) if blocker.assignee else 'Somebody'} should act{by}"


def because(reason: str | None) -> str:
    return f": {cut(reason).rstrip('.')}" if reason else ""


def cut(text: str) -> str:
    """The text, or its beginning and ``…``."""
    return text if len(text) <= _CUT else f"{text[:_CUT]}…"


def _day_text(at: datetime) -> str:
    """``3 Dec 09:00 UTC``."""
    return f"{at.day} {at:%b %H:%M} UTC"


def length_text(seconds: int) -> str:
    """``2 h``, ``1 h 30 min``, ``5 days``."""
    units = ((86_400, "day", "days"), (3_600, "h", "h"), (60, "min", "min"), (1, "s", "s"))
    parts = []
    for size, one, many in units:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {one if count == 1 else many}")
    return " ".join(parts) or "0 s"
