"""Lean routes: declared as for FastAPI, but called without its dependency machinery.

FastAPI resolves dependencies for each request through exit stacks and every field, below five
layers of middleware; for our reads this costs as much as the database. A lean route names the
struct that it shows, from which OpenAPI is made. ``app/http/app.py`` calls a lean route before any
of FastAPI's layers.

The route fills its endpoint's arguments directly: the principal or a ``ReadRequest``, one query
model, the names in the path, and last a command's body (``Sent``). A route without a query model
refuses every parameter. The permission is checked before anything is parsed (contract, Facts: 401,
403, 404, 422, 409).
"""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, TypeVar, get_args, get_origin
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import Receive, Scope, Send

from ledger.engine.http import problems, writing
from ledger.engine.http.machinery.headers import HEADERS, address_of, token_of
from ledger.engine.http.machinery.shares import Share
from ledger.engine.http.reading import OR, Present, ReadRequest, services_of
from ledger.engine.http.replies import AnswerOf, PageOf
from ledger.engine.values.errors import Invalid, LedgerError, Refused
from ledger.engine.values.places import pointers
from ledger.engine.values.principal import Principal
from ledger.engine.writer.command import OwnCommand

F = TypeVar("F", bound=Callable[..., Any])

_Filler = Callable[[Request, Principal], Any]

LARGEST_POSITION = 2**63 - 1

_MIN_POSITION = b"ledger-min-position"

_SHORT = 300
"""Bytes of the longest query string that is kept in memory with its query."""

_NONE: Mapping[str, Any] = {}

_answer_of: Any = AnswerOf
_page_of: Any = PageOf
"""Untyped: mypy does not know the types of structs that are arguments."""

_IDEMPOTENT: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Makes the request safe to send again for 24 hours: the outcome is"
    " replayed, with `Idempotency-Replayed: true`.",
    # In quotation marks, or bare; a bare key may begin with one, too.
    "schema": {
        "type": "string",
        "pattern": '^("[!-~]{1,255}"|[!#-~][!-~]{0,254}|"([!-~]{0,253}[!#-~])?)$',
    },
}


def needs(permission: str | None) -> dict[str, Any]:
    """None: any credential is enough. A route without this declaration cannot be built."""
    return {"x-permission": permission}


def read_route(
    router: APIRouter,
    path: str,
    answer: type[Any],
    refused: problems.Responses = problems.READ_ERRORS,
    *,
    summary: str,
    permission: str | None = "read",
) -> Callable[[F], F]:
    """Route a read to the decorated function. ``answer`` is the struct that the answer shows."""
    responses = {200: {"types": (answer,)}, **refused}
    described = needs(permission)
    return router.get(path, summary=summary, openapi_extra=described, responses=responses)


def command_route(
    router: APIRouter,
    path: str,
    command: type[OwnCommand],
    permission: str,
    *,
    method: str = "POST",
    summary: str | None = None,
    answer: type[Any] | None = None,
    status: int = 200,
    further: tuple[int, ...] = (),
) -> Callable[[F], F]:
    """Route a command to the decorated function; its refusals are recorded.

    ``answer`` is the struct that is shown. A function that takes ``Sent[Any]`` has no body and no
    answer, and accepts no Idempotency-Key; ``further`` are additional statuses of its refusals.
    Pages are not in OpenAPI: their forms name no answer.
    """

    def mark(endpoint: F) -> F:
        described = needs(permission)
        responses = problems.refusals(401, 403, 404, *further, 422, 429, 503)
        if answer is not None:
            annotations = inspect.get_annotations(endpoint, eval_str=True).values()
            (body,) = filter(None, map(_sent, annotations))
            described |= {"parameters": [_IDEMPOTENT], "body": body}
            responses = {status: {"types": (answer,)}, **problems.WRITE_ERRORS}
        declare = router.api_route(
            path,
            methods=[method],
            summary=summary,
            status_code=status,
            responses=responses,
            openapi_extra=described,
        )
        return declare(writing.records_refusals(writing.refusals_of(command))(endpoint))

    return mark


