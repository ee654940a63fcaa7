"""Pausing and resuming many lines at once (contract, Reading).

The views tell which lines a filter matches. A command of the request stores these lines under its
idempotency key. Then a command of its own pauses or resumes each line, part by part. A repeated
request goes on with the stored lines: the commands of finished lines are replayed.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import msgspec
from fastapi import Response
from pydantic import BeforeValidator, ConfigDict, Field, create_model, model_validator

from ledger.engine.http import reading
from ledger.engine.http.lean import Router, command_route
from ledger.engine.http.models import CommandBody, PausedUntil, Written
from ledger.engine.http.replies import Reply
from ledger.engine.http.writing import Sent, carry_out, execute, own_key
from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.postgres.timing import ANSWER_SECONDS
from ledger.engine.reads.filters import Filter
from ledger.engine.values.errors import Invalid, InvalidState, Refused, Unavailable
from ledger.engine.values.json_gate import MAX_INTEGER, by_value
from ledger.engine.values.values import ORGANIZATION_ID, STATES, State, id_named
from ledger.engine.writer.request import Receipt
from ledger.features.lines.commands import holds
from ledger.features.lines.routes.executions import Filters, filters_of
from projections.lines import lists, statements
from projections.lines.filters import BY_ID, LINES

router = Router("/v1/execution", "execution")

_PERMISSION = "service_lines:manage"

MOST_LINES = 1000

_encode = msgspec.json.Encoder().encode


def _field(each: Filter) -> Any:
    """A field of the body for this filter of the list."""
    description = each.about or None
    if each.takes == "flag":
        return bool, Field(default=False, description=description)
    word: Any = Annotated[str, Field(min_length=1, max_length=reading.LONGEST_WORD)]
    if each.takes != "words":
        word = Literal[each.takes]
    return list[word], Field(
        default_factory=list, max_length=reading.MOST_WORDS, description=description
    )


_Fields: Any = create_model(
    "_Fields",
    __base__=CommandBody,
    service_line_id=_field(BY_ID._replace(about="Ids of lines.")),
    **{each.name: _field(each) for each in sorted(LINES) if each.takes != "id"},
)


class LineFilter(_Fields):  # type: ignore[misc]  # its fields are those of the list's filters
    """The lines that the request selects: by the filters of the list, and by their ids.

    Several words of a filter mean "or", several filters "and". An empty array is like none, and at
    least one array is not empty.
    """

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    @model_validator(mode="after")
    def _names_lines(self) -> Self:
        if not self.chosen:
            raise ValueError("must name at least one filter")
        return self

    @property
    def chosen(self) -> dict[str, list[str]]:
        fields = {name: getattr(self, name) for name in _Fields.model_fields}
        return {
            name: ["true"] if value is True else sorted(set(value))
            for name, value in fields.items()
            if value
        }


class _Many(CommandBody):
    filter: Annotated[
        LineFilter, Field(examples=[{"state": ["blocked"], "blocked_cause": ["approval_gap"]}])
    ]
    organization_id: Annotated[
        str | None,
        Field(
            pattern=ORGANIZATION_ID,
            description="By default the credential's organization. An administrator names it.",
        ),
    ] = None
    expect: Annotated[
        Annotated[int, Field(ge=0, le=MAX_INTEGER), BeforeValidator(by_value)] | None,
        Field(description="The number of lines that must match, as a dry run tells it."),
    ] = None
    dry_run: Annotated[bool, Field(description="Only tell the outcomes; nothing is recorded.")] = (
        False
    )


class LinesToPause(_Many):
    """The lines that are paused, and why."""

    reason: Annotated[Written, Field(examples=["Waits for the client's approval"])]
    until: PausedUntil = None


class LinesToResume(_Many):
    """The lines that are resumed, and why, if a reason is given."""

    reason: Annotated[Written | None, Field(examples=["Approved"])] = None


Word = Literal["paused", "resumed", "unchanged", "refused"]


class LineOutcome(msgspec.Struct):
    """The outcome of one line, and its state after it."""

    service_line_id: str
    name: str | None
    outcome: Word
    code: str | None
    state: State | None


class Tally(msgspec.Struct):
    """The numbers of lines by outcome."""

    matched: int
    changed: int
    unchanged: int
    refused: int


class LineOutcomes(msgspec.Struct):
    """The outcomes of all lines that matched, newest record id first."""

    data: list[LineOutcome]
    meta: Tally


class _Row(msgspec.Struct):
    service_line_id: str
    name: str | None
    state: State


_row_of = msgspec.json.Decoder(_Row).decode


@command_route(
    router, "/pause", holds.PauseMany, _PERMISSION, summary="Pause many lines", answer=LineOutcomes
)
async def pause_executions(request: reading.ReadRequest, sent: Sent[LinesToPause]) -> Response:
    """Put the operator's hold on each line that the filter matches, but for closed lines.

    A line that has the hold stays as it is. Each line has an outcome of its own: one refused line
    never stops the others.
    """
    return await _manage(request, sent, holds.PauseMany, holds.PauseOne, "paused")


@command_route(
    router,
    "/resume",
    holds.ResumeMany,
    _PERMISSION,
    summary="Resume many lines",
    answer=LineOutcomes,
)
async def resume_executions(request: reading.ReadRequest, sent: Sent[LinesToResume]) -> Response:
    """Lift the operator's hold of each line that the filter matches, but for closed lines.

    A line without the hold stays as it is. Each line has an outcome of its own.
    """
    return await _manage(request, sent, holds.ResumeMany, holds.ResumeOne, "resumed")


async def _manage(
    request: reading.ReadRequest,
    sent: Sent[Any],
    many: type[holds.PauseMany],
    one: type[holds.PauseOne],
    done: Word,
) -> Response:
    """Pause or resume the lines. Raises the recorded refusal of the request as a whole.

    Raises Unavailable after ``ANSWER_SECONDS``: some of the lines may be done by then.
    """
    is_dry = isinstance(sent.parsed, dict) and sent.parsed.get("dry_run") is True
    sent = sent._replace(key=None if is_dry else sent.key)
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            choice = await _choose(request, sent, many, is_dry)
            assert sent.body is not None, "a request with a fault was refused"
            commands = [
                one(
                    line,
                    request.principal,
                    request.http.state.request_id,
                    idempotency=own_key(sent.key, line, choice.chosen_at),
                    reason=sent.body.reason,
                    until=getattr(sent.body, "until", None),
                    is_dry=is_dry,
                )
                for line in choice.lines
            ]
            outcomes = await carry_out(request, commands)
            return await _answer(request, choice, outcomes, done)
    except TimeoutError as error:
        raise Unavailable("Not all lines are done. Send the same request again.") from error


async def _choose(
    request: reading.ReadRequest, sent: Sent[Any], many: type[holds.PauseMany], is_dry: bool
) -> holds.ChosenLines:
    """The matching lines, or those of an earlier request under the same key."""
    principal, body, fault = request.principal, sent.body, sent.fault
    organization_id = id_named(sent.parsed, "organization_id", ORGANIZATION_ID)
    if organization_id is None and not principal.is_admin:
        organization_id = principal.organization_id
    if body is not None and organization_id is None:
        fault = fault or Invalid.at("/organization_id", "is required")
    found, position = list[_Row](), 0
    if body is not None and fault is None:
        try:
            found, position = await _matching(request, organization_id, body.filter.chosen)
        except Invalid as error:
            fault = error
    command = many(
        principal,
        request.http.state.request_id,
        organization_id=organization_id,
        lines=[row.service_line_id for row in found],
        position=position,
        expect=body.expect if body is not None else None,
        until=getattr(body, "until", None),
        is_dry=is_dry,
        fault=fault,
        idempotency=sent.key,
    )
    receipt = await execute(request.http, command)
    return msgspec.json.decode(receipt.answer or b"", type=holds.ChosenLines)


async def _matching(
    request: reading.ReadRequest, organization_id: str | None, chosen: Mapping[str, list[str]]
) -> tuple[list[_Row], int]:
    """The matching lines that are not closed, and the position. Raises Invalid for too many."""
    named = {} if organization_id is None else {"organization_id": [organization_id]}
    filters = filters_of(request, Filters(), {**chosen, **named})
    filters["state"] = [s for s in chosen.get("state", STATES) if s != "closed"]
    if not filters["state"]:  # only closed lines: none matches
        filters = {**request.tenant, "service_line_id": []}
    found, position = await _rows(request, filters)
    if len(found) > MOST_LINES:
        counted = await request.rows(statements.summary_read(frozenset(filters)), filters)
        many = sum(row[-1] for row in counted)
        message = f"The filter matches {many} lines: at most {MOST_LINES} are allowed."
        raise Invalid(message, (("/filter", f"matches more than {MOST_LINES} lines"),))
    return found, position


async def _rows(request: reading.ReadRequest, filters: Mapping[str, Any]) -> tuple[list[_Row], int]:
    """The matching lines, at most one more than allowed, and their position."""
    read = lists.list_read(filters)
    if read.planning is Planning.SHORT:
        read = read._replace(planning=Planning.LONG)
    now = reading.periods(request.services.clock())
    rows = await request.rows(read, {**filters, **now, "limit": MOST_LINES + 1})
    return [_row_of(row[2]) for row in rows if row[2] is not None], rows.position


async def _answer(
    request: reading.ReadRequest,
    choice: holds.ChosenLines,
    outcomes: Sequence[Receipt | Refused],
    done: Word,
) -> Response:
    by_line = dict(zip(choice.lines, outcomes, strict=True))
    rows: list[_Row] = []
    if refused := sorted(line for line, found in by_line.items() if isinstance(found, Refused)):
        rows, _ = await _rows(request, {**request.tenant, "service_line_id": refused})
    by_id = {row.service_line_id: row for row in rows}
    data = [_outcome(line, found, by_id.get(line), done) for line, found in by_line.items()]
    counts = Counter(each.outcome for each in data)
    meta = Tally(len(data), counts[done], counts["unchanged"], counts["refused"])
    return Reply(_encode(LineOutcomes(data, meta)), choice.position)


def _outcome(line: str, found: Receipt | Refused, row: _Row | None, done: Word) -> LineOutcome:
    """The outcome of a line; for a refused one, its name and state come from the views."""
    if isinstance(found, Receipt):
        outline = msgspec.json.decode(found.answer or b"", type=holds.LineOutline)
        word: Word = "unchanged" if found.duplicate else done
        return LineOutcome(line, outline.name, word, None, outline.state)
    state = row.state if row else None
    if isinstance(found, InvalidState):
        state = "closed"  # the only refusal by state; the views may not show it yet
    return LineOutcome(line, row.name if row else None, "refused", found.code, state)
