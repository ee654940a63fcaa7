"""What the reading routes share: parameters, the instant they ask about, cursors, entity tags."""

import asyncio
import base64
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ledger.api.problems import Behind, InvalidCursor
from ledger.api.replies import Reply
from ledger.api.services import ApiServices
from ledger.application.principal import Principal
from ledger.domain.errors import Invalid, Refused
from ledger.domain.values import day_of, parse_bound, week_of
from ledger.reads.answers import Finish
from ledger.reads.positions import WAIT_SECONDS
from projections import reading

_BREATH_SECONDS = 0.01

T = TypeVar("T")
R = TypeVar("R", bound=Refused)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode

_Statement = Callable[[bool], str]
"""Makes a read's statement for the present (False) or the past (True)."""


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


OR = "A comma means or."
"""What the document says of a parameter that ``split`` reads."""

Cursor = Annotated[
    str | None,
    Field(description="Go on after a page: its `meta.cursor`, under the same filters."),
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


def digits(value: Any) -> Any:
    """Refuse what pydantic would read as a number too: `5.0`, `+5`, `1_0`."""
    if isinstance(value, str) and not re.fullmatch("[0-9]+", value):
        raise ValueError("must be a whole number")
    return value


class Page(BaseModel):
    """The parameters of a list."""

    cursor: Cursor = None
    limit: Annotated[
        int, Field(ge=1, le=100, description="How many at most."), BeforeValidator(digits)
    ] = 25


class PageQuery(Query, Page):
    """The parameters of a list that knows the past."""


class RangeParameters(BaseModel):
    """A stretch of time: ``from`` is inclusive, ``to`` exclusive."""

    from_: Annotated[Bound | None, Field(alias="from", description="The start, included.")] = None
    to: Annotated[Bound | None, Field(description="The end, excluded.")] = None

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
    gives nothing that another live view does not show yet (feeds). One that is planned
    ``by_values`` goes alone, as all of the past do (``Door.fetch``).
    """

    def __init__(
        self,
        request: Request,
        principal: Principal,
        query: Present,
        min_position: int | None,
        views: frozenset[str],
        behind_all: bool = False,
        by_values: bool = False,
    ) -> None:
        self._services = services_of(request)
        self._behind_all = behind_all
        self._principal, self._min_position, self._views = principal, min_position, views
        self._as_of = query.instant
        self._due = 0
        """Which position the rows of the present must have (``ViewPositions.due``)."""
        self._is_long, self._by_values = self._as_of is not None, by_values
        self._clock = self._services.clock()
        self.now = self._clock if self._as_of is None else self._as_of

    @property
    def periods(self) -> dict[str, Any]:
        """The day and the week that metrics are shown of."""
        return {"today": day_of(self.now), "week": week_of(self.now)}

    async def rows(self, statement: _Statement, parameters: Mapping[str, Any]) -> list[Any]:
        """At least one row, the first column of which is the position.

        Raises Behind where the views do not get there in time, Invalid for the future.
        """

        async def ask(text: str, values: Mapping[str, Any]) -> list[Any] | None:
            rows = await self._fetch(text, values)
            return rows if self._tells(rows) else None

        return await self._asked(statement, parameters, ask)

    async def answer(
        self, statement: _Statement, parameters: Mapping[str, Any], finish: Finish
    ) -> Reply:
        """The answer made of the rows, or one that was made before and is true still.

        Only for what depends on the views' rows alone, the clock's day and week being parameters
        (``answers.py``). Raises what ``rows`` and ``finish`` raise.
        """

        def finish_known(rows: Sequence[Any]) -> Reply | None:
            return finish(rows) if self._tells(rows) else None

        async def ask(text: str, values: Mapping[str, Any]) -> Reply | None:
            try:
                reply = await self._services.answers.find(
                    self._principal,
                    text,
                    values,
                    finish_known,
                    long=self._is_long,
                    by_values=self._by_values,
                )
            except Refused as error:
                # Of somebody who asked the same and was due less, perhaps.
                if self._shows(error.position):
                    raise
                return None
            return reply if reply is not None and self._shows(reply.position) else None

        return await self._asked(statement, parameters, ask)

    async def _asked(
        self,
        statement: _Statement,
        parameters: Mapping[str, Any],
        ask: Callable[[str, Mapping[str, Any]], Awaitable[T | None]],
    ) -> T:
        if self._min_position is not None and not await self._reach(self._min_position):
            raise Behind("The views have not reached the asked position.")
        if self._as_of is None:
            found = await self._asked_of_now(statement(False), parameters, ask)
        else:
            # An instant of the past proper needs nothing but the statement. One so near to now that
            # nothing later is recorded has to wait: for an append in flight, and for the views.
            past = {**parameters, "as_of": self._as_of, "settled": False}
            found = None if self._as_of > self._clock else await ask(statement(True), past)
            if found is None:
                await self._settle(self._as_of)
                found = await ask(statement(True), past | {"settled": True})
        if found is None:
            what = "position" if self._as_of is None else "instant"
            raise Behind(f"The views have not reached the asked {what}.")
        return found

    async def _asked_of_now(
        self,
        statement: str,
        parameters: Mapping[str, Any],
        ask: Callable[[str, Mapping[str, Any]], Awaitable[T | None]],
    ) -> T | None:
        """Ask until a view is again where a crash took it from, for two seconds.

        After that it is shown as it is, if not too old for who asked for a position.
        """
        least, time = self._min_position or 0, asyncio.get_running_loop().time
        due = self._services.positions.due(None if self._behind_all else self._views)
        self._due = max(least, due)
        deadline = time() + WAIT_SECONDS
        while (found := await ask(statement, parameters)) is None and time() < deadline:
            # Where it stands we may not have heard yet: then this does not wait.
            await self._reach(self._due)
            await asyncio.sleep(_BREATH_SECONDS)
        if found is None:
            self._due = least
            found = await ask(statement, parameters)
        return found

    def _tells(self, rows: Sequence[Any]) -> bool:
        """Whether the rows tell what was asked: those of the past may not, yet."""
        if self._as_of is not None:
            return rows[0][0] is not None
        return self._shows(position_of(rows))

    def _shows(self, position: int) -> bool:
        return position >= self._due

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
        return await self._services.door.fetch(
            self._principal,
            statement,
            parameters,
            long=self._is_long,
            by_values=self._by_values,
        )


def tenant_filters(principal: Principal) -> dict[str, Any]:
    """The filters by which a credential sees only its own."""
    if principal.is_admin:
        return {}
    filters = {"organization": principal.organization_id}
    if principal.workspace_id is not None:
        filters["workspace"] = principal.workspace_id
    return filters


def split(value: str | None) -> list[str] | None:
    """A comma-separated parameter: any of these, each once and in one order.

    So what asks for the same is the same, to cursors and to answers that are kept.
    """
    return None if value is None else sorted(set(value.split(",")))


def any_of(words: tuple[str, ...]) -> str:
    """The pattern of a comma-separated list of these words."""
    one = "|".join(map(re.escape, words))
    return rf"^(?:{one})(?:,(?:{one}))*$"


def encode_cursor(key: Mapping[str, Any], filters: Mapping[str, Any]) -> str:
    """A row's key as an opaque cursor, bound to the filters it was made for."""
    document = {**key, "f": _fingerprint(filters)}
    return base64.urlsafe_b64encode(_encode(document)).rstrip(b"=").decode()


def decode_cursor(cursor: str, filters: Mapping[str, Any]) -> dict[str, Any]:
    """The key inside a cursor. Raises InvalidCursor for others' and for other filters."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        document = _decode(text)
        if document.pop("f") == _fingerprint(filters):
            return document
    except (ValueError, KeyError, RecursionError):
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


def read_at(rows: Sequence[Any], refusal: R) -> R:
    """A refusal that follows from what was read: it too is told with the rows' position."""
    refusal.position = position_of(rows)
    return refusal
