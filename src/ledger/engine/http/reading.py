"""Shared code of the reading routes: parameters, the instant of a question, the principal."""

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from fastapi import Path, Request
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model

from ledger.engine.http.replies import Reply, answer
from ledger.engine.http.services import ApiServices
from ledger.engine.reads.filters import ORGANIZATION, WORKSPACE, Filter
from ledger.engine.reads.question import Answer, Question
from ledger.engine.values.calendar import UTC_CALENDAR, Calendar, calendar_of
from ledger.engine.values.errors import Behind, Invalid, NotFound, Refused
from ledger.engine.values.principal import Principal
from ledger.engine.values.values import parse_bound
from ledger.engine.views.statements import INSTANT, Read
from ledger.records import STREAMS

R = TypeVar("R", bound=Refused)
F = TypeVar("F", bound="Filtered")

SUBJECTS = {row.subject_type: row for row in STREAMS if row.subject_type}
"""The rows of the streams that a path names, by the type of the subject."""

_IDS = {name: re.compile(row.ids) for name, row in SUBJECTS.items()}


def _bound(text: str) -> str:
    parse_bound(text)
    return text


_INSTANT_OR_DATE = r"^\d{4}-\d{2}-\d{2}([Tt]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2}))?$"
_DATE = "(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]"
_DESCRIBED = {"pattern": rf"^{_DATE}([Tt]{_TIME}:[0-5][0-9](\.[0-9]+)?([Zz]|[+-]{_TIME}))?$"}
"""The pattern in the document, as strict as ``parse_bound`` but for the lengths of months."""

Bound = Annotated[
    str,
    Field(
        pattern=_INSTANT_OR_DATE,
        json_schema_extra=_DESCRIBED,
        description="An RFC 3339 instant, or a date meaning 00:00Z.",
        examples=["2026-04-15T09:12:44Z"],
    ),
    AfterValidator(_bound),
]
AsOf = Annotated[
    str | None,
    Field(
        pattern=_INSTANT_OR_DATE,
        json_schema_extra=_DESCRIBED,
        description="Answer with what was recorded by this instant (RFC 3339, or a date meaning"
        " 00:00Z), judged by today's rules and rights; not in the future.",
        examples=["2026-03-31T23:59:59Z"],
    ),
    AfterValidator(lambda text: text if text is None else _bound(text)),
]


def _time_zone(name: str) -> str:
    try:
        return calendar_of(name).name
    except Invalid as error:
        ((_, sentence),) = error.errors
        raise ValueError(sentence) from error  # told at the name's own place


TimeZone = Annotated[
    str,
    Field(
        max_length=64,
        json_schema_extra={"pattern": "^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$"},
        description="An IANA time zone. Its dates count: a date in another parameter means the"
        " date's beginning there, not 00:00Z.",
        examples=["Europe/Berlin"],
    ),
    AfterValidator(_time_zone),
]

OR = "A comma means or."
"""Ends the description of a parameter that ``split_words`` reads, and that may be repeated. OpenAPI
describes it as an array of words."""

MOST_WORDS, LONGEST_WORD = 1000, 2000


def _words(text: str | None) -> str | None:
    words = [] if text is None else text.split(",")
    if len(words) > MOST_WORDS:
        raise ValueError(f"must have at most {MOST_WORDS} words")
    if any(len(word) > LONGEST_WORD for word in words):
        raise ValueError(f"must have words of at most {LONGEST_WORD} characters")
    return text


Words = Annotated[str | None, Field(min_length=1, description=OR), AfterValidator(_words)]

Identifier = Annotated[str | None, Field(min_length=1, max_length=200, description="A single id.")]
Cursor = Annotated[
    str | None,
    Field(
        description="The `meta.cursor` of the page before, with the same filters.",
        # In the document only: a cursor of another form is 400, like a cursor of another service.
        json_schema_extra={"minLength": 1, "pattern": "^[A-Za-z0-9_-]+$"},
    ),
]


class Present(BaseModel):
    """The parameters of a route that reads the present only; unknown parameters are refused."""

    # Frozen, since requests with equal queries share one.
    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def calendar(self) -> Calendar:
        return UTC_CALENDAR

    @property
    def instant(self) -> datetime | None:
        """None: now."""
        return None

    @property
    def is_past(self) -> bool:
        return self.instant is not None


_PRESENT = Present()


class Query(Present):
    """The parameters that every route about lines and runs takes."""

    as_of: AsOf = None

    @property
    def instant(self) -> datetime | None:
        return None if self.as_of is None else self.calendar.instant(self.as_of)


