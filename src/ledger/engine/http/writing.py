"""Shared code of the writing routes: bodies, commands to the writer, the wait for views.

The writer records every refusal of a write for the audit log (contract, Feeds). The writer makes
the refusals of decisions itself; ``record_refusal`` hands it one from before any decision.

A request about many things is a command for each, in groups (``carry_out``). A command of the whole
request checks it, and stores an instant under its idempotency key. The commands of the things have
keys of their own. So a request that is sent again goes on: the commands that were carried out
before are replayed.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

import msgspec
from fastapi import Request, Response
from pydantic import BaseModel, ValidationError

from ledger.engine.http.machinery.bodies import media_type, read_capped
from ledger.engine.http.problems import BadRequest, UnsupportedMediaType
from ledger.engine.http.reading import SUBJECTS, Query, ReadRequest, require_id, services_of
from ledger.engine.http.replies import Reply, answer
from ledger.engine.http.services import last_position
from ledger.engine.postgres.timing import ANSWER_SECONDS
from ledger.engine.values import json_gate, values
from ledger.engine.values.errors import (
    Behind,
    Forbidden,
    Invalid,
    LedgerError,
    NotFound,
    Refused,
    Unavailable,
)
from ledger.engine.values.places import pointers
from ledger.engine.values.principal import EVERYONE, Principal
from ledger.engine.views.statements import RECORDED_AT
from ledger.engine.writer.command import (
    OTHER_TENANT,
    Command,
    NewCommand,
    OwnCommand,
    RefusedWrite,
    SubjectCommand,
)
from ledger.engine.writer.fair_queue import SLOT_FACTS
from ledger.engine.writer.request import About, IdempotencyKey, Outcome, Receipt

M = TypeVar("M", bound=BaseModel)
F = TypeVar("F", bound=Callable[..., Any])

OnRefusal = Callable[[Request, Principal, Refused], Awaitable[Sequence[Command]]]
"""Makes the commands that record a refusal from before the endpoint's call."""

_LARGEST_COMMAND = 64 * 1024
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def read_body(request: Request, limit: int) -> bytes:
    """A missing body is no bytes, whatever its type: the caller checks it as an empty object."""
    raw = await read_capped(request, limit)
    if not raw:
        return raw
    if media_type(request) != "application/json":
        raise UnsupportedMediaType("Send the header Content-Type: application/json.")
    if not raw.strip():
        raise BadRequest("The body is empty.")
    return raw


class Sent(NamedTuple, Generic[M]):
    """A command's body, idempotency key and fault, which the writer reports after 404."""

    body: M | None
    key: IdempotencyKey | None
    fault: Invalid | None
    parsed: Any = None
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
    parsed: Any, model: type[M], key: IdempotencyKey | None, fault: Invalid | None = None
) -> Sent[M]:
    """Return the parsed body as its model, or with a fault that names all its errors."""
    try:
        return Sent(model.model_validate(parsed), key, fault, parsed)
    except ValidationError as error:
        errors = (*(fault.errors if fault else ()), *pointers(error, ""))
        return Sent(None, key, Invalid("The request is not valid.", errors), parsed)


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


def records_refusals(on_refusal: OnRefusal) -> Callable[[F], F]:
    """Mark a writing endpoint with the function for refusals that come before its call."""

    def mark(endpoint: F) -> F:
        endpoint.on_refusal = on_refusal  # type: ignore[attr-defined]
        return endpoint

    return mark


def refusals_of(command: type[OwnCommand]) -> OnRefusal:
    """Make the record of a refused command, about the subject that the path names first."""
    subject_type = command.subject_type
    pattern = SUBJECTS[subject_type].ids if subject_type is not None else None

    async def on_refusal(
        request: Request, principal: Principal, refusal: Refused
    ) -> Sequence[Command]:
        resource = None
        if subject_type is not None and pattern is not None:
            subject_id, *_ = request.path_params.values()
            if re.fullmatch(pattern, subject_id):
                resource = subject_type, subject_id
        about = About(command.action, resource)
        return [RefusedWrite(refusal, about, principal, request.state.request_id)]

    return on_refusal


async def record_refusal(
    request: Request, principal: Principal, refusal: Refused, on_refusal: OnRefusal
) -> NoReturn:
    """Record a refusal and raise it. Raises Unavailable if the refusal cannot be recorded."""
    for outcome in await submit(request, await on_refusal(request, principal, refusal)):
        if isinstance(outcome, Unavailable):
            raise outcome
    raise refusal


