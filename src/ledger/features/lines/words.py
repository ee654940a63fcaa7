"""The filters of lines as people see them: a chip for each word, and a title."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from ledger.engine.http.reading import Present
from ledger.engine.page.showing import words

_SAID = {
    "organization_id": "Organization",
    "state": "State",
    "blocked_cause": "Cause",
    "health": "Health",
    "product_line": "Product line",
    "execution_model": "Model",
    "workspace_id": "Workspace",
    "project_tag": "Project",
    "service_line_id": "Line",
    "resource_id": "Resource",
    "assignee": "Assignee",
    "unassigned": "Only",
    "overdue": "Only",
    "has_alerts": "Only",
}
"""The filters in the order of their chips, and the page's words for them."""

_FLAGS = {"unassigned": "nobody assigned", "overdue": "overdue", "has_alerts": "with open alerts"}
"""The filters that are on or off."""

_AS_SENT = (
    "organization_id", "workspace_id", "project_tag", "service_line_id", "resource_id", "assignee"
)  # fmt: skip

_NO_SIGNALS = "no signals"


class Chip(NamedTuple):
    """A word of a filter that is on."""

    name: str
    said: str
    """The filter in words."""
    value: str
    """The word, or the name of what it names."""
    id: str | None
    """The word itself, if ``value`` is a name."""
    rest: str | None
    """The filter's value without this word; None without any word."""
    applies: bool
    """Whether the filter has an effect: resources, for example, are known of now only."""


def chips_of(
    query: Present, names: Mapping[str, str], not_of_past: Collection[str] = ()
) -> list[Chip]:
    """The chips of all filters that are on, whichever a page has."""
    return [
        Chip(
            name,
            said,
            names.get(word) or value_of(name, word),
            word if names.get(word) else None,
            ",".join(other for other in given if other != word) or None,
            name not in not_of_past,
        )
        for name, said in _SAID.items()
        for given in [dict.fromkeys((getattr(query, name, None) or "").split(","))]
        for word in given
        if word
    ]


def value_of(name: str, word: str) -> str:
    """A word of a filter as people write it; the ids of what has no name stay as they are."""
    if name == "health":
        return _NO_SIGNALS if word == "none" else word
    if name in _FLAGS:
        return _FLAGS[name]
    return word if name in _AS_SENT else words(word)


class Said(NamedTuple):
    """A part of a title."""

    text: str
    is_value: bool = False
    """Whether people wrote it: such a part is isolated from the direction of its neighbours."""


def title_of(chips: Collection[Chip]) -> list[Said]:
    """The lines that a board shows, in words: ``Blocked and paused lines, project Payments``."""
    shown: dict[str, list[str]] = {}
    for chip in chips:
        if chip.applies:
            shown.setdefault(chip.name, []).append(chip.value)
    states = " and ".join(shown.pop("state", []))
    begin = (
        f"{states[:1].upper()}{states[1:]} lines" if states else "Lines" if shown else "All lines"
    )
    title = [Said(begin)]
    for name, values in shown.items():
        for number, value in enumerate(values):
            title += [Said(" or " if number else f", {_SAID[name].lower()} "), Said(value, True)]
    return title