class LeanRoute(APIRoute):
    """A route whose endpoint is called directly. Page routes are a subclass."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        options["name"] = endpoint.__name__
        options["description"] = inspect.cleandoc(endpoint.__doc__ or "")
        super().__init__(path, _never, **options)
        self.endpoint = endpoint
        self._call: Callable[..., Awaitable[Response]] = endpoint
        self._permission: str | None = (self.openapi_extra or {})["x-permission"]
        self._is_read = "GET" in (self.methods or ())
        self._is_stream = path.endswith("/stream")
        self._on_refusal: writing.OnRefusal | None = getattr(endpoint, "on_refusal", None)
        parameters = inspect.signature(endpoint, eval_str=True).parameters
        # A fault in the query is reported before a fault in the header of ``ReadRequest``.
        ordered = sorted(
            # Internal callers pass what has a default.
            (named for named in parameters.items() if named[1].default is inspect.Parameter.empty),
            key=lambda named: named[1].annotation is ReadRequest,
        )
        bodies = {name: self.body_of(p.annotation) for name, p in ordered}
        self._bodies = [(name, body) for name, body in bodies.items() if body is not None]
        self._fillers = [
            (name, self._filler(name, p.annotation)) for name, p in ordered if bodies[name] is None
        ]
        self._has_query = any(is_model(p.annotation) for n, p in ordered if bodies[n] is None)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        try:
            try:
                response = await self.answer(request)
            except problems.REFUSALS as error:
                # The traceback's frames refer to the request and the error: a cycle that is freed
                # late.
                error.with_traceback(None)
                response = self.refuse(request, problems.as_refusal(error))
            await response(scope, receive, send)
        finally:
            share: Share | None = scope["state"].get("share")
            if share is not None:
                share.end()

    def identify(self, request: Request) -> Awaitable[Principal]:
        return authenticate(request)

    def refuse(self, request: Request, error: LedgerError) -> Response:
        return problems.problem(request, error)

    def body_of(self, annotation: Any) -> Any:
        """The model of the body, if this annotation takes the body, else None."""
        return _sent(annotation)

    async def read(self, request: Request, principal: Principal, model: Any) -> Any:
        """Read the body for the endpoint. ``Any``: the command has none."""
        if model is Any:
            return writing.Sent[Any](None, None, None)
        return await writing.read_command(request, principal, model)

    def min_position(self, request: Request) -> int | None:
        """The position that the answer must show; a command's answer shows the command itself."""
        text = request.scope[HEADERS].get(_MIN_POSITION) if self._is_read else None
        if text is None:
            return None
        if not (text.isdigit() and len(text) <= 19 and int(text) <= LARGEST_POSITION):
            pointer = "/Ledger-Min-Position"
            raise Invalid.at(pointer, "must be a position: a whole number, 0 or more")
        return int(text)

    def _filler(self, name: str, annotation: Any) -> _Filler:
        if annotation is Request:
            return lambda request, _: request
        if annotation is Principal:
            return lambda _, principal: principal
        if annotation is ReadRequest:
            return lambda request, principal: ReadRequest(
                request,
                principal,
                self.min_position(request) if _MIN_POSITION in request.scope[HEADERS] else None,
            )
        if is_model(annotation):
            return _query_filler(annotation)
        return lambda request, _: request.scope["path_params"][name]

    def weigh(self, request: Request, arguments: Mapping[str, Any]) -> None:
        """Count an expensive request in a further share. Raises RateLimited."""

    async def answer(self, request: Request) -> Response:
        """The endpoint's response, if the caller has the permission. Raises one of REFUSALS."""
        principal, scope = await self.identify(request), request.scope
        state = scope["state"]
        state["credential"] = principal.id
        # From here on the metrics name the route: without a valid credential, nobody adds a series.
        scope["route"] = self
        if not self._is_stream:
            shares = services_of(request).shares
            state["share"] = Share(shares.reads if self._is_read else shares.writes, principal)
        try:
            if self._permission is not None:
                principal.require(self._permission)
            if scope["query_string"] and not self._has_query:
                _no_parameters(request, principal)
            arguments = {name: fill(request, principal) for name, fill in self._fillers}
        except Refused as refusal:
            if self._on_refusal is None:
                raise
            await writing.record_refusal(request, principal, refusal, self._on_refusal)
        self.weigh(request, arguments)
        for name, model in self._bodies:
            arguments[name] = await self.read(request, principal, model)
        return await self._call(**arguments)