async def submit(request: Request, commands: Sequence[Command]) -> list[Outcome]:
    """Return the outcomes in order, once the views show them, or after 2 s if a view is slow."""
    request.scope["state"]["handed_in"] = asyncio.get_running_loop().time()
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
    request: ReadRequest,
    command: type[SubjectCommand],
    subject_id: str,
    sent: Sent[Any],
    **details: Any,
) -> Receipt:
    """Return the receipt of a command on the path's subject. Raises the recorded refusal."""
    try:
        require_id(command.subject_type, subject_id)
    except NotFound as refusal:
        await record_refusal(request.http, request.principal, refusal, refusals_of(command))
    return await execute(
        request.http,
        command(
            subject_id,
            request.principal,
            request.http.state.request_id,
            fault=sent.fault,
            idempotency=sent.key,
            **details,
        ),
    )


async def execute_new(
    request: ReadRequest, command: type[NewCommand], sent: Sent[Any], **details: Any
) -> Receipt:
    """Return the receipt of a command that makes something. Raises the recorded refusal."""
    organization_id, workspace_id = named_tenant(request.principal, sent.parsed)
    return await execute(
        request.http,
        command(
            principal=request.principal,
            request_id=request.http.state.request_id,
            organization_id=organization_id,
            workspace_id=workspace_id,
            fault=sent.fault,
            idempotency=sent.key,
            **details,
        ),
    )


def named_tenant(principal: Principal, parsed: Any) -> tuple[str | None, str | None]:
    """The tenant of something new: the named one, or the credential's; administrators name it.

    Another tenant is 403 before any field is 422, so the tenant is read from the parsed body. A
    workspace that is null is the whole organization.
    """
    organization_id = values.id_named(parsed, "organization_id", values.ORGANIZATION_ID)
    workspace_id = values.id_named(parsed, "workspace_id", values.WORKSPACE_ID)
    if principal.is_admin:
        return organization_id, workspace_id
    is_null = isinstance(parsed, dict) and parsed.get("workspace_id", "") is None
    return (
        organization_id or principal.organization_id,
        None if is_null else workspace_id or principal.workspace_id,
    )


async def require_named_tenant(
    request: ReadRequest, command: type[SubjectCommand], sent: Sent[Any]
) -> None:
    """Record and raise Forbidden for a change that names another tenant, valid or not."""
    if not request.principal.sees(*named_tenant(request.principal, sent.parsed)):
        refusal = Forbidden(OTHER_TENANT)
        await record_refusal(request.http, request.principal, refusal, refusals_of(command))


def own_key(key: IdempotencyKey | None, thing: str, at: datetime) -> IdempotencyKey | None:
    """The key of a thing's own command. The instant tells apart two uses of an expired key."""
    if key is None:
        return None
    return msgspec.structs.replace(key, path=f"{key.path}/{thing}/{values.format_instant(at)}")


async def carry_out(request: ReadRequest, commands: Sequence[Command]) -> list[Receipt | Refused]:
    """Return the outcomes of the commands, once the views show them.

    Each append takes ``SLOT_FACTS`` commands at most, so no other organization waits for all.
    Raises Unavailable if a command was not carried out.
    """
    decided = list[Receipt | Refused]()
    for start in range(0, len(commands), SLOT_FACTS):
        some = commands[start : start + SLOT_FACTS]
        for outcome in await request.services.submissions.submit(some, for_views=False):
            if isinstance(outcome, Unavailable):
                raise outcome
            decided.append(outcome)
    await request.services.positions.wait(last_position(decided))
    state = request.http.state
    receipts = [each for each in decided if isinstance(each, Receipt)]
    state.receipt = max(receipts, key=lambda each: each.position, default=None)
    state.replayed = state.replayed and all(outcome.replayed for outcome in decided)
    return decided


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
    ((instant,),) = await services_of(request).pool.fetch(
        EVERYONE, RECORDED_AT, {"position": position}
    )
    return values.format_instant(instant)


def answered(receipt: Receipt, status: int = 200) -> Response:
    return answer((receipt.answer or b"").decode(), receipt.position, status)


def deleted(receipt: Receipt) -> Response:
    return Response(status_code=204, headers={"Ledger-Position": str(receipt.position)})


def with_secret(request: Request, response: Response) -> Response:
    """Mark an answer that shows a secret, even a replayed one: no cache may keep it."""
    request.state.holds_secret = True
    return response
