"""The rows about traces: single facts of three tenants beside a flood of a fourth one's spans."""

import gzip
import os
import time
from collections.abc import Iterator, Sequence

import loadgen
from cost_rows import fresh_ledger
from measure import WARM_UP, Bench, Row, at_most
from neighbour_rows import LEAST_SECONDS, MOST_P50, beside_flood, facts_of, singles
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from product import Product
from story import line_id

SPANS = 10_000  # a second
AT_ONCE = 500  # spans of a request: an exporter sends 512 by default
RUN = 20  # spans of which one is a run
CONNECTIONS = 8
MADE = 1_000_000_000  # nanoseconds that a span took


def traces(bench: Bench) -> Sequence[Row]:
    """The latency of neighbours' single facts beside spans, of which one in twenty is a run."""
    seconds = max(LEAST_SECONDS, bench.seconds)
    with fresh_ledger(bench) as product:
        quiet = singles(product, facts_of(product, "quiet"), 2.0)
        count = int(SPANS / AT_ONCE * (seconds + 4 * WARM_UP) * 1.5 / CONNECTIONS)
        floods = [[*_requests(product, count)] for _ in range(CONNECTIONS)]
        flood = loadgen.Job(product.port, floods, seconds + 3 * WARM_UP, workers=bench.workers)
        flood.rate = SPANS / AT_ONCE
        beside, flooded = beside_flood(product, flood, seconds)
    taken = AT_ONCE * flooded.rate
    note = (
        f"beside {taken:,.0f} spans/s, answered in p50 {flooded.p50_ms:.0f} ms;"
        f" without: p50 {quiet.p50_ms:.1f} ms"
    )
    return (
        at_most("facts beside spans, p50 ms", beside.p50_ms, MOST_P50, "ms", note),
        Row(
            "spans/s beside facts", taken, float(SPANS), void="" if taken > SPANS * 0.95 else "few"
        ),
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
    """An agent's trace, in the order in which spans end."""
    trace, run = os.urandom(16), os.urandom(8)
    for number in range(RUN):
        is_run = number == RUN - 1
        span = Span(name="chat m", trace_id=trace, span_id=run if is_run else os.urandom(8))
        span.start_time_unix_nano, span.end_time_unix_nano = now, now + MADE
        told: dict[str, str | int] = {"gen_ai.operation.name": "chat", "server.address": "m"}
        told |= {"gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 100, "http.status": 200}
        told["gen_ai.usage.output_tokens"] = 50
        if is_run:
            told = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "bench"}
            told |= {"ledger.service_line_id": line, "input.value": "What does the month cost?"}
        else:
            span.parent_span_id = run
        for key, value in told.items():
            of = span.attributes.add(key=key).value
            if isinstance(value, str):
                of.string_value = value
            else:
                of.int_value = value
        yield span
