"""Spans of OpenTelemetry as the ledger reads them (contract, Traces): which are runs, and of what.

Names of attributes are those of the GenAI conventions (semantic-conventions-genai 0.1.0), of the
conventions before them (up to semantic-conventions 1.41), and of OpenInference. The first name of a
row that a span has counts.
"""

import base64
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from ledger.engine.http.models import MAX_LABEL
from ledger.engine.values import json_gate
from ledger.engine.values.errors import Invalid
from ledger.engine.values.values import escaped, is_plain, name_of_span
from ledger.features.facts.envelope import MAX_FACT_BYTES
from ledger.features.facts.fact_types import MAX_COUNT
from ledger.features.runs.model.token_usage import TokenUsage
from ledger.features.traces.otlp import SentSpan

_LINE, _IS_RUN, _SERVICE = "ledger.service_line_id", "ledger.run", "service.name"
_KINDS = {
    "gen_ai.operation.name": ("invoke_agent", "invoke_workflow"),
    "openinference.span.kind": ("AGENT",),
}
_OLDER_KIND, _OLDER_RUNS = "traceloop.span.kind", ("agent", "workflow")
"""The words by which a span is an agent's or a workflow's run. The older kind counts only in a span
that has neither of the others: some libraries set it on every span of a workflow."""

_AGENT = ("gen_ai.agent.name", "gen_ai.workflow.name", "agent.name")
_MODEL = ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name")
_INPUT = ("gen_ai.input.messages", "input.value", "traceloop.entity.input")
_OUTPUT = ("gen_ai.output.messages", "output.value", "traceloop.entity.output")
_ERROR = ("error.type",)
_RAISED = "exception.type"
_LONGEST_MESSAGE = 32_768
_RESPONSE = ("gen_ai.response.id",)

_TOKENS = {
    "input": (
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.prompt_tokens",
        "llm.token_count.prompt",
    ),
    "output": (
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.token_count.completion",
    ),
    "cache_read": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "llm.token_count.prompt_details.cache_read",
    ),
    "cache_write": (
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
    "reasoning": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "gen_ai.usage.details.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
    ),
}

READ = frozenset({
    _LINE, _IS_RUN, _SERVICE, *_KINDS, _OLDER_KIND, *_AGENT, *_MODEL, *_INPUT, *_OUTPUT,
    *_ERROR, _RAISED, *_RESPONSE, *(name for names in _TOKENS.values() for name in names),
})  # fmt: skip
"""The attributes that are read, of resources, spans and events."""

Attributes = Mapping[str, AnyValue]


class SpanPayload(NamedTuple):
    """The input or output of a run, as JSON."""

    value: Any


class AgentSpan(NamedTuple):
    """The run that a span is, or would be if it named a line."""

    line_id: str | None
    started_ns: int
    """Nanoseconds since 1970; 0: unknown."""
    ended_ns: int
    agent: str | None
    input: SpanPayload | None
    output: SpanPayload | None
    error: dict[str, str] | None
    """Code and message of a failed run; None: it has completed."""


class Span(NamedTuple):
    """A span as the ledger reads it."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes | None
    name: str
    source: str
    tokens: TokenUsage | None
    """The span's own tokens; the model is empty where it names none. None: it has none."""
    response_id: str | None
    """The model's answer that used the tokens."""
    agent: AgentSpan | None
    """None: the span is no run, whatever line it names."""

    @property
    def key(self) -> tuple[bytes, bytes]:
        return self.trace_id, self.span_id

    @property
    def run_name(self) -> str:
        """The name that the run of the span has at its source."""
        return name_of_span(self.trace_id, self.span_id)

    @property
    def run(self) -> AgentSpan | None:
        """The run that the span is: an agent's span that names its line."""
        return self.agent if self.agent is not None and self.agent.line_id is not None else None


def resource_of(sent: SentSpan) -> Attributes:
    """The attributes of a span's resource, which are read once for all its spans."""
    return _read(sent.resource.attributes)


def read(sent: SentSpan, of_resource: Attributes) -> Span:
    """Read a span that has ids."""
    span, values = sent.span, _read(sent.span.attributes)
    parent_id = span.parent_span_id
    return Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_id=parent_id if len(parent_id) == 8 and any(parent_id) else None,
        name=span.name,
        source="otlp:" + escaped(_text(of_resource, (_SERVICE,)) or "unknown_service"),
        tokens=_tokens(values),
        response_id=_label(values, _RESPONSE),
        agent=_agent(sent, values, of_resource) if _is_agent(values) else None,
    )


