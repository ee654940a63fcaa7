"""API keys as people manage them (``/ui/keys``)."""

import shlex
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request, Response

from ledger.engine.http.lean import command_route, needs
from ledger.engine.http.reading import Present, ReadRequest, TenantQuery, services_of
from ledger.engine.http.replies import AnswerOf, PageOf
from ledger.engine.http.writing import Sent
from ledger.engine.page.first_steps import FirstSteps, address_of_visit
from ledger.engine.page.log import listed
from ledger.engine.page.managed import Managed, RefusedForm
from ledger.engine.page.pages import Form, PageRoute, idempotency_of, read_answer, show
from ledger.engine.page.permissions import PERMISSIONS
from ledger.engine.page.showing import zone_of
from ledger.engine.values.principal import Principal
from ledger.features.keys.commands import CreateApiKey, RevokeApiKey, RotateApiKey, UpdateApiKey
from ledger.features.keys.model import KeyWithSecret, ShownKey
from ledger.features.keys.page import key_forms
from ledger.features.keys.routes import keys as api

PATH = "/ui/keys"
router = APIRouter(prefix=PATH, include_in_schema=False, route_class=PageRoute)

_PERMISSION = "keys:manage"

Done = Literal["change", "revoke"]

DONE: Mapping[Done | None, str] = {
    "change": "Key saved.",
    "revoke": "Key revoked. Every worker refuses it within 2 seconds.",
}


class KeyQuery(Present):
    """The form that was just processed."""

    done: Done | None = None


@router.get("", openapi_extra=needs(_PERMISSION))
async def show_keys(
    request: ReadRequest, query: TenantQuery, refused: RefusedForm | None = None
) -> Response:
    """The keys that the credential sees, newest first, and the form for a new one."""
    found = await read_answer(api.list_api_keys(request, query), PageOf[ShownKey])
    may = {
        permission: words
        for permission, words in PERMISSIONS.items()
        if request.principal.may(permission)
    }
    return await _KEYS.show(
        request,
        "keys.html",
        found.data,
        query,
        refused,
        keys=found.data,
        **listed(request.http, found, query.chosen()),
        may=may,
        **await _choices(request),
    )


async def _choices(request: ReadRequest) -> dict[str, Any]:
    """The choices of the forms: an expiry of the visitor's own key limits the lives of keys."""
    own_end = await _own_end(request)
    return {
        "words": PERMISSIONS,
        "lives": {name: life[0] for name, life in key_forms.LIVES.items()},
        "graces": key_forms.GRACES,
        "own_end": own_end,
    }


async def _own_end(request: ReadRequest) -> datetime | None:
    """When the visitor's key expires; None if never, or if the visitor has no key."""
    if request.principal.type != "api_key":
        return None
    key = await _key(request, request.principal.id)
    return key.expires_at


async def _sent(
    request: ReadRequest, form: key_forms.NewKeyForm | key_forms.ChangeKeyForm
) -> Sent[Any]:
    key, zone = idempotency_of(request, form), zone_of(request.http)
    return form.sent_at(key, zone, request.services.clock(), await _own_end(request))


async def _key(request: ReadRequest, key_id: str) -> ShownKey:
    answer = api.show_api_key(request, key_id, Present())
    return (await read_answer(answer, AnswerOf[ShownKey])).data


@command_route(router, "", CreateApiKey, _PERMISSION)
async def add_key(request: ReadRequest, form: key_forms.NewKeyForm) -> Response:
    """Create a key; the answer contains its secret."""
    sent = await _sent(request, form)
    return await _KEYS.send(request, form, api.create_api_key, partial(_secret, request.http), sent)


def _secret(
    request: Request, made: Response, grace: str | None = None, is_own: bool = False
) -> Response:
    """The only page with a secret. A rotation leaves the old one for ``grace`` seconds."""
    key = msgspec.json.decode(made.body, type=AnswerOf[KeyWithSecret]).data
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
    """A command that tries the key, at the address that the browser used."""
    may = frozenset(key.permissions)
    may_read = not may.isdisjoint({"read", "admin"})
    if "write" in may and not may_read:
        owner = Principal(key.id, "api_key", may, key.organization_id, key.workspace_id)
        return FirstSteps(request, owner).fact().replace("$TOKEN", key.key)
    path = "/v1/execution?limit=5" if may_read else "/v1/log/proof/consistency?from=0&to=0"
    address = shlex.quote(address_of_visit(request) + path)
    return f'curl -H "Authorization: Bearer {key.key}" {address}'


@router.get("/{key_id}", openapi_extra=needs(_PERMISSION))
async def show_key(
    request: ReadRequest, key_id: str, query: KeyQuery, refused: RefusedForm | None = None
) -> Response:
    """A key with its forms."""
    key = await _key(request, key_id)
    return await _KEYS.show(
        request,
        "key.html",
        [key],
        query,
        refused,
        key=key,
        is_own=request.principal.id == key.id,
        is_covered=request.principal.covers(key.permissions, key.organization_id, key.workspace_id),
        **await _choices(request),
    )


@command_route(router, "/{key_id}/change", UpdateApiKey, _PERMISSION)
async def change_key(request: ReadRequest, form: key_forms.ChangeKeyForm) -> Response:
    """Change the key's name and expiry."""
    sent = await _sent(request, form)
    return await _KEYS.send(request, form, api.update_api_key, "change", sent)


@command_route(router, "/{key_id}/rotate", RotateApiKey, _PERMISSION)
async def rotate_key(request: ReadRequest, key_id: str, form: key_forms.RotateForm) -> Response:
    """Replace the key's secret; the answer contains the new one."""
    then = partial(
        _secret, request.http, grace=form.grace_seconds, is_own=request.principal.id == key_id
    )
    return await _KEYS.send(request, form, api.rotate_api_key, then)


@command_route(router, "/{key_id}/revoke", RevokeApiKey, _PERMISSION)
async def revoke_key(request: ReadRequest, form: Form) -> Response:
    """Revoke the key for good."""
    return await _KEYS.send(request, form, api.revoke_api_key, "revoke")


_KEYS = Managed(
    PATH,
    "key_id",
    DONE,
    partial(show_keys, query=TenantQuery()),
    partial(show_key, query=KeyQuery()),
)
_KEYS.route_back(router, _PERMISSION)
