"""Reporting facts: CloudEvents over HTTP, one at a time or in batches (contract, Facts)."""

from collections.abc import Sequence
from typing import Literal

import msgspec
from fastapi import Request, Response

from ledger.engine.http import problems
from ledger.engine.http.lean import Router, needs
from ledger.engine.http.machinery.bodies import media_type, read_capped
from ledger.engine.http.machinery.headers import header
from ledger.engine.http.machinery.parsing import SMALL_BYTES, Steps, run
from ledger.engine.http.reading import services_of
from ledger.engine.http.replies import AnswerOf, Reply
from ledger.engine.http.writing import records_refusals, submit
from ledger.engine.values import json_gate
from ledger.engine.values.errors import LedgerError, Refused, TooLarge
from ledger.engine.values.principal import Principal
from ledger.engine.writer.command import Command, RefusedWrite
from ledger.engine.writer.request import Outcome, Receipt
from ledger.features.facts import envelope as parsing
from ledger.features.facts.envelope import MAX_BODY_BYTES, MAX_ITEMS, Fact, Rejected
from ledger.features.facts.fact_schema import ACTORS, BATCH_BODY, FACT_BODY, FACT_SCHEMAS
from ledger.features.facts.report import command_of

router = Router(
    "/v1",
    "facts",
    words={"ReportingActorType": ACTORS},
    sent=lambda: FACT_SCHEMAS,
)

_encode = msgspec.json.Encoder().encode

_BATCH = "application/cloudevents-batch+json"
_STRUCTURED = "application/cloudevents+json"
_JSON = "application/json"
_BATCH_PATH = "/facts/batch"
_BINARY = (b"ce-specversion", b"ce-id", b"ce-type")

_SPACE = b" \t\r\n"

_Parsed = Fact | Rejected


class ItemError(msgspec.Struct):
    """Why a fact was refused. The pointers lead into the fact."""

    status: int
    code: str
    detail: str
    errors: list[problems.FieldError]


class FactItem(msgspec.Struct):
    """The outcome of a fact."""

    index: int
    id: str | None
    source: str | None
    outcome: Literal["recorded", "duplicate", "refused"]
    subject: str | None
    event_ids: Sequence[str]
    position: int | None
    error: ItemError | None


_Outcomes = list[Outcome]


async def _refused(request: Request, principal: Principal, refusal: Refused) -> list[Command]:
    """Record a refusal of each readable fact in a body that was refused as a whole."""
    try:
        raw = await read_capped(request, MAX_BODY_BYTES)
        _, steps = _parsing_of(request, raw)
        async with services_of(request).parsing.parsed(
            principal.tenant_key, len(raw), steps
        ) as parsed:
            request_id = request.state.request_id
            return [RefusedWrite(refusal, fact.about, principal, request_id) for fact in parsed]
    except (LedgerError, json_gate.BrokenJson):
        return []


@router.post(
    "/facts",
    summary="Report facts",
    status_code=201,
    openapi_extra=needs("write") | {"body": FACT_BODY},
    responses={
        200: {
            "description": "A fact that was recorded before",
            "types": (AnswerOf[FactItem],),
        },
        201: {"types": (AnswerOf[FactItem],), "description": "Recorded"},
        **problems.refusals(400, 401, 403, 404, 408, 409, 413, 415, 422, 429, 503),
    },
)
@records_refusals(_refused)
async def report_facts(request: Request, principal: Principal) -> Response:
    """Record a CloudEvent. A fact that was recorded before is answered 200 with its first outcome.

    The route takes arrays too, and answers them as `/v1/facts/batch` does.
    """
    is_batch, parsed, outcomes = await _report(request, principal)
    return _batch(request, parsed, outcomes) if is_batch else _single(parsed[0], outcomes[0])


@router.post(
    _BATCH_PATH,
    summary="Report a batch of facts",
    openapi_extra=needs("write") | {"body": BATCH_BODY},
    responses={
        200: {"types": (AnswerOf[list[FactItem]],), "description": "The outcome of each fact"},
        **problems.refusals(400, 401, 403, 408, 413, 415, 422, 429, 503),
    },
)
@records_refusals(_refused)
async def report_fact_batch(request: Request, principal: Principal) -> Response:
    """Record an array of up to 1,000 CloudEvents, of which each has an outcome of its own.

    One refused fact never stops the others.
    """
    _, parsed, outcomes = await _report(request, principal)
    return _batch(request, parsed, outcomes)


