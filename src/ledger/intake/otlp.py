"""OTLP over HTTP: bodies of traces in, answers out, both by the protocol's own classes.

OTLP (opentelemetry-proto 1.x) sends protobuf or JSON. Its JSON is protobuf's, except that ids are
hexadecimal. The bodies of logs and metrics have the same outer form, and protobuf would read them
as traces of spans without ids.
"""

import base64
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
from google.protobuf.json_format import MessageToJson, ParseDict, ParseError
from google.protobuf.message import DecodeError, Message
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ledger.domain.errors import TooLarge

JSON, PROTOBUF = ENCODINGS = ("application/json", "application/x-protobuf")
"""The media types of bodies and answers."""

MOST = 100_000
"""The resources, scopes and spans of a body: a body of empty ones could have millions."""

_MOST_OF_A_SPAN = 10_000
"""The attributes, and the events, of a span in JSON, which is read in one step."""

_ONLY_TRACES = "If it holds logs or metrics: only traces are taken."
_OTHERS = {"resourceLogs": "logs", "resourceMetrics": "metrics", "resourceProfiles": "profiles"}
_FIXED = {1: 8, 5: 4}
"""The bytes of fields of fixed length in protobuf, by their kind."""
_IDS = ("traceId", "spanId", "parentSpanId")
"""The ids of a span in JSON."""

_SPAN_FIELDS = frozenset({
    *_IDS, "name", "kind", "startTimeUnixNano", "endTimeUnixNano", "attributes", "events", "status"
})  # fmt: skip
"""The fields of a span in JSON that are read."""

_CODES = {
    400: Code.INVALID_ARGUMENT,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    408: Code.DEADLINE_EXCEEDED,
    413: Code.INVALID_ARGUMENT,
    415: Code.INVALID_ARGUMENT,
    422: Code.INVALID_ARGUMENT,
    429: Code.RESOURCE_EXHAUSTED,
    503: Code.UNAVAILABLE,
}


class NotTraces(Exception):
    """The body holds no traces in this encoding; the text says why."""


class SentSpan(NamedTuple):
    """A span as it was sent."""

    resource: Resource
    span: Span

    @property
    def has_ids(self) -> bool:
        """Whether the trace and the span have ids; ids of zeros are none (OTLP, Span)."""
        trace, span = self.span.trace_id, self.span.span_id
        return len(trace) == 16 and len(span) == 8 and any(trace) and any(span)


def read(media: str, raw: bytes) -> Iterator[SentSpan]:
    """The spans of a body, one by one. Raises NotTraces, and TooLarge for too many spans."""
    with_ids = without = 0
    for sent in _of_json(raw) if media == JSON else _of_protobuf(raw):
        with_ids, without = with_ids + sent.has_ids, without + (not sent.has_ids)
        yield sent
    if without and not with_ids:
        raise NotTraces(
            f"No span has a trace id of 16 bytes and a span id of 8 bytes. {_ONLY_TRACES}"
        )


def _of_protobuf(raw: bytes) -> Iterator[SentSpan]:
    _require_few(_count(raw, 0, len(raw)))
    request = ExportTraceServiceRequest()
    try:
        request.ParseFromString(raw)
    except DecodeError as error:
        raise NotTraces(f"The body is no ExportTraceServiceRequest. {_ONLY_TRACES}") from error
    for of_resource in request.resource_spans:
        resource = of_resource.resource
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield SentSpan(resource, span)


