"""The request that a thread or task works for: its id stands in each line that it logs."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request; None: the code works for no request, or for several at once."""


@contextmanager
def working_for(request_ids: set[str | None]) -> Iterator[None]:
    """Name the request in the lines that the block logs, unless it works for several."""
    (request_id,) = request_ids if len(request_ids) == 1 else (None,)
    token = REQUEST_ID.set(request_id)
    try:
        yield
    finally:
        REQUEST_ID.reset(token)


def for_nobody() -> Context:
    """The context of a task or timer that a request begins, but that works for all of them."""
    context = copy_context()
    context.run(REQUEST_ID.set, None)
    return context
