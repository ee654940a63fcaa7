"""What the reading routes share: filters from the query, cursors, waiting, entity tags."""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from fastapi import Request, Response

from ledger.api.problems import Behind, InvalidCursor
from ledger.api.services import ApiServices
from ledger.application.principal import Principal


def services_of(request: Request) -> ApiServices:
    """The process's services."""
    services: ApiServices = request.app.state.services
    return services


async def await_position(request: Request, position: int | None, views: frozenset[str]) -> None:
    """Wait for the views a read is about. Raises Behind."""
    if position is None:
        return
    if not await services_of(request).positions.wait_for(views, position):
        raise Behind("The views have not reached the asked position.")


def tenant_filters(principal: Principal) -> dict[str, Any]:
    """The filters by which a credential sees only its own."""
    if principal.is_admin:
        return {}
    filters = {"organization": principal.organization_id}
    if principal.workspace_id is not None:
        filters["workspace"] = principal.workspace_id
    return filters


def split(value: str | None) -> list[str] | None:
    """A comma-separated parameter: any of these."""
    return None if value is None else value.split(",")


def encode_cursor(key: Mapping[str, Any], filters: Mapping[str, Any]) -> str:
    """A row's key as an opaque cursor, bound to the filters it was made for."""
    document = {**key, "f": _fingerprint(filters)}
    text = json.dumps(document, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def decode_cursor(cursor: str, filters: Mapping[str, Any]) -> dict[str, Any]:
    """The key inside a cursor. Raises InvalidCursor for others' and for other filters."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        document = json.loads(text)
        if document.pop("f") == _fingerprint(filters):
            return dict(document)
    except (binascii.Error, ValueError, AttributeError, KeyError, TypeError):
        pass
    raise InvalidCursor("The cursor is not valid for this request.")


def _fingerprint(filters: Mapping[str, Any]) -> str:
    return _digest(repr(sorted(filters.items())))


@lru_cache(4096)
def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def page(items: Sequence[str], cursor: str | None, has_more: bool, position: int) -> Response:
    """A list's answer from ready JSON items."""
    meta = json.dumps({"cursor": cursor, "has_more": has_more}, separators=(",", ":"))
    return answer('{"data":[' + ",".join(items) + '],"meta":' + meta + "}", position)


def answer(body: str, position: int, status: int = 200) -> Response:
    """Ready JSON with the position it was read at."""
    return Response(
        body.encode(),
        status_code=status,
        media_type="application/json",
        headers={"Ledger-Position": str(position)},
    )


def tagged(request: Request, response: Response) -> Response:
    """The response with its entity tag, or 304 where the caller has it already (RFC 9110)."""
    body = bytes(response.body)
    tag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    response.headers["ETag"] = tag
    asked = request.headers.getlist("if-none-match")
    if asked:
        tags = {part.strip().removeprefix("W/") for part in ",".join(asked).split(",")}
        if tag in tags or "*" in tags:
            headers = {"ETag": tag, "Ledger-Position": response.headers["Ledger-Position"]}
            return Response(status_code=304, headers=headers)
    return response
