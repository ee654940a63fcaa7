"""The search: finds by a word in the name, or by a number in the id (contract, Reading)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field

from ledger.engine.http.lean import Router, read_route
from ledger.engine.http.reading import Present, ReadRequest
from ledger.engine.http.replies import Reply
from ledger.engine.reads.question import Answer
from ledger.engine.values.errors import Invalid
from ledger.engine.values.rendering import doc, json_text
from projections.directory.search.statements import FOUND, search_read
from projections.directory.search.words import Sought, folded_name, sought

router = Router("/v1/search", "search")

MOST_CHARACTERS = 200


class SearchQuery(Present):
    """The search's parameter."""

    q: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MOST_CHARACTERS,
            description="Words of two characters or more, and numbers of ids. A word begins a word"
            " of the name. All must fit.",
            examples=["payments", "LIN-26-090405", "090405"],
        ),
    ]


class Found(msgspec.Struct):
    """A result: what has a fitting name or id."""

    type: Literal["line", "run", "workspace", "project", "resource", "blocker"]
    id: str
    name: Annotated[
        str | None,
        doc("Of a run its external id, of a blocker the first 200 characters of its reason."),
    ]
    service_line_id: Annotated[
        str | None, doc("The line of a run or of a blocker; of a line its own id.")
    ]


class SearchResults(msgspec.Struct):
    """The results, lines first."""

    data: Annotated[list[Found], msgspec.Meta(max_length=FOUND)]


class SearchReply(Reply):
    """The reply of a search."""

    line_names: Mapping[str, str]
    """The names of the lines of found blockers and runs. Only the web pages use them."""


@read_route(router, "", SearchResults, summary="Search by name or id")
async def search_names(request: ReadRequest, query: SearchQuery) -> SearchReply:
    """Search lines, runs, workspaces, projects, resources and open blockers, as they are now."""
    wanted = sought(query.q)
    if wanted is None:
        raise Invalid.at("/q", "must have a word of two characters or more, or a number")
    filters = request.tenant
    read = search_read(frozenset(filters), by_number=wanted.number is not None)
    rows = await request.rows(read, filters | wanted.parameters())
    reply: SearchReply = rows.once(_reply, wanted)
    return reply


def _reply(rows: Answer, wanted: Sought) -> SearchReply:
    """The results that fit, lines first, then by name."""
    found: dict[tuple[Any, ...], Found] = {}
    line_names: dict[str, str] = {}
    for index, (_, kind, identifier, name, line_id, folded, line_name) in enumerate(rows):
        # A run without its line: the view of runs is behind the view of words.
        if kind is None or (kind == "run" and line_id is None):
            continue
        if folded is None:
            folded = folded_name(name or "")
            is_named = kind == "run" and name == wanted.text
            if not is_named and not (wanted.fits_id(identifier) and wanted.fits_name(folded)):
                continue
        if line_name is not None:
            line_names[line_id] = line_name
        # A run may be found twice: by its number, its external id, or the words of that id.
        order = (kind != "line", folded, kind, identifier, 0 if kind == "run" else index)
        found[order] = Found(kind, identifier, name, line_id)
    items = [found[order] for order in sorted(found)[:FOUND]]
    reply = SearchReply(json_text(SearchResults(items)).encode(), rows.position)
    reply.line_names = line_names
    return reply
