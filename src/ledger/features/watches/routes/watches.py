"""Watches: the routes that set them up, change, delete and show them (contract, Watches).

The answer of a command comes with its receipt. The counters that a watch is shown with are read
from the views before the command is handed in.
"""

import asyncio
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any, get_args

import msgspec
from fastapi import Response
from msgspec import Meta
from pydantic import Field

from ledger.engine.http.as_of import as_of_now
from ledger.engine.http.exports import PORTION
from ledger.engine.http.lean import ManagedRouter, needs
from ledger.engine.http.lists import newest_first
from ledger.engine.http.models import Changes, CommandBody, Label
from ledger.engine.http.problems import WRITE_ERRORS
from ledger.engine.http.reading import (
    Present,
    ReadRequest,
    TenantQuery,
    path_id,
    require_id,
    subject_reply,
)
from ledger.engine.http.replies import answer
from ledger.engine.http.writing import (
    Sent,
    answered,
    deleted,
    execute_new,
    execute_on,
    named_tenant,
)
from ledger.engine.postgres.timing import ANSWER_SECONDS
from ledger.engine.reads.question import Answer
from ledger.engine.values.errors import Forbidden, Invalid
from ledger.engine.values.principal import Principal
from ledger.engine.values.rendering import ViewInstant, doc, json_text, time_text
from ledger.engine.values.values import WATCH_ID, parse_bound
from ledger.engine.writer.command import OTHER_TENANT
from ledger.features.watches.commands import watches
from ledger.features.watches.kinds import KINDS
from ledger.features.watches.kinds.base import AlertSubject
from ledger.features.watches.model.alert import sentence
from ledger.features.watches.model.views import ShownWatch
from ledger.features.watches.model.watch import Severity, Watch, WatchSettings
from ledger.features.watches.model.watch_hours import Weekday
from ledger.features.watches.reads import preview
from ledger.features.watches.routes.settings import (
    MODELS,
    WITH_PAST,
    ConditionField,
    ForSeconds,
    HoursField,
    KeepSeconds,
    RemindSeconds,
    WatchedLines,
    Watching,
    WatchToTry,
    listed,
    values_of,
)
from projections.watches.statements import endpoints_read, watches_read

router = ManagedRouter(
    "/v1/watches",
    "watches",
    "watch_id",
    "watches:manage",
    "read",
    words={
        "Severity": get_args(Severity),
        "Weekday": get_args(Weekday),
        **{name: words for kind in KINDS for name, words in kind.words},
    },
    unions={
        KINDS[0].__name__: "Condition",
        MODELS[KINDS[0].kind()].__name__: "ConditionToWatch",
    },
)

_LONGEST_PERIOD = timedelta(days=92)
"""The longest period of a preview."""

_ORDER = newest_first("watch")

AnyWatchId = Annotated[str, path_id("A WCH id.", "WCH-26-000004", WATCH_ID)]

_Name = Annotated[Label, Field(examples=["Blocked for two hours"])]


class NewWatch(Watching):
    """A new watch."""

    name: _Name
    severity: Severity = "warning"
    remind_seconds: RemindSeconds = 0
    enabled: bool = True


class WatchChanges(Changes):
    """The changes of a watch; a field that is left out stays as it is."""

    name: _Name = ""
    condition: Annotated[ConditionField, Field(default_factory=CommandBody)]
    for_seconds: ForSeconds = 0
    severity: Severity = "warning"
    hours: HoursField = None
    keep_seconds: KeepSeconds = 0
    remind_seconds: RemindSeconds = 0
    lines: Annotated[WatchedLines, Field(default_factory=WatchedLines)]
    enabled: bool = True


@router.creates(watches.CreateWatch, ShownWatch, "Set up a watch")
async def create_watch(request: ReadRequest, sent: Sent[NewWatch]) -> Response:
    """Set up a watch. It covers what holds now, and what holds later."""
    settings, endpoints = None, 0
    if sent.body is not None:
        settings = WatchSettings(**values_of(sent.body, WatchSettings.__struct_fields__))
        organization_id, workspace_id = named_tenant(request.principal, sent.parsed)
        watch = {
            "organization_id": organization_id,
            "workspace_id": workspace_id,
            "severity": settings.severity,
        }
        ((_, endpoints),) = await request.rows(
            endpoints_read(frozenset(request.tenant)), request.tenant | watch
        )
    command = watches.CreateWatch
    receipt = await execute_new(request, command, sent, settings=settings, endpoints=endpoints)
    return answered(receipt, 201)


@router.lists(ShownWatch, "List watches")
async def list_watches(request: ReadRequest, query: TenantQuery) -> Response:
    """List the watches of the credential's tenant, newest first."""
    return await _ORDER.listed(request, query, query.chosen(), watches_read)


async def _found(request: ReadRequest, watch_id: str) -> Answer:
    """(position, key, item JSON) of a watch; nulls if the credential sees no such watch."""
    filters = request.tenant | {"watch_id": watch_id}
    return await request.rows(watches_read(frozenset(filters)), {**filters, "limit": 1})


@router.shows(ShownWatch, "Show a watch")
async def show_watch(request: ReadRequest, watch_id: AnyWatchId, query: Present) -> Response:
    """Show a watch with its settings and the number of its open alerts."""
    require_id("watch", watch_id)
    rows = await _found(request, watch_id)
    return subject_reply("watch", rows, rows[0][2])


