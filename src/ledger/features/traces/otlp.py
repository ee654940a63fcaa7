"""OTLP over HTTP: bodies of traces in, answers out, both by the protocol's own classes.

OTLP (opentelemetry-proto 1.x) sends protobuf or JSON. Its JSON is protobuf's, except that ids are
hexadecimal. The bodies of logs and metrics have the same outer form, and protobuf would read them
as traces of spans without ids.

From 8 MiB of empty elements the protocol's parsers make gigabytes, for minutes. So a body is split
into resources, scopes and spans as bytes, whose elements are counted at every depth. Only then are
they parsed, one by one.
"""

import base64
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, TypeVar

import msgspec
from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToJson, ParseDict, ParseError
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ledger.engine.values.errors import TooLarge

JSON, PROTOBUF = ENCODINGS = ("application/json", "application/x-protobuf")

MOST = 1_000_000
"""The elements of a body."""

MOST_OF_A_SPAN = 10_000
"""The elements of a span, a resource or a scope, which are parsed in one step each."""

_LEAST_BYTES = 2
"""The bytes that an element takes in either encoding: shorter parts need no counting."""

_DEEPEST = 100
"""The messages within one another that protobuf's parser takes."""

_STRINGS_A_STEP, _SLICE_BYTES = 10_000, 256 * 1024
"""The part of a body that is counted in one step, which takes some milliseconds."""

_ONLY_TRACES = "If it holds logs or metrics: only traces are taken."
_OTHERS = {"resource_logs": "logs", "resource_metrics": "metrics", "resource_profiles": "profiles"}
_IDS = ("traceId", "spanId", "parentSpanId")

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


M = TypeVar("M", bound=Message)


class NotTraces(Exception):
    """The body holds no traces in this encoding; the text says why."""


class SentSpan(NamedTuple):
    """A span as it was sent."""

    resource: Resource
    span: Span

    @property
    def has_ids(self) -> bool:
        """True if the trace and the span have ids; ids of zeros are none (OTLP, Span)."""
        trace, span = self.span.trace_id, self.span.span_id
        return len(trace) == 16 and len(span) == 8 and any(trace) and any(span)


class _Part(NamedTuple):
    """A resource with its scopes and spans, none of them parsed."""

    resource: bytes
    scopes: Sequence[bytes]
    spans: Sequence[bytes]


class _Encoding(NamedTuple):
    """The steps in which an encoding is read: it is split, its elements are counted, and parsed."""

    split: Callable[[bytes], Iterator[_Part]]
    elements: Callable[[Descriptor, bytes], Iterator[int]]
    """Counts the elements that a message holds, at every depth: yields how many it has found."""
    resource: Callable[[bytes, Collection[str]], Resource]
    span: Callable[[bytes, Collection[str]], Span]


def read(media: str, raw: bytes, names: Collection[str]) -> Iterator[SentSpan | None]:
    """The spans of a body, one by one, and None after any other step.

    In JSON, attributes of other ``names`` are left out. Raises NotTraces, and TooLarge before
    anything is parsed.
    """
    encoding = _ENCODINGS[media]
    whole = encoding.elements(ExportTraceServiceRequest.DESCRIPTOR, raw)
    yield from _require_few(whole if len(raw) > MOST * _LEAST_BYTES else (), "A body", MOST)
    parts = []
    for part in encoding.split(raw):
        parts.append(part)
        for what, kind, some in (
            ("The attributes of a resource", Resource, part[:1]),
            ("The attributes of a scope", InstrumentationScope, part.scopes),
            ("A span", Span, part.spans),
        ):
            for each in some:
                if len(each) > MOST_OF_A_SPAN * _LEAST_BYTES:
                    counts = encoding.elements(kind.DESCRIPTOR, each)
                    yield from _require_few(counts, what, MOST_OF_A_SPAN)
        yield None
    with_ids = without = 0
    for part in parts:
        resource = encoding.resource(part.resource, names)
        yield None
        for each in part.spans:
            sent = SentSpan(resource, encoding.span(each, names))
            with_ids, without = with_ids + sent.has_ids, without + (not sent.has_ids)
            yield sent
    if without and not with_ids:
        raise NotTraces(
            f"No span has a trace id of 16 bytes and a span id of 8 bytes. {_ONLY_TRACES}"
        )


