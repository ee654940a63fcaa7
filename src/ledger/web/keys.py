"""API keys as people manage them (``/ui/keys``).

The forms carry out the API's commands (``api/routes/key_commands.py``), with its checks and its
records of refusals. A secret is shown in the answer to its form only. No address contains it, and
only the same form, sent again, shows it again.
"""

import shlex
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict

from ledger.api.lean import NoParameters, command_route, needs
from ledger.api.problems import status_of
from ledger.api.reading import Asking, Present, TenantQuery, services_of
from ledger.api.replies import AnswerOf, PageOf
from ledger.api.routes import key_commands as commands
from ledger.api.routes import keys as api
from ledger.api.writing import Sent
from ledger.application.commands.keys import CreateApiKey, RevokeApiKey, RotateApiKey, UpdateApiKey
from ledger.domain.errors import NotFound, Refused
from ledger.intake.principal import Principal
from ledger.language.rendering import KeyWithSecret, ShownKey
from ledger.web.key_forms import GRACES, LIVES, PERMISSIONS, ChangeKeyForm, NewKeyForm, RotateForm
from ledger.web.log import chips
from ledger.web.names import names_of_scopes
from ledger.web.pages import (
    Form,
    PageRoute,
    go,
    here,
    idempotency_of,
    read_answer,
    read_form,
    show,
    with_parameter,
)
from ledger.web.showing import zone_of

PATH = "/ui/keys"
router = APIRouter(prefix=PATH, include_in_schema=False, route_class=PageRoute)

_PERMISSION = "keys:manage"

T = TypeVar("T")

Done = Literal["change", "revoke"]

DONE: Mapping[Done | None, str] = {
    "change": "Key saved.",
    "revoke": "Key revoked. Every worker refuses it within 2 seconds.",
}
"""The messages that a page shows once, after a form was carried out."""


class KeyQuery(BaseModel):
    """The form that was just carried out."""

    model_config = ConfigDict(extra="forbid")

    done: Done | None = None


@router.get("", openapi_extra=needs(_PERMISSION))
async def show_keys(request: Request, principal: Principal, query: TenantQuery) -> Response:
    """The keys that the credential sees, newest first, and the form for a new one."""
    return await _list_page(request, principal, query)


async def _list_page(
    request: Request,
    principal: Principal,
    query: TenantQuery,
    refused: Refused | None = None,
    form: NewKeyForm | None = None,
) -> Response:
    found = await read_answer(
        api.list_api_keys(Asking(request, principal), query), PageOf[ShownKey]
    )
    own = PERMISSIONS if principal.is_admin else {p: PERMISSIONS[p] for p in _own(principal)}
    return show(
        request,
        "keys.html",
        200 if refused is None else status_of(refused),
        keys=found.data,
        scope_names=await names_of_scopes(request, principal, found.data),
        older=found.meta.cursor if found.meta.has_more else None,
        query=query,
        given=query.chosen(),
        chips=chips(request, query.chosen()),
        refused=refused,
        form=form,
        may=own,
        here=PATH if form is not None else here(request),
        **await _choices(request, principal),
    )


def _own(principal: Principal) -> list[Any]:
    return [permission for permission in PERMISSIONS if permission in principal.permissions]


async def _choices(request: Request, principal: Principal) -> dict[str, Any]:
    """The choices of the forms: the visitor's own key, if it expires, bounds the lives of keys."""
    own_end = await _own_end(request, principal)
    return {
        "words": PERMISSIONS,
        "lives": {name: life[0] for name, life in LIVES.items()},
        "graces": GRACES,
        "own_end": own_end,
    }


async def _own_end(request: Request, principal: Principal) -> datetime | None:
    """The instant at which the visitor's key expires; None: never, or the visitor has no key."""
    if principal.type != "api_key":
        return None
    shown = await _key(request, principal, principal.id)
    return shown.expires_at


async def _key(request: Request, principal: Principal, key_id: str) -> ShownKey:
    shown = api.show_api_key(Asking(request, principal), key_id, Present())
    return (await read_answer(shown, AnswerOf[ShownKey])).data


@command_route(router, "", CreateApiKey, _PERMISSION)
async def add_key(request: Request, principal: Principal, _: NoParameters) -> Response:
    """Create a key; the answer contains its secret."""
    form = await read_form(request, NewKeyForm)
    sent = form.sent(
        idempotency_of(request, principal, form),
        zone_of(request),
        services_of(request).clock(),
        await _own_end(request, principal),
    )
    try:
        made = await read_answer(commands.create(request, principal, sent), AnswerOf[KeyWithSecret])
    except Refused as refusal:
        return await _list_page(request, principal, TenantQuery(), refusal, form)
    return _secret(request, made.data)


