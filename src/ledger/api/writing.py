"""What the writing routes share: their bodies, commands to the writer, waiting for views.

Every refusal of a write passes the writer, which records it for the audit log (contract 5): those
of decisions by themselves, those from before any decision by ``turn_down``.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from ledger.api.machinery.bodies import media_type, read_capped
from ledger.api.problems import BadRequest, UnsupportedMediaType
from ledger.api.reading import Query, services_of
from ledger.api.replies import Reply
from ledger.application.command import Command, OwnCommand, SubjectCommand, TurnDown
from ledger.domain.errors import Behind, Invalid, LedgerError, NotFound, Refused, Unavailable
from ledger.domain.values import ENDPOINT_ID, LINE_ID, RUN_ID, format_instant
from ledger.intake import json_gate
from ledger.intake.envelope import pointers
from ledger.intake.principal import Principal
from ledger.intake.request import About, IdempotencyKey, Outcome, Receipt
from ledger.postgres.scope import EVERYONE
from ledger.views.statements import RECORDED_AT

M = TypeVar("M", bound=BaseModel)
F = TypeVar("F", bound=Callable[..., Any])

TurnsDown = Callable[[Request, Principal, Refused], Awaitable[Sequence[Command]]]
"""Makes the commands that record a refusal from before the endpoint was called."""

_SUBJECTS = {
    "service_line": (LINE_ID, "No such service line."),
    "run": (RUN_ID, "No such run."),
    "webhook": (ENDPOINT_ID, "No such webhook endpoint."),
}
"""For each type of subject: the form of its ids, and the answer where there is no such subject."""

_LARGEST_COMMAND = 64 * 1024
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def read_body(request: Request, limit: int) -> bytes:
    """A command's JSON body, or no bytes where there is none, whatever its content type.

    One that is not there is checked as if nothing were named in it: what is missing is told.
    """
    raw = await read_capped(request, limit)
    if not raw:
        return raw
    if media_type(request) != "application/json":
        raise UnsupportedMediaType("The body must be application/json.")
    if not raw.strip():
        raise BadRequest("The body is empty.")
    return raw


class Sent(NamedTuple, Generic[M]):
    """A command's body, the key it was sent under, and what is wrong with them.

    A fault is told only after 404 and by the writer, which records it.
    """

    body: M | None
    key: IdempotencyKey | None
    fault: Invalid | None
    said: Any = None
    """The body as it was parsed, valid or not."""


async def read_command(request: Request, principal: Principal, model: type[M]) -> Sent[M]:
    """What a command's request says. Raises BadRequest, TooLarge or UnsupportedMediaType."""
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
    """What was said as its model, or with all that is wrong with it."""
    try:
        return Sent(model.model_validate(said), key, fault, said)
    except ValidationError as error:
        places = (*(fault.errors if fault else ()), *pointers(error, ""))
        return Sent(None, key, Invalid("The request is not valid.", places), said)


def _idempotency_key(
    request: Request, principal: Principal, raw: bytes
) -> tuple[IdempotencyKey | None, Invalid | None]:
    """Under which key a command was sent, or what is wrong with the key (contract 7)."""
    sent = request.headers.getlist("idempotency-key")
    if not sent:
        return None, None
    key = sent[0].strip()
    if len(key) > 1 and key[0] == key[-1] == '"':
        # The draft's form is a quoted string; a bare one is taken too.
        key = key[1:-1]
    if len(sent) > 1 or not _IDEMPOTENCY_KEY.fullmatch(key):
        return None, Invalid.at("/Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    fingerprint = hashlib.sha256(request.scope["query_string"] + b"\0" + raw).digest()
    return IdempotencyKey(principal.credential, request.url.path, key, fingerprint), None


def records_refusals(turns_down: TurnsDown) -> Callable[[F], F]:
    """Mark a writing endpoint with what to record when it is refused before it is called."""

    def mark(endpoint: F) -> F:
        endpoint.turns_down = turns_down  # type: ignore[attr-defined]
        return endpoint

    return mark


def refusals_of(command: type[OwnCommand]) -> TurnsDown:
    """Makes the record of a refused command, about what its path names if that is an id at all."""
    subject_type = command.subject_type
    pattern = _SUBJECTS[subject_type][0] if subject_type is not None else None

    async def turns_down(
        request: Request, principal: Principal, refusal: Refused
    ) -> Sequence[Command]:
        resource = None
        if subject_type is not None and pattern is not None:
            (subject_id,) = request.path_params.values()
            if re.fullmatch(pattern, subject_id):
                resource = subject_type, subject_id
        about = About(command.action, resource)
        return [TurnDown(refusal, about, principal, request.state.request_id)]

    return turns_down


async def turn_down(
    request: Request, principal: Principal, refusal: Refused, turns_down: TurnsDown
) -> NoReturn:
    """Record a refusal and raise it. Raises Unavailable where it cannot be recorded."""
    for outcome in await submit(request, await turns_down(request, principal, refusal)):
        if isinstance(outcome, Unavailable):
            raise outcome
    raise refusal


async def submit(request: Request, commands: Sequence[Command]) -> list[Outcome]:
    """Outcomes in order, once the views show them (or after 2 s: a view must not hang a writer)."""
    return await services_of(request).submissions.submit(commands)


async def execute(request: Request, command: Command) -> Receipt:
    """One command's receipt. Raises its refusal."""
    outcome = (await submit(request, [command]))[0]
    if isinstance(outcome, Receipt | Refused):
        request.state.replayed = outcome.replayed
    if isinstance(outcome, LedgerError):
        raise outcome
    return outcome


async def execute_on(
    request: Request,
    principal: Principal,
    command: type[SubjectCommand],
    subject_id: str,
    sent: Sent[Any],
    **details: Any,
) -> Receipt:
    """The receipt of a command on what the path names. Raises its refusal, which is recorded."""
    pattern, unknown = _SUBJECTS[command.subject_type]
    if not re.fullmatch(pattern, subject_id):
        await turn_down(request, principal, NotFound(unknown), refusals_of(command))
    return await execute(
        request,
        command(
            subject_id,
            principal,
            request.state.request_id,
            fault=sent.fault,
            idempotency=sent.key,
            **details,
        ),
    )


async def as_left(
    request: Request, receipt: Receipt, show: Callable[[Query], Awaitable[Reply]]
) -> Reply:
    """What a command was about as it left it; where the view is not so far yet, as that shows it.

    The command stands in any case. One that found all done already is shown what is there now.
    Raises Behind if the view does not show it at all.
    """
    try:
        now = await show(Query())
    except NotFound as error:
        raise Behind("It was done, but the view does not show it yet.") from error
    if receipt.duplicate:
        return Reply(bytes(now.body), now.position)
    if now.position > receipt.position:
        # Others have written since: at its own position, so it is the same however often it is
        # sent.
        now = await show(Query(as_of=await _recorded_at(request, receipt.position)))
    return Reply(bytes(now.body), receipt.position)


async def _recorded_at(request: Request, position: int) -> str:
    ((instant,),) = await services_of(request).door.fetch(
        EVERYONE, RECORDED_AT, {"position": position}
    )
    return format_instant(instant)
