"""Parts that every page shares: its route, its forms, its headers, and the page of a refusal."""

import hashlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial, reduce, wraps
from time import monotonic
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qs, quote, urlencode

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.types import Receive, Scope, Send

from ledger.engine.http import problems
from ledger.engine.http.lean import LeanRoute, is_model, needs, parse_query
from ledger.engine.http.machinery.bodies import media_type, read_capped
from ledger.engine.http.machinery.loop_slices import SLICE_SECONDS, LoopSlices
from ledger.engine.http.machinery.shares import LARGE_PAGE
from ledger.engine.http.models import EmptyBody
from ledger.engine.http.reading import Query, ReadRequest, services_of
from ledger.engine.http.writing import Sent
from ledger.engine.page import showing
from ledger.engine.page.addresses import here, own_page, with_parameter
from ledger.engine.page.first_steps import FirstSteps
from ledger.engine.page.frame import frame_of
from ledger.engine.page.lag import PageRequest, keep_written, lag_of
from ledger.engine.page.navigation import ALERT_PAGES, home_of, pages_for
from ledger.engine.page.visits import keep_visit
from ledger.engine.values.errors import Invalid, LedgerError, NotFound
from ledger.engine.values.principal import Principal
from ledger.engine.values.values import parse_bound
from ledger.engine.writer.request import IdempotencyKey

_logger = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


def content_policy(*more: str) -> str:
    """The Content-Security-Policy of a page, with its own directives: it uses no other site."""
    return "; ".join(
        (
            "default-src 'none'",
            "style-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
            *more,
        )
    )


HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": content_policy(
        "script-src 'self'", "img-src 'self'", "form-action 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": the request of a form must name the page that the form is on.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # No cache may keep a page: after signing out, the browser's Back button shows nothing.
    "Cache-Control": "no-store",
}
"""The headers of every page. A page loads nothing from other sites, and is not framed or cached."""

_LARGEST_FORM = 64 * 1024

_ADDRESS = re.compile(
    r"""\s(?:(?:href|src|action|formaction|hx-get|hx-post|data-stream)="|content="0; url=)(?=/)"""
)
"""Where an address of ours begins in a page. A user's text cannot look so: templates escape its
quotation marks."""


def templates_of(*packages: str) -> Environment:
    """The templates of the frame, and of these packages of pages, whose names are all different."""
    made = Environment(
        loader=ChoiceLoader([*map(PackageLoader, ("ledger.engine.page", *packages))]),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=showing.harmless,
        auto_reload=False,
    )
    made.filters.update(showing.FILTERS)
    return made


class Form(BaseModel):
    """The fields of every form that changes something. An empty field counts as absent."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_blanks(cls, values: Any) -> Any:
        return {name: value for name, value in values.items() if value != ""}

    form_key: str = Field(max_length=100)
    request_key: str = Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")
    """An idempotency key: a form sent twice is carried out once (contract, Access)."""

    def sent(self, key: IdempotencyKey) -> Sent[Any]:
        """The command for the API. A form without fields of its own has an empty one."""
        return Sent(EmptyBody(), key, None)


# Longer than the API's models allow: those refuse a value that is too long, and the page keeps it.
Typed = Annotated[str | None, Field(max_length=5000)]


def reason_of(typed: str | None) -> str | None:
    """The reason that was typed; one of blanks counts as none: the history would show nothing."""
    return (typed or "").replace("\r\n", "\n").strip() or None


def gathered(values: Mapping[str, Any], prefix: str, field: str) -> dict[str, Any]:
    """Replace the ticked boxes with the prefix by one field: their names, joined with commas."""
    boxes = [name for name in values if name.startswith(prefix)]
    rest = {name: value for name, value in values.items() if name not in boxes}
    return rest | {field: ",".join(name.removeprefix(prefix) for name in boxes)}


class PageResponse(Response):
    """A page whose text is rendered in slices, at the latest when it is sent."""

    def __init__(
        self,
        text: Iterator[str],
        status: int,
        slices: LoopSlices,
        tenant_key: str,
        root_path: str,
        load: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(status_code=status, headers=dict(HEADERS), media_type="text/html")
        self._text: Iterator[str] | None = text
        self._slices, self._tenant_key, self._root_path = slices, tenant_key, root_path
        self._load = load
        self.is_whole = True
        """True if the page has the frame with the navigation."""

    async def make(self) -> None:
        """Make the text, unless it is made already. Raises what the template raises."""
        if self._text is None:
            return
        await self._load()
        await self._slices.next(self._tenant_key)
        parts, until = list[str](), monotonic() + SLICE_SECONDS
        for part in self._text:
            parts.append(part)
            if monotonic() > until:
                await self._slices.next(self._tenant_key)
                until = monotonic() + SLICE_SECONDS
        text, self._text = "".join(parts), None
        if self._root_path:
            text = _ADDRESS.sub(rf"\g<0>{self._root_path}", text)
        self.body = text.encode()
        self.headers["content-length"] = str(len(self.body))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.make()
        await super().__call__(scope, receive, send)


class PageRoute(LeanRoute):
    """The route of a page: the session identifies its caller, and a refusal is a page too."""

    async def identify(self, request: Request) -> Principal:
        return await frame_of(request).visitor_of(request)

    def refuse(self, request: Request, error: LedgerError) -> Response:
        if isinstance(error, problems.Unauthorized) and request.method == "POST":
            error = problems.Unauthorized(f"Nothing was changed. {error.detail}")
        return refusal_page(request, error)

    def body_of(self, annotation: Any) -> Any:
        """The fields of a form: only forms are posted to pages, and never with a query."""
        return annotation if "POST" in (self.methods or ()) and is_model(annotation) else None

    async def read(self, request: Request, principal: Principal, model: Any) -> Any:
        return await read_form(request, model)

    def _filler(self, name: str, annotation: Any) -> Any:
        if annotation is ReadRequest:
            # Without a minimum position: a page shows what its node has.
            return lambda request, principal: PageRequest(request, principal)
        return super()._filler(name, annotation)

    def weigh(self, request: Request, arguments: Mapping[str, Any]) -> None:
        """Count a page of many rows as a large one. Raises RateLimited."""
        if getattr(arguments.get("query"), "limit", 0) > LARGE_PAGE:
            request.state.share.count(services_of(request).shares.large_pages)

    async def answer(self, request: Request) -> Response:
        """Return a page, also after an unexpected error. Raises one of REFUSALS."""
        try:
            response = await super().answer(request)
            keep_written(request, response)
            if isinstance(response, PageResponse):
                keep_visit(request, response)
                if response.is_whole:
                    await frame_of(request).bell_of(request).load(request)
                await lag_of(request).load(request)
                if lag_of(request).sentence:
                    response.headers["Ledger-Behind"] = lag_of(request).sentence
                await response.make()
            return response
        except problems.REFUSALS:
            raise
        except Exception:
            _logger.exception("request %s could not be answered", request.state.request_id)
            return refusal_page(
                request, problems.InternalError("The service could not show this page.")
            )

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Redirect an address with empty parameters to one without them, which can be shared."""
        if scope["method"] == "GET" and (query := _without_blanks(scope["query_string"])):
            await go(quote(scope["path"]) + query.rstrip("?"))(scope, receive, send)
            return
        await super().serve(scope, receive, send)


