"""Lines: list, counts, detail, pause and resume (contract, Reading)."""

from array import array
from collections.abc import Awaitable, Mapping
from itertools import count
from typing import Annotated, Any, get_args

import msgspec
from fastapi import Response
from pydantic import Field

from ledger.engine.http import exports, reading
from ledger.engine.http.lean import Router, command_route, needs, read_route
from ledger.engine.http.lists import Order, SortColumn, identifier, instant, number
from ledger.engine.http.models import OptionalReason, Pausing
from ledger.engine.http.problems import LINE_ERRORS
from ledger.engine.http.replies import AnswerOf, PageOf, Reply, answer, keyed, or_not_modified
from ledger.engine.http.writing import Sent, as_left, execute_on
from ledger.engine.reads.question import Answer, Question
from ledger.engine.values.errors import Behind, Invalid
from ledger.engine.values.rendering import doc, json_text
from ledger.engine.values.values import (
    CAUSES,
    EXECUTION_MODELS,
    LINE_ID,
    PRODUCT_LINES,
    RUN_ID,
    STATES,
    Cause,
    ExecutionModel,
    ProductLine,
    State,
    format_instant,
    parse_instant,
    sort_key,
)
from ledger.features.lines.commands.lines import Pause, Resume
from ledger.features.lines.model.health import SignalName, SignalStatus
from projections.lines import lists, statements
from projections.lines.filters import BY_CLOCK, LINES
from projections.lines.orders import Sort
from projections.lines.rank import NEVER_DUE, NO_SCORE
from projections.lines.shown import LineDetail, ShownLine, item_of_past

router = Router(
    "/v1/execution",
    "execution",
    words={
        "SignalName": get_args(SignalName),
        "SignalStatus": get_args(SignalStatus),
        "HealthOrNone": (*get_args(SignalStatus), "none"),
        "LineSort": ("state_since", "health_score", "due_at"),
    },
)


@reading.filtered_by(*LINES)
class Filters(reading.Filtered, reading.Query):
    """The filters of lines; a comma means or."""

    def chosen(self) -> dict[str, Any]:
        """The requested filters with their values. Raises Invalid for those of the present only."""
        chosen = super().chosen()
        if self.organization_id is not None:  # a single id, whatever characters it has
            chosen["organization_id"] = [self.organization_id]
        return chosen

    def values(self) -> dict[str, Any]:
        """The filters and the instant, without the other parameters of a larger query."""
        return {name: getattr(self, name) for name in Filters.model_fields}


class _Ordered(Filters):
    sort: Annotated[
        Sort | None,
        Field(
            description="`state_since`: the longest in its state first; `health_score`: the worst"
            " first, lines without signals last; `due_at`: the earliest of the open blockers first,"
            " lines without one last, not with `as_of`; then the newest record id first."
        ),
    ] = None

    def chosen(self) -> dict[str, Any]:
        """The filters, as in ``Filters``. Raises Invalid for an order of the present only, too."""
        if self.is_past and self.sort == "due_at":
            raise Invalid.at("/sort", reading.OF_NOW)
        return super().chosen()


class LinesQuery(_Ordered, reading.PageQuery):
    """The list's parameters."""


class LongLinesQuery(LinesQuery):
    """The list's parameters, without its limit of a page."""

    limit: int


class LinesExportQuery(reading.Zoned, _Ordered):
    """The parameters of an export of lines."""

    format: exports.Format = "jsonl"


class LineCounts(msgspec.Struct):
    """Counts of lines, zero-filled."""

    total: int
    by_state: Annotated[dict[State, int], keyed(State)]
    by_execution_model: Annotated[dict[ExecutionModel, int], keyed(ExecutionModel)]
    by_product_line: Annotated[dict[ProductLine, int], keyed(ProductLine)]
    by_blocked_cause: Annotated[dict[Cause, int], keyed(Cause)]
    open_alerts: Annotated[int, doc("Alerts of these lines that are not resolved.")]


# The route matches any text: a malformed id is 404, like a LIN id without a line.
AnyLineId = Annotated[str, reading.path_id("A LIN id.", "LIN-26-084729", LINE_ID)]


