"""Commands about lines: pause and resume (contract, Reading)."""

from fastapi import APIRouter, Request, Response

from ledger.api.lean import LeanRoute, NoParameters, command_route
from ledger.api.models import OptionalReason, Reason
from ledger.api.reading import Asking, Query
from ledger.api.replies import AnswerOf, Reply
from ledger.api.routes.executions import AnyLineId, line_reply, line_rows
from ledger.api.writing import as_left, execute_on, read_command
from ledger.application.commands.lines import Pause, Resume
from ledger.intake.principal import Principal
from projections.execution.shown import LineDetail

router = APIRouter(prefix="/v1/execution", tags=["execution"], route_class=LeanRoute)


@command_route(
    router,
    "/{line_id}/pause",
    Pause,
    "service_lines:manage",
    summary="Pause a line",
    body=Reason,
    answer=AnswerOf[LineDetail],
)
async def pause_execution(
    request: Request, principal: Principal, line_id: AnyLineId, _: NoParameters
) -> Response:
    """Put the operator's hold on a line: the line stays active, but work stops."""
    return await _manage(request, principal, line_id, Pause, Reason)


@command_route(
    router,
    "/{line_id}/resume",
    Resume,
    "service_lines:manage",
    summary="Resume a line",
    body=OptionalReason,
    answer=AnswerOf[LineDetail],
)
async def resume_execution(
    request: Request, principal: Principal, line_id: AnyLineId, _: NoParameters
) -> Response:
    """Lift the operator's hold. A hold by the service line stays."""
    return await _manage(request, principal, line_id, Resume, OptionalReason)


async def _manage(
    request: Request,
    principal: Principal,
    line_id: str,
    command: type[Pause],
    model: type[Reason] | type[OptionalReason],
) -> Response:
    """Carry out the command; answer with the new detail, at the command's own position."""
    sent = await read_command(request, principal, model)
    reason = sent.body.reason if sent.body is not None else None
    receipt = await execute_on(request, principal, command, line_id, sent, reason=reason)

    async def show(query: Query) -> Reply:
        rows = await line_rows(Asking(request, principal), line_id, query)
        return rows.once(line_reply, query.is_past)

    return await as_left(request, receipt, show)
