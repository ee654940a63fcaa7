"""The forms that pause and resume many lines of the board: a dry run first, then the outcomes."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import Field

from ledger.engine.http.lean import command_route, needs
from ledger.engine.http.problems import status_of
from ledger.engine.http.reading import OR, ReadRequest
from ledger.engine.http.writing import Sent, checked
from ledger.engine.page import pages
from ledger.engine.page.addresses import HOME, own_page
from ledger.engine.page.showing import zone_of
from ledger.engine.values.errors import Invalid, LedgerError, Refused, Unavailable
from ledger.engine.values.values import STATES
from ledger.features.lines.commands.holds import PauseMany, ResumeMany
from ledger.features.lines.page.board import BoardQuery, query_of
from ledger.features.lines.routes import holds
from ledger.features.lines.routes.executions import Filters
from ledger.features.lines.routes.holds import LineOutcomes, LinesToPause, LinesToResume

router = APIRouter(prefix="/ui/many", include_in_schema=False, route_class=pages.PageRoute)

_PERMISSION = "service_lines:manage"
_MOST_CHARACTERS = 64 * 1024

Verb = Literal["pause", "resume"]
_Command = Callable[[ReadRequest, Sent[Any]], Awaitable[Response]]

_COMMANDS: Mapping[Verb, tuple[type[Any], _Command]] = {
    "pause": (LinesToPause, holds.pause_executions),
    "resume": (LinesToResume, holds.resume_executions),
}


class ManyForm(pages.Form):
    """The chosen lines, and what to do with them."""

    line: Annotated[str, Field(max_length=_MOST_CHARACTERS, description=f"Ids. {OR}")] = ""
    matching: Literal["all"] | None = None
    """``all``: every line of the board, not only the chosen ones."""
    board: str = Field(default=HOME, max_length=8000)
    reason: str | None = None
    until: str | None = Field(default=None, max_length=40)
    expect: int | None = None
    """The number of lines that the dry run matched; None requests a dry run."""


@command_route(router, "/pause", PauseMany, _PERMISSION)
async def pause_lines(request: ReadRequest, form: ManyForm) -> Response:
    """Show what a pause of the lines would do, or pause them."""
    return await _page(request, form, "pause")


@command_route(router, "/resume", ResumeMany, _PERMISSION)
async def resume_lines(request: ReadRequest, form: ManyForm) -> Response:
    """Show what resuming the lines would do, or resume them."""
    return await _page(request, form, "resume")


@router.get("/pause", openapi_extra=needs("read"))
@router.get("/resume", openapi_extra=needs("read"))
async def leave_form(request: ReadRequest) -> Response:
    """Redirect the address of a form, opened as a page, to the board."""
    return pages.go(HOME)


async def _page(request: ReadRequest, form: ManyForm, verb: Verb) -> Response:
    outcomes: LineOutcomes | None = None
    error: LedgerError | None = None
    is_done = False
    try:
        if form.expect is not None:
            try:
                outcomes = await _outcomes(request, form, verb, is_dry=False)
                is_done = True
            except (Refused, Unavailable) as refusal:
                error = refusal
        if outcomes is None and not isinstance(error, Unavailable):
            outcomes = await _outcomes(request, form, verb, is_dry=True)
    except Invalid as refusal:  # too many lines, or no valid filter
        error = error or refusal
    return pages.show(
        request.http,
        "many.html",
        200 if error is None else status_of(error),
        verb=verb,
        form=form,
        board=own_page(form.board),
        outcomes=outcomes,
        is_done=is_done,
        error=error,
        is_broken_off=isinstance(error, Unavailable),
    )


async def _outcomes(
    request: ReadRequest, form: ManyForm, verb: Verb, *, is_dry: bool
) -> LineOutcomes:
    """Raises the refusal of the request as a whole."""
    model, command = _COMMANDS[verb]
    board = query_of(own_page(form.board))
    values: dict[str, Any] = {"filter": _filter(form, board), "dry_run": is_dry}
    if board.organization_id is not None:
        values["organization_id"] = board.organization_id
    reason = "dry run" if is_dry and verb == "pause" else pages.reason_of(form.reason)
    if reason is not None:
        values["reason"] = reason
    if not is_dry:
        values["expect"] = form.expect
        if verb == "pause" and form.until is not None:
            values["until"] = zone_of(request.http).meant("until", form.until)
    sent = checked(values, model, None if is_dry else pages.idempotency_of(request, form))
    return await pages.read_answer(command(request, sent), LineOutcomes)


def _filter(form: ManyForm, board: BoardQuery) -> Mapping[str, Any]:
    """The filters of the API's body; without any, all lines that are not closed."""
    if form.matching is None:
        return {"service_line_id": [line for line in form.line.split(",") if line]}
    chosen = Filters.model_construct(**board.values()).chosen()
    flags = {each.name for each in Filters.filters if each.takes == "flag"}
    found = {
        name: name in flags or words for name, words in chosen.items() if name != "organization_id"
    }
    return found or {"state": [state for state in STATES if state != "closed"]}
