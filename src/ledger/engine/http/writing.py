"""Shared code of the writing routes: bodies, commands to the writer, the wait for views.

The writer records every refusal of a write for the audit log (contract, Feeds). A refusal by a
decision is made in the writer already; ``turn_down`` brings it a refusal from before any decision.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ValidationError

from ledger.engine.http.machinery.bodies import media_type, read_capped
from ledger.engine.http.problems import BadRequest, UnsupportedMediaType
from ledger.engine.http.reading import Asking, Query, services_of
from ledger.engine.http.replies import Reply
from ledger.engine.postgres.timing import ANSWER_SECONDS
from ledger.engine.values import json_gate, values
from ledger.engine.values.errors import Behind, Invalid, LedgerError, NotFound, Refused, Unavailable
from ledger.engine.values.places import pointers
from ledger.engine.values.principal import EVERYONE, Principal
from ledger.engine.views.statements import RECORDED_AT
from ledger.engine.writer.command import Command, OwnCommand, SubjectCommand, TurnDown
from ledger.engine.writer.request import About, IdempotencyKey, Outcome, Receipt
from ledger.records import STREAMS

M = TypeVar("M", bound=BaseModel)
F = TypeVar("F", bound=Callable[..., Any])

TurnsDown = Callable[[Request, Principal, Refused], Awaitable[Sequence[Command]]]
"""Makes the commands that record a refusal from before the endpoint's call."""

_SUBJECTS = {
    row.subject_type: (row.ids, f"No such {row.noun}.") for row in STREAMS if row.subject_type
}
"""For each type of subject: the pattern of its ids, and the detail if the subject is not found."""

_LARGEST_COMMAND = 64 * 1024
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def read_body(request: Request, limit: int) -> bytes:
    """Read a command's JSON body: no bytes if the body is missing, whatever its content type.

    The caller checks a missing body as an empty object, so a problem names the missing fields.
    """
    raw = await read_capped(request, limit)
    if not raw:
        return raw
    if media_type(request) != "application/json":
        raise UnsupportedMediaType("Send the header Content-Type: application/json.")
    if not raw.strip():
        raise BadRequest("The body is empty.")
    return raw


class Sent(NamedTuple, Generic[M]):
    """A command's body and idempotency key, and the fault in them.

    The writer reports a fault, after 404, and records it.
    """

    body: M | None
    key: IdempotencyKey | None
    fault: Invalid | None
    said: Any = None
    """The parsed body, valid or not."""


async def read_command(request: Request, principal: Principal, model: type[M]) -> Sent[M]:
    """Read a command's request. Raises BadRequest, TooLarge or UnsupportedMediaType."""
    raw = await read_body(request, _LARGEST_COMMAND)
    key, fault = _idempotency_key(request, principal, raw)
    try:
        return checked(json_gate.parse(raw) if raw else {}, model, key, fault)
    except Invalid as error:
        return Sent(None, key, error)
    except json_gate.BrokenJson as error:
        raise BadRequest(str(error)) from error


def checked(
    said: Any, model: type[M], key: IdempotencyKey | None, fault: Invalid | None = None
) -> Sent[M]:
    """Return the parsed body as its model, or with a fault that names all its errors."""
    try:
        return Sent(model.model_validate(said), key, fault, said)
    except ValidationError as error:
        places = (*(fault.errors if fault else ()), *pointers(error, ""))
        return Sent(None, key, Invalid("The request is not valid.", places), said)