def _secret(
    request: Request, key: KeyWithSecret, grace: str | None = None, is_own: bool = False
) -> Response:
    """The only page that shows a secret. A rotation leaves the old one ``grace``, in seconds."""
    left = timedelta(seconds=int(grace or 0))
    return show(
        request,
        "key_secret.html",
        key=key,
        grace=grace,
        old_until=services_of(request).clock() + left,
        is_own=is_own,
        curl=_curl(request, key),
        here=f"{PATH}/{key.id}",
    )


def _curl(request: Request, key: KeyWithSecret) -> str:
    """A command that tries the key, at the address by which the browser came."""
    # Behind a proxy that ends TLS, only the browser's Origin header shows that TLS is used.
    scheme = urlsplit(request.headers.get("origin", "")).scheme or request.url.scheme
    may_read = {"read", "admin"} & set(key.permissions)
    path = "/v1/execution?limit=5" if may_read else "/v1/log/proof/consistency?from=0&to=0"
    root_path = services_of(request).root_path
    address = f"{scheme}://{request.headers.get('host', '')}{root_path}{path}"
    return f'curl -H "Authorization: Bearer {key.key}" {shlex.quote(address)}'


@router.get("/{key_id}", openapi_extra=needs(_PERMISSION))
async def show_key(
    request: Request, principal: Principal, key_id: str, query: KeyQuery
) -> Response:
    """A key with its forms."""
    return await _key_page(request, principal, key_id, done=query.done)


async def _key_page(
    request: Request,
    principal: Principal,
    key_id: str,
    refused: Refused | None = None,
    form: Form | None = None,
    done: Done | None = None,
) -> Response:
    """The page of a key. A refusal is shown at the form that was sent, with its values."""
    key = await _key(request, principal, key_id)
    return show(
        request,
        "key.html",
        200 if refused is None else status_of(refused),
        key=key,
        scope_names=await names_of_scopes(request, principal, [key]),
        done=DONE.get(done),
        refused=refused,
        refused_at=type(form).__name__ if form is not None else None,
        form=form,
        is_own=principal.id == key.id,
        is_covered=principal.covers(key.permissions, key.organization_id, key.workspace_id),
        here=here(request) if form is None else f"{PATH}/{key_id}",
        **await _choices(request, principal),
    )


async def _carry_out(
    request: Request,
    principal: Principal,
    key_id: str,
    form: Form,
    command: Coroutine[Any, Any, T],
    then: Callable[[T], Response],
) -> Response:
    """Carry out a form's command, and answer with ``then``; or show the refusal at the form."""
    try:
        done = await command
    except NotFound:
        raise
    except Refused as refusal:
        return await _key_page(request, principal, key_id, refusal, form)
    return then(done)


def _leads_on(key_id: str, done: Done) -> Callable[[Response], Response]:
    """The answer that leads to the key's page, which says that the form was carried out."""
    return lambda _: go(with_parameter(f"{PATH}/{key_id}", "done", done))


@command_route(router, "/{key_id}/change", UpdateApiKey, _PERMISSION)
async def change_key(
    request: Request, principal: Principal, key_id: str, _: NoParameters
) -> Response:
    """Change the key's name and expiry."""
    form = await read_form(request, ChangeKeyForm)
    sent = form.sent(
        idempotency_of(request, principal, form),
        zone_of(request),
        services_of(request).clock(),
        await _own_end(request, principal),
    )
    command = commands.update(request, principal, key_id, sent)
    return await _carry_out(request, principal, key_id, form, command, _leads_on(key_id, "change"))


@command_route(router, "/{key_id}/rotate", RotateApiKey, _PERMISSION)
async def rotate_key(
    request: Request, principal: Principal, key_id: str, _: NoParameters
) -> Response:
    """Replace the key's secret; the answer contains the new one."""
    form = await read_form(request, RotateForm)
    sent = form.sent(idempotency_of(request, principal, form))
    command = read_answer(
        commands.rotate(request, principal, key_id, sent), AnswerOf[KeyWithSecret]
    )

    def show_secret(made: AnswerOf[KeyWithSecret]) -> Response:
        return _secret(request, made.data, form.grace_seconds, principal.id == key_id)

    return await _carry_out(request, principal, key_id, form, command, show_secret)


@command_route(router, "/{key_id}/revoke", RevokeApiKey, _PERMISSION)
async def revoke_key(
    request: Request, principal: Principal, key_id: str, _: NoParameters
) -> Response:
    """Revoke the key for good."""
    form = await read_form(request, Form)
    sent: Sent[Any] = Sent(None, idempotency_of(request, principal, form), None)
    command = commands.revoke(request, principal, key_id, sent)
    return await _carry_out(request, principal, key_id, form, command, _leads_on(key_id, "revoke"))


@router.get("/{key_id}/{act:path}", openapi_extra=needs(_PERMISSION))
async def return_to_key(
    request: Request, principal: Principal, key_id: str, act: str, _: NoParameters
) -> Response:
    """Redirect the address of a form, opened as a page (after a new sign-in), to the key."""
    return go(f"{PATH}/{key_id}")
