"""The filters of lines in words: a chip for each value, and a title."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from ledger.engine.http.reading import Filtered
from ledger.engine.page.showing import words
from ledger.engine.reads.filters import Filter, in_order

_FIRST = ("organization_id", "state", "blocked_cause", "health", "product_line", "execution_model")


class Chip(NamedTuple):
    """A value of an active filter."""

    name: str
    label: str
    value: str
    """The value, or the name of its thing."""
    id: str | None
    """The value itself, if ``value`` is a name."""
    rest: str | None
    """The filter's value without this one; None if it was the only one."""
    applies: bool
    """False if the filter has no effect: resources, for example, are known only for now."""


def chips_of(query: Filtered, names: Mapping[str, str]) -> list[Chip]:
    return [
        Chip(
            each.name,
            "Only" if each.takes == "flag" else each.label,
            names.get(word) or _value_of(each, word),
            word if names.get(word) else None,
            ",".join(other for other in values if other != word) or None,
            not (each.then is None and query.is_past),
        )
        for each in in_order(query.filters, *_FIRST)
        for values in [dict.fromkeys((getattr(query, each.name) or "").split(","))]
        for word in values
        if word
    ]


def _value_of(each: Filter, word: str) -> str:
    """A value of a filter as people write it; ids without a name stay as they are."""
    if each.takes == "flag":
        return each.label
    if each.takes in ("words", "id"):
        return word
    return "no signals" if word == "none" else words(word)


class TitlePart(NamedTuple):
    """A part of a title."""

    text: str
    is_value: bool = False
    """True if people wrote it: then it is isolated from the direction of its neighbours."""


def title_of(chips: Collection[Chip]) -> list[TitlePart]:
    """The lines of a board in words: ``Blocked and paused lines, project Payments``."""
    applied: dict[str, list[Chip]] = {}
    for chip in chips:
        if chip.applies:
            applied.setdefault(chip.name, []).append(chip)
    states = " and ".join(chip.value for chip in applied.pop("state", []))
    begin = (
        f"{states[:1].upper()}{states[1:]} lines" if states else "Lines" if applied else "All lines"
    )
    title = [TitlePart(begin)]
    for of_filter in applied.values():
        for number, chip in enumerate(of_filter):
            before = " or " if number else f", {chip.label.lower()} "
            title += [TitlePart(before), TitlePart(chip.value, True)]
    return title