class Zoned(Present):
    """The parameter by which all dates of a request are read in a time zone."""

    time_zone: TimeZone = "UTC"

    @property
    def calendar(self) -> Calendar:
        return calendar_of(self.time_zone)


def digits(value: Any) -> Any:
    """Refuse texts that pydantic would read as a number too: `5.0`, `+5`, `1_0`."""
    if isinstance(value, str) and not re.fullmatch("[0-9]+", value):
        raise ValueError("must be a whole number")
    return value


class Page(BaseModel):
    """The parameters of a list."""

    cursor: Cursor = None
    limit: Annotated[
        int, Field(ge=1, le=100, description="The most items in a page."), BeforeValidator(digits)
    ] = 25


class PageQuery(Query, Page):
    """The parameters of a list that can also be read as of an instant."""


class RangeParameters(Present):
    """A range of time: ``from`` is inclusive, ``to`` exclusive."""

    from_: Annotated[
        Bound | None,
        Field(
            alias="from",
            description="The start, included. For example `from=2026-04-01&to=2026-05-01`.",
            examples=[],
        ),
    ] = None
    to: Annotated[Bound | None, Field(description="The end, excluded.", examples=[])] = None

    def bounds(self) -> tuple[datetime | None, datetime | None]:
        """Raises Invalid if the start lies after the end."""
        return bounds_of(self.calendar, self.from_, self.to, "from", "to")


def bounds_of(
    calendar: Calendar, start: str | None, end: str | None, start_name: str, end_name: str
) -> tuple[datetime | None, datetime | None]:
    """Raises Invalid if the start lies after the end."""
    begin, beyond = (None if text is None else calendar.instant(text) for text in (start, end))
    if begin is not None and beyond is not None and begin > beyond:
        raise Invalid.at(f"/{end_name}", f"lies before {start_name}")
    return begin, beyond


OF_NOW = "asks about now only; leave out as_of"


class Filtered(Present):
    """The parameters of a route whose filters are rows; ``filtered_by`` gives a query its rows."""

    filters: ClassVar[tuple[Filter, ...]] = ()

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> str | None: ...

    def chosen(self) -> dict[str, Any]:
        """The sent filters. Raises Invalid for one of now only if the query names an instant."""
        chosen, values = dict[str, Any](), vars(self)
        for each in self.filters:
            value = values[each.name]
            if value is not None:
                if each.then is None and self.is_past:
                    raise Invalid.at(f"/{each.name}", OF_NOW)
                chosen[each.key] = value if each.takes == "id" else split_words(value)
        return chosen


class FilteredRange(Filtered, RangeParameters):
    """Filters as rows, and a range of time."""

    def chosen(self) -> dict[str, Any]:
        """Raises Invalid if ``from`` lies after ``to``."""
        bounds = zip(("from", "to"), self.bounds(), strict=True)
        return super().chosen() | {name: at for name, at in bounds if at is not None}


def filtered_by(*filters: Filter) -> Callable[[type[F]], type[F]]:
    """Return a decorator that adds the parameters of these filters to a query."""

    def with_filters(query: type[F]) -> type[F]:
        fields: Any = {each.name: (_parameter(each), None) for each in filters}
        made = create_model(query.__name__, __base__=query, __module__=query.__module__, **fields)
        made.filters = (*query.filters, *filters)
        return made

    return with_filters


def _parameter(each: Filter) -> Any:
    about = f"{each.about} Not with `as_of`." if each.then is None else each.about
    if each.takes == "flag":
        return Annotated[Literal["true"] | None, Field(description=about)]
    if each.takes == "id":
        return Annotated[Identifier, Field(description=about)]
    if each.takes == "words":
        return Annotated[Words, Field(description=f"{about} {OR}".lstrip())]
    return Annotated[str | None, some_of(each.takes, about)]


@filtered_by(ORGANIZATION, WORKSPACE._replace(takes="id", about="A single id."))
class TenantQuery(Filtered, Page):
    """The parameters of a list that may be narrowed to an organization or a workspace."""


def path_id(description: str, example: str, pattern: str) -> Any:
    """An id in a path. The pattern is only documented: an id of another form is 404, if unknown."""
    return Path(description=description, examples=[example], json_schema_extra={"pattern": pattern})


def services_of(request: Request) -> ApiServices:
    services: ApiServices = request.scope["app"].services
    return services