def _require_few(counts: Iterable[int], what: str, most: int) -> Iterator[None]:
    for found in counts:
        if found > most:
            raise TooLarge(
                f"{what} may have at most {most:,} elements: resources, scopes, spans, events,"
                " links, attributes, and values within values. Send fewer spans at once."
            )
        yield None


# Protobuf.


def _fields_class() -> Callable[[bytes], Any]:
    """Make a parser for any message of the protocol. All fields stay bytes."""
    file = FileDescriptorProto(name="ledger/fields.proto", package="ledger")
    fields = file.message_type.add(name="Fields").field
    kinds = {"label": FieldDescriptorProto.LABEL_REPEATED, "type": FieldDescriptorProto.TYPE_BYTES}
    for number in range(1, 17):
        fields.add(name=f"f{number}", number=number, **kinds)
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("ledger.Fields")).FromString


_fields = _fields_class()


def _count_protobuf(kind: Descriptor, raw: bytes) -> Iterator[int]:
    """``_Encoding.elements``: level by level, since messages one after the other are one message.

    An element of a list is counted, and so is a second value where a message has one: it is merged
    with the first. A broken message is counted as far as its parser would go.
    """
    found, level = 0, {kind: [raw]}
    for _ in range(_DEEPEST):
        below: dict[Descriptor, list[bytes]] = defaultdict(list)
        for holder, messages in level.items():
            kinds = [(field, field.message_type) for field in holder.fields]
            for some in _in_slices(messages):
                fields = _parsed(_fields, b"".join(some))
                for field, kind_below in kinds:
                    if kind_below is None:
                        continue
                    held = getattr(fields, f"f{field.number}")
                    found += max(0, len(held) - (0 if field.is_repeated else len(some)))
                    yield found
                    if held:
                        below[kind_below] += held
        if not below:
            return
        level = below


def _in_slices(messages: Iterable[bytes]) -> Iterator[Sequence[bytes]]:
    some, size = list[bytes](), 0
    for message in messages:
        some.append(message)
        size += len(message)
        if size >= _SLICE_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


def _split_protobuf(raw: bytes) -> Iterator[_Part]:
    for each in _parsed(_fields, raw).f1:
        fields = _parsed(_fields, each)
        scopes = [_parsed(_fields, scope) for scope in fields.f2]
        named = [b"".join(scope.f1) for scope in scopes]
        yield _Part(b"".join(fields.f1), named, [span for scope in scopes for span in scope.f2])


def _parsed(parse: Callable[[bytes], Any], raw: bytes) -> Any:
    try:
        return parse(raw)
    except DecodeError as error:
        raise NotTraces(f"The body is no ExportTraceServiceRequest. {_ONLY_TRACES}") from error


# JSON.


_ABSENT = msgspec.Raw(b"{}")


class _Scope(msgspec.Struct, rename="camel"):
    scope: msgspec.Raw = _ABSENT
    spans: list[msgspec.Raw] | None = None


class _OfResource(msgspec.Struct, rename="camel"):
    resource: msgspec.Raw = _ABSENT
    scope_spans: list[_Scope] | None = None


class _Body(msgspec.Struct, rename="camel"):
    resource_spans: list[_OfResource] | None = None
    resource_logs: msgspec.Raw = _ABSENT
    resource_metrics: msgspec.Raw = _ABSENT
    resource_profiles: msgspec.Raw = _ABSENT


class _Attribute(TypedDict, total=False):
    key: str
    value: Any


class _Resource(TypedDict, total=False):
    attributes: list[_Attribute] | None


class _Event(_Resource, total=False):
    name: Any


