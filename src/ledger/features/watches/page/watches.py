"""Watches: the list, the sentence with blanks that sets one up, one watch (``/ui/watches``)."""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Literal

import msgspec
from fastapi import APIRouter, Response

from ledger.engine.http.lean import command_route, needs
from ledger.engine.http.reading import Present, ReadRequest, TenantQuery
from ledger.engine.http.replies import AnswerOf, PageOf
from ledger.engine.http.writing import checked
from ledger.engine.page.addresses import with_parameter
from ledger.engine.page.log import listed
from ledger.engine.page.managed import Managed, RefusedForm
from ledger.engine.page.pages import Form, PageRoute, go, idempotency_of, read_answer
from ledger.engine.page.showing import zone_of
from ledger.engine.values.errors import Behind, Invalid, LedgerError, RateLimited, Unavailable
from ledger.engine.values.values import format_instant
from ledger.features.directory.entries import entries_of
from ledger.features.directory.routes.directory import ShownName
from ledger.features.feed.names import names_of_page
from ledger.features.watches.alerts import SEVERITIES
from ledger.features.watches.commands.watches import CreateWatch, DeleteWatch, UpdateWatch
from ledger.features.watches.kinds import KINDS
from ledger.features.watches.model.views import ShownWatch
from ledger.features.watches.model.watch import STARTERS
from ledger.features.watches.model.watch_hours import WEEKDAYS
from ledger.features.watches.page import watch_forms
from ledger.features.watches.routes import watches as api
from ledger.features.watches.routes.settings import WatchToTry

PATH = "/ui/watches"
router = APIRouter(prefix=PATH, include_in_schema=False, route_class=PageRoute)

_PERMISSION = "watches:manage"

Done = Literal["create", "change", "enable", "disable", "remove", "starters"]

DONE: Mapping[Done | None, str] = {
    "create": "Watch set up. It checks all lines now, and each change after that.",
    "change": "Watch changed.",
    "enable": "Watch enabled. It checks all lines now, and each change after that.",
    "disable": "Watch disabled. Its alerts are resolved.",
    "remove": "Watch deleted. Its alerts are resolved, and stay readable.",
    "starters": "Six watches set up. Change what does not fit.",
}

_EXAMPLES = 5
"""Alerts that a preview shows."""

_PAST = timedelta(days=30)
"""The period for which the form says how often the watch would have alerted."""


class WatchesQuery(TenantQuery):
    """The list's parameters, and the form that was just carried out."""

    limit: int = 50
    done: Done | None = None


class WatchQuery(Present):
    """The form that was just carried out."""

    done: Done | None = None


@router.get("", openapi_extra=needs("read"))
async def show_watches(
    request: ReadRequest, query: WatchesQuery, refused: RefusedForm | None = None
) -> Response:
    """The watches that the credential sees, newest first; the starters if there is none."""
    found = await read_answer(api.list_watches(request, query), PageOf[ShownWatch])
    organization = query.organization_id or request.principal.organization_id
    may_manage = request.principal.may(_PERMISSION)
    return await _WATCHES.show(
        request,
        "watches.html",
        found.data,
        query,
        refused,
        watches=found.data,
        **listed(request.http, found, query.chosen()),
        sentence_of=watch_forms.sentence_of,
        starters=STARTERS if may_manage and organization is not None else (),
        organization=organization,
        may_manage=may_manage,
    )


@router.get("/new", openapi_extra=needs(_PERMISSION))
async def show_new(
    request: ReadRequest, query: watch_forms.NewWatchQuery, refused: RefusedForm | None = None
) -> Response:
    """The form for a new watch; it needs ``read`` too, for its preview."""
    if refused is not None and isinstance(refused.form, watch_forms.StartersForm):
        return await show_watches(request, WatchesQuery(), refused)
    draft: watch_forms.Draft = query
    if refused is not None and isinstance(refused.form, watch_forms.WatchForm):
        draft = refused.form
    return await _form(request, draft, refused)


@router.post("/preview", openapi_extra=needs(_PERMISSION))
async def preview_watch(request: ReadRequest, form: watch_forms.WatchForm) -> Response:
    """The form for a new watch with its values, and what the watch would have open now."""
    return await _form(request, form, None, tried="now")


@router.post("/preview/past", openapi_extra=needs(_PERMISSION))
async def preview_past(request: ReadRequest, form: watch_forms.WatchForm) -> Response:
    """The past of many lines takes seconds, so the form asks once it shows what is open now."""
    return await _form(request, form, None, tried="past")


@router.get("/preview", openapi_extra=needs(_PERMISSION))
@router.get("/preview/past", openapi_extra=needs(_PERMISSION))
@router.get("/starters", openapi_extra=needs(_PERMISSION))
async def leave_form(request: ReadRequest) -> Response:
    """Redirect the address of a form, opened as a page, to the list."""
    return go(PATH)


async def _form(
    request: ReadRequest,
    draft: watch_forms.Draft,
    refused: RefusedForm | None,
    *,
    watch: ShownWatch | None = None,
    tried: Literal["now", "past"] | None = None,
) -> Response:
    """The form of a watch; ``watch`` is the one that it changes."""
    request.principal.require("read")
    filled = draft.filled(zone_of(request.http).name)
    kind = watch_forms.kind_of(filled.kind)
    found, fault = await _tried(request, filled, tried) if tried else (None, None)
    chosen = filled.lines
    names = await names_of_page(
        request, (), (), chosen.get("service_line_id", ()), chosen.get("project_tag", ())
    )
    principal, workspaces = request.principal, list[ShownName]()
    if watch is None and principal.organization_id is not None and principal.workspace_id is None:
        workspaces, _ = await entries_of(request, "workspace")
    return await _WATCHES.show(
        request,
        "watch_form.html",
        [],
        None,
        refused,
        draft=filled,
        kind=kind,
        kinds=KINDS,
        sentence=watch_forms.parts_of(kind),
        blanks=kind.blanks(),
        watch=watch,
        weekdays=WEEKDAYS,
        severities={name: name for name in SEVERITIES},
        lines_by_model=watch_forms.LINES_BY_MODEL,
        product_lines=watch_forms.PRODUCT_LINE_NAMES,
        workspaces=workspaces,
        tried=tried,
        found=found,
        fault=fault,
        examples=_EXAMPLES,
        keeps=kind.keeps and bool(watch_forms.number_in(filled.keep or "")),
        names=names["names"] | names["line_names"],
    )


