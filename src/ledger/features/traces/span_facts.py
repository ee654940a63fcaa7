"""The two facts of a span that is a run: its start and its end (contract, Traces)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from ledger.engine.values.errors import Invalid, LedgerError, TooLarge
from ledger.engine.values.values import format_instant, instant_of
from ledger.features.facts import envelope
from ledger.features.facts.fact_types import MAX_COUNT, MAX_MODELS, NAME_OF_RUN
from ledger.features.runs.model.token_usage import TokenUsage
from ledger.features.traces.spans import Span, SpanPayload

_encode = msgspec.json.Encoder().encode


class RunFacts(NamedTuple):
    """The facts of a run, with what was left out of them."""

    start: envelope.Fact | envelope.Rejected
    end: envelope.Fact | envelope.Rejected
    left_out: Sequence[str]


def facts_of(span: Span, below: Sequence[TokenUsage]) -> RunFacts:
    """The facts of a span that is a run; ``below`` are the tokens of the spans in it."""
    run = span.run
    assert run is not None
    began: dict[str, Any] = {"service_line_id": run.line_id}
    if run.agent is not None:
        began["triggered_by"] = {"type": "agent", "actor_id": run.agent}
    left_out: list[str] = []
    used = below if span.tokens is None else [_named(span.tokens, below)]
    ended = _tokens(used, left_out)
    if run.error:
        ended["error"] = run.error
    ending = "run.completed" if run.error is None else "run.failed"
    return RunFacts(
        _fact(span, "start", "run.started", run.started_ns, began, run.input, left_out),
        _fact(span, "end", ending, run.ended_ns, ended, run.output, left_out),
        left_out,
    )


def _fact(
    span: Span,
    role: str,
    type_: str,
    at_ns: int,
    data: dict[str, Any],
    payload: SpanPayload | None,
    left_out: list[str],
) -> envelope.Fact | envelope.Rejected:
    """A fact with its payload, or without it, if no fact can hold it."""
    name = span.run_name
    event = {
        "specversion": "1.0",
        "id": f"{name}-{role}",
        "source": span.source,
        "type": type_,
        "time": _instant(at_ns),
        "traceparent": f"00-{span.trace_id.hex()}-{span.span_id.hex()}-01",
        "data": {NAME_OF_RUN: name, **data},
    }
    if payload is None:
        return envelope.from_structured(_encode(event))
    field = "input" if role == "start" else "output"
    full = _encode(event | {"data": {NAME_OF_RUN: name, **data, field: payload.value}})
    found = (
        envelope.from_structured(full)
        if len(full) <= envelope.MAX_FACT_BYTES
        else envelope.Rejected(TooLarge(envelope.TOO_LARGE))
    )
    if isinstance(found, envelope.Fact):
        return found
    left_out.append(f"its {field} was left out: {sentence_of(found.error)}")
    return envelope.from_structured(_encode(event))


def _named(own: TokenUsage, below: Sequence[TokenUsage]) -> TokenUsage:
    """A span's own tokens; where it names no model, that of the spans below, if they name one."""
    models = {each.model for each in below if each.model}
    if own.model or len(models) != 1:
        return own
    return msgspec.structs.replace(own, model=models.pop())


def _tokens(usage: Sequence[TokenUsage], left_out: list[str]) -> dict[str, Any]:
    """The tokens by model, or together where a model is unknown or there are too many."""
    if not usage:
        return {}
    total = sum(each.input + each.output for each in usage)
    if total > MAX_COUNT:
        left_out.append(f"its tokens were left out: they are more than {MAX_COUNT}")
        return {}
    if len(usage) > MAX_MODELS or not all(each.model for each in usage):
        return {"tokens_used": total}
    return {"token_usage": [msgspec.structs.asdict(each) for each in usage]}


def _instant(at_ns: int) -> str | None:
    return format_instant(instant_of(at_ns // 1000)) if at_ns else None


def sentence_of(error: LedgerError) -> str:
    if isinstance(error, Invalid) and error.errors:
        return "; ".join(f"{pointer} {detail}".strip() for pointer, detail in error.errors)
    return error.detail