class ReadRequest(NamedTuple):
    """A reading request: its principal, and the position that the answers must show."""

    http: Request
    principal: Principal
    min_position: int | None = None

    @property
    def services(self) -> ApiServices:
        services: ApiServices = self.http.scope["app"].services
        return services

    @property
    def tenant(self) -> dict[str, Any]:
        return tenant_filters(self.principal)

    def instant(self, query: Present) -> datetime:
        """The instant that the answer is about; metrics are shown for its day and its week."""
        return query.instant or self.services.clock()

    def rows(
        self, read: Read, parameters: Mapping[str, Any], query: Present = _PRESENT
    ) -> Awaitable[Answer]:
        """The rows at the instant that the query names. Raises as ``Reads.ask`` does."""
        return self.ask(Question(self.principal.tenant, read, parameters, query.instant))

    def question(
        self, read: Read, parameters: Mapping[str, Any], query: Present = _PRESENT
    ) -> Question:
        return Question(self.principal.tenant, read, parameters, query.instant)

    def ask(self, question: Question) -> Awaitable[Answer]:
        return self.services.reads.ask(question, self.min_position)

    async def require_past(self, name: str, instant: datetime) -> None:
        """Raise Invalid if the instant of a parameter is later than now, and than the log."""
        if instant > self.services.clock():
            ((_, latest, _),) = await self.fetch(INSTANT, {"as_of": instant})
            if latest is None or instant > latest:
                raise Invalid.at(f"/{name}", "lies in the future")

    async def current_rows(self, statement: str, parameters: Mapping[str, Any]) -> Answer:
        """Read tables that appends write, the log's end first. Raises Behind if that is late."""
        least = self.min_position or 0
        rows = Answer(await self.fetch(statement, parameters))
        if rows.position < least:
            await self.services.positions.wait(least)
            rows = Answer(await self.fetch(statement, parameters))
            if rows.position < least:
                raise Behind("The log has not reached the asked position.")
        return rows

    def fetch(self, statement: str, parameters: Mapping[str, Any]) -> Awaitable[list[Any]]:
        """The rows of a statement that reads no view, as ``ReadPool.fetch`` gives them."""
        return self.services.pool.fetch(self.principal.tenant, statement, parameters)


def periods(instant: datetime) -> dict[str, Any]:
    day = instant.astimezone(UTC).date()
    return {"today": day, "week": day - timedelta(days=day.weekday())}


def tenant_filters(principal: Principal) -> dict[str, Any]:
    """The filters that limit a credential to the rows of its tenant."""
    if principal.is_admin:
        return {}
    filters = {"organization": principal.organization_id}
    if principal.workspace_id is not None:
        filters["workspace"] = principal.workspace_id
    return filters


def split_words(value: str | None) -> list[str] | None:
    """Sorted and distinct, so that equal requests share cursors and cached answers."""
    return None if value is None else sorted(set(value.split(",")))


_ANY_OF = re.compile(r"\^\(\?:(?P<words>[^()]+)\)\(\?:,\(\?:(?P=words)\)\)\*\$")


def any_of(words: tuple[str, ...]) -> str:
    word = "|".join(map(re.escape, words))
    return rf"^(?:{word})(?:,(?:{word}))*$"


def some_of(words: tuple[str, ...], about: str = "") -> Any:
    """The field of a filter that takes some of these words, and says what it is about."""
    return Field(pattern=any_of(words), description=f"{about} {OR}".lstrip())


def words_of(pattern: str) -> list[str] | None:
    """The words of a pattern that ``any_of`` has made; None for another pattern."""
    match = _ANY_OF.fullmatch(pattern)
    return match and [re.sub(r"\\(.)", r"\1", word) for word in match["words"].split("|")]


def read_at(rows: Answer, refusal: R) -> R:
    """Return the refusal with the position of the rows from which it follows."""
    refusal.position = rows.position
    return refusal


def unknown(subject_type: str, rows: Answer | None = None) -> NotFound:
    """The refusal of a subject that the caller does not see, with the position of the rows."""
    refusal = NotFound(f"No such {SUBJECTS[subject_type].noun}.")
    return refusal if rows is None else read_at(rows, refusal)


def require_id(subject_type: str, subject_id: str) -> None:
    """Raise NotFound for an id of another form, as for an id that no subject has."""
    if not _IDS[subject_type].fullmatch(subject_id):
        raise unknown(subject_type)


def subject_reply(subject_type: str, rows: Answer, item: str | None) -> Reply:
    """The answer that shows a subject of these rows. Raises NotFound if its JSON is None."""
    if item is None:
        raise unknown(subject_type, rows)
    return answer(f'{{"data":{item}}}', rows.position)
