"""The names that a page shows beside ids.

Names of workspaces and projects are those of now, also where the page shows an instant of the past.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ledger.engine.http.problems import UNBUILT
from ledger.engine.http.reading import Asking, Query, TenantQuery
from ledger.engine.http.replies import AnswerOf, PageOf
from ledger.engine.page.pages import read_answer
from ledger.engine.values.errors import Behind
from ledger.engine.values.recorded import Actor
from ledger.engine.values.values import KEY_ID
from ledger.features.feed.routes import audit
from ledger.features.lines.routes import executions
from ledger.features.sign_in.page.persons import persons_of
from ledger.features.sign_in.persons import persons_of
from ledger.features.watches.model.shown import ShownWatch
from ledger.features.watches.routes import watches
from projections.directory import statements as directory
from projections.lines.shown import LineDetail
from projections.lines.statements import names_read


async def names_for(
    asking: Asking, lines: Iterable[LineDetail], more: Iterable[str] = ()
) -> Mapping[str, str]:
    """The names of the workspaces and projects of these lines, and of ``more`` ids, by id.

    Without the view of the directory, which a new version has to build first, a page shows ids.
    """
    ids = {tag for line in lines for tag in (line.workspace_id, *line.project_tags)} | set(more)
    if not ids:
        return {}
    filters = asking.tenant
    filters.pop("workspace", None)
    parameters = {**filters, "ids": sorted(ids)}
    try:
        rows = await asking.rows(directory.names_read(frozenset(filters)), parameters)
    except (Behind, *UNBUILT):
        return {}
    named: Mapping[str, str] = rows.once(
        lambda answer: {row[1]: row[2] for row in answer if row[1] is not None}
    )
    return named


class Scoped(Protocol):
    """A key or an endpoint: what it may see is one workspace of an organization, or more."""

    workspace_id: str | None

    @property
    def organization_id(self) -> str | None: ...


async def names_of_scopes(asking: Asking, shown: Iterable[Scoped]) -> Mapping[tuple[str, str], str]:
    """The names of the workspaces of these keys or endpoints, by organization and workspace.

    Empty if the credential may not read names, or while the view of the directory is missing.
    """
    if not asking.principal.may("read"):
        return {}
    scopes = {
        (each.organization_id, each.workspace_id)
        for each in shown
        if each.organization_id is not None and each.workspace_id is not None
    }
    if not scopes:
        return {}
    organizations, ids = zip(*sorted(scopes), strict=True)
    parameters = {"ids": [*ids], "organizations": [*organizations]}
    try:
        rows = await asking.rows(directory.SCOPES, parameters)
    except (Behind, *UNBUILT):
        return {}
    named: Mapping[tuple[str, str], str] = rows.once(
        lambda answer: {(row[2], row[1]): row[3] for row in answer if row[1] is not None}
    )
    return named


async def names_of_lines(
    asking: Asking, line_ids: Iterable[str], query: Query
) -> Mapping[str, str]:
    """The names of these lines by id, as known at the query's instant."""
    known = await known_of_lines(asking, line_ids, query)
    return {line: found.name for line, found in known.items() if found.name is not None}


class KnownOfLine(NamedTuple):
    """The name of a line, and the organization that it belongs to."""

    name: str | None
    organization_id: str


async def known_of_lines(
    asking: Asking, line_ids: Iterable[str], query: Query
) -> Mapping[str, KnownOfLine]:
    """The names and organizations of these lines by id, as known at the query's instant."""
    if not (ids := sorted(set(line_ids))):
        return {}
    tenant = asking.tenant
    read = names_read(frozenset(tenant), query.is_past)
    rows = await asking.rows(read, {**tenant, "ids": ids}, query)
    known: Mapping[str, KnownOfLine] = rows.once(
        lambda answer: {row[1]: KnownOfLine(*row[2:]) for row in answer if row[1] is not None}
    )
    return known


async def names_of_watches(asking: Asking, organization_id: str | None = None) -> Mapping[str, str]:
    """The names of the latest watches that the credential sees, at most 100, by id."""
    if not asking.principal.may("read"):
        return {}
    query = TenantQuery(organization_id=organization_id, limit=100)
    try:
        found = await read_answer(watches.list_watches(asking, query), PageOf[ShownWatch])
    except (Behind, *UNBUILT):
        return {}
    return {watch.id: watch.name for watch in found.data}


class Reported(Protocol):
    """An event or an audit entry: what it is about, and who reported it."""

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
    asking: Asking, actors: Iterable[Actor], credentials: Iterable[str] = ()
) -> Mapping[str, str]:
    """The names of those of these actors and credentials that are keys of the reader's tenant.

    Those of persons are noted, and asked for once the page has read all that it shows.
    """
    actors, credentials = [*actors], [*credentials]
    persons_of(asking.request).note(actors, credentials)
    ids = {*credentials, *(actor.id for actor in actors)}
    keys = {each for each in ids if re.fullmatch(KEY_ID, each)}
    named = await audit.key_names(asking).of(keys)
    return {key: name for key, name in named.items() if name is not None}


async def names_beside(
    asking: Asking,
    reported: Sequence[Reported],
    about: Iterable[Named | None],
    line_ids: Iterable[str | None],
    more: Iterable[str | None] = (),
) -> dict[str, Any]:
    """The names that a page of events or audit entries shows, as values of its template.

    Those of keys and persons, of the lines, and of workspaces and projects that the events are
    about; ``more`` are ids of further workspaces. Each kind costs one statement.
    """
    things = [each for each in about if each is not None]
    actors = {each.actor for each in reported}
    credentials = {each.reported_by for each in reported}
    credentials |= {each.id for each in things if each.type == "api_key"}
    found: dict[str, Any] = {"key_names": await names_of_actors(asking, actors, credentials)}
    if not asking.principal.may("read"):
        return found
    lines = {*line_ids, *(each.id for each in things if each.type == "service_line")} - {None}
    ids = {*more, *(each.id for each in things if each.type in ("workspace", "project"))} - {None}
    try:
        found["line_names"] = await names_of_lines(asking, filter(None, lines), Query())
    except (Behind, *UNBUILT):
        found["line_names"] = {}
    return found | {"names": await names_for(asking, (), filter(None, ids))}


async def name_of_line(asking: Asking, line_id: str, as_of: str | None) -> str | None:
    """The name of a line that the credential sees, as it was known at the instant."""
    answer = executions.show_execution(asking, line_id, Query(as_of=as_of))
    return (await read_answer(answer, AnswerOf[LineDetail])).data.name
