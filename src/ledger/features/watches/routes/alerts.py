"""Alerts: the list, its export, one alert, and acknowledgements (contract, Watches)."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, get_args

import msgspec
from fastapi import Response
from pydantic import Field

from ledger.engine.http import exports, reading
from ledger.engine.http.lean import ManagedRouter, command_route, needs
from ledger.engine.http.lists import Order, identifier, instant, number
from ledger.engine.http.models import Characters, CommandBody, Instant, Label
from ledger.engine.http.replies import AnswerOf, Reply
from ledger.engine.http.services import last_position
from ledger.engine.http.writing import Sent, as_left, carry_out, execute, execute_on, own_key
from ledger.engine.postgres.timing import ANSWER_SECONDS
from ledger.engine.reads.question import Question
from ledger.engine.values.errors import Refused, Unavailable
from ledger.engine.values.rendering import json_text
from ledger.engine.values.values import ALERT_ID, TEXT
from ledger.engine.writer.request import Receipt
from ledger.features.watches.commands.alerts import Acknowledge, AcknowledgeMany
from projections.watches.shown import AlertColumns, AlertStatus, ShownAlert, alert_view
from projections.watches.statements import ALERTS, AlertSort, alerts_read
from projections.watches.view import RANKS

_MANAGES = "service_lines:manage"

router = ManagedRouter(
    "/v1/alerts",
    "watches",
    "alert_id",
    _MANAGES,
    "read",
    words={"AlertStatus": get_args(AlertStatus)},
)

_ORDER = Order(
    identifier("ALR", ALERT_ID),
    instant("due", 2, "after_due"),
    number("rank", 3, "after_rank", max(RANKS.values())),
)

_MOST = 1000
"""The most alerts of a request."""

_encode = msgspec.json.Encoder().encode

AnyAlertId = Annotated[str, reading.path_id("An ALR id.", "ALR-26-000117", ALERT_ID)]


@reading.filtered_by(*ALERTS)
class AlertFilters(reading.FilteredRange):
    """The filters of alerts; ``from`` and ``to`` filter by ``due``."""


class _Ordered(AlertFilters):
    sort: Annotated[
        AlertSort | None,
        Field(description="`severity`: the worst first, then by `due` as without it."),
    ] = None


class AlertsQuery(reading.PageQuery, _Ordered):
    """The parameters of the list."""


class AlertsExportQuery(reading.Zoned, reading.Query, _Ordered):
    """The parameters of an export of alerts."""

    format: exports.Format = "jsonl"


class Acknowledging(CommandBody):
    """The person who takes care of an alert, and until when."""

    note: Annotated[str, Field(max_length=500), Characters(TEXT)] | None = None
    assignee: Label | None = None
    until: Annotated[
        Instant | None,
        Field(
            description="In the future; from then on the alert is open again. Null: it stays"
            " acknowledged."
        ),
    ] = None


class AlertsToAcknowledge(Acknowledging):
    """The alerts that somebody takes care of."""

    ids: Annotated[
        list[Annotated[str, Field(pattern=ALERT_ID)]],
        Field(
            min_length=1,
            max_length=_MOST,
            description="An id that is there twice counts once.",
            examples=[["ALR-26-000117", "ALR-26-000121"]],
        ),
    ]


class AlertOutcome(msgspec.Struct):
    """The outcome of one alert."""

    id: str
    outcome: Literal["acknowledged", "refused"]
    code: str | None


# Reading.


class _List(NamedTuple):
    """A requested list of alerts, at the clock of the answer."""

    request: reading.ReadRequest
    query: AlertsQuery | AlertsExportQuery
    chosen: Mapping[str, Any]
    clock: datetime

    @classmethod
    def of(cls, request: reading.ReadRequest, query: AlertsQuery | AlertsExportQuery) -> "_List":
        return cls(request, query, query.chosen(), request.instant(query))

    @property
    def bound_to(self) -> Mapping[str, Any]:
        """Everything that a cursor of the list belongs to."""
        return {**self.chosen, "sort": self.query.sort}

    def first(self, limit: int, after: Mapping[str, Any]) -> Question:
        """The question for the alerts after a cursor."""
        return self._question(limit, after, self.query)

    def following(self, after: Mapping[str, Any], end: int) -> Question:
        """The question for the next page of an export, as of its first page's position."""
        return self._question(exports.PAGE, {**after, "end": end}, reading.Present(), goes_on=True)

    def _question(
        self, limit: int, more: Mapping[str, Any], query: reading.Present, *, goes_on: bool = False
    ) -> Question:
        filters = {**self.request.tenant, **self.chosen, **more}
        statuses = frozenset(filters.pop("status", ()))
        names = frozenset(filters) - {"end"}
        read = alerts_read(names, statuses, self.query.sort, query.is_past, goes_on=goes_on)
        values = {**filters, "clock": self.clock, "limit": limit}
        return self.request.question(read, values, query)


