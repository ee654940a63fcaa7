"""The parts of every page that features bring: visitors, their sign-in, persons, bell, actions."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from fastapi import Request, Response
from jinja2 import Environment

from ledger.engine.http.reading import ReadRequest
from ledger.engine.values.errors import LedgerError
from ledger.engine.values.principal import Principal
from ledger.engine.values.recorded import Actor


class ReadLast(Protocol):
    """A part of a page that is read after the page's own answers."""

    async def load(self, request: Request) -> None: ...


class NamesOfPersons(ReadLast, Protocol):
    """The persons whose names a page shows."""

    def note(self, actors: Iterable[Actor], credentials: Iterable[str] = ()) -> None: ...


class Frame(NamedTuple):
    """The parts; ``ledger/app/http/site.py`` names them."""

    templates: Environment
    visitor_of: Callable[[Request], Awaitable[Principal]]
    """Identifies the visitor. Raises Unauthorized, or Forbidden for another site's request."""
    session_values: Callable[[Request], Mapping[str, Any]]
    """The values of templates that depend on the visitor's session."""
    sign_in: Callable[[Request, LedgerError, Mapping[str, Any]], Response | None]
    """The page on which a visitor signs in after this refusal; None: that would not help."""
    sign_in_again: Callable[[Request, LedgerError], str | None]
    """The address of a new sign-in, where it may lift a refusal of the session."""
    persons_of: Callable[[Request], NamesOfPersons]
    bell_of: Callable[[Request], ReadLast]
    label_of: Callable[[str], str]
    names_of_managed: Callable[[ReadRequest, Sequence[Any]], Awaitable[Mapping[str, Any]]]
    """The names that a page with these managed things shows, as values of its template."""


def frame_of(request: Request) -> Frame:
    frame: Frame = request.app.state.frame
    return frame