def of_organization(request: ReadRequest, organization_id: str | None) -> ReadRequest:
    """Narrow the request to one organization; None: to all that the reader sees.

    An administrator then reads as the organization's own readers do. Anybody else who names another
    organization finds nothing.
    """
    reader = request.principal
    if organization_id is None or organization_id == reader.organization_id:
        return request
    narrowed = msgspec.structs.replace(
        reader,
        permissions=reader.permissions - {"admin"} | {"read"},
        organization_id=organization_id if reader.is_admin else "",
    )
    return request._replace(principal=narrowed)


def writes_of(
    principal: Principal | None, actor_id: str, organization_id: str | None = None
) -> str | None:
    """An actor's writes in the organization's audit log; None if the reader may not open it."""
    if principal is None or not principal.may("audit:read"):
        return None
    address = with_parameter("/ui/audit", "actor_id", actor_id)
    if not principal.is_admin:
        return address
    return organization_id and with_parameter(address, "organization_id", organization_id)


async def read_answer(answer: Awaitable[Response], struct: type[T]) -> T:
    return msgspec.json.decode((await answer).body, type=struct)


async def read_as_of(read: Callable[[Query], Awaitable[T]], as_of: str | None, sentence: str) -> T:
    """Raises NotFound, with ``sentence`` for a record that exists now but not then."""
    try:
        return await read(Query(as_of=as_of))
    except NotFound:
        if as_of is None:
            raise
        await read(Query())
        raise NotFound(sentence) from None


async def as_file(answer: Awaitable[Response], name: str | None = None) -> Response:
    """The file of an API endpoint, authenticated by the session; ``name`` makes a body a file."""
    response = await answer
    response.headers.update(HEADERS)
    if name is not None:
        response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def export_route(
    router: APIRouter,
    path: str,
    export: Callable[..., Awaitable[Response]],
    permission: str = "read",
) -> None:
    """Route an export of the API, authenticated by the session: it takes the same parameters."""

    @wraps(export)
    async def send(**arguments: Any) -> Response:
        return await as_file(export(**arguments))

    router.get(path, openapi_extra=needs(permission))(send)


