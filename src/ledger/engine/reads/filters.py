"""A filter of a list as a row, from which everything about the filter is made.

``filtered_by`` (``engine/http/reading.py``) makes its parameter, the statements of the view make
its condition, and pages make a field of a form and the words of a filter that is on.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from ledger.engine.views.statements import tenant_conditions


class Filter(NamedTuple):
    """A filter of a list."""

    name: str
    """The parameter of the API."""
    label: str
    """The words of pages; of a flag those behind "Only"."""
    takes: tuple[str, ...] | Literal["words", "id", "flag"]
    """Some of these words, any words, or a single id. A flag is on or off."""
    now: str = ""
    """The condition, by default that the column of this name has one of the words. If a flag
    depends on the clock, the parameter of its name is the instant. An id has no own condition."""
    then: str | None = ""
    """The condition of the past, by default that of now. None: the filter asks about now only."""
    about: str = ""
    """The description in the OpenAPI document, without what follows from the other columns."""
    parameter: str = ""
    """The name in statements and cursors, if it is not the name of the filter."""

    @property
    def key(self) -> str:
        return self.parameter or self.name


def conditions(filters: Iterable[Filter], row: str, past: bool = False) -> dict[str, str]:
    """Conditions on a row, by its alias, and on its tenant; of the past without filters of now."""
    return tenant_conditions(row) | {
        each.key: (past and each.then) or each.now or f"{row}.{each.name} = ANY(%({each.key})s)"
        for each in filters
        if each.takes != "id" and not (past and each.then is None)
    }


ORGANIZATION = Filter("organization_id", "Organization", "id", about="A single id.")
WORKSPACE = Filter("workspace_id", "Workspace", "words")


def in_order(filters: Iterable[Filter], *first: str) -> list[Filter]:
    by_name = {each.name: each for each in filters}
    return [by_name.pop(name) for name in first if name in by_name] + [*by_name.values()]