_RECORD = identifier("RUN", RUN_ID)
_ORDERS: Mapping[Sort | None, Order] = {
    None: Order(_RECORD),
    "state_since": Order(_RECORD, instant("key", -1, "after_key")),
    "health_score": Order(_RECORD, number("key", -1, "after_key", NO_SCORE)),
    "due_at": Order(
        _RECORD,
        SortColumn(
            "key",
            -1,
            "after_key",
            lambda due: None if due == NEVER_DUE else format_instant(due),
            lambda text: NEVER_DUE if text is None else parse_instant(str(text)),
        ),
    ),
}


@read_route(router, "", PageOf[ShownLine], summary="List lines")
async def list_executions(request: reading.ReadRequest, query: LinesQuery) -> Response:
    """List the lines of the credential's tenant, closed lines too.

    The newest record id comes first, unless the request names another order.
    """
    return await lines_page(request, query)


async def lines_page(
    request: reading.ReadRequest, query: LinesQuery, *, whole: bool = False, back: bool = False
) -> Reply:
    """A page of lines; with the keys of the detail if ``whole``, for web pages.

    ``back`` gives the rows before the cursor, or the list's last rows, in the opposite order.
    """
    chosen = query.chosen()
    filters = filters_of(request, query, chosen)
    filters |= _ORDERS[query.sort].after(query.cursor, _bound_to(query, chosen))
    read = lists.list_read(filters, query.is_past, whole, query.sort, back)
    # Cursors depend on the chosen values: no other choice may have this question's answer.
    parameters = {
        **chosen,
        **filters,
        **reading.periods(request.instant(query)),
        "limit": query.limit + 1,
    }
    rows = await request.rows(read, parameters, query)
    return rows.once(_lines_reply, query, chosen)


def filters_of(
    request: reading.ReadRequest, query: Filters, chosen: Mapping[str, Any]
) -> dict[str, Any]:
    filters: dict[str, Any] = {**request.tenant, **chosen}
    if named := filters.pop("organization_id", None):
        is_own = request.tenant.get("organization", named[0]) == named[0]
        filters["organization"] = named[0] if is_own else ""  # none
    for name in BY_CLOCK & filters.keys():
        filters[name] = request.instant(query)
    return filters


def _lines_reply(rows: Answer, query: LinesQuery, chosen: Mapping[str, Any]) -> Reply:
    end = None if query.sort is None else -1
    item = (lambda row: item_of_past(row[2:end])) if query.is_past else None
    return _ORDERS[query.sort].page(rows, query.limit, _bound_to(query, chosen), item)


def cursor_at(query: LinesQuery, line: LineDetail) -> str:
    """The cursor of a line in a list. Only the web pages use this."""
    due = (blocker.due_at for blocker in line.blockers if blocker.due_at is not None)
    keys = {
        "state_since": line.state_since,
        "health_score": NO_SCORE if line.health_score is None else line.health_score,
        "due_at": min(due, default=NEVER_DUE),
    }
    row = (None, sort_key(line.id), query.sort and keys[query.sort])
    return _ORDERS[query.sort].cursor(row, _bound_to(query, query.chosen()))


def _bound_to(query: LinesQuery, chosen: Mapping[str, Any]) -> Mapping[str, Any]:
    return chosen if query.sort is None else {**chosen, "sort": query.sort}


@read_route(router, "/summary", AnswerOf[LineCounts], summary="Count lines")
async def summarize_executions(request: reading.ReadRequest, query: Filters) -> Response:
    """Count lines by state, model, product line and open cause, zero-filled.

    The filters are those of the list.
    """
    filters = filters_of(request, query, query.chosen())
    read = statements.summary_read(frozenset(filters), query.is_past)
    return (await request.rows(read, filters, query)).once(_summary_reply)


def _summary_reply(rows: Answer) -> Reply:
    """Add up the rows, which may count lines with the same properties, to the summary."""
    by_state, by_model = dict.fromkeys(STATES, 0), dict.fromkeys(EXECUTION_MODELS, 0)
    by_product, by_cause = dict.fromkeys(PRODUCT_LINES, 0), dict.fromkeys(CAUSES, 0)
    for _, _, state, model, product, causes, lines in rows:
        if state is None:
            continue
        by_state[state] += lines
        by_model[model] += lines
        by_product[product] += lines
        for cause in causes:
            by_cause[cause] += lines
    total, (_, alerts, *_) = sum(by_state.values()), rows[0]
    counts = LineCounts(total, by_state, by_model, by_product, by_cause, alerts)
    return answer(json_text(AnswerOf(counts)), rows.position)


