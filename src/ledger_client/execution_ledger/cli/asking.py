"""Requests of ``elk``. Answers stay as they are, so newer and older services look alike."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, get_args, get_origin

import httpx
import msgspec

from execution_ledger._operation import Bare, Listing, Operation
from execution_ledger._requests import (
    BROKEN,
    Attempts,
    Outgoing,
    error_of,
    request_of,
    unexpected,
)
from execution_ledger._sync.transport import Transport
from execution_ledger._wait import pause
from execution_ledger.errors import LedgerError, Problem

CONNECT_SECONDS = 3.0
"""How long a refused connection is retried, in seconds: a person waits for it."""


class TooOld(LedgerError):
    """The service's version does not have what the command needs."""


class Connection(Transport):
    """The connections to one service."""

    answer: httpx.Response | None = None
    """The last successful answer."""

    def attempt(self, request: Outgoing, is_ours: bool = True) -> httpx.Response:
        """Send a request until it succeeds. Raises LedgerError.

        ``is_ours`` is False for a route that a person typed. If it is not found, the service need
        not be too old.
        """
        connects = Attempts(request.method, CONNECT_SECONDS)
        attempts = Attempts(request.method, self.settings.timeout)
        while True:
            try:
                answer = self.whole(self._built(request, attempts.timeout))
            except httpx.ConnectError as error:
                pause(connects.again(error))
                continue
            except httpx.TransportError as error:
                pause(attempts.again(error))
                continue
            if answer.is_success:
                self.answer = answer
                return answer
            problem = error_of(answer, self.settings.url)
            if is_ours and isinstance(problem, Problem) and problem.status in (404, 405, 422):
                self._require_known(request, problem)
            pause(attempts.again(problem))

    def ask(self, operation: Operation[Any], *ids: object, **fields: object) -> Any:
        """The answer of a route: its ``data``, or all of it if it has none."""
        answer = self.document(operation, self.attempt(request_of(operation, ids, fields)))
        return answer.get("data", answer)

    def rows(self, operation: Operation[Any], **fields: object) -> Iterator[Any]:
        """The rows of a list, over all its pages."""
        for data in self.pages(operation, **fields):
            yield from data["rows"] if isinstance(data, dict) else data

    def pages(self, operation: Operation[Any], **fields: object) -> Iterator[Any]:
        """The ``data`` of each page of a list."""
        while True:
            document = self.document(operation, self.attempt(request_of(operation, (), fields)))
            yield document["data"]
            if not document["meta"]["has_more"]:
                return
            fields["cursor"] = document["meta"]["cursor"]

    def document(self, operation: Operation[Any], answer: httpx.Response) -> dict[str, Any]:
        """The object in a route's answer. Raises UnexpectedAnswer."""
        kind = operation.type
        with suppress(*BROKEN):
            document = msgspec.json.decode(answer.content, type=dict[str, Any])
            data = document if isinstance(operation, Bare) else document["data"]
            rows = data if isinstance(operation, Listing) else [data]
            if isinstance(rows, list) and all(_has_form(row, kind) for row in rows):
                return document
        raise unexpected(answer, self.settings.url)

    def _require_known(self, request: Outgoing, problem: Problem) -> None:
        """Raise TooOld if the service has no such route or parameter."""
        try:
            document = self._http.get("/openapi.json", timeout=self.settings.timeout).json()
            version, paths = document["info"]["version"], document["paths"]
        except (httpx.HTTPError, ValueError, LookupError, TypeError):
            return
        path = request.path.partition("?")[0]
        too_old = (
            f"The ledger at {self.settings.url} (version {version}) is too old for this: it has"
        )
        routes = [ways for template, ways in paths.items() if _matches(template, path)]
        route = next((ways for ways in routes if request.method.lower() in ways), None)
        if route is None:
            raise TooOld(f"{too_old} no {request.method} {path}.") from problem
        named = {each.get("name") for each in route[request.method.lower()].get("parameters", ())}
        if unknown := set(request.query) - named:
            raise TooOld(f"{too_old} no parameter {', '.join(sorted(unknown))} there.") from problem


def _has_form(value: Any, kind: Any) -> bool:
    """Return True if JSON may be of a type, also from another version: it has one of its fields."""
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_has_form(each, get_args(kind)[0]) for each in value)
    fields = getattr(kind, "__struct_encode_fields__", None)
    return isinstance(value, dict) and (fields is None or not value.keys().isdisjoint(fields))


def _matches(template: str, path: str) -> bool:
    pattern = "[^/]+".join(map(re.escape, re.split(r"\{[^}]*\}", template)))
    return re.fullmatch(pattern, path) is not None


def parameters(fields: Mapping[str, object]) -> dict[str, object]:
    """The arguments that were given, without None."""
    return {name: value for name, value in fields.items() if value is not None}
