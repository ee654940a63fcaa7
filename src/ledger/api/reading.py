"""What the reading routes share: parameters, the instant they ask about, cursors, entity tags."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any

from fastapi import Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ledger.api.problems import Behind, InvalidCursor
from ledger.api.services import ApiServices
from ledger.application.principal import Principal
from ledger.domain.errors import Invalid
from ledger.domain.values import day_of, parse_bound, week_of
from projections import reading


def _bound(text: str) -> str:
    parse_bound(text)
    return text


_INSTANT_OR_DATE = r"^\d{4}-\d{2}-\d{2}([Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2}))?$"
Bound = Annotated[
    str,
    Field(
        pattern=_INSTANT_OR_DATE,
        description="An RFC 3339 instant, or a date meaning 00:00Z.",
        examples=["2026-04-15T09:12:44Z"],
    ),
    AfterValidator(_bound),
]
AsOf = Annotated[
    str | None,
    Field(
        pattern=_INSTANT_OR_DATE,
        description="Answer with what was recorded by this instant (RFC 3339, or a date meaning"
        " 00:00Z), judged by today's rules and rights; not in the future.",
        examples=["2026-03-31T23:59:59Z"],
    ),
    AfterValidator(lambda text: text if text is None else _bound(text)),
]


class Present(BaseModel):
    """The parameters of a route that only knows the present; an unknown one is refused."""

    model_config = ConfigDict(extra="forbid")

    @property
    def instant(self) -> datetime | None:
        """The instant that is asked about; None: now."""
        return None


class Query(Present):
    """The parameters that every route about lines and runs takes."""

    as_of: AsOf = None

    @property
    def instant(self) -> datetime | None:
        """The instant that is asked about; None: now."""
        return None if self.as_of is None else parse_bound(self.as_of)


class Page(BaseModel):
    """The parameters of a list."""

    cursor: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 25


class PageQuery(Query, Page):
    """The parameters of a list that knows the past."""


class RangeParameters(BaseModel):
    """A stretch of time: ``from`` is inclusive, ``to`` exclusive."""

    from_: Annotated[Bound | None, Field(alias="from")] = None
    to: Bound | None = None

    def bounds(self) -> tuple[datetime | None, datetime | None]:
        """Both ends. Raises Invalid where they are the wrong way round."""
        start = parse_bound(self.from_) if self.from_ else None
        end = parse_bound(self.to) if self.to else None
        if start is not None and end is not None and start > end:
            raise Invalid.at("/to", "lies before from")
        return start, end


def services_of(request: Request) -> ApiServices:
    """The process's services."""
    services: ApiServices = request.app.state.services
    return services


class Read:
    """One read: of the present, or of what was known at an instant (contract 4, as_of).

    ``views`` are those whose rows it gives, ``statement`` makes the statement for the present
    (False) or the past (True). ``now`` is the instant the answer is about. A read ``behind_all``
    gives nothing that another live view does not show yet (feeds).
    """

    def __init__(
        self,
        request: Request,
        principal: Principal,
        query: Present,
        min_position: int | None,
        views: frozenset[str],
        behind_all: bool = False,
    ) -> None:
        self._services = services_of(request)
        self._behind_all = behind_all
        self._principal, self._min_position, self._views = principal, min_position, views
        self._as_of = query.instant
        self._clock = self._services.clock()
        self.now = self._clock if self._as_of is None else self._as_of

    @property
    def periods(self) -> dict[str, Any]:
        """The day and the week that metrics are shown of."""
        return {"today": day_of(self.now), "week": week_of(self.now)}

    async def rows(
        self, statement: Callable[[bool], str], parameters: Mapping[str, Any]
    ) -> list[Any]:
        """At least one row, the first column of which is the position.

        Raises Behind where the views do not get there in time, Invalid for the future.
        """
        if self._min_position is not None and not await self._reach(self._min_position):
            raise Behind("The views have not reached the asked position.")
        if self._as_of is None:
            return await self._fetch(statement(False), parameters)
        # An instant of the past proper needs nothing but the statement. One so near to now that
        # nothing later is recorded has to wait: for an append in flight, and for the views.
        past = {**parameters, "as_of": self._as_of, "settled": False}
        rows = [] if self._as_of > self._clock else await self._fetch(statement(True), past)
        if not rows or rows[0][0] is None:
            await self._settle(self._as_of)
            rows = await self._fetch(statement(True), past | {"settled": True})
        if rows[0][0] is None:
            raise Behind("The views have not reached the asked instant.")
        return rows

    async def _settle(self, as_of: datetime) -> None:
        """Wait until whatever is recorded by the instant is known and in the views."""
        await self._fetch(reading.AWAIT_APPEND, {})
        ((position, latest),) = await self._fetch(reading.INSTANT, {"as_of": as_of})
        # Under load the log's own clock may run ahead by some microseconds.
        if as_of > self._clock and (latest is None or as_of > latest):
            raise Invalid.at("/as_of", "lies in the future")
        if not await self._reach(position):
            raise Behind("The views have not reached the asked instant.")

    async def _reach(self, position: int) -> bool:
        positions = self._services.positions
        if self._behind_all and not await positions.wait(position):
            return False
        return await positions.wait_for(self._views, position)

    async def _fetch(self, statement: str, parameters: Mapping[str, Any]) -> list[Any]:
        return await self._services.door.fetch(self._principal, statement, parameters)


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


def any_of(words: tuple[str, ...]) -> str:
    """The pattern of a comma-separated list of these words."""
    one = "|".join(map(re.escape, words))
    return rf"^(?:{one})(?:,(?:{one}))*$"


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


def position_of(rows: Sequence[Any]) -> int:
    """The position an answer was read at."""
    return rows[0][0] or 0


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