def _entry(row: exports.Row) -> msgspec.Raw:
    return msgspec.Raw(item_of_past(row[1:]).encode())


_CUT, _decode = exports.cut_of(ShownLine), msgspec.json.Decoder(ShownLine).decode

_LINES = exports.Exported(
    "lines", _entry, exports.Cut(_CUT.columns, lambda entry: _CUT.cells(_decode(entry)))
)


@router.get(
    "/export",
    summary="Export lines",
    openapi_extra=needs("read"),
    response_class=Response,
    responses=exports.answers("The lines of the list, one on each line."),
)
async def export_executions(request: reading.ReadRequest, query: LinesExportQuery) -> Response:
    """Export the list as one file, as it was at `Ledger-Position`, in the order of that moment."""
    slot, tenant, chosen = exports.begin_export(request), request.tenant, query.chosen()
    filters, instant = filters_of(request, query, chosen), reading.periods(request.instant(query))
    read = lists.ids_read(filters, query.is_past, query.sort)
    listed = await request.rows(read, {**filters, **instant, "limit": None}, query)
    # Lines move within their order during an export, so all ids are read at the start.
    ids, begins = array("q", listed[0][1] or ()), count(0, exports.PAGE)
    exported, end = lists.exported_read(frozenset(tenant)), listed.position

    def following(_: exports.Row) -> Question:
        portion = ids[(begin := next(begins)) : begin + exports.PAGE].tolist()
        return request.question(exported, {**tenant, **instant, "ids": portion, "end": end})

    # An instant's position may be before the one that the request names.
    first = Answer(await request.services.pool.fetch(*following(()).arguments))
    if first.position < end:
        raise Behind("The view has fallen behind the end of the export.")
    found = exports.pages(request, first, following, is_log=False)
    return _LINES.file(slot, query.format, found, end, goes_on=False)


@read_route(router, "/{line_id}", AnswerOf[LineDetail], LINE_ERRORS, summary="Show a line")
async def show_execution(
    request: reading.ReadRequest, line_id: AnyLineId, query: reading.Query
) -> Response:
    """Show a line with its resources, health, blockers and holds."""
    reading.require_id("service_line", line_id)
    rows = await line_rows(request, line_id, query)
    return or_not_modified(request.http, rows.once(line_reply, query.is_past))


def line_rows(
    request: reading.ReadRequest, line_id: str, query: reading.Query
) -> Awaitable[Answer]:
    filters = request.tenant
    read = statements.detail_read(frozenset(filters), query.is_past)
    parameters = {**filters, **reading.periods(request.instant(query)), "line_id": line_id}
    return request.rows(read, parameters, query)


def line_reply(rows: Answer, is_past: bool) -> Reply:
    """Raises NotFound."""
    _, *columns = rows[0]
    if columns[0] is None:
        raise reading.unknown("service_line", rows)
    item = item_of_past(columns) if is_past else columns[0]
    return answer('{"data":' + item + "}", rows.position, tagged=True)


@command_route(
    router,
    "/{line_id}/pause",
    Pause,
    "service_lines:manage",
    summary="Pause a line",
    answer=AnswerOf[LineDetail],
)
async def pause_execution(
    request: reading.ReadRequest, line_id: AnyLineId, sent: Sent[Pausing]
) -> Response:
    """Put the operator's hold on a line: the line stays active, but work stops.

    With `until` the ledger lifts the hold then. With `replace` a hold that is on is changed.
    """
    return await _manage(request, line_id, Pause, sent)


@command_route(
    router,
    "/{line_id}/resume",
    Resume,
    "service_lines:manage",
    summary="Resume a line",
    answer=AnswerOf[LineDetail],
)
async def resume_execution(
    request: reading.ReadRequest, line_id: AnyLineId, sent: Sent[OptionalReason]
) -> Response:
    """Lift the operator's hold. A hold by the service line stays."""
    return await _manage(request, line_id, Resume, sent)


async def _manage(
    request: reading.ReadRequest, line_id: str, command: type[Pause], sent: Sent[Any]
) -> Response:
    """Execute the command; answer with the new detail, at the command's own position."""
    fields = {"reason": None} if sent.body is None else sent.body.model_dump()
    receipt = await execute_on(request, command, line_id, sent, **fields)

    async def show(query: reading.Query) -> Reply:
        rows = await line_rows(request, line_id, query)
        return rows.once(line_reply, query.is_past)

    return await as_left(request.http, receipt, show)