def _count(raw: bytes, at: int, end: int, fields: Sequence[int] = (1, 2, 2)) -> int:
    """How many resources, scopes and spans a body has between two places, or some above ``MOST``.

    The protocol's parser has no limit: of 8 MiB it makes gigabytes. The fields of the messages
    within one another are given by their numbers; a broken body is counted as far as it goes.
    """
    found = 0
    while at < end and found <= MOST:
        tag, at = _varint(raw, at)
        kind = tag & 7
        if kind == 0:
            _, at = _varint(raw, at)
        elif kind == 2:
            size, at = _varint(raw, at)
            if tag >> 3 == fields[0]:
                found += 1
                if fields[1:]:
                    found += _count(raw, at, min(at + size, end), fields[1:])
            at += size
        elif kind in _FIXED:
            at += _FIXED[kind]
        else:
            # A group, which the protocol has not: its parser would pass over it.
            raise NotTraces(f"The body is no ExportTraceServiceRequest. {_ONLY_TRACES}")
    return found


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and the place behind it."""
    number = 0
    for place, byte in enumerate(raw[at : at + 10]):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, at + place + 1
    return number, len(raw)


def _require_few(elements: int) -> None:
    if elements > MOST:
        raise TooLarge(f"A request may have at most {MOST:,} resources, scopes and spans.")


def _of_json(raw: bytes) -> Iterator[SentSpan]:
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotTraces("The body is not valid JSON.") from error
    if not isinstance(body, dict):
        raise NotTraces("The body must be an object with resourceSpans.")
    for name, kind in _OTHERS.items():
        if name in body:
            raise NotTraces(f"The body holds {kind}: only traces are taken.")
    resources = _several(body, "resourceSpans")
    _require_few(len(resources))
    scopes = [(each, _several(each, "scopeSpans")) for each in resources]
    found = [(each, _several(scope, "spans")) for each, some in scopes for scope in some]
    _require_few(len(resources) + len(found) + sum(len(spans) for _, spans in found))
    for of_resource, spans in found:
        resource = of_resource.get("resource") or {}
        if not isinstance(resource, dict):
            raise NotTraces("resource must be an object.")
        told = _message(resource, Resource())
        for span in spans:
            yield SentSpan(told, _message(_with_ids(span), Span()))


def _several(holder: dict[str, Any], name: str) -> Sequence[dict[str, Any]]:
    """The objects of a list. Raises NotTraces for anything else."""
    found = holder.get(name)
    if found is None:
        return ()
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        return found
    raise NotTraces(f"{name} must be an array of objects.")


def _with_ids(span: dict[str, Any]) -> dict[str, Any]:
    """A span whose ids are base64, as in protobuf's JSON. Raises NotTraces."""
    told = {name: value for name, value in span.items() if name in _SPAN_FIELDS}
    for name in ("attributes", "events"):
        if isinstance(told.get(name), list) and len(told[name]) > _MOST_OF_A_SPAN:
            raise TooLarge(f"A span may have at most {_MOST_OF_A_SPAN:,} {name}.")
    for name in _IDS:
        said = told.get(name)
        if said is None:
            continue
        try:
            told[name] = base64.b64encode(bytes.fromhex(said)).decode()
        except (ValueError, TypeError) as error:
            raise NotTraces(f"{name} must be hexadecimal.") from error
    return told


def _message(told: Any, message: Any) -> Any:
    """A message of the protocol from its JSON. Raises NotTraces."""
    try:
        return ParseDict(told, message, ignore_unknown_fields=True)
    except (ParseError, TypeError, ValueError, AttributeError, RecursionError) as error:
        # The parser expects objects where the protocol has them, and meets what was sent.
        raise NotTraces(f"The body is not of OTLP's form: {str(error)[:200]}") from error


def accepted(media: str, rejected: int, reasons: str) -> bytes:
    """The answer to a body that was taken, wholly or in part."""
    response = ExportTraceServiceResponse()
    if rejected or reasons:
        response.partial_success.rejected_spans = rejected
        response.partial_success.error_message = reasons
    return _encoded(media, response)


def refused(status: int, detail: str) -> bytes:
    """The answer to a body in protobuf that was not taken."""
    return _encoded(PROTOBUF, Status(code=_CODES.get(status, Code.INTERNAL), message=detail))


def _encoded(media: str, message: Message) -> bytes:
    if media == PROTOBUF:
        return bytes(message.SerializeToString())
    return str(MessageToJson(message, indent=None)).encode()
