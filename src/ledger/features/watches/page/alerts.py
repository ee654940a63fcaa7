"""Alerts: the list, open ones first, one alert, and their acknowledgement (``/ui/alerts``)."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict, Field

from ledger.engine.http.lean import command_route, needs
from ledger.engine.http.problems import InvalidCursor, status_of
from ledger.engine.http.reading import OR, PageQuery, Query, ReadRequest, split_words
from ledger.engine.http.replies import AnswerOf, PageOf
from ledger.engine.http.writing import checked
from ledger.engine.page import pages
from ledger.engine.page.addresses import here, own_page, with_parameter
from ledger.engine.page.log import COUNTED, PAGE_ROWS, chips, stream_address
from ledger.engine.page.showing import zone_of
from ledger.engine.reads.filters import in_order
from ledger.engine.values.errors import Invalid, LedgerError, Unavailable
from ledger.features.directory.names import names_for
from ledger.features.feed.names import names_of_actors
from ledger.features.lines.kept_views import saved_in
from ledger.features.lines.names import names_of_lines
from ledger.features.watches.alerts import keepers_of, names_of_watches
from ledger.features.watches.commands.alerts import AcknowledgeMany
from ledger.features.watches.routes import alerts as api
from projections.watches.shown import AlertStatus, ShownAlert

PATH = "/ui/alerts"
router = APIRouter(prefix=PATH, include_in_schema=False, route_class=pages.PageRoute)

_PERMISSION = "service_lines:manage"

ORDER: tuple[AlertStatus, ...] = ("open", "acknowledged", "resolved")
"""The order of the list: alerts that nobody takes care of come first."""

_MOST_NAMED = 5
"""Alerts that the form of an acknowledgement names."""

_MOST_CHARACTERS = 64 * 1024

_Ids = Annotated[str, Field(max_length=_MOST_CHARACTERS, description=f"Ids. {OR}")]

Grouping = Literal["service_line", "watch"]


class AlertsPageQuery(PageQuery, api.AlertFilters):
    """The API's filters, with the groups of the page, and its cursor."""

    group_by: Grouping | None = None
    """None: alerts stand by status."""
    limit: Annotated[int, Field(ge=1, le=100)] = PAGE_ROWS
    cursor: str | None = Field(default=None, pattern=rf"^(?:{'|'.join(ORDER)})~")
    """A status, and the API's cursor among the alerts of that status."""

    def of(self, status: str, **more: Any) -> api.AlertsQuery:
        """The API's parameters for the alerts of one status: unresolved ones the worst first."""
        sort = None if status == "resolved" else "severity"
        return api.AlertsQuery(
            **self.parameters | {"status": status, "sort": sort} | more, as_of=self.as_of
        )

    @property
    def parameters(self) -> dict[str, Any]:
        """The filters under their names in addresses."""
        fields = api.AlertFilters.model_fields
        return {field.alias or name: getattr(self, name) for name, field in fields.items()}


class AlertGroup(NamedTuple):
    """The alerts of a page with one status, of one line or source, or of one watch."""

    id: str
    """The status, or the id of the line, source or watch."""
    name: str | None
    alerts: list[ShownAlert]


class ChosenAlerts(BaseModel):
    """The alerts that an acknowledgement is about, and the page that asks for it."""

    model_config = ConfigDict(extra="forbid")

    alert: _Ids = ""
    next: str = Field(default=PATH, max_length=8000)


class AcknowledgeForm(pages.Form):
    """The person who takes care of the chosen alerts."""

    alert: _Ids = ""
    next: str = Field(default=PATH, max_length=8000)
    note: pages.Typed = None
    assignee: pages.Typed = None
    until: str | None = Field(default=None, max_length=40)
    """A date and a time in the page's zone."""


@router.get("", openapi_extra=needs("read"))
async def show_alerts(request: ReadRequest, query: AlertsPageQuery) -> Response:
    """The alerts of the reader's tenant: open ones first, the worst first, page by page."""
    counts = dict(zip(ORDER, await _counts(request, query), strict=True))
    found, following = await _page_of(request, query, counts)
    parameters = query.parameters
    lines = (query.service_line_id or "").split(",")
    watch_names = await names_of_watches(request)
    return pages.show(
        request.http,
        "alerts.html",
        query=query,
        given=parameters,
        groups=_grouped(found, query.group_by),
        counts=counts,
        following=following and with_parameter(here(request.http), "cursor", following),
        first=with_parameter(here(request.http), "cursor", None),
        address=partial(_address, with_parameter(here(request.http), "cursor", None)),
        exported=partial(_exported, query),
        chips=chips(request.http, parameters),
        names={
            **await names_for(request, (), (query.workspace_id or "").split(",")),
            **watch_names,
        },
        watch_names=watch_names,
        line_names=await names_of_lines(request, filter(None, lines), query),
        key_names=await names_of_actors(request, keepers_of(found)),
        in_order=in_order,
        statuses=ORDER,
        stream="" if query.is_past else stream_of(request),
        may_acknowledge=request.principal.may(_PERMISSION) and not query.is_past,
    )


def stream_of(request: ReadRequest) -> str:
    types = "alert.opened,alert.reminded,alert.acknowledged,alert.resolved"
    return stream_address(request.principal, {"type": types}, ("type",))


async def _counts(request: ReadRequest, query: AlertsPageQuery) -> Sequence[int]:
    """The numbers of alerts by status that the other filters let through, up to ``COUNTED``."""
    counting = (api.alerts_counted(request, query.of(status), COUNTED) for status in ORDER)
    return await asyncio.gather(*counting)


