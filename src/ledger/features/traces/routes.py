"""Traces: spans of OpenTelemetry, some of which are runs (contract, Traces).

    body ─▶ OTLP's classes ─▶ spans ─▶ rows beside the log, and their kin there
                                          └─▶ runs with tokens and parents, parents first
                                                 └─▶ two facts each, one command ─▶ the writer
                                                        └─▶ parents of the runs that lack one

Rows are stored before any fact. Once all is recorded, the kin of the runs are read again: of two
requests that bring a run and its parent, the later one to get there finds both.
"""

import asyncio
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, NamedTuple

import msgspec
from fastapi import Request, Response
from prometheus_client import Counter
from pydantic import BaseModel, ConfigDict, Field

from ledger.engine.http import problems
from ledger.engine.http.lean import LeanRoute, Router, needs
from ledger.engine.http.machinery.bodies import media_type, read_capped
from ledger.engine.http.machinery.parsing import Parsing, Steps
from ledger.engine.http.reading import services_of
from ledger.engine.http.replies import Reply
from ledger.engine.http.services import last_position
from ledger.engine.http.writing import submit
from ledger.engine.log.tables import SpanRow
from ledger.engine.postgres.pool.scope import Planning
from ledger.engine.values.errors import LedgerError, Unavailable
from ledger.engine.values.principal import EVERYONE, Principal
from ledger.engine.values.rendering import doc
from ledger.engine.values.values import LINE_ID, escaped, name_of_span
from ledger.engine.writer.command import Command, RefusedWrite
from ledger.engine.writer.fair_queue import SLOT_FACTS
from ledger.engine.writer.request import Outcome, Receipt
from ledger.features.facts.envelope import MAX_BODY_BYTES, Fact, Rejected
from ledger.features.runs.model.token_usage import TokenUsage
from ledger.features.traces import otlp
from ledger.features.traces.commands import GiveParent, ReportSpan, RunOfSpan
from ledger.features.traces.span_facts import RunFacts, facts_of, sentence_of
from ledger.features.traces.span_tree import SpanKey, SpanTree, children_of, key_of
from ledger.features.traces.spans import READ, Attributes, Span, read, resource_of
from ledger.features.traces.tables import Spans

_MOST_REASONS = 10
"""The most reasons in an answer."""

_LONGEST_NAME = 100

_LONGEST_SOURCE = 255

_AT_ONCE = SLOT_FACTS
"""The runs that are made and handed in together: as many as one slot of the writer takes."""

_MOST_PARENTS = 10_000
"""The most runs of earlier requests that one request gives a parent, besides one a span."""

_SPANS = Counter("ledger_spans", "Spans of traces, by what became of them.", ["outcome"])

# The organizations of lines: the credential of an administrator names none.
_ORGANIZATIONS = (
    "SELECT line_id, organization_id FROM ledger.execution WHERE line_id = ANY(%(lines)s)"
)


_EXAMPLE = {
    "resource": {
        "attributes": [
            {"key": "service.name", "value": {"stringValue": "triage"}},
            {"key": "ledger.service_line_id", "value": {"stringValue": "LIN-26-084730"}},
        ]
    },
    "scopeSpans": [
        {
            "spans": [
                {
                    "traceId": "5b8efff798038103d269b633813fc60c",
                    "spanId": "eee19b7ec3c1b174",
                    "name": "invoke_agent triage",
                    "startTimeUnixNano": "1776240000000000000",
                    "endTimeUnixNano": "1776240003000000000",
                    "attributes": [
                        {"key": "gen_ai.operation.name", "value": {"stringValue": "invoke_agent"}}
                    ],
                }
            ]
        }
    ],
}


class PartialSuccess(msgspec.Struct, rename="camel"):
    """The part that was not taken, or not wholly."""

    rejected_spans: Annotated[str, doc("How many spans were rejected.")] = "0"
    error_message: Annotated[str, doc("The reasons, of the first ten.")] = ""


class TracesTaken(msgspec.Struct, rename="camel"):
    """OTLP's answer: without `partialSuccess` everything was taken."""

    partial_success: PartialSuccess | msgspec.UnsetType = msgspec.UNSET


