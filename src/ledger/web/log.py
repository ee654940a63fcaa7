"""What the pages of logs share: a stretch of time as people write it, and what is chosen."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from fastapi import Request
from pydantic import BaseModel, Field

from ledger.intake.principal import Principal
from ledger.web.pages import here, with_parameter
from ledger.web.showing import zone_of

PAGE_ROWS = 50
"""Of a page, unless another number is asked for."""

WrittenInstant = Annotated[str | None, Field(max_length=40)]


class WrittenRange(BaseModel):
    """A stretch of time as a form sends it: in the zone of the page, which is in no address.

    Beside what is written stands the exact bound of before, which may have parts of a second.
    """

    from_local: WrittenInstant = None
    to_local: WrittenInstant = None
    from_exact: WrittenInstant = None
    to_exact: WrittenInstant = None

    def canonical(self, request: Request) -> str | None:
        """The page's address with instants instead: one to pass on. Raises Invalid.

        None: it is that already.
        """
        address = here(request)
        for name, written, exact in (
            ("from", self.from_local, self.from_exact),
            ("to", self.to_local, self.to_exact),
        ):
            if written is None and exact is None:
                continue
            for field in (f"{name}_local", f"{name}_exact"):
                address = with_parameter(address, field, None)
            # Where the field was emptied, the bound goes.
            bound = None if written is None else zone_of(request).meant(name, written, exact)
            address = with_parameter(address, name, bound)
        return None if address == here(request) else address


class Chip(NamedTuple):
    """One filter that is chosen."""

    name: str
    value: str
    without: str
    """The address of the page without it."""


def chips(request: Request, chosen: Mapping[str, Any]) -> list[Chip]:
    """The filters that were given, each with the way to go without it."""
    begun = with_parameter(here(request), "cursor", None)
    return [
        Chip(name, str(value), with_parameter(begun, name, None))
        for name, value in chosen.items()
        if value is not None
    ]


def stream_address(principal: Principal, chosen: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The stream that tells when a page is out of date; empty where its reader may not read it."""
    if not principal.is_admin and "read" not in principal.permissions:
        return ""
    address = "/ui/stream"
    for name in names:
        address = with_parameter(address, name, chosen.get(name))
    return address