@router.lists(ShownAlert, "List alerts")
async def list_alerts(request: reading.ReadRequest, query: AlertsQuery) -> Response:
    """List the alerts of the credential's tenant: the latest `due` first, then by id."""
    wanted = _List.of(request, query)
    after = _ORDER.after(query.cursor, wanted.bound_to)
    rows = await request.ask(wanted.first(query.limit + 1, after))
    return _ORDER.page(rows, query.limit, wanted.bound_to, lambda row: json_text(_entry(row[1:])))


async def alerts_counted(request: reading.ReadRequest, query: AlertsQuery, most: int) -> int:
    """The number of alerts of all pages, up to ``most``. Only the web pages use this."""
    ((_, count),) = await request.ask(_List.of(request, query).first(most, {}).counted())
    return int(count)


def _entry(row: exports.Row) -> ShownAlert:
    return alert_view(AlertColumns(*row[3:]))


_ALERTS = exports.Exported("alerts", _entry, exports.cut_of(ShownAlert))


@router.get(
    "/export",
    summary="Export alerts",
    openapi_extra=needs("read"),
    response_class=Response,
    responses=exports.answers("The alerts of the list, one on each line."),
)
async def export_alerts(request: reading.ReadRequest, query: AlertsExportQuery) -> Response:
    """Export the list as one file, as it was at `Ledger-Position`."""
    next_slice, wanted = exports.begin_export(request), _List.of(request, query)
    first = await request.ask(wanted.first(exports.PAGE, {}).walked())

    def following(row: exports.Row) -> Question:
        # Alerts change while an export goes on: all of them are shown as of the first page.
        after = _ORDER.after(_ORDER.cursor(row, {}), {})
        return wanted.following(after, first.position).walked()

    found = exports.pages(request, first, following, is_log=False)
    return _ALERTS.file(next_slice, query.format, found, first.position, goes_on=False)


@router.shows(ShownAlert, "Show an alert")
async def show_alert(
    request: reading.ReadRequest, alert_id: AnyAlertId, query: reading.Query
) -> Response:
    """Show an alert with its latest acknowledgement and its end."""
    reading.require_id("alert", alert_id)
    return await _alert_reply(request, alert_id, query)


async def _alert_reply(request: reading.ReadRequest, alert_id: str, query: reading.Query) -> Reply:
    filters = {**request.tenant, "alert_id": alert_id}
    read = alerts_read(frozenset(filters), past=query.is_past)
    values = {**filters, "clock": request.instant(query), "limit": 1}
    rows = await request.rows(read, values, query)
    return reading.subject_reply("alert", rows, rows[0][1] and json_text(_entry(rows[0][1:])))


# Acknowledging.


@router.acts("acknowledge", Acknowledge, ShownAlert, "Acknowledge an alert")
async def acknowledge_alert(
    request: reading.ReadRequest, alert_id: AnyAlertId, sent: Sent[Acknowledging]
) -> Response:
    """Take care of an alert that is not resolved. A later acknowledgement replaces an earlier one.

    Reminders pause until the end of the acknowledgement.
    """
    receipt = await execute_on(request, Acknowledge, alert_id, sent, **_fields_of(sent.body))
    return await as_left(request.http, receipt, partial(_alert_reply, request, alert_id))


def _fields_of(body: Acknowledging | None) -> dict[str, Any]:
    """The fields of an acknowledgement, those of a body with a fault too."""
    return {name: getattr(body, name, None) for name in Acknowledging.model_fields}


@command_route(
    router,
    "/acknowledge",
    AcknowledgeMany,
    _MANAGES,
    summary="Acknowledge many alerts",
    answer=AnswerOf[list[AlertOutcome]],
)
async def acknowledge_alerts(
    request: reading.ReadRequest, sent: Sent[AlertsToAcknowledge]
) -> Response:
    """Take care of up to 1,000 alerts. Each has an outcome of its own."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await _acknowledge(request, sent)
    except TimeoutError as error:
        raise Unavailable("Not all alerts are done. Send the same request again.") from error


async def _acknowledge(request: reading.ReadRequest, sent: Sent[AlertsToAcknowledge]) -> Reply:
    principal, request_id = request.principal, request.http.state.request_id
    fields = _fields_of(sent.body)
    command = AcknowledgeMany(
        principal, request_id, until=fields["until"], fault=sent.fault, idempotency=sent.key
    )
    checked = await execute(request.http, command)
    assert sent.body is not None, "a request with a fault was refused"
    at = msgspec.json.decode(checked.answer or b"", type=datetime)
    commands = [
        Acknowledge(each, principal, request_id, idempotency=own_key(sent.key, each, at), **fields)
        for each in dict.fromkeys(sent.body.ids)
    ]
    outcomes = await carry_out(request, commands)
    results = [
        AlertOutcome(
            command.subject_id,
            "acknowledged" if isinstance(outcome, Receipt) else "refused",
            outcome.code if isinstance(outcome, Refused) else None,
        )
        for command, outcome in zip(commands, outcomes, strict=True)
    ]
    return Reply(_encode(AnswerOf(results)), last_position(outcomes))