class Router(APIRouter):
    """The routes of a module, and its additions to the OpenAPI document.

    ``words`` are enumerations used in several places, or whose place alone says too little;
    ``unions`` names alternatives by the first of them. ``sent`` and ``answers`` return further
    schemas, by name: of bodies, and of answers.
    """

    def __init__(
        self,
        prefix: str,
        tag: str,
        route_class: type[LeanRoute] = LeanRoute,
        *,
        words: Mapping[str, tuple[str, ...]] = _NONE,
        unions: Mapping[str, str] = _NONE,
        sent: Callable[[], Mapping[str, Any]] = dict,
        answers: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        super().__init__(prefix=prefix, tags=[tag], route_class=route_class)
        self.words, self.unions, self.sent, self.answers = words, unions, sent, answers


class ManagedRouter(Router):
    """The routes of managed things: their list, one by its id, and their commands.

    ``identifier`` is the id's name in paths, ``manages`` the permission of the commands, ``reads``
    that of the reads. Each method routes the decorated function, and shows ``struct``.
    """

    def __init__(
        self, prefix: str, tag: str, identifier: str, manages: str, reads: str, **more: Any
    ) -> None:
        super().__init__(prefix, tag, **more)
        self._thing, self._manages, self._reads = f"/{{{identifier}}}", manages, reads

    def lists(self, struct: Any, summary: str) -> Callable[[F], F]:
        return read_route(self, "", _page_of[struct], summary=summary, permission=self._reads)

    def shows(self, struct: Any, summary: str) -> Callable[[F], F]:
        answer, refused = _answer_of[struct], problems.FEED_ERRORS
        reads = self._reads
        return read_route(self, self._thing, answer, refused, summary=summary, permission=reads)

    def creates(self, command: type[OwnCommand], struct: Any, summary: str) -> Callable[[F], F]:
        return self._command("", command, summary, answer=_answer_of[struct], status=201)

    def changes(self, command: type[OwnCommand], struct: Any, summary: str) -> Callable[[F], F]:
        answer = _answer_of[struct]
        return self._command(self._thing, command, summary, method="PATCH", answer=answer)

    def acts(
        self, act: str, command: type[OwnCommand], struct: Any, summary: str, status: int = 200
    ) -> Callable[[F], F]:
        path, answer = f"{self._thing}/{act}", _answer_of[struct]
        return self._command(path, command, summary, answer=answer, status=status)

    def removes(self, command: type[OwnCommand], summary: str, *further: int) -> Callable[[F], F]:
        more = {"method": "DELETE", "status": 204, "further": further}
        return self._command(self._thing, command, summary, **more)

    def _command(
        self, path: str, command: type[OwnCommand], summary: str, **more: Any
    ) -> Callable[[F], F]:
        return command_route(self, path, command, self._manages, summary=summary, **more)


def authenticate(request: Request) -> Awaitable[Principal]:
    """Check the request's bearer token. Raises Unauthorized."""
    authenticator = services_of(request).authenticator
    return authenticator.authenticate(token_of(request), address_of(request))


async def _never() -> Response:
    """Replaces the endpoint for FastAPI, which would make models of its parameters."""
    raise NotImplementedError


def is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _sent(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is writing.Sent else None


def _query_filler(model: type[BaseModel]) -> _Filler:
    needed = any(field.is_required() for field in model.model_fields.values())
    empty = None if needed else model()

    is_frozen = model.model_config.get("frozen", False)

    def fill(request: Request, _: Principal) -> BaseModel:
        raw: bytes = request.scope["query_string"]
        if not raw and empty is not None:
            return empty
        return (_repeated_query if is_frozen and len(raw) <= _SHORT else parse_query)(raw, model)

    return fill


_no_parameters = _query_filler(Present)


@lru_cache(1000)
def _repeated_query(raw: bytes, model: type[BaseModel]) -> BaseModel:
    """As ``parse_query``; a query that clients repeat is parsed once."""
    return parse_query(raw, model)


def parse_query(raw: bytes, model: type[BaseModel]) -> BaseModel:
    """Parse the query string into its model. Raises Invalid, also for a repeated parameter."""
    pairs = parse_qsl(raw.decode("ascii", "replace"), keep_blank_values=True)
    values = dict(pairs)
    if len(values) != len(pairs):
        values = _joined(pairs, _several(model))
    if any("\0" in value for value in values.values()):
        raise Invalid.at("", "a parameter contains NUL")
    try:
        return model.model_validate_strings(values)
    except ValidationError as error:
        errors = pointers(error, "", "parameter")
        raise Invalid("The request has invalid parameters.", errors) from error


@cache
def _several(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(
        field.alias or name
        for name, field in model.model_fields.items()
        if OR in (field.description or "")
    )


def _joined(pairs: Sequence[tuple[str, str]], several: frozenset[str]) -> dict[str, str]:
    """Join repeated parameters with commas. Raises Invalid for one that takes a single value."""
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values and name not in several:
            raise Invalid.at("", "a parameter is given twice")
        values[name] = f"{values[name]},{value}" if name in values else value
    return values
