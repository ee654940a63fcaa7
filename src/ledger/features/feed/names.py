"""The names that pages of events, audit entries and managed things show next to ids."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from ledger.engine.http.problems import UNBUILT
from ledger.engine.http.reading import Query, ReadRequest
from ledger.engine.values.errors import Behind
from ledger.engine.values.recorded import Actor
from ledger.engine.values.values import KEY_ID
from ledger.features.directory.names import names_for, names_of_scopes
from ledger.features.feed.routes import audit
from ledger.features.lines.names import names_of_lines
from ledger.features.sign_in.persons import persons_of


class Reported(Protocol):
    """An event or an audit entry: its subject and its reporter."""

    @property
    def actor(self) -> Actor: ...
    @property
    def reported_by(self) -> str: ...


class Named(Protocol):
    """The subject of an event, or the resource of an audit entry."""

    @property
    def type(self) -> str: ...
    @property
    def id(self) -> str: ...


async def names_of_actors(
    request: ReadRequest, actors: Iterable[Actor], credentials: Iterable[str] = ()
) -> Mapping[str, str]:
    """The names of these actors and credentials that are keys of the reader's tenant.

    Persons are noted; their names are loaded once the page has read everything that it shows.
    """
    actors, credentials = [*actors], [*credentials]
    persons_of(request.http).note(actors, credentials)
    ids = {*credentials, *(actor.id for actor in actors)}
    keys = {each for each in ids if re.fullmatch(KEY_ID, each)}
    named = await audit.key_names(request).of(keys)
    return {key: name for key, name in named.items() if name is not None}


async def names_of_page(
    request: ReadRequest,
    reported: Sequence[Reported],
    about: Iterable[Named | None],
    line_ids: Iterable[str | None],
    more: Iterable[str | None] = (),
) -> dict[str, Any]:
    """The names that a page of events or audit entries shows, as values of its template.

    These are names of keys and persons, of the events' lines, workspaces and projects; ``more`` are
    ids of further workspaces. Each kind costs one statement.
    """
    things = [each for each in about if each is not None]
    actors = {each.actor for each in reported}
    credentials = {each.reported_by for each in reported}
    credentials |= {each.id for each in things if each.type == "api_key"}
    found: dict[str, Any] = {"key_names": await names_of_actors(request, actors, credentials)}
    if not request.principal.may("read"):
        return found
    lines = {*line_ids, *(each.id for each in things if each.type == "service_line")} - {None}
    ids = {*more, *(each.id for each in things if each.type in ("workspace", "project"))} - {None}
    try:
        found["line_names"] = await names_of_lines(request, filter(None, lines), Query())
    except (Behind, *UNBUILT):
        found["line_names"] = {}
    return found | {"names": await names_for(request, (), filter(None, ids))}


async def names_of_managed(request: ReadRequest, things: Sequence[Any]) -> dict[str, Any]:
    """The names that a page of managed things shows, as values of its template.

    These are names of their workspaces, and of the actors that created or issued them.
    """
    created = (getattr(each, "created_by", getattr(each, "issued_by", None)) for each in things)
    actors = [actor for actor in created if actor is not None]
    return {
        "scope_names": await names_of_scopes(request, things),
        "key_names": await names_of_actors(request, actors),
    }
