"""The directory: workspaces, projects and resources by name; organizations (contract, Reading)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Response
from pydantic import Field

from ledger.engine.http.lean import Router, read_route
from ledger.engine.http.lists import Order, text
from ledger.engine.http.reading import Page, Present, ReadRequest
from ledger.engine.http.replies import PageOf, Reply
from ledger.engine.reads.question import Answer
from ledger.engine.values.rendering import ViewInstant, doc, json_text, time_text
from projections.directory.statements import page_read
from projections.lines.statements import organizations_read

router = Router("/v1", "directory", words={"DirectoryType": ("workspace", "project", "resource")})


_BY_ID = text("id", 1, "after")
_ORDER = Order(_BY_ID, text("organization", 2, "after_organization"))
_OF_ORGANIZATIONS = Order(_BY_ID, text("organization", 1, "")._replace(encode=lambda _: ""))


class DirectoryQuery(Present, Page):
    """The list's parameters."""

    type: Annotated[
        Literal["workspace", "project", "resource"], Field(description="The type of the entries.")
    ]


class ShownName(msgspec.Struct):
    """A workspace, project or resource that lines bear now."""

    id: str
    name: str | None
    lines: Annotated[int, msgspec.Meta(ge=1, description="The number of lines that bear it now.")]


@read_route(
    router, "/directory", PageOf[ShownName], summary="List workspaces, projects or resources"
)
async def list_directory(request: ReadRequest, query: DirectoryQuery) -> Response:
    """List what the lines of the credential's tenant bear now, closed lines too, by id."""
    chosen = {"type": query.type}
    filters = request.tenant | _ORDER.after(query.cursor, chosen)
    read = page_read(frozenset(filters) - {"after_organization"})
    parameters = {**filters, **chosen, "limit": query.limit + 1}
    rows = await request.rows(read, parameters)
    return rows.once(_reply, query.limit, chosen)


def _reply(rows: Answer, limit: int, chosen: Mapping[str, Any]) -> Reply:
    return _ORDER.page(
        rows, limit, chosen, lambda row: json_text(ShownName(row[1], row[3], row[4]))
    )


class OrganizationsQuery(Present, Page):
    """The list's parameters."""


class ShownOrganization(msgspec.Struct):
    """An organization that has lines or API keys."""

    organization_id: str
    lines: Annotated[int, msgspec.Meta(ge=0, description="The number of its lines, closed too.")]
    keys: Annotated[int, msgspec.Meta(ge=0, description="The number of its keys that work now.")]
    last_activity_at: Annotated[ViewInstant | None, doc("The newest of its lines'.")]


@read_route(
    router,
    "/organizations",
    PageOf[ShownOrganization],
    summary="List organizations",
    permission="admin",
)
async def list_organizations(request: ReadRequest, query: OrganizationsQuery) -> Response:
    """List the organizations that have lines or API keys, by id. Only administrators may."""
    after = {"after": ""} | _OF_ORGANIZATIONS.after(query.cursor, {})
    parameters = {**after, "now": request.instant(query), "limit": query.limit + 1}
    rows = await request.rows(organizations_read(), parameters)
    return _OF_ORGANIZATIONS.page(
        rows,
        query.limit,
        {},
        lambda row: json_text(ShownOrganization(row[1], row[2], row[3], time_text(row[4]))),
    )