async def _tried(
    request: ReadRequest, draft: watch_forms.Draft, when: Literal["now", "past"]
) -> tuple[api.WatchPreview | None, LedgerError | None]:
    """The alerts of a watch, or the reason why they cannot be read."""
    body, now = draft.watching(), request.services.clock()
    if when == "past":
        body |= {"from": format_instant(now - _PAST), "to": format_instant(now)}
    sent = checked(body, WatchToTry, None)
    try:
        return await read_answer(api.preview_watch(request, sent), api.WatchPreview), None
    except (Behind, Invalid, RateLimited, Unavailable) as error:
        return None, error


@command_route(router, "", CreateWatch, _PERMISSION)
async def create_watch(request: ReadRequest, form: watch_forms.WatchForm) -> Response:
    """Set up a watch, and lead to its page."""
    sent = checked(form.settings(), api.NewWatch, idempotency_of(request, form))

    def then(made: Response) -> Response:
        watch = msgspec.json.decode(made.body, type=AnswerOf[ShownWatch]).data
        return go(with_parameter(f"{PATH}/{watch.id}", "done", "create"))

    return await _WATCHES.carry_out(request, form, api.create_watch(request, sent), then)


@command_route(router, "/starters", CreateWatch, _PERMISSION)
async def create_starters(request: ReadRequest, form: watch_forms.StartersForm) -> Response:
    """Set up the starter watches, each by a command of its own."""
    return await _WATCHES.carry_out(request, form, _starters(request, form), "starters")


async def _starters(request: ReadRequest, form: watch_forms.StartersForm) -> Response:
    key = idempotency_of(request, form)
    made: Response | None = None
    for number, settings in enumerate(STARTERS):
        body = msgspec.json.decode(msgspec.json.encode(settings))
        if form.organization_id is not None:
            body["organization_id"] = form.organization_id
        own = msgspec.structs.replace(key, key=f"{key.key}-{number}")
        made = await api.create_watch(request, checked(body, api.NewWatch, own))
    assert made is not None, "there are starters"
    return made


@router.get("/{watch_id}", openapi_extra=needs("read"))
async def show_watch(
    request: ReadRequest, watch_id: str, query: WatchQuery, refused: RefusedForm | None = None
) -> Response:
    """A watch: its sentence and settings, its open alerts, and its endpoints."""
    watch = await _watch(request, watch_id)
    if refused is not None and isinstance(refused.form, watch_forms.WatchForm):
        return await _form(request, refused.form, refused, watch=watch)
    return await _WATCHES.show(
        request,
        "watch.html",
        [watch],
        query,
        refused,
        watch=watch,
        sentence=watch_forms.sentence_of(watch),
        may_manage=request.principal.may(_PERMISSION),
    )


async def _watch(request: ReadRequest, watch_id: str) -> ShownWatch:
    answer = api.show_watch(request, watch_id, Present())
    return (await read_answer(answer, AnswerOf[ShownWatch])).data


@router.get("/{watch_id}/change", openapi_extra=needs(_PERMISSION))
async def ask_change(
    request: ReadRequest, watch_id: str, query: watch_forms.NewWatchQuery
) -> Response:
    """The form that changes the watch, with its settings, or with another kind."""
    watch = await _watch(request, watch_id)
    draft = watch_forms.draft_of(watch)
    if query.kind is not None and query.kind != draft.kind:
        draft = draft.model_copy(update={"kind": query.kind, "blanks": {}, "time": None})
    return await _form(request, draft, None, watch=watch)


@command_route(router, "/{watch_id}/change", UpdateWatch, _PERMISSION)
async def change_watch(request: ReadRequest, form: watch_forms.WatchForm) -> Response:
    """Replace the settings of the watch."""
    # The tenant of a watch stays; the form has it for its preview.
    fields = api.WatchChanges.model_fields.keys()
    changes = {name: value for name, value in form.settings().items() if name in fields}
    sent = checked(changes, api.WatchChanges, idempotency_of(request, form))
    return await _WATCHES.send(request, form, api.update_watch, "change", sent)


@command_route(router, "/{watch_id}/switch", UpdateWatch, _PERMISSION)
async def switch_watch(request: ReadRequest, form: watch_forms.SwitchWatchForm) -> Response:
    """Enable or disable the watch."""
    is_on = form.enabled == "true"
    sent = checked({"enabled": is_on}, api.WatchChanges, idempotency_of(request, form))
    then = "enable" if is_on else "disable"
    return await _WATCHES.send(request, form, api.update_watch, then, sent)


@command_route(router, "/{watch_id}/remove", DeleteWatch, _PERMISSION)
async def remove_watch(request: ReadRequest, form: Form) -> Response:
    """Delete the watch for good."""
    then = go(with_parameter(PATH, "done", "remove"))
    return await _WATCHES.send(request, form, api.delete_watch, lambda _: then)


_WATCHES = Managed(
    PATH,
    "watch_id",
    DONE,
    partial(show_new, query=watch_forms.NewWatchQuery()),
    partial(show_watch, query=WatchQuery()),
)
_WATCHES.route_back(router, "read")
