"""Parts that the pages of logs share: a period as people type it, and the active filters."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

from fastapi import Request
from pydantic import BaseModel, Field

from ledger.engine.http.replies import PageOf
from ledger.engine.page.addresses import here, with_parameter
from ledger.engine.page.showing import zone_of
from ledger.engine.values.principal import Principal

PAGE_ROWS = 50

WrittenInstant = Annotated[str | None, Field(max_length=40)]


class WrittenRange(BaseModel):
    """A period as a form sends it, in the zone of the page, which no address contains.

    Each typed bound comes with the exact bound that the field showed before: a field shows whole
    seconds, a bound may have fractions.
    """

    from_local: WrittenInstant = None
    to_local: WrittenInstant = None
    from_exact: WrittenInstant = None
    to_exact: WrittenInstant = None

    written: ClassVar[Sequence[str]] = ("from", "to")

    def canonical(self, request: Request) -> str | None:
        """The shareable address with UTC instants; None if it has this form. Raises Invalid."""
        address = here(request)
        for name in self.written:
            written, exact = getattr(self, f"{name}_local"), getattr(self, f"{name}_exact")
            if written is None and exact is None:
                continue
            for field in (f"{name}_local", f"{name}_exact"):
                address = with_parameter(address, field, None)
            # An empty field removes the bound.
            bound = None if written is None else zone_of(request).meant(name, written, exact)
            address = with_parameter(address, name, bound)
        return None if address == here(request) else address


class FilterInForce(NamedTuple):
    """An active filter."""

    name: str
    value: str
    without: str
    """The address of the page without this filter."""


COUNTED = 1001
"""The most rows that a page counts: for more, it shows that there are more than 1,000."""


def chips(request: Request, chosen: Mapping[str, Any]) -> list[FilterInForce]:
    begun = with_parameter(here(request), "cursor", None)
    return [
        FilterInForce(name, str(value), with_parameter(begun, name, None))
        for name, value in chosen.items()
        if value is not None
    ]


def listed(request: Request, page: PageOf[Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The filters of a list and the cursor of its next page, as values of its template."""
    older = page.meta.cursor if page.meta.has_more else None
    return {"older": older, "given": chosen, "chips": chips(request, chosen)}


def stream_address(principal: Principal, chosen: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The address of the stream of new events; empty if the reader may not read events."""
    if not principal.may("read"):
        return ""
    address = "/ui/stream"
    for name in names:
        address = with_parameter(address, name, chosen.get(name))
    return address
