"""The lines that usage and comparisons are about, and pages of their sums."""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from ledger.engine.http import reading
from ledger.engine.reads.corner import Corner
from ledger.engine.values.calendar import Calendar
from ledger.engine.values.errors import Invalid
from ledger.engine.values.values import EXECUTION_MODELS, PRODUCT_LINES
from ledger.features.usage.reads.usage import UsageScope
from projections.directory.statements import NAMES_THEN, names_read

MAX_DATES = 400

_OF_LINES = ("workspace_id", "service_line_id", "execution_model", "product_line", "project_tag")


class LongPage(BaseModel):
    """The parameters of a page of sums."""

    cursor: Annotated[str | None, Field(description="The `meta.cursor` of the page before.")] = None
    limit: Annotated[
        int,
        Field(ge=1, le=1000, description="The most rows in a page."),
        BeforeValidator(reading.digits),
    ] = 25


class LineFilters(reading.Zoned):
    """The filters of usage and comparisons: of lines as they stood at the answer's instant."""

    organization_id: reading.Identifier = None
    workspace_id: reading.Words = None
    service_line_id: reading.Words = None
    execution_model: Annotated[str | None, reading.some_of(EXECUTION_MODELS)] = None
    product_line: Annotated[str | None, reading.some_of(PRODUCT_LINES)] = None
    project_tag: reading.Words = None
    resource_id: Annotated[
        reading.Words, Field(description=f"Check-ins of these resources count alone. {reading.OR}")
    ] = None

    @property
    def bound_to(self) -> Mapping[str, Any]:
        """The parameters that a cursor is bound to; the words of a filter have no order."""
        sent = self.model_dump(exclude={"cursor", "limit"})
        return sent | {
            name: reading.split_words(sent[name]) for name in (*_OF_LINES, "resource_id")
        }

    def scope(self, asking: reading.Asking) -> UsageScope:
        """The lines that are asked about. Raises Invalid."""
        filters: dict[str, Any] = asking.tenant
        if self.organization_id is not None:
            filters["organization_id"] = self.organization_id
        elif asking.principal.is_admin:
            raise Invalid.at("/organization_id", "is required of an administrator")
        for name in _OF_LINES:
            if (words := reading.split_words(getattr(self, name))) is not None:
                filters[name] = words
        return UsageScope(asking.principal.tenant, filters, reading.split_words(self.resource_id))


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
    asking: reading.Asking,
    organization: str | None,
    ids: Collection[str],
    corner: Corner | None = None,
) -> Mapping[str, str]:
    """The names of workspaces and projects of an organization: as known at a corner, or now."""
    if not ids:
        return {}
    values = {"organization": organization, "ids": sorted(ids)}
    if corner is None:
        rows = await asking.rows(names_read(frozenset({"organization"})), values)
    else:
        rows = await asking.rows(NAMES_THEN, {**values, "end": corner.position})
    return {row[1]: row[2] for row in rows if row[1] is not None}
