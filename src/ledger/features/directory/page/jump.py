"""The address of an id, redirects to another instant, and the settings of a browser.

The settings are the time zone of instants, the colours (light, dark, or the system's), and the
board's optional columns.
"""

import re
from typing import Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ledger.engine.http.lean import needs
from ledger.engine.http.lists import encode_cursor
from ledger.engine.http.reading import ReadRequest
from ledger.engine.http.replies import PageOf
from ledger.engine.page import showing
from ledger.engine.page.addresses import HOME, own_page, with_parameter
from ledger.engine.page.pages import PageRoute, gathered, go, read_answer
from ledger.engine.values.errors import Invalid
from ledger.engine.values.principal import Principal
from ledger.engine.values.values import (
    ALERT_ID,
    ENDPOINT_ID,
    EVENT_ID,
    KEY_ID,
    LINE_ID,
    RUN_ID,
    STATEMENT_ID,
    WATCH_ID,
    format_id,
    sort_key,
)
from ledger.features.lines.routes import executions
from projections.lines.shown import ShownLine

router = APIRouter(prefix="/ui", include_in_schema=False, route_class=PageRoute)

_YEAR = 365 * 86_400

_PAGES = (
    (LINE_ID, "/ui/lines/"),
    (RUN_ID, "/ui/runs/"),
    (EVENT_ID, "/ui/events/"),
    (ENDPOINT_ID, "/ui/webhooks/"),
    (STATEMENT_ID, "/ui/statements/"),
    (ALERT_ID, "/ui/alerts/"),
    (WATCH_ID, "/ui/watches/"),
)

_ACTOR = "[A-Z]{2,5}-[0-9]{2}-[0-9]+"
_NO_ACTORS = ("LIN-", "RUN-", "EVT-", "WHK-", "AUD-", "ORG-", "STM-", "ALR-", "WCH-")

_FILTERS = (("WS-", "workspace_id"), ("PROJ-", "project_tag"))


class InstantQuery(BaseModel):
    """The instant to show a page as of, as a person typed it, in the page's zone."""

    model_config = ConfigDict(extra="forbid")

    at: str = Field(max_length=40)
    exact: str | None = Field(default=None, max_length=40)
    next: str = Field(max_length=8000)


class ZoneForm(BaseModel):
    """The time zone to show instants in."""

    model_config = ConfigDict(extra="forbid")

    form_key: str
    zone: str = Field(max_length=64)
    next: str = Field(max_length=8000)


class ThemeForm(BaseModel):
    """The colours to show pages in."""

    model_config = ConfigDict(extra="forbid")

    form_key: str
    theme: Literal["system", "light", "dark"]
    next: str = Field(max_length=8000)


class ColumnsForm(BaseModel):
    """The board's columns of choice to show."""

    model_config = ConfigDict(extra="forbid")

    form_key: str
    columns: str = Field(max_length=100)
    next: str = Field(max_length=8000)

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        return gathered(values, "column:", "columns")


async def page_of_id(request: ReadRequest, text: str) -> str | None:
    """The address of the page of an id; None if no page shows it.

    The id of an execution record leads to its line; a workspace or project leads to its board.
    """
    # Project names are case-sensitive; all other ids are in capitals.
    identifier = text if text.startswith("PROJ-") else text.upper()
    if re.fullmatch(KEY_ID, identifier):
        return f"/ui/keys/{identifier}" if request.principal.may("keys:manage") else None
    for prefix, filter_name in _FILTERS:
        if identifier.startswith(prefix):
            return with_parameter(HOME, filter_name, identifier)
    page = next((path for form, path in _PAGES if re.fullmatch(form, identifier)), None)
    if page is None:
        return None
    if page == "/ui/runs/" and (line_id := await _line_of_record(request, identifier)):
        return f"/ui/lines/{line_id}"
    return page + identifier


def writes_of_actor(principal: Principal, text: str) -> str | None:
    """The address of an actor's writes in the audit log; None if the text is no actor's id.

    Also None if the principal may not open the audit log.
    """
    identifier = text.upper()
    is_actor = re.fullmatch(_ACTOR, identifier) and not identifier.startswith(_NO_ACTORS)
    may_open = is_actor and principal.may("audit:read")
    return with_parameter("/ui/audit", "actor_id", identifier) if may_open else None


async def _line_of_record(request: ReadRequest, record_id: str) -> str | None:
    """The line whose execution record has this id; None if the principal sees no such line."""
    if not request.principal.may("read"):
        return None
    number = sort_key(record_id) + 1
    just_above = {"id": format_id("RUN", number // 10**12, number % 10**12)}
    query = executions.LinesQuery(cursor=encode_cursor(just_above, {}), limit=1)
    found = await read_answer(executions.list_executions(request, query), PageOf[ShownLine])
    return next((row.service_line_id for row in found.data if row.id == record_id), None)


@router.get("/as-of", openapi_extra=needs(None))
async def look_back(request: ReadRequest, query: InstantQuery) -> Response:
    """Redirect to the same page as of another instant."""
    instant = showing.zone_of(request.http).meant("at", query.at, query.exact)
    return go(with_parameter(own_page(query.next), "as_of", instant))


@router.post("/zone", openapi_extra=needs(None))
async def choose_zone(form: ZoneForm) -> Response:
    """Show instants in another time zone, in this browser."""
    try:
        name = showing.Zone(form.zone).name
    except ValueError as error:
        raise Invalid.at("/zone", "must be a time zone, such as Europe/Berlin") from error
    response = go(own_page(form.next))
    response.set_cookie(
        showing.ZONE_COOKIE, quote(name), max_age=_YEAR, path="/ui", samesite="strict"
    )
    return response


@router.post("/theme", openapi_extra=needs(None))
async def choose_theme(form: ThemeForm) -> Response:
    """Show pages in these colours, in this browser."""
    response = go(own_page(form.next))
    # Not only below /ui: the front page and the API's page have colours too.
    response.set_cookie(
        showing.THEME_COOKIE, form.theme, max_age=_YEAR, path="/", samesite="strict"
    )
    return response


@router.post("/columns", openapi_extra=needs(None))
async def choose_columns(form: ColumnsForm) -> Response:
    """Show these columns on the board, in this browser."""
    response = go(own_page(form.next))
    chosen = ".".join(name for name in showing.COLUMNS if name in form.columns.split(","))
    response.set_cookie(
        showing.COLUMNS_COOKIE, chosen, max_age=_YEAR, path="/ui", samesite="strict"
    )
    return response