def _idempotency_key(
    request: Request, principal: Principal, raw: bytes
) -> tuple[IdempotencyKey | None, Invalid | None]:
    """The idempotency key of a command, or the fault in it (contract, Access)."""
    sent = request.headers.getlist("idempotency-key")
    if not sent:
        return None, None
    key = sent[0].strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        # The IETF draft quotes the key; a key without quotes is accepted too.
        key = key[1:-1]
    if len(sent) > 1 or not _IDEMPOTENCY_KEY.fullmatch(key):
        return None, Invalid.at("/Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    fingerprint = hashlib.sha256(request.scope["query_string"] + b"\0" + raw).digest()
    return IdempotencyKey(principal.credential, request.url.path, key, fingerprint), None


def records_refusals(turns_down: TurnsDown) -> Callable[[F], F]:
    """Mark a writing endpoint with the function for refusals that come before its call."""

    def mark(endpoint: F) -> F:
        endpoint.turns_down = turns_down  # type: ignore[attr-defined]
        return endpoint

    return mark


def refusals_of(command: type[OwnCommand]) -> TurnsDown:
    """Return the function that makes the record of a refused command.

    The record is about the subject that the path names first, if its id is well-formed.
    """
    subject_type = command.subject_type
    pattern = _SUBJECTS[subject_type][0] if subject_type is not None else None

    async def turns_down(
        request: Request, principal: Principal, refusal: Refused
    ) -> Sequence[Command]:
        resource = None
        if subject_type is not None and pattern is not None:
            subject_id, *_ = request.path_params.values()
            if re.fullmatch(pattern, subject_id):
                resource = subject_type, subject_id
        about = About(command.action, resource)
        return [TurnDown(refusal, about, principal, request.state.request_id)]

    return turns_down


async def turn_down(
    request: Request, principal: Principal, refusal: Refused, turns_down: TurnsDown
) -> NoReturn:
    """Record a refusal and raise it. Raises Unavailable if the refusal cannot be recorded."""
    for outcome in await submit(request, await turns_down(request, principal, refusal)):
        if isinstance(outcome, Unavailable):
            raise outcome
    raise refusal


async def submit(request: Request, commands: Sequence[Command]) -> list[Outcome]:
    """Return the outcomes in order, once the views show them, or after 2 s.

    The time limit keeps a slow view from blocking writing clients.
    """
    request.state.handed_in = asyncio.get_running_loop().time()
    return await services_of(request).submissions.submit(commands)


async def execute(request: Request, command: Command) -> Receipt:
    """Return a command's receipt. Raises the command's refusal."""
    outcome = (await submit(request, [command]))[0]
    if isinstance(outcome, Receipt | Refused):
        request.state.replayed = outcome.replayed
    if isinstance(outcome, LedgerError):
        raise outcome
    request.state.receipt, request.state.action = outcome, getattr(command, "action", "")
    return outcome


async def execute_on(
    asking: Asking,
    command: type[SubjectCommand],
    subject_id: str,
    sent: Sent[Any],
    **details: Any,
) -> Receipt:
    """Return the receipt of a command on the path's subject. Raises the recorded refusal."""
    pattern, unknown = _SUBJECTS[command.subject_type]
    if not re.fullmatch(pattern, subject_id):
        refusal = NotFound(unknown)
        await turn_down(asking.request, asking.principal, refusal, refusals_of(command))
    return await execute(
        asking.request,
        command(
            subject_id,
            asking.principal,
            asking.request.state.request_id,
            fault=sent.fault,
            idempotency=sent.key,
            **details,
        ),
    )


async def as_left(
    request: Request, receipt: Receipt, show: Callable[[Query], Awaitable[Reply]]
) -> Reply:
    """Return the command's subject as the command left it.

    The command is carried out in any case. A view that has not reached the command yet shows the
    subject as it was before. A command that had nothing left to do is answered with the present
    state. Raises Behind if the view does not show the subject at all, and Unavailable if the
    command and its answer together take longer than ``ANSWER_SECONDS``.
    """
    try:
        async with asyncio.timeout_at(request.state.handed_in + ANSWER_SECONDS):
            return await _as_left(request, receipt, show)
    except NotFound as error:
        raise Behind("The command was carried out, but the view does not show it yet.") from error
    except TimeoutError as error:
        raise Unavailable(
            "The command was carried out, but the database does not answer how it left its subject."
        ) from error


async def _as_left(
    request: Request, receipt: Receipt, show: Callable[[Query], Awaitable[Reply]]
) -> Reply:
    now = await show(Query())
    if receipt.duplicate:
        return Reply(bytes(now.body), now.position)
    if now.position > receipt.position:
        # Later writes exist. The subject is shown at the command's own position, so a request that
        # is sent again gets the same answer.
        now = await show(Query(as_of=await _recorded_at(request, receipt.position)))
    return Reply(bytes(now.body), receipt.position)


async def _recorded_at(request: Request, position: int) -> str:
    ((instant,),) = await services_of(request).door.fetch(
        EVERYONE, RECORDED_AT, {"position": position}
    )
    return values.format_instant(instant)


def deleted(receipt: Receipt) -> Response:
    """The answer of a command after which nothing is shown."""
    return Response(status_code=204, headers={"Ledger-Position": str(receipt.position)})


def with_secret(request: Request, response: Response) -> Response:
    """Mark an answer that shows a secret, even a replayed one: no cache may keep it."""
    request.state.holds_secret = True
    return response
