"""The scope of usage and comparisons, and the parameters of pages of sums."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from ledger.engine.http import reading
from ledger.engine.reads.as_of import AsOf
from ledger.engine.reads.filters import Filter
from ledger.engine.values.calendar import Calendar
from ledger.engine.values.errors import Invalid
from ledger.features.usage.reads.usage import UsageScope
from projections.directory.statements import NAMES_THEN, names_read
from projections.usage.scope import SCOPE

MAX_DATES = 400


class LongPage(BaseModel):
    """The parameters of a page of sums."""

    cursor: Annotated[str | None, Field(description="The `meta.cursor` of the page before.")] = None
    limit: Annotated[
        int,
        Field(ge=1, le=1000, description="The most rows in a page."),
        BeforeValidator(reading.digits),
    ] = 25


_RESOURCE = Filter(
    "resource_id", "Resource", "words", about="Check-ins of these resources count alone."
)


@reading.filtered_by(*SCOPE, _RESOURCE)
class LineFilters(reading.Filtered, reading.Zoned):
    """The filters of usage and comparisons: of lines as they stood at the answer's instant."""

    @property
    def bound_to(self) -> Mapping[str, Any]:
        """The parameters that a cursor is bound to. The words of a filter have no order."""
        return self.model_dump(exclude={"cursor", "limit"}) | self.chosen()

    def scope(self, request: reading.ReadRequest) -> UsageScope:
        """The lines that the request selects. Raises Invalid."""
        if self.organization_id is None and request.principal.is_admin:
            raise Invalid.at("/organization_id", "is required of an administrator")
        chosen = self.chosen()
        resources = chosen.pop(_RESOURCE.name, None)
        return UsageScope(request.principal.tenant, request.tenant | chosen, resources)


def require_dates(calendar: Calendar, start: datetime, end: datetime) -> int:
    """The number of dates that a period touches. Raises Invalid for too many."""
    if start >= end:
        return 0
    last = calendar.date_of(end - timedelta(microseconds=1))
    dates = (last - calendar.date_of(start)).days + 1
    if dates > MAX_DATES:
        raise Invalid.at("/from", f"the range has more than {MAX_DATES} days: narrow it")
    return dates


async def names_of(
    request: reading.ReadRequest,
    organization: str | None,
    ids: Collection[str],
    as_of: AsOf | None = None,
) -> Mapping[str, str]:
    """The names of an organization's workspaces and projects: as of ``as_of``, or now."""
    if not ids:
        return {}
    values = {"organization": organization, "ids": sorted(ids)}
    if as_of is None:
        rows = await request.rows(names_read(frozenset({"organization"})), values)
    else:
        rows = await request.rows(NAMES_THEN, {**values, "end": as_of.position})
    return {row[1]: row[2] for row in rows if row[1] is not None}