async def _report(
    request: Request, principal: Principal
) -> tuple[bool, Sequence[_Parsed], _Outcomes]:
    """True for a batch, the body's facts, and their outcomes."""
    raw = await read_capped(request, MAX_BODY_BYTES)
    try:
        is_batch, steps = _parsing_of(request, raw)
        if len(raw) <= SMALL_BYTES:
            parsed = run(steps)
            return is_batch, parsed, await _decided(request, principal, parsed)
        tenant_key, queue = principal.tenant_key, services_of(request).parsing
        async with queue.parsed(tenant_key, len(raw), steps) as parsed:
            return is_batch, parsed, await _decided(request, principal, parsed)
    except json_gate.BrokenJson as error:
        raise problems.BadRequest(str(error)) from error


async def _decided(request: Request, principal: Principal, parsed: Sequence[_Parsed]) -> _Outcomes:
    request_id = request.scope["state"]["request_id"]
    return await submit(request, [command_of(fact, principal, request_id) for fact in parsed])


def _parsing_of(request: Request, raw: bytes) -> tuple[bool, Steps[list[_Parsed]]]:
    media = media_type(request)
    is_batch = _is_batch(request, media, raw)
    return is_batch, _parse_batch(raw) if is_batch else _parse_single(request, media, raw)


def _is_batch(request: Request, media: str, raw: bytes) -> bool:
    """True if the body is a batch: plain JSON that is an array, or is sent as one.

    Raises UnsupportedMediaType for a single fact where a batch is required.
    """
    if request.scope["path"].endswith(_BATCH_PATH):
        if media not in (_JSON, _BATCH):
            raise _wrong_media()
        return True
    if media == _JSON and not _is_binary(request):
        return raw.lstrip(_SPACE)[:1] == b"["
    return media == _BATCH


def _is_binary(request: Request) -> bool:
    """True if the headers have the attributes of a fact, and the body only its data."""
    return any(header(request.scope, name) is not None for name in _BINARY)


def _parse_single(request: Request, media: str, raw: bytes) -> Steps[list[_Parsed]]:
    if media in (_JSON, "") and _is_binary(request):
        json_gate.check_text(raw)
        return [parsing.from_binary(request.headers.items(), raw)]
    if media in (_STRUCTURED, _JSON):
        return [parsing.from_structured(raw)]
    raise _wrong_media()
    yield  # a single fact is one step


def _wrong_media() -> problems.UnsupportedMediaType:
    return problems.UnsupportedMediaType(
        "Send the header Content-Type: application/json, or one of CloudEvents:"
        " application/cloudevents+json or application/cloudevents-batch+json."
    )


def _parse_batch(raw: bytes) -> Steps[list[_Parsed]]:
    json_gate.check_text(raw)
    items = yield from json_gate.split_in_steps(raw, MAX_ITEMS)
    if len(items) > MAX_ITEMS:
        raise TooLarge("A batch may have at most 1,000 facts.")
    # Parse all facts before recording any: broken JSON anywhere refuses the whole body.
    parsed = []
    for item in items:
        parsed.append(parsing.from_structured(item))
        yield
    return parsed


def _single(parsed: _Parsed, outcome: Outcome) -> Response:
    if isinstance(outcome, LedgerError):
        raise outcome
    item = _item(0, parsed, outcome)
    status = 200 if outcome.duplicate else 201
    return Reply(_encode(AnswerOf(item)), outcome.last_position, status)


def _batch(request: Request, parsed: Sequence[_Parsed], outcomes: Sequence[Outcome]) -> Response:
    results = [
        _item(index, fact, outcome)
        for index, (fact, outcome) in enumerate(zip(parsed, outcomes, strict=True))
    ]
    positions = [each.last_position for each in outcomes if isinstance(each, Receipt)]
    position = max(positions, default=services_of(request).positions.last_announced)
    return Reply(_encode(AnswerOf(results)), position)


def _item(index: int, sent: _Parsed, outcome: Outcome | LedgerError) -> FactItem:
    if isinstance(outcome, Receipt):
        word: Literal["duplicate", "recorded"] = "duplicate" if outcome.duplicate else "recorded"
        values = (word, outcome.subject, outcome.event_ids, outcome.position)
        return FactItem(index, sent.id, sent.source, *values, None)
    problems.count_refusal(outcome)
    code, faults = outcome.code, problems.field_errors(outcome)
    error = ItemError(problems.status_of(outcome), code, outcome.detail, faults)
    return FactItem(index, sent.id, sent.source, "refused", sent.subject, (), None, error)
