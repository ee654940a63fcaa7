"""The page of a credential that may open no other one."""

from fastapi import APIRouter, Response

from ledger.engine.http.lean import needs
from ledger.engine.http.reading import Present, ReadRequest
from ledger.engine.page.addresses import START
from ledger.engine.page.pages import PageRoute, show
from ledger.engine.page.permissions import PERMISSIONS

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get(START, openapi_extra=needs(None))
async def show_start(request: ReadRequest, query: Present) -> Response:
    """The permissions of a credential that may open no other page, and its first fact."""
    may = request.principal.permissions
    return show(
        request.http,
        "start.html",
        may=[text for permission, text in PERMISSIONS.items() if permission in may],
        may_report=not may.isdisjoint({"write", "admin"}),
    )