def show(
    request: Request,
    template: str,
    status: int = 200,
    refresh_address: str | None = None,
    **context: Any,
) -> Response:
    """A page of the instant in its address; ``refresh_address`` replaces the request's address."""
    address = refresh_address or here(request)
    services = services_of(request)
    principal: Principal | None = getattr(request.state, "principal", None)
    frame = frame_of(request)
    persons = frame.persons_of(request)
    now, zone = services.clock(), showing.zone_of(request)
    as_of, instant = _instant_of(request, now)
    # A cursor of a list as of one instant is meaningless in the list as of another.
    first_page = with_parameter(address, "cursor", None)
    common = {
        **frame.session_values(request),
        "request": request,
        "status": status,
        "principal": principal,
        "request_key": secrets.token_urlsafe(12),
        "zone": zone,
        "theme": (theme := showing.theme_of(request)),
        "next_theme": showing.theme_after(theme),
        "as_of": as_of,
        "seen_at": instant or now,
        "now": now,
        "now_link": with_parameter(first_page, "as_of", None),
        "picks": showing.picks(now, zone),
        "at_instant": partial(with_parameter, first_page, "as_of"),
        "here": address,
        # In another zone, the dates of an address are others: it is made anew.
        "zoned": with_parameter(address, "time_zone", None),
        "nav": pages_for(principal) if principal is not None else (),
        "home": home_of(principal) if principal is not None else "/",
        "steps": FirstSteps(request, principal) if principal is not None else None,
        "static": showing.static,
        "link": _linker(as_of),
        "lag": lag_of(request),
        "bell": frame.bell_of(request),
        "beside_alerts": ALERT_PAGES,
        "shows_payloads": services.shows_payloads,
        "may_read": principal is not None and principal.may("read"),
        "writes_of": partial(writes_of, principal),
        # The names by id that a page finds: of workspaces and projects, of lines, of keys.
        "names": {},
        "line_names": {},
        "key_names": {},
        # The names of persons, by actor.
        "persons": persons,
    }
    made = frame.templates.get_template(template)
    if principal is not None and made.blocks:  # the frame shows who is signed in
        persons.note([], [principal.id])
    text = made.generate(common | context)
    tenant_key = principal.tenant_key if principal is not None else ""
    load = partial(persons.load, request)
    response = PageResponse(text, status, services.slices, tenant_key, services.root_path, load)
    response.is_whole = bool(made.blocks)
    return response


def _instant_of(request: Request, now: datetime) -> tuple[str | None, datetime | None]:
    """The shown instant as text and value; None means now, as does a malformed or future one."""
    text = request.query_params.get("as_of")
    with suppress(ValueError):
        if text is not None and (instant := parse_bound(text)) <= now:
            return text, instant
    return None, None


def refusal_page(request: Request, error: LedgerError, **context: Any) -> Response:
    """The page of a refusal, with its HTTP status; without a session, the sign-in page."""
    frame = frame_of(request)
    if (page := frame.sign_in(request, error, context)) is not None:
        return page
    response = show(
        request,
        "refusal.html",
        problems.status_of(error),
        title=problems.STATUS[error.code][1],
        error=error,
        places=error.errors if isinstance(error, Invalid) else (),
        meant=_meant(request, error),
        sign_in_again=frame.sign_in_again(request, error),
        request_id=request.state.request_id,
        **context,
    )
    response.headers.update(problems.retry_after(error))
    return response


def _meant(request: Request, error: LedgerError) -> str | None:
    """The address of the page without what was wrong in its parameters; None if nothing was."""
    address = here(request)
    if request.method != "GET" or not request.url.query:
        return None
    if isinstance(error, problems.InvalidCursor):
        wrong = ["cursor", "before"]
    elif isinstance(error, Invalid):
        wrong = [pointer.partition("/")[2] for pointer, _ in error.errors]
    else:
        return None
    if "next" in request.query_params:  # a form, which leads to another page
        return own_page(request.query_params["next"])
    left = reduce(lambda rest, name: with_parameter(rest, name, None), wrong, address)
    return left if left != address else request.url.path


def _without_blanks(query: bytes) -> str | None:
    """The query string without its empty parameters; None if it has none of them."""
    parts = query.decode("ascii", "replace").split("&")
    filled = [part for part in parts if part.partition("=")[2] or "=" not in part]
    return None if len(filled) == len(parts) else "?" + "&".join(filled)


async def read_form(request: Request, model: type[M]) -> M:
    """The fields of a form whose form key matches the session. Raises Forbidden or Invalid."""
    if media_type(request) != "application/x-www-form-urlencoded":
        raise Invalid.at("", "must be a form")
    raw = await read_capped(request, _LARGEST_FORM)
    sent = parse_qs(raw.decode("ascii", "replace")).get("form_key", [""])
    request.state.session.require_form_key(sent[0])
    filled = parse_query(raw, model)
    assert isinstance(filled, model)
    return filled


def idempotency_of(request: ReadRequest, form: Form) -> IdempotencyKey:
    """The idempotency key of a form. The fingerprint tells apart two forms with other values."""
    text = form.model_dump_json(exclude={"form_key", "request_key"})
    fingerprint = hashlib.sha256(text.encode()).digest()
    name = f"ui-{form.request_key}"
    return IdempotencyKey(request.principal.credential, request.http.url.path, name, fingerprint)


def go(path: str) -> Response:
    return RedirectResponse(path, status_code=303, headers=dict(HEADERS))


def _linker(as_of: str | None) -> Any:
    """Return the function by which templates make links that keep the shown instant."""

    def link(path: str, **parameters: Any) -> str:
        query = {n.rstrip("_"): v for n, v in parameters.items() if v is not None and v != ""}
        if as_of is not None:
            query.setdefault("as_of", as_of)
        return path + (f"?{urlencode(query)}" if query else "")

    return link