async def _page_of(
    request: ReadRequest, query: AlertsPageQuery, counts: Mapping[AlertStatus, int]
) -> tuple[list[ShownAlert], str | None]:
    """The alerts of a page, and the cursor of the next page if there is one."""
    wanted = split_words(query.status) or ORDER
    statuses = [status for status in ORDER if status in wanted]
    begin, _, after = (query.cursor or "").partition("~")
    if begin:
        if begin not in statuses:
            raise InvalidCursor("The cursor is not valid for these filters.")
        statuses = statuses[statuses.index(begin) :]
    found = list[ShownAlert]()
    for status in statuses:
        left = query.limit - len(found)
        if not left and counts[status]:
            return found, f"{status}~"
        if not left:
            continue
        filtered = query.of(status, limit=left, cursor=after or None)
        page = await pages.read_answer(api.list_alerts(request, filtered), PageOf[ShownAlert])
        found, after = found + page.data, ""
        if page.meta.has_more:
            return found, f"{status}~{page.meta.cursor}"
    return found, None


def _grouped(found: Sequence[ShownAlert], by: Grouping | None) -> Sequence[AlertGroup]:
    """The alerts in groups: first the group of the first alert."""
    groups = dict[str, AlertGroup]()
    for alert in found:
        name: str | None = None
        if by == "watch":
            key, name = alert.watch_id, alert.watch_name
        elif by == "service_line":
            key, name = alert.service_line_id or alert.subject.id, alert.service_line_name
        else:
            key = alert.status
        groups.setdefault(key, AlertGroup(key, name, [])).alerts.append(alert)
    return [*groups.values()]


def _address(address: str, **changes: Any) -> str:
    for name, value in changes.items():
        address = with_parameter(address, name, value)
    return address


def _exported(query: AlertsPageQuery, format: str) -> str:
    """The address of a file with all alerts that the filters let through."""
    more = {"as_of": query.as_of, "sort": "severity", "format": format}
    return _address(f"{PATH}/export", **query.parameters | more)


pages.export_route(router, "/export", api.export_alerts)


# Acknowledging.


@router.get("/acknowledge", openapi_extra=needs(_PERMISSION))
async def ask_acknowledgement(request: ReadRequest, query: ChosenAlerts) -> Response:
    """The form that acknowledges the chosen alerts; it needs ``read`` too."""
    request.principal.require("read")
    ids = _ids(query.alert)
    if not ids:
        return pages.go(own_page(query.next))
    named = [await _alert(request, each, Query()) for each in ids[:_MOST_NAMED]]
    form = AcknowledgeForm.model_construct(
        alert=",".join(ids), next=own_page(query.next), note=None, until=None
    )
    form.assignee = saved_in(request.http).me or None
    if len(named) == 1 and (current := named[0].acknowledged) is not None:
        form.note, form.assignee = current.note, current.assignee
        if current.until is not None and current.until > request.services.clock():
            form.until = zone_of(request.http).field(current.until)
    return _form(request, form, named)


@command_route(router, "/acknowledge", AcknowledgeMany, _PERMISSION)
async def acknowledge_alerts(request: ReadRequest, form: AcknowledgeForm) -> Response:
    """Acknowledge the alerts; a refusal is shown at the form, with its values."""
    try:
        values: dict[str, Any] = {
            "ids": _ids(form.alert),
            "note": pages.reason_of(form.note),
            "assignee": form.assignee,
        }
        if form.until is not None:
            values["until"] = zone_of(request.http).meant("until", form.until)
        sent = checked(values, api.AlertsToAcknowledge, pages.idempotency_of(request, form))
        answer = api.acknowledge_alerts(request, sent)
        outcomes = (await pages.read_answer(answer, AnswerOf[list[api.AlertOutcome]])).data
    except (Invalid, Unavailable) as error:
        return _form(request, form, (), error)
    return pages.show(
        request.http,
        "acknowledge.html",
        form=form,
        back=own_page(form.next),
        outcomes=outcomes,
        told=(),
        error=None,
    )


def _form(
    request: ReadRequest,
    form: AcknowledgeForm,
    named: Sequence[ShownAlert],
    error: LedgerError | None = None,
) -> Response:
    return pages.show(
        request.http,
        "acknowledge.html",
        200 if error is None else status_of(error),
        form=form,
        back=own_page(form.next),
        number=len(_ids(form.alert)),
        outcomes=None,
        told=named,
        error=error,
    )


def _ids(words: str) -> list[str]:
    return [each for each in dict.fromkeys(words.split(",")) if each]


# One alert.


@router.get("/{alert_id}", openapi_extra=needs("read"))
async def show_alert(request: ReadRequest, alert_id: str, query: Query) -> Response:
    """An alert: its sentence, times and evidence, who takes care of it, and its end."""
    alert = await _alert(request, alert_id, query)
    return pages.show(
        request.http,
        "alert.html",
        alert=alert,
        stream="" if query.is_past else stream_of(request),
        key_names=await names_of_actors(request, keepers_of([alert])),
        may_acknowledge=request.principal.may(_PERMISSION)
        and not query.is_past
        and alert.status != "resolved",
    )


async def _alert(request: ReadRequest, alert_id: str, query: Query) -> ShownAlert:
    return (
        await pages.read_answer(api.show_alert(request, alert_id, query), AnswerOf[ShownAlert])
    ).data