@router.changes(watches.UpdateWatch, ShownWatch, "Change a watch")
async def update_watch(
    request: ReadRequest, watch_id: AnyWatchId, sent: Sent[WatchChanges]
) -> Response:
    """Change the fields that the body names.

    Another condition, duration, other hours or lines begin a new revision, and so does enabling:
    the alerts of the former revision are resolved.
    """
    changes = {} if sent.body is None else values_of(sent.body, sent.body.model_fields_set)
    counters = watches.WatchCounters()
    if re.fullmatch(WATCH_ID, watch_id) and (item := (await _found(request, watch_id))[0][2]):
        values = msgspec.json.decode(item)
        counters = watches.WatchCounters(*(values[name] for name in watches.WatchCounters._fields))
    return answered(
        await execute_on(
            request, watches.UpdateWatch, watch_id, sent, changes=changes, counters=counters
        )
    )


@router.removes(watches.DeleteWatch, "Remove a watch")
async def delete_watch(request: ReadRequest, watch_id: AnyWatchId, sent: Sent[Any]) -> Response:
    """Remove a watch. Its alerts are resolved, and stay readable."""
    return deleted(await execute_on(request, watches.DeleteWatch, watch_id, sent))


class PreviewedAlert(msgspec.Struct):
    """An alert that would be open."""

    service_line_id: Annotated[str | None, doc("Null for a source.")]
    name: str | None
    subject: AlertSubject
    since: ViewInstant
    due: ViewInstant
    text: str
    until: Annotated[
        ViewInstant | msgspec.UnsetType | None,
        doc("Of a period: when the condition ended; null: it holds still."),
    ] = msgspec.UNSET


class PreviewMeta(msgspec.Struct):
    """The number of the alerts that would be open."""

    count: Annotated[int, Meta(ge=0), doc("Exact up to 10,000; 10,000 means at least so many.")]
    truncated: Annotated[bool, doc("Whether some of them are not shown.")]


class WatchPreview(msgspec.Struct):
    """The alerts that would be open, the latest due first."""

    data: list[PreviewedAlert]
    meta: PreviewMeta


@router.post(
    "/preview",
    summary="Try a watch",
    openapi_extra=needs("read") | {"body": WatchToTry},
    responses={200: {"types": (WatchPreview,)}, **WRITE_ERRORS},
)
async def preview_watch(request: ReadRequest, sent: Sent[WatchToTry]) -> Response:
    """Show what a watch would have open now, or would have opened. Nothing is recorded."""
    watch, filters = _to_try(request.principal, sent)
    period = _period(sent.body, watch)
    async with request.services.heavy.slot(request.principal.tenant_key):
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await _preview(request, watch, filters, period)
        except TimeoutError as error:
            message = "chooses more lines than can be looked at within 10 s: choose fewer"
            raise Invalid.at("/lines", message) from error


async def _preview(
    request: ReadRequest,
    watch: Watch,
    filters: Mapping[str, Any],
    period: tuple[datetime, datetime] | None,
) -> Response:
    as_of = await as_of_now(request, ("execution", "run", "source"))
    next_slice = partial(request.services.slices.next, request.principal.tenant_key)
    if period is not None:
        found, number = await preview.opened_in(
            request.rows, next_slice, watch, filters, period, as_of
        )
    elif watch.config.condition.about == "source":
        found = await preview.silent_now(request.rows, watch, filters, as_of)
        number = len(found)
    else:
        found, number = await preview.open_now(request.rows, next_slice, watch, filters, as_of)
    rows = list[PreviewedAlert]()
    for begin in range(0, len(found), PORTION):
        await next_slice()
        rows += map(_previewed, found[begin : begin + PORTION])
    meta = PreviewMeta(min(number, preview.MOST_COUNTED), number > len(rows))
    return answer(json_text(WatchPreview(rows, meta)), as_of.position)


def _period(body: WatchToTry | None, watch: Watch) -> tuple[datetime, datetime] | None:
    """The requested period. Raises Invalid."""
    if body is None or (body.from_ is None and body.to is None):
        return None
    if body.from_ is None or body.to is None:
        raise Invalid.at("/to" if body.to is None else "/from", "is required with the other one")
    if watch.config.condition.past is None:
        raise Invalid.at("/from", f"is for {listed(WITH_PAST)} alone")
    start, end = parse_bound(body.from_), parse_bound(body.to)
    if start >= end:
        raise Invalid.at("/to", "must be later than from")
    if end - start > _LONGEST_PERIOD:
        raise Invalid.at("/to", f"must be at most {_LONGEST_PERIOD.days} days later than from")
    return start, end


def _to_try(principal: Principal, sent: Sent[WatchToTry]) -> tuple[Watch, dict[str, Any]]:
    """The watch of a preview, and the filters of its lines. Raises Forbidden and Invalid."""
    watch = Watch("")
    watch.organization_id, watch.workspace_id = named_tenant(principal, sent.parsed)
    is_named = watch.organization_id is not None
    if is_named and not principal.sees(watch.organization_id, watch.workspace_id):
        raise Forbidden(OTHER_TENANT)
    if sent.body is None or sent.fault is not None:
        raise sent.fault or Invalid("The request is not valid.")
    if watch.organization_id is None:
        raise Invalid.at("/organization_id", "is required")
    names = WatchToTry.model_fields.keys() & {*WatchSettings.__struct_fields__}
    watch.settings = WatchSettings(name="", **values_of(sent.body, names))
    watches.require_consistent(watch.settings)
    lines = msgspec.to_builtins(watch.settings.lines)
    filters: dict[str, Any] = {name: [*words] for name, words in lines.items()}
    filters["organization"] = watch.organization_id
    if watch.workspace_id is not None:
        filters["workspace"] = watch.workspace_id
    return watch, filters


def _previewed(found: preview.DueLine) -> PreviewedAlert:
    line, episode = found.line.execution, found.due.episode
    return PreviewedAlert(
        line.id or None,
        line.name,
        episode.subject,
        time_text(episode.since),
        time_text(found.due.at),
        sentence(found.due.watch.config, episode, found.line),
        found.until,
    )
