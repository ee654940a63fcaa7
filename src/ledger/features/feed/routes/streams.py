"""The live feed as Server-Sent Events (contract, Feeds)."""

import logging
import re
from typing import Any

from fastapi import Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import SendTimeoutError
from starlette.types import Receive, Scope, Send

from ledger.engine.http.lean import Router, needs
from ledger.engine.http.problems import refusals
from ledger.engine.http.reading import Present, services_of, tenant_filters
from ledger.engine.values.errors import Invalid
from ledger.engine.values.principal import Principal
from ledger.engine.values.values import EVENT_ID
from ledger.features.feed.routes.feeds import EventFilters, position_in
from ledger.features.feed.stream import Stream, Streams
from projections.feed.feeds import feed_read

router = Router("/v1/events", "feeds")

_logger = logging.getLogger(__name__)

_GRACE_SECONDS = 1.0
"""The time for streams to finish by themselves when the process ends."""

_LAST_EVENT_ID: dict[str, Any] = {
    "name": "Last-Event-ID",
    "in": "header",
    "required": False,
    "description": "The EVT id of the last event that was received: the stream begins after it."
    " Clients send this header when they reconnect, with the address unchanged. The header"
    " therefore has precedence over `after`.",
    "schema": {"type": "string", "pattern": EVENT_ID},
}
_MESSAGES: dict[str, Any] = {
    "description": "A stream without end. Each message has the event's EVT id as `id` and its"
    " envelope, an `Event` as JSON, as `data`; comments in between keep the connection alive.",
    "headers": {
        "Ledger-Position": {
            "description": "The position after which the stream begins.",
            "schema": {"type": "integer"},
        }
    },
    # OpenAPI 3.1 cannot describe a stream's items (3.2 has `itemSchema`): the description does.
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


class StreamQuery(Present, EventFilters):
    """The stream's parameters."""


class StreamAnswer(EventSourceResponse):
    """The response with a stream; closes it when the connection has ended."""

    def __init__(self, streams: Streams, stream: Stream) -> None:
        super().__init__(
            stream.chunks(),
            headers={"Ledger-Position": str(stream.at)},
            ping=streams.ping_seconds,
            ping_message_factory=lambda: ServerSentEvent(comment="ping", sep="\n"),
            sep="\n",
            send_timeout=streams.send_timeout,
            shutdown_event=streams.closing,
            shutdown_grace_period=_GRACE_SECONDS,
        )
        self._streams, self._stream = streams, stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            # The response stays unfinished, so the server closes the connection.
            _logger.info("a stream was cut: its reader accepted no data")
        finally:
            self._streams.close(self._stream)


@router.get(
    "/stream",
    summary="Follow events as they happen",
    openapi_extra={**needs("read"), "parameters": [_LAST_EVENT_ID]},
    response_class=Response,
    responses={200: _MESSAGES, **refusals(401, 403, 422, 503)},
)
async def stream_events(request: Request, principal: Principal, query: StreamQuery) -> Response:
    """Follow the feed as Server-Sent Events, from now on or after the given event."""
    services, filters = services_of(request), tenant_filters(principal) | query.chosen()
    streams = services.of(Streams)
    services.reads.require_readable(feed_read(frozenset(filters)).views)
    stream = await streams.open(principal, filters, _begin(request, query))
    return StreamAnswer(streams, stream)


def _begin(request: Request, query: StreamQuery) -> int | None:
    """The position after which the stream begins; None for from now on. Raises Invalid."""
    sent = request.headers.getlist("last-event-id")
    if not sent:
        return None if query.after is None else position_in(query.after)
    if len(sent) > 1 or not re.fullmatch(EVENT_ID, sent[0]):
        # A malformed id must not mean "from now on": the client would lose events without notice.
        raise Invalid.at("/Last-Event-ID", "must be an EVT id")
    return position_in(sent[0])