class _Span(_Event, total=False):
    traceId: Any
    spanId: Any
    parentSpanId: Any
    startTimeUnixNano: Any
    endTimeUnixNano: Any
    events: list[_Event] | None
    status: Any


_body = msgspec.json.Decoder(_Body).decode
_resource = msgspec.json.Decoder(_Resource | None).decode
_span = msgspec.json.Decoder(_Span).decode

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
"""A whole string. Without an end it goes to the end of the text: see ``json_gate``."""

_strings = re.compile(_STRING, re.DOTALL)
_some_strings = re.compile(
    rb'(?:[^"]*+%b[ \t\r\n]*+:?+){1,%d}+' % (_STRING, _STRINGS_A_STEP), re.DOTALL
)
"""Text up to the end of a key with its colon, or of a string that is a value."""


def _count_json(kind: Descriptor, raw: bytes) -> Iterator[int]:
    """``_Encoding.elements``: all elements of arrays, for every kind of message.

    Without strings and spaces, a colon follows a comma between two members of an object. All other
    commas separate elements.
    """
    found = at = 0
    while at < len(raw):
        some = _some_strings.match(raw, at)
        end = len(raw) if some is None else some.end()
        bare = _strings.sub(b"", raw[at:end]).translate(None, b" \t\r\n")
        found += bare.count(b",") - bare.count(b",:") + bare.count(b"[") - bare.count(b"[]")
        yield found
        at = end


def _split_json(raw: bytes) -> Iterator[_Part]:
    body = _decoded(_body, raw)
    for name, kind in _OTHERS.items():
        if getattr(body, name) is not _ABSENT:
            raise NotTraces(f"The body holds {kind}: only traces are taken.")
    for each in body.resource_spans or ():
        scopes = each.scope_spans or ()
        spans = [bytes(span) for of_scope in scopes for span in of_scope.spans or ()]
        yield _Part(bytes(each.resource), [bytes(of_scope.scope) for of_scope in scopes], spans)


def _resource_of_json(raw: bytes, names: Collection[str]) -> Resource:
    value = _decoded(_resource, raw) or {}
    _keep(value, names)
    return _message(value, Resource)


def _span_of_json(raw: bytes, names: Collection[str]) -> Span:
    """A span whose ids are hexadecimal, which are base64 in protobuf's JSON."""
    value = _decoded(_span, raw)
    for holder in (value, *(value.get("events") or ())):
        _keep(holder, names)
    for name in _IDS:
        text = value.get(name)
        if text is None:
            continue
        try:
            value[name] = base64.b64encode(bytes.fromhex(text)).decode()
        except (ValueError, TypeError) as error:
            raise NotTraces(f"{name} must be hexadecimal.") from error
    return _message(value, Span)


def _keep(holder: dict[str, Any], names: Collection[str]) -> None:
    """Keep the attributes of these names; of a name that is given twice the last one."""
    if attributes := holder.get("attributes"):
        by_name = {each["key"]: each for each in attributes if each.get("key") in names}
        holder["attributes"] = [*by_name.values()]


def _decoded(decode: Callable[[bytes], Any], raw: bytes) -> Any:
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise NotTraces(f"The body is not of OTLP's form: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotTraces("The body is not valid JSON.") from error


def _message(value: Any, kind: Callable[[], M]) -> M:
    try:
        return ParseDict(value, kind(), ignore_unknown_fields=True) if value else kind()
    except (ParseError, TypeError, ValueError, AttributeError, RecursionError) as error:
        # The parser expects objects where the protocol has them, and meets what was sent.
        raise NotTraces(f"The body is not of OTLP's form: {str(error)[:200]}") from error


_ENCODINGS: Mapping[str, _Encoding] = {
    JSON: _Encoding(_split_json, _count_json, _resource_of_json, _span_of_json),
    PROTOBUF: _Encoding(
        _split_protobuf,
        _count_protobuf,
        lambda raw, names: _parsed(Resource.FromString, raw),
        lambda raw, names: _parsed(Span.FromString, raw),
    ),
}


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
