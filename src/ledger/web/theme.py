"""The switch of the pages' colours: light, dark, or as the system does."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from ledger.api.access.authentication import Authenticated
from ledger.api.lean import NoParameters, needs
from ledger.web.pages import PageRoute, go, own_page, read_form
from ledger.web.showing import THEME_COOKIE

router = APIRouter(prefix="/ui", include_in_schema=False, route_class=PageRoute)

_YEAR = 365 * 86_400


class ThemeForm(BaseModel):
    """The colours to show pages in."""

    model_config = ConfigDict(extra="forbid")

    form_key: str
    theme: Literal["system", "light", "dark"]
    next: str = Field(max_length=8000)


@router.post("/theme", openapi_extra=needs(None))
async def choose_theme(
    request: Request,
    principal: Authenticated,
    _: NoParameters,
) -> Response:
    """Show pages in these colours, in this browser."""
    form = await read_form(request, ThemeForm)
    response = go(own_page(form.next))
    # Not below /ui alone: the front page and the API's page have colours too.
    response.set_cookie(THEME_COOKIE, form.theme, max_age=_YEAR, path="/", samesite="strict")
    return response
