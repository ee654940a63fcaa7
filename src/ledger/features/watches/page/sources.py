"""Sources: who reports, and the latest report of each (``/ui/sources``)."""

from fastapi import APIRouter, Response

from ledger.engine.http.lean import needs
from ledger.engine.http.reading import Query, ReadRequest
from ledger.engine.http.replies import PageOf
from ledger.engine.page.addresses import with_parameter
from ledger.engine.page.log import PAGE_ROWS, listed
from ledger.engine.page.pages import PageRoute, read_answer, show
from ledger.features.lines.names import names_of_lines
from ledger.features.sign_in.persons import persons_of
from ledger.features.watches.page.watch_forms import filled_in
from ledger.features.watches.routes import sources as api

router = APIRouter(prefix="/ui/sources", include_in_schema=False, route_class=PageRoute)


class SourcesPageQuery(api.SourcesQuery):
    """The parameters of the list."""

    limit: int = PAGE_ROWS


@router.get("", openapi_extra=needs("read"))
async def show_sources(request: ReadRequest, query: SourcesPageQuery) -> Response:
    """Show the sources that the reader may see, those with the latest reports first."""
    found = await read_answer(api.list_sources(request, query), PageOf[api.ShownSource])
    persons_of(request.http).note((), (each.reported_by for each in found.data))
    lines = {each.last_fact.subject for each in found.data}
    chosen = {"organization_id": query.organization_id} if query.organization_id else {}
    return show(
        request.http,
        "sources.html",
        query=query,
        sources=found.data,
        **listed(request.http, found, chosen),
        line_names=await names_of_lines(request, lines, Query()),
        key_names={
            each.reported_by: each.reported_by_name for each in found.data if each.reported_by_name
        },
        watch_address=_watch_address if request.principal.may("watches:manage") else None,
    )


def _watch_address(source: str, organization_id: str | None) -> str:
    return with_parameter(filled_in("source", source), "organization_id", organization_id)
