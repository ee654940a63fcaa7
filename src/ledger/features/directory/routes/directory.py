"""The directory: workspaces, projects and resources by name; organizations (contract, Reading)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Response
from pydantic import Field

from ledger.engine.http.lean import Router, read_route
from ledger.engine.http.problems import InvalidCursor
from ledger.engine.http.reading import Asking, Page, Present, decode_cursor, encode_cursor, paged
from ledger.engine.http.replies import PageOf, Reply
from ledger.engine.reads.question import Answer
from ledger.engine.values.rendering import ShownInstant, doc, json_text, time_text
from projections.directory.statements import page_read
from projections.lines.statements import organizations_read

router = Router("/v1", "directory", words={"DirectoryType": ("workspace", "project", "resource")})


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
async def list_directory(asking: Asking, query: DirectoryQuery) -> Response:
    """List what the lines of the credential's tenant bear now, closed lines too, by id."""
    chosen, filters = {"type": query.type}, asking.tenant
    if query.cursor is not None:
        filters |= _after(decode_cursor(query.cursor, chosen))
    read = page_read(frozenset(filters) - {"after_organization"})
    parameters = {**filters, **chosen, "limit": query.limit + 1}
    rows = await asking.rows(read, parameters)
    return rows.once(_reply, query.limit, chosen)


def _reply(rows: Answer, limit: int, chosen: Mapping[str, Any]) -> Reply:
    def cursor_after(row: Any) -> str:
        return encode_cursor({"id": row[1], "organization": row[2]}, chosen)

    def item(row: Any) -> str:
        return json_text(ShownName(row[1], row[3], row[4]))

    return paged(rows, limit, 1, cursor_after, item)


def _after(key: Mapping[str, Any]) -> dict[str, str]:
    after = {"after": key.get("id"), "after_organization": key.get("organization")}
    if not all(isinstance(part, str) and "\0" not in part for part in after.values()):
        raise InvalidCursor
    return {name: str(part) for name, part in after.items()}


class OrganizationsQuery(Present, Page):
    """The list's parameters."""


class ShownOrganization(msgspec.Struct):
    """An organization that has lines or API keys."""

    organization_id: str
    lines: Annotated[int, msgspec.Meta(ge=0, description="The number of its lines, closed too.")]
    keys: Annotated[int, msgspec.Meta(ge=0, description="The number of its keys that work now.")]
    last_activity_at: Annotated[ShownInstant | None, doc("The newest of its lines'.")]


@read_route(
    router,
    "/organizations",
    PageOf[ShownOrganization],
    summary="List organizations",
    permission="admin",
)
async def list_organizations(asking: Asking, query: OrganizationsQuery) -> Response:
    """List the organizations that have lines or API keys, by id. Only administrators may."""
    after = "" if query.cursor is None else _after(decode_cursor(query.cursor, {}))["after"]
    parameters = {"after": after, "now": asking.instant(query), "limit": query.limit + 1}
    rows = await asking.rows(organizations_read(), parameters)
    return paged(
        rows,
        query.limit,
        1,
        lambda row: encode_cursor({"id": row[1], "organization": ""}, {}),
        lambda row: json_text(ShownOrganization(row[1], row[2], row[3], time_text(row[4]))),
    )