class ExportedTraces(BaseModel):
    """OTLP's ExportTraceServiceRequest."""

    model_config = ConfigDict(extra="allow")

    resourceSpans: Annotated[list[dict[str, Any]], Field(examples=[[_EXAMPLE]])] = []


class OtlpRoute(LeanRoute):
    """A route that answers protobuf in protobuf: a refusal is the protocol's Status then."""

    def refuse(self, request: Request, error: LedgerError) -> Response:
        refusal, media = problems.problem(request, error), ""
        with suppress(problems.UnsupportedMediaType):
            media = media_type(request)
        if media != otlp.PROTOBUF:
            return refusal
        status = refusal.status_code
        headers = {n: v for n, v in refusal.headers.items() if not n.startswith("content-")}
        return Response(otlp.refused(status, error.detail), status, headers, otlp.PROTOBUF)


router = Router("/v1/otlp", "facts", OtlpRoute)


class Traces(NamedTuple):
    """The services of traces in one process."""

    spans: Spans
    parsing: Parsing
    """Separate from that of facts: its steps take longer."""


class _Summary:
    """The answer: how many spans were rejected, the first reasons, the last position."""

    def __init__(self) -> None:
        self.rejected = self.position = 0
        self.reasons: list[str] = []

    def tell(self, span: Span, sentence: str) -> None:
        if len(self.reasons) < _MOST_REASONS:
            name = escaped(span.name[:_LONGEST_NAME])
            self.reasons.append(f"span {span.span_id.hex()} ({name}): {sentence}")

    def reach(self, outcomes: Sequence[Outcome]) -> None:
        self.position = max(self.position, last_position(outcomes))

    def reject(self, span: Span, sentence: str) -> None:
        _SPANS.labels("refused").inc()
        self.rejected += 1
        self.tell(span, sentence)


@router.post(
    "/v1/traces",
    summary="Report traces by OTLP",
    openapi_extra=needs("write") | {"body": ExportedTraces},
    responses={
        200: {"types": (TracesTaken,), "description": "Taken, wholly or in part"},
        **problems.refusals(400, 401, 403, 408, 413, 415, 422, 429, 503),
    },
)
async def report_traces(request: Request, principal: Principal) -> Response:
    """Record the spans of a trace that are runs; others tell tokens and parents.

    The body and the answer are those of OTLP over HTTP, in JSON or protobuf, where a refusal is a
    Status of the protocol. A span that was recorded before is not recorded again.
    """
    media = media_type(request)
    if media not in otlp.ENCODINGS:
        raise problems.UnsupportedMediaType(
            f"Send the header Content-Type: {' or '.join(otlp.ENCODINGS)}."
        )
    raw = await read_capped(request, MAX_BODY_BYTES)
    services, summary = services_of(request), _Summary()
    try:
        steps = _spans_of(media, raw)
        parsing, tenant_key = services.of(Traces).parsing, principal.tenant_key
        async with parsing.parsed(tenant_key, len(raw), steps, request.receive) as spans:
            await _record_spans(request, principal, spans, summary)
    except otlp.NotTraces as error:
        raise problems.BadRequest(str(error)) from error
    body = otlp.accepted(media, summary.rejected, "; ".join(summary.reasons))
    return Reply(body, summary.position or services.positions.last_announced, media=media.encode())


def _spans_of(media: str, raw: bytes) -> Steps[list[Span]]:
    """The spans of a body that have ids."""
    spans: list[Span] = []
    of_resource: Attributes = {}
    resource = None
    for sent in otlp.read(media, raw, READ):
        if sent is not None and sent.resource is not resource:
            resource, of_resource = sent.resource, resource_of(sent)
        if sent is not None and sent.has_ids:
            spans.append(read(sent, of_resource))
        yield
    return spans


async def _record_spans(
    request: Request, principal: Principal, spans: Sequence[Span], summary: _Summary
) -> None:
    agents = [span for span in spans if span.agent is not None]
    _SPANS.labels("other").inc(len(spans) - len(agents))
    for span in agents:
        if span.run is None:
            summary.reject(span, "it names no service line (ledger.service_line_id)")
    for organization_id, own in (await _by_organization(request, principal, spans)).items():
        await _Family(request, principal, organization_id, summary).process(own)