def _read(attributes: Iterable[KeyValue]) -> Attributes:
    """The attributes that the ledger reads; of a name that is given twice the last one counts."""
    return {each.key: each.value for each in attributes if each.key in READ}


def _is_agent(values: Attributes) -> bool:
    if any(_text(values, (name,)) in words for name, words in _KINDS.items()):
        return True
    is_older = not any(name in values for name in _KINDS)
    if is_older and _text(values, (_OLDER_KIND,)) in _OLDER_RUNS:
        return True
    flag = values.get(_IS_RUN)
    return flag is not None and (flag.bool_value or flag.string_value == "true")


def _agent(sent: SentSpan, values: Attributes, of_resource: Attributes) -> AgentSpan:
    span = sent.span
    return AgentSpan(
        line_id=_text(values, (_LINE,)) or _text(of_resource, (_LINE,)),
        # A span that lacks one of its times has the other one.
        started_ns=span.start_time_unix_nano or span.end_time_unix_nano,
        ended_ns=span.end_time_unix_nano or span.start_time_unix_nano,
        agent=escaped(_text(values, _AGENT) or "") or None,
        input=_payload(values, _INPUT),
        output=_payload(values, _OUTPUT),
        error=_error(sent, values) if span.status.code == Status.STATUS_CODE_ERROR else None,
    )


def _error(sent: SentSpan, values: Attributes) -> dict[str, str]:
    """The code of a failure is its type, else that of the span's last exception."""
    code = _text(values, _ERROR)
    raised = [each for each in sent.span.events if each.name == "exception"]
    if code is None and raised:
        attributes = {each.key: each.value for each in raised[-1].attributes}
        code = _text(attributes, (_RAISED,))
    message = sent.span.status.message
    if len(message) > _LONGEST_MESSAGE:
        message = f"{message[:_LONGEST_MESSAGE]}…"
    # No text of a fact has NUL.
    error = {"code": escaped(code or ""), "message": message.replace("\0", "\ufffd")}
    return {name: text for name, text in error.items() if text}


def _text(values: Attributes, names: Iterable[str]) -> str | None:
    """The first of these attributes that is a text and not empty."""
    found = (values[name].string_value for name in names if name in values)
    return next(filter(None, found), None)


def _label(values: Attributes, names: Iterable[str]) -> str | None:
    """The first of these attributes that is a text, if a fact could have it as a label."""
    found = _text(values, names)
    return found if found is not None and len(found) <= MAX_LABEL and is_plain(found) else None


def _payload(values: Attributes, names: Iterable[str]) -> SpanPayload | None:
    """The first of these attributes; most libraries send JSON as text, which is parsed."""
    for name in names:
        if name not in values:
            continue
        value = _json(values[name])
        if isinstance(value, str) and len(value) <= MAX_FACT_BYTES:
            with suppress(json_gate.BrokenJson, Invalid):
                found = json_gate.parse(value.encode(), depth=3)
                value = found if isinstance(found, dict | list) else value
        return SpanPayload(value)
    return None


def _json(value: AnyValue) -> Any:
    """A value of any kind as JSON: bytes as base64, numbers that JSON lacks by their names."""
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    found = getattr(value, kind)
    if kind == "array_value":
        return [_json(each) for each in found.values]
    if kind == "kvlist_value":
        return {each.key: _json(each.value) for each in found.values}
    if kind == "bytes_value":
        return base64.b64encode(found).decode()
    if kind == "double_value" and not math.isfinite(found):
        return str(found)
    return found


def _tokens(values: Attributes) -> TokenUsage | None:
    """Caches are part of the input and reasoning of the output; if larger, they are added."""
    counts = {kind: _count(values, names) for kind, names in _TOKENS.items()}
    if all(count is None for count in counts.values()):
        return None
    tokens = {kind: count or 0 for kind, count in counts.items()}
    caches = tokens["cache_read"] + tokens["cache_write"]
    if caches > tokens["input"]:
        tokens["input"] += caches
    if tokens["reasoning"] > tokens["output"]:
        tokens["output"] += tokens["reasoning"]
    return TokenUsage(_label(values, _MODEL) or "", **tokens)


def _count(values: Attributes, names: Iterable[str]) -> int | None:
    """The first of these attributes that is a number of tokens; some libraries send text."""
    for name in names:
        if name not in values:
            continue
        value = _json(values[name])
        if isinstance(value, str):
            value = int(value) if value.isascii() and value.isdigit() and len(value) < 17 else None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number and 0 <= value <= MAX_COUNT and value == int(value):
            return int(value)
    return None
