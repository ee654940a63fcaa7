"""Answers with runs' data are noted for the audit log as they are given (contract, Feeds)."""

import asyncio
from typing import TypeVar

from fastapi import Request, Response

from ledger.api.machinery.head import is_head
from ledger.api.reading import services_of
from ledger.api.replies import Reply
from ledger.domain.errors import ReadOnly, Unavailable
from ledger.intake.principal import Principal

R = TypeVar("R", bound=Response)

_BREATH_SECONDS = 0.05
_WAIT_SECONDS = 2.0


async def noted(request: Request, principal: Principal, response: R) -> R:
    """Return the response once it is noted, if it holds data of runs.

    A 304 and the answer to a HEAD hold none. Raises Unavailable if so many notes wait that one more
    could not be recorded in time. Raises ReadOnly on a read node, which cannot note who reads, to a
    HEAD as to a GET, unless its operator has allowed unaudited reads (contract, Several nodes).
    """
    if not isinstance(response, Reply) or not response.seen:
        return response
    services = services_of(request)
    notes = services.read_notes
    if not services.shows_payloads:
        raise ReadOnly("The answer holds runs' data: ask a node that records who reads them.")
    if notes is None or is_head(request.scope):
        return response
    time = asyncio.get_running_loop().time
    deadline = time() + _WAIT_SECONDS
    while not notes.has_room:
        if time() >= deadline:
            raise Unavailable("The audit log cannot record at present who reads runs.")
        await asyncio.sleep(_BREATH_SECONDS)
    notes.note(principal, request.state.request_id, response.seen)
    return response