async def _by_organization(
    request: Request, principal: Principal, spans: Sequence[Span]
) -> dict[str, Sequence[Span]]:
    """The spans by their organizations.

    Those of an administrator belong to the organizations of the lines that their trace names in
    this request. (A run on an unknown line is refused; no other run needs the spans around it.)
    """
    if not principal.is_admin:
        return {principal.organization_id or "": spans} if spans else {}
    lines = {span.run.line_id or "" for span in spans if span.run is not None}
    values = {"lines": [line for line in lines if re.fullmatch(LINE_ID, line)]}
    fetch = services_of(request).pool.fetch
    organizations: dict[str | None, str] = dict(
        await fetch(EVERYONE, _ORGANIZATIONS, values, Planning.SHORT)
    )
    of_traces: dict[bytes, set[str]] = defaultdict(set)
    for span in spans:
        if span.run is not None:
            of_traces[span.trace_id].add(organizations.get(span.run.line_id, ""))
    by_organization: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        own = of_traces[span.trace_id]
        if span.run is not None:
            own = {organizations.get(span.run.line_id, "")}
        for organization_id in own:
            by_organization[organization_id].append(span)
    return {**by_organization}


class _Grown(NamedTuple):
    """The part that a request needs of the tree of its spans, which may be large."""

    runs: Sequence[SpanRow]
    """The request's runs, parents first."""
    parents: Mapping[SpanKey, SpanRow | None]
    usage: Mapping[SpanKey, Sequence[TokenUsage]]
    """The tokens of the spans in each of the runs."""
    pairs: Sequence[tuple[SpanRow, SpanRow]]
    """All runs in the tree that lie in others, with these."""


