"""A line's state and health in words, where the two contradict each other."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from ledger.engine.page.showing import number, words
from projections.lines.shown import LineDetail, ShownHealth


def contrast(line: LineDetail) -> str | None:
    """State and health as sentences if only one of the two is bad; otherwise None.

    A stopped line may have green signals, and a running line red ones. Without the sentences, a
    reader of only one of the two would miss the other.
    """
    status = line.health.status
    is_stopped = line.state in ("blocked", "paused")
    if status is None or line.state == "closed" or is_stopped != (status == "green"):
        return None
    return f"{_state_of(line)} {_health_of(line.health)}"


def _state_of(line: LineDetail) -> str:
    if line.state == "blocked":
        causes = sorted({blocker.cause for blocker in line.blockers})
        return f"Blocked by {_and(_one(words(cause)) for cause in causes)}."
    if line.state == "paused":
        holds = sorted({hold.hold for hold in line.holds})
        return f"Paused by {_and(_one(f'{words(hold)} hold') for hold in holds)}."
    return f"The line is {line.state}."


def _health_of(health: ShownHealth) -> str:
    counts = Counter(signal.status for signal in health.signals)
    if counts.keys() == {"green"}:
        return "All health signals are green."
    bad = [(counts[status], status) for status in ("red", "amber") if counts[status]]
    parts = [f"{count} {status}" for count, status in bad]
    total = len(health.signals)
    return f"Health is {health.status}: of {total} signal{'s' * (total != 1)}, {_and(parts)}."


def _and(parts: Iterable[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last


def _one(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def says(evidence: Any, value: Any) -> bool:
    """True if an evidence text contains the value, so that the page shows the value once.

    It contains a value that it begins with. A number with decimals counts anywhere, since another
    number is hardly equal by chance.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value == "":
        return False
    has_decimals = isinstance(value, float) and not value.is_integer()
    before = r"(?<![\w.,])" if has_decimals else "^"
    written = {str(value)} | (set() if isinstance(value, str) else {number(value)})
    return isinstance(evidence, str) and any(
        re.search(rf"{before}{re.escape(text)}(?!\w|[.,]\d)", evidence) for text in written
    )
