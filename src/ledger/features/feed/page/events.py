"""The page of the feed, newest first (``/ui/events``), and the page of an event."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Response
from pydantic import Field

from ledger.engine.http.lean import needs
from ledger.engine.http.reading import Present, ReadRequest
from ledger.engine.http.replies import AnswerOf, PageOf
from ledger.engine.page import log
from ledger.engine.page.pages import PageRoute, as_file, export_route, go, read_answer, show
from ledger.engine.page.showing import summary
from ledger.features.feed.envelopes import Envelope
from ledger.features.feed.names import names_of_page
from ledger.features.feed.published import TYPES
from ledger.features.feed.routes import feeds
from ledger.features.proof import routes as proofs

router = APIRouter(prefix="/ui/events", include_in_schema=False, route_class=PageRoute)


class EventsQuery(feeds.FollowQuery, log.WrittenRange):
    """The feed's parameters."""

    limit: Annotated[int, Field(ge=1, le=100)] = log.PAGE_ROWS
    occurred_from_local: log.WrittenInstant = None
    occurred_to_local: log.WrittenInstant = None
    occurred_from_exact: log.WrittenInstant = None
    occurred_to_exact: log.WrittenInstant = None

    written = ("from", "to", "occurred_from", "occurred_to")

    @property
    def is_by_occurrence(self) -> bool:
        return self.occurred_from is not None or self.occurred_to is not None


@router.get("", openapi_extra=needs("read"))
async def show_events(request: ReadRequest, query: EventsQuery) -> Response:
    """A page of events, newest first; the first page refreshes as the feed grows."""
    address = query.canonical(request.http)
    if address is not None:
        return go(address)
    found = await read_answer(
        feeds.followed_page(request, query, is_backwards=True),
        PageOf[Envelope],
    )
    chosen = _chosen(query)
    filters = {name: value for name, value in chosen.items() if value is not None}
    return show(
        request.http,
        "events.html",
        events=found.data,
        total=None
        if query.is_by_occurrence
        else await feeds.events_counted(request, query, log.COUNTED),
        query=query,
        chosen=chosen,
        given_limit=None if query.limit == log.PAGE_ROWS else query.limit,
        **log.listed(request.http, found, filters),
        stream=log.stream_address(
            request.principal, chosen, tuple(feeds.EventFilters.model_fields)
        ),
        types=tuple(TYPES),
        summary=summary,
        **await _names(request, found.data, [query.service_line_id]),
    )


async def _names(
    request: ReadRequest,
    events: Sequence[Envelope],
    more_lines: Sequence[str | None] = (),
    more: Sequence[str | None] = (),
) -> dict[str, Any]:
    lines = (*more_lines, *(event.service_line_id for event in events))
    return await names_of_page(request, events, (event.subject for event in events), lines, more)


def _chosen(query: EventsQuery) -> dict[str, Any]:
    chosen = {name: getattr(query, name) for name in feeds.EventFilters.model_fields}
    times = {"occurred_from": query.occurred_from, "occurred_to": query.occurred_to}
    return chosen | {"from": query.from_, "to": query.to, **times}


export_route(router, "/export", feeds.export_events)


@router.get("/{event_id}", openapi_extra=needs("read"))
async def show_event(request: ReadRequest, event_id: str, query: Present) -> Response:
    """An event with its whole envelope, and its place in the sealed log."""
    answer = await feeds.show_event(request, event_id, query)
    body = bytes(answer.body)
    event = msgspec.json.decode(body, type=AnswerOf[Envelope]).data
    return show(
        request.http,
        "event.html",
        event=event,
        sealed=await proofs.seal_of(request, event.position),
        proof_file=proof_file(event.id),
        # From the answer itself: the model would change the digits of numbers and instants.
        envelope=json.loads(body)["data"],
        summary=summary,
        **await _names(request, [event], more=[event.workspace_id]),
    )


def proof_file(event_id: str) -> str:
    return f"{event_id}.proof.json"


@router.get("/{event_id}/proof", openapi_extra=needs("read"))
async def download_proof(request: ReadRequest, event_id: str, query: Present) -> Response:
    """The API's proof of an event, as a file."""
    answer = await feeds.show_event(request, event_id, query)
    event = msgspec.json.decode(answer.body, type=AnswerOf[Envelope]).data
    proof_query = proofs.ProofQuery(position=event.position)
    return await as_file(proofs.show_proof(request, proof_query), proof_file(event.id))