class _Family:
    def __init__(
        self, request: Request, principal: Principal, organization_id: str, summary: _Summary
    ) -> None:
        self._request, self._principal = request, principal
        self._organization_id, self._summary = organization_id, summary
        self._workspace_id = "" if principal.is_admin else principal.workspace_id or ""
        self._with_parent: set[SpanKey] = set()
        """The runs that have got their parent with their start."""
        self._recorded: set[SpanKey] = set()

    async def process(self, spans: Sequence[Span]) -> None:
        """Threads build large trees and facts, which would hold up other requests."""
        store = services_of(self._request).of(Traces).spans
        own = await asyncio.to_thread(_by_ids, spans)
        rows = await asyncio.to_thread(lambda: [self._row(each[0]) for each in own.values()])
        if not self._organization_id:
            grown = self._grown(rows, [])
        else:
            grown = await store.keep(rows, lambda stored: self._grown(rows, stored))
        ordered = [span for row in grown.runs for span in own[key_of(row)]]
        for at in range(0, len(ordered), _AT_ONCE):
            await self._record(ordered[at : at + _AT_ONCE], grown)
        refused, recorded = list[SpanRow](), list[SpanRow]()
        for row in grown.runs:
            (recorded if key_of(row) in self._recorded else refused).append(row)
        if refused and self._organization_id:
            await store.refuse(refused)
        # Noted once more: a refusal elsewhere may have taken a mark.
        later = await store.keep(recorded, children_of) if recorded else []
        lacking = [
            pair for pair in (*grown.pairs, *later) if key_of(pair[0]) not in self._with_parent
        ]
        await self._give_parents([*dict.fromkeys(lacking)][: len(spans) + _MOST_PARENTS])

    def _row(self, span: Span) -> SpanRow:
        used: dict[str, Any] = _NO_TOKENS
        if span.tokens is not None:
            used = msgspec.structs.asdict(span.tokens)
        return SpanRow(
            organization_id=self._organization_id,
            trace_id=span.trace_id,
            span_id=span.span_id,
            parent_id=span.parent_id,
            workspace_id=self._workspace_id,
            # The fact of a longer one is refused.
            source=span.source[:_LONGEST_SOURCE] if span.run is not None else None,
            **used,
            response_id=span.response_id,
        )

    def _grown(self, rows: Sequence[SpanRow], stored: Sequence[SpanRow]) -> "_Grown":
        """The part that is needed of the spans as they are stored, and of their kin."""
        existing = {key_of(row): row for row in stored if row.workspace_id == self._workspace_id}
        lost = [row for row in rows if key_of(row) not in existing]
        tree = SpanTree([*stored, *lost], self._workspace_id)
        sent = [row for row in rows if row.source is not None]
        runs = tree.parents_first([existing.get(key_of(row), row) for row in sent])
        # Most requests have no run, and a tree may be large.
        usage, ours = tree.usage() if sent else {}, {key_of(row): row for row in sent}
        return _Grown(
            [ours[key_of(row)] for row in runs],
            {key_of(row): tree.run_of(row) for row in runs},
            {key: usage[key] for key in ours if key in usage},
            children_of(stored, tree),
        )

    async def _record(self, spans: Sequence[Span], grown: "_Grown") -> None:
        made = await asyncio.to_thread(lambda: [self._made(span, grown) for span in spans])
        outcomes = await submit(self._request, [command for _, command in made])
        self._summary.reach(outcomes)
        for span, (facts, command), outcome in zip(spans, made, outcomes, strict=True):
            if isinstance(command, ReportSpan) and command.has_parent:
                self._with_parent.add(span.key)
            self._note(span, facts, outcome)

    def _made(self, span: Span, grown: "_Grown") -> tuple[RunFacts, Command]:
        facts = facts_of(span, grown.usage.get(span.key, ()))
        return facts, self._command(facts, grown.parents[span.key])

    def _command(self, facts: RunFacts, above: SpanRow | None) -> Command:
        request_id = self._request.state.request_id
        start, end, _ = facts
        for fact in (start, end):
            if isinstance(fact, Rejected):
                return RefusedWrite(fact.error, fact.about, self._principal, request_id)
        assert isinstance(start, Fact)
        assert isinstance(end, Fact)
        parent = None if above is None else _run_of(above)
        return ReportSpan(start, end, parent, self._principal, request_id)

    def _note(self, span: Span, facts: RunFacts, outcome: Outcome) -> None:
        """Tell what became of a run. Raises Unavailable: then the request is sent again."""
        if isinstance(outcome, Unavailable):
            raise outcome
        summary = self._summary
        if not isinstance(outcome, Receipt):
            problems.count_refusal(outcome)
            summary.reject(span, sentence_of(outcome))
            return
        self._recorded.add(span.key)
        _SPANS.labels("duplicate" if outcome.duplicate else "run").inc()
        if not outcome.duplicate:
            for sentence in facts.left_out:
                summary.tell(span, sentence)

    async def _give_parents(self, pairs: Sequence[tuple[SpanRow, SpanRow]]) -> None:
        organization_id, request_id = self._organization_id, self._request.state.request_id
        for at in range(0, len(pairs), _AT_ONCE):
            commands = [
                GiveParent(
                    organization_id, _run_of(child), _run_of(parent), self._principal, request_id
                )
                for child, parent in pairs[at : at + _AT_ONCE]
            ]
            outcomes = await submit(self._request, commands)
            self._summary.reach(outcomes)
            for outcome in outcomes:
                if not isinstance(outcome, Receipt):
                    raise outcome


_NO_TOKENS = dict.fromkeys(TokenUsage.__struct_fields__)


def _by_ids(spans: Sequence[Span]) -> Mapping[SpanKey, Sequence[Span]]:
    """The spans by their ids: of the same ids all that are runs, or else the last one."""
    found: dict[SpanKey, list[Span]] = {}
    for span in spans:
        earlier = found.get(span.key)
        if earlier is None or earlier[0].run is None:
            found[span.key] = [span]
        elif span.run is not None:
            earlier.append(span)
    return found


def _run_of(row: SpanRow) -> RunOfSpan:
    name = name_of_span(row.trace_id, row.span_id)
    return RunOfSpan(row.source or "", name, row.workspace_id or None)
