"""The rows about traces: facts during another tenant's flood of spans, or its largest bodies."""

import gzip
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import loadgen
from cost_rows import fresh_ledger
from measure import WARM_UP, Bench, Row, at_most
from neighbour_rows import (
    FIRST_LINE,
    LEAST_SECONDS,
    MOST_P50,
    MOST_P99,
    NEIGHBOURS,
    facts_of,
    key_of,
    singles,
    with_flood,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from product import MANY, Product, UnmeasuredError
from story import line_id

SPANS = 10_000  # a second
AT_ONCE = 500  # spans per request: an exporter sends 512 by default
RUN = 20  # one span of this many is a run
CONNECTIONS = 8
MADE = 1_000_000_000  # nanoseconds that a span took
MOST_OF_A_SPAN = 10_000  # elements
SMALL = 100_000  # spans of a body: as many as are kept for an organization
BATCHES, BATCH = 10, 100  # a second, and their facts
FLOOD_SECONDS = 10.0  # seconds of batches beside the largest bodies


def traces(bench: Bench) -> Sequence[Row]:
    """The latency of neighbours' single facts during a flood of spans; one in twenty is a run."""
    seconds = max(LEAST_SECONDS, bench.seconds)
    with fresh_ledger(bench) as product:
        quiet = singles(product, facts_of(product, "quiet"), 2.0)
        count = int(SPANS / AT_ONCE * (seconds + 4 * WARM_UP) * 1.5 / CONNECTIONS)
        floods = [[*_requests(product, count)] for _ in range(CONNECTIONS)]
        flood = loadgen.Job(product.port, floods, seconds + 3 * WARM_UP, workers=bench.workers)
        flood.rate = SPANS / AT_ONCE
        others, flooded = with_flood(product, flood, seconds)
    rate = AT_ONCE * flooded.rate
    note = (
        f"beside {rate:,.0f} spans/s, answered in p50 {flooded.p50_ms:.0f} ms;"
        f" without: p50 {quiet.p50_ms:.1f} ms"
    )
    return (
        at_most("facts beside spans, p50 ms", others.p50_ms, MOST_P50, "ms", note),
        Row("spans/s beside facts", rate, float(SPANS), void="" if rate > SPANS * 0.95 else "few"),
    )


def _requests(product: Product, count: int) -> Iterator[bytes]:
    now = time.time_ns() - 60 * MADE
    for number in range(count):
        request = ExportTraceServiceRequest()
        of_resource = request.resource_spans.add()
        service = of_resource.resource.attributes.add(key="service.name")
        service.value.string_value = "bench"
        spans = of_resource.scope_spans.add().spans
        for _ in range(AT_ONCE // RUN):
            spans.extend(_trace(line_id(1 + number % 500), now))
        body = gzip.compress(request.SerializeToString(), 1)
        head = {"content_type": "application/x-protobuf", "content_encoding": "gzip"}
        head["authorization"] = f"Bearer {product.key}"
        yield loadgen.request("POST", "/v1/otlp/v1/traces", body, **head)


def _trace(line: str, now: int) -> Iterator[Span]:
    """An agent's trace, in the order in which its spans end."""
    trace, run = os.urandom(16), os.urandom(8)
    for number in range(RUN):
        is_run = number == RUN - 1
        span = Span(name="chat m", trace_id=trace, span_id=run if is_run else os.urandom(8))
        span.start_time_unix_nano, span.end_time_unix_nano = now, now + MADE
        attributes: dict[str, str | int] = {"gen_ai.operation.name": "chat", "server.address": "m"}
        attributes |= {
            "gen_ai.request.model": "m",
            "gen_ai.usage.input_tokens": 100,
            "http.status": 200,
        }
        attributes["gen_ai.usage.output_tokens"] = 50
        if is_run:
            attributes = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "bench"}
            attributes |= {
                "ledger.service_line_id": line,
                "input.value": "What does the month cost?",
            }
        else:
            span.parent_span_id = run
        for key, value in attributes.items():
            of = span.attributes.add(key=key).value
            if isinstance(value, str):
                of.string_value = value
            else:
                of.int_value = value
        yield span


# Bodies at the bounds.


def held(bench: Bench) -> Row:
    """The latency of a neighbour's batches during a sequence of bodies of the largest sizes."""
    with fresh_ledger(bench) as product:
        floods = [[_posted(product, *each)] for each in _bodies_at_the_bounds()]
        flood = loadgen.Job(product.port, floods, FLOOD_SECONDS + 4 * WARM_UP, repeat=True)
        quiet = _batches(product, "quiet", 3.0, bench.workers)
        with ThreadPoolExecutor(1) as pool:
            flooding = pool.submit(loadgen.run_load, flood)
            others = _batches(product, "beside", FLOOD_SECONDS, bench.workers)
            flooded = flooding.result()
    if set(flooded.statuses) - {200, 503}:  # 503: spans of the organization wait for too long
        raise UnmeasuredError(f"traces were answered {flooded.statuses}: {flooded.refusal}")
    note = (
        f"p50 {others.p50_ms:.0f}; without: p50 {quiet.p50_ms:.0f}, p99 {quiet.p99_ms:.0f} ms;"
        f" {others.responses} batches, bodies: {flooded.statuses}"
    )
    return at_most("batches beside the largest traces, p99 ms", others.p99_ms, MOST_P99, "ms", note)


def _batches(product: Product, name: str, seconds: float, workers: int) -> loadgen.Result:
    """Send batches of a neighbour, on its own lines."""
    organization, key = NEIGHBOURS[0], product.key
    lines = [line_id(FIRST_LINE + number) for number in range(BATCH)]
    begun = {"organization_id": organization, "workspace_id": "WS-26-000001"}
    begun |= {"product_line": "talent", "execution_model": "capacity"}

    def batch(number: int, kind: str, **data: object) -> bytes:
        event = {"specversion": "1.0", "source": f"/bench/{name}", "type": kind, "data": data}
        facts = [{**event, "id": f"{number}/{line}", "subject": line} for line in lines]
        return product.post(json.dumps(facts).encode(), MANY)

    product.key = key_of(product, organization)
    try:
        loadgen.run_load(loadgen.Job(product.port, [[batch(0, "service_line.activated", **begun)]]))
        count = int(BATCHES * (seconds + 4 * WARM_UP)) + 1
        sent = [batch(n, "execution.checked_in", hours=1, note="n" * 60) for n in range(1, count)]
    finally:
        product.key = key
    shares = [sent[n::4] for n in range(4)]
    job = loadgen.Job(product.port, shares, seconds, 2 * WARM_UP, rate=BATCHES, workers=workers)
    result = loadgen.run_load(job)
    if set(result.statuses) != {200}:
        raise UnmeasuredError(f"batches were answered {result.statuses}: {result.refusal}")
    return result


def _bodies_at_the_bounds() -> Sequence[tuple[str, bytes]]:
    """Media types and bodies: few large spans, nested values, and many small spans."""
    ids = b'"traceId":"%b","spanId":"%b"' % (b"01" * 16, b"02" * 8)
    line = _attribute(b"ledger.service_line_id", b'{"stringValue":"%b"}' % line_id(1).encode())
    run = b"%b,%b" % (line, _attribute(b"ledger.run", b'{"boolValue":true}'))
    values = b'{"arrayValue":{"values":[%b]}}' % b",".join([b"{}"] * (MOST_OF_A_SPAN - 9))
    nested = b"%b,%b" % (run, _attribute(b"input.value", values))
    empty = b",".join([b"{}"] * MOST_OF_A_SPAN)
    spans = [b'{%b,"attributes":[%b]}' % (ids, each) for each in (empty, nested)]
    in_json = [
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[%b]}]}]}' % b",".join([each] * 99)
        for each in spans
    ]
    named = Span(name="a", trace_id=b"1" * 16, span_id=b"2" * 8)
    for _ in range(MOST_OF_A_SPAN):
        named.attributes.add(key="a").value.string_value = "b"
    small = [Span(trace_id=b"1" * 16, span_id=os.urandom(8)) for _ in range(SMALL)]
    in_protobuf = [[named] * 80, small]
    media = "application/x-protobuf"
    return (
        *(("application/json", body) for body in in_json),
        *((media, _exported(each).SerializeToString()) for each in in_protobuf),
    )


def _attribute(key: bytes, value: bytes) -> bytes:
    return b'{"key":"%b","value":%b}' % (key, value)


def _exported(spans: Sequence[Span]) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    request.resource_spans.add().scope_spans.add().spans.extend(spans)
    return request


def _posted(product: Product, media: str, body: bytes) -> bytes:
    head = {"content_type": media, "content_encoding": "gzip"}
    head["authorization"] = f"Bearer {product.key}"
    return loadgen.request("POST", "/v1/otlp/v1/traces", gzip.compress(body, 1), **head)
