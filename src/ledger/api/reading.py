"""What the reading routes share: parameters, the instant they ask about, cursors, entity tags."""

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ledger.api.problems import InvalidCursor
from ledger.api.replies import Reply, page
from ledger.api.services import ApiServices
from ledger.domain.errors import Invalid, Refused
from ledger.domain.values import day_of, parse_bound, week_of
from ledger.intake.principal import Principal
from ledger.postgres.scope import Planning
from ledger.reads.question import Answer, Question

R = TypeVar("R", bound=Refused)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


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
"""What the document says of a parameter that ``split_words`` reads."""

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

    @property
    def is_past(self) -> bool:
        """Whether an instant is asked about."""
        return self.instant is not None


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


def instant_of(request: Request, query: Present) -> datetime:
    """The instant that the answer is about, of which metrics show the day and the week."""
    return query.instant or services_of(request).clock()


def asked(
    principal: Principal,
    query: Present,
    statement: str,
    parameters: Mapping[str, Any],
    views: frozenset[str],
    planning: Planning = Planning.SHORT,
    *,
    is_behind_all: bool = False,
    is_kept: bool = False,
) -> Question:
    """A credential's question, at the instant that its query asks about.

    A statement of the past takes long, even where it follows an index.
    """
    if query.is_past and planning is Planning.SHORT:
        planning = Planning.LONG
    return Question(
        principal.tenant,
        statement,
        parameters,
        views,
        planning,
        query.instant,
        is_behind_all=is_behind_all,
        is_kept=is_kept,
    )


def periods(instant: datetime) -> dict[str, Any]:
    """The day and the week that metrics are shown of."""
    return {"today": day_of(instant), "week": week_of(instant)}


def tenant_filters(principal: Principal) -> dict[str, Any]:
    """The filters by which a credential sees only its own."""
    if principal.is_admin:
        return {}
    filters = {"organization": principal.organization_id}
    if principal.workspace_id is not None:
        filters["workspace"] = principal.workspace_id
    return filters


def split_words(value: str | None) -> list[str] | None:
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


def read_at(rows: Answer, refusal: R) -> R:
    """A refusal that follows from what was read: it too is told with the rows' position."""
    refusal.position = rows.position
    return refusal


def paged(
    rows: Answer,
    limit: int,
    key: int,
    cursor_after: Callable[[Any], str],
    item: Callable[[Any], str] | None = None,
    *,
    cursor: str | None = None,
    tagged: bool = False,
) -> Reply:
    """A page's answer from rows of which one more than ``limit`` was asked for.

    ``key`` is the column that is null where nothing was found; ``item`` makes a row's JSON, else it
    is the next column. An empty page has ``cursor``, any other that of its last row.
    """
    found = [row for row in rows if row[key] is not None]
    shown = found[:limit]
    items = [row[key + 1] for row in shown] if item is None else [item(row) for row in shown]
    if shown:
        cursor = cursor_after(shown[-1])
    return page(items, cursor, len(found) > len(shown), rows.position, tagged=tagged)
