"""Traces of OpenTelemetry: spans by a few words, as an exporter sends them."""

import gzip
import itertools
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx
from google.protobuf.json_format import MessageToDict
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.edge import Edge

TRACES = "/v1/otlp/v1/traces"
PROTOBUF, JSON = "application/x-protobuf", "application/json"
SERVICE = "agents"
BEGAN = datetime(2026, 4, 14, 9, tzinfo=UTC)
SECOND = 10**9

_ids = itertools.count(random.Random(46).getrandbits(60))


def trace_id() -> bytes:
    """An id of a trace that no other has."""
    return (next(_ids) << 64).to_bytes(16, "big")


def span_id() -> bytes:
    return next(_ids).to_bytes(8, "big")


def nanoseconds(at: datetime) -> int:
    return int(at.timestamp()) * SECOND + at.microsecond * 1000


def value(content: Any) -> AnyValue:
    """A value as OTLP has it."""
    match content:
        case AnyValue():
            return content
        case bool():
            return AnyValue(bool_value=content)
        case int():
            return AnyValue(int_value=content)
        case float():
            return AnyValue(double_value=content)
        case str():
            return AnyValue(string_value=content)
        case bytes():
            return AnyValue(bytes_value=content)
        case list():
            found = AnyValue()
            found.array_value.values.extend(map(value, content))
            return found
    found = AnyValue()
    found.kvlist_value.values.extend(pairs(content))
    return found


def pairs(attributes: Mapping[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=value(content)) for key, content in attributes.items()]


def span(
    name: str,
    of: Span | bytes | None = None,
    attributes: Mapping[str, Any] | None = None,
    *,
    seconds: float = 1.0,
    after: float = 0.0,
    error: str | None = None,
) -> Span:
    """A span of a trace, or below another span. It begins that many seconds after ``BEGAN``."""
    began = nanoseconds(BEGAN) + int(after * SECOND)
    found = Span(
        name=name,
        trace_id=of.trace_id if isinstance(of, Span) else of or trace_id(),
        span_id=span_id(),
        parent_span_id=of.span_id if isinstance(of, Span) else b"",
        start_time_unix_nano=began,
        end_time_unix_nano=began + int(seconds * SECOND),
        attributes=pairs(attributes or {}),
    )
    if error is not None:
        found.status.code, found.status.message = 2, error
    return found


def agent(
    line: str | None, of: Span | bytes | None = None, name: str = "triage", **more: Any
) -> Span:
    """An agent's span on a line; ``attributes`` are further ones."""
    values = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name}
    if line is not None:
        values["ledger.service_line_id"] = line
    return span(f"invoke_agent {name}", of, values | more.pop("attributes", {}), **more)


def chat(
    of: Span, model: str | None = "m-1", input: int = 10, output: int = 5, **more: Any
) -> Span:
    """A call of a model; ``more`` are attributes."""
    values = {"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": input}
    values["gen_ai.usage.output_tokens"] = output
    if model is not None:
        values["gen_ai.response.model"] = model
    return span("chat", of, values | more)


def exported(*spans: Span, resource: Mapping[str, Any] | None = None) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    of_resource = request.resource_spans.add()
    of_resource.resource.attributes.extend(pairs({"service.name": SERVICE} | (resource or {})))
    of_resource.scope_spans.add().spans.extend(spans)
    return request


def as_json(request: ExportTraceServiceRequest) -> dict[str, Any]:
    """The request in OTLP's JSON: ids are hexadecimal, and enumerations are numbers."""
    message: dict[str, Any] = MessageToDict(request, use_integers_for_enums=True)
    spans = [
        (span, sent)
        for of_resource, o in zip(request.resource_spans, message["resourceSpans"], strict=True)
        for of_scope, s in zip(of_resource.scope_spans, o["scopeSpans"], strict=True)
        for span, sent in zip(of_scope.spans, s["spans"], strict=True)
    ]
    for span, sent in spans:
        sent["traceId"], sent["spanId"] = span.trace_id.hex(), span.span_id.hex()
        if span.parent_span_id:
            sent["parentSpanId"] = span.parent_span_id.hex()
    return message


def send(
    edge: Edge, *spans: Span, token: str | None = None, resource: Mapping[str, Any] | None = None
) -> httpx.Response:
    """Send spans as an exporter does: protobuf, packed."""
    return send_raw(edge, exported(*spans, resource=resource).SerializeToString(), token)


def send_raw(
    edge: Edge, body: bytes, token: str | None = None, media: str = PROTOBUF
) -> httpx.Response:
    headers = {"content-type": media, "content-encoding": "gzip"}
    return edge.post(TRACES, token, content=gzip.compress(body), headers=headers)


def export(edge: Edge, *spans: Span, **options: Any) -> tuple[int, str]:
    """Send spans, and require success; return how many were rejected, and why."""
    answer = send(edge, *spans, **options)
    assert answer.status_code == 200, refusal(answer)
    assert answer.headers["content-type"] == PROTOBUF
    partial = ExportTraceServiceResponse.FromString(answer.content).partial_success
    return partial.rejected_spans, partial.error_message


def refusal(answer: httpx.Response) -> str:
    """The message of an answer's Status."""
    return str(Status.FromString(answer.content).message)


def name_of(span: Span) -> str:
    return f"{span.trace_id.hex()}-{span.span_id.hex()}"


def run_of(edge: Edge, span: Span, token: str | None = None, **params: str) -> dict[str, Any]:
    """The run of a span, which there must be."""
    found = edge.data("/v1/runs", token, params={"external_id": name_of(span)})
    assert len(found) == 1, found
    run: dict[str, Any] = edge.data(f"/v1/runs/{found[0]['id']}", token, params=params)
    return run


def runs_of(edge: Edge, line: str, token: str | None = None) -> list[dict[str, Any]]:
    path, params = f"/v1/execution/{line}/runs", {"limit": "100"}
    found: list[dict[str, Any]] = edge.data(path, token, params=params)
    return found
