"""Spans and bodies that are refused: their answers and audit entries (contract, Traces)."""

import gzip
import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ledger.features.traces.routes import Traces
from tests.support.audits import SIBLING, Tenant
from tests.support.edge import Edge, assert_problem
from tests.support.facts import WORKSPACE, encode, fact
from tests.support.streaming import listening
from tests.support.traces import (
    JSON,
    PROTOBUF,
    SECOND,
    TRACES,
    agent,
    as_json,
    chat,
    export,
    exported,
    nanoseconds,
    refusal,
    run_of,
    runs_of,
    send,
    send_raw,
    span,
    span_id,
    trace_id,
)
from tests.support.views import until

NO_LINE = "it names no service line (ledger.service_line_id)"


def actions(tenant: Tenant) -> list[tuple[str, str]]:
    return [(entry["action"], entry["outcome"]) for entry in tenant.log()]


def test_a_span_without_a_line_is_named_and_leaves_no_audit_entry(tenant: Tenant) -> None:
    line = tenant.line()
    before = actions(tenant)
    lost, found = agent(None, name="lost"), agent(line)
    rejected, text = export(tenant.edge, lost, found, chat(lost), token=tenant.token)
    assert (rejected, text) == (1, f"span {lost.span_id.hex()} (invoke_agent lost): {NO_LINE}")
    later = actions(tenant)[len(before) :]
    assert later == [("run.started", "succeeded"), ("run.completed", "succeeded")]


def test_the_first_ten_rejected_spans_are_named(edge: Edge) -> None:
    spans = [agent(None) for _ in range(12)]
    rejected, text = export(edge, *spans)
    assert rejected == 12
    assert [each.split()[1] for each in text.split("; ")] == [s.span_id.hex() for s in spans[:10]]


def test_a_span_that_is_no_run_needs_no_line(edge: Edge) -> None:
    assert export(edge, span("GET /"), span("chat", None, {"gen_ai.operation.name": "chat"})) == (
        0,
        "",
    )


@pytest.mark.parametrize("line", ["LIN-26-999999", "LIN-1", "a line", "ORG-26-000001"])
def test_a_run_whose_line_is_unknown_is_rejected_and_its_fact_is_audited(
    tenant: Tenant, line: str
) -> None:
    before = actions(tenant)
    rejected, text = export(tenant.edge, agent(line), token=tenant.token)
    assert rejected == 1
    assert "line" in text
    assert actions(tenant)[len(before) :] == [("run.started", "refused")]


def test_a_line_without_runs_and_a_closed_line_reject_spans_and_the_others_are_recorded(
    tenant: Tenant,
) -> None:
    edge = tenant.edge
    talent, closed, open_ = tenant.line(model="capacity"), tenant.line(), tenant.line()
    edge.accept(fact("service_line.closed", closed, {"reason": "over"}), token=tenant.token)
    sent = [agent(talent), agent(closed), agent(open_)]
    rejected, text = export(edge, *sent, token=tenant.token)
    assert rejected == 2
    assert "does not have discrete runs" in text
    assert "closed" in text
    assert run_of(edge, sent[2], tenant.token)["status"] == "completed"


@pytest.mark.parametrize("which", ["start", "end"])
def test_neither_fact_of_a_run_is_recorded_where_one_is_refused(tenant: Tenant, which: str) -> None:
    edge, line = tenant.edge, tenant.line()
    ahead = nanoseconds(edge.clock()) + 301 * SECOND
    sent = agent(line, attributes={"gen_ai.agent.name": "x" * 201} if which == "start" else {})
    if which == "end":
        sent.end_time_unix_nano = ahead
    before = edge.log()
    rejected, text = export(edge, sent, token=tenant.token)
    assert rejected == 1
    assert ("5 minutes" if which == "end" else "actor_id") in text
    assert [row for row in edge.log() if row not in before and row[0].startswith("RUN")] == []
    kind = {"start": "run.started", "end": "run.completed"}[which]
    assert actions(tenant)[-1] == (kind, "refused")
    mended = agent(line)
    mended.trace_id, mended.span_id = sent.trace_id, sent.span_id
    assert export(edge, mended, token=tenant.token) == (0, "")


def test_a_span_that_is_recorded_is_sent_again_whatever_its_content(tenant: Tenant) -> None:
    edge, line, other = tenant.edge, tenant.line(), tenant.line()
    sent = agent(line)
    assert export(edge, sent, token=tenant.token) == (0, "")
    before = edge.log()
    changed = agent(other, name="another", error="late", attributes={"input.value": "more"})
    changed.trace_id, changed.span_id = sent.trace_id, sent.span_id
    changed.end_time_unix_nano = nanoseconds(edge.clock()) + 999 * SECOND
    assert export(edge, changed, token=tenant.token) == (0, "")
    assert edge.log() == before
    assert (len(runs_of(edge, line, tenant.token)), runs_of(edge, other, tenant.token)) == (1, [])


def test_an_end_that_another_run_has_as_its_fact_refuses_the_span(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line()
    sent = agent(line)
    name = f"{sent.trace_id.hex()}-{sent.span_id.hex()}"
    edge.accept(
        fact("execution.checked_in", line, {}, id=f"{name}-end", source="otlp:agents"),
        token=tenant.token,
    )
    rejected, text = export(edge, sent, token=tenant.token)
    assert (rejected, "another" in text) == (1, True)
    assert runs_of(edge, line, tenant.token) == []


# Bodies.


def logs() -> bytes:
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add()
    record.time_unix_nano, record.body.string_value = 5, "a log"
    return bytes(request.SerializeToString())


def metrics() -> bytes:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add()
    metric.name, metric.unit = "a.metric", "s"
    metric.gauge.data_points.add().as_int = 5
    return bytes(request.SerializeToString())


@pytest.mark.parametrize("body", [logs(), metrics(), b"\xff\xff\xff", b"{}"])
def test_a_body_in_protobuf_that_holds_no_traces_is_a_400_as_a_status(
    edge: Edge, body: bytes
) -> None:
    answer = send_raw(edge, body)
    assert (answer.status_code, answer.headers["content-type"]) == (400, PROTOBUF)
    assert "logs or metrics" in refusal(answer)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"resourceLogs": []}, "logs"),
        ({"resourceMetrics": []}, "metrics"),
        ([], "object"),
        ({"resourceSpans": {}}, "array"),
        ({"resourceSpans": [{"resource": 5, "scopeSpans": [{}]}]}, "object"),
        ({"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "xyz"}]}]}]}, "hexadecimal"),
        ({"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "ab"}]}]}]}, "16 bytes"),
        ({"resourceSpans": [{"scopeSpans": [{"spans": [{"attributes": {"a": 1}}]}]}]}, "form"),
    ],
)
def test_a_body_in_json_that_holds_no_traces_is_a_400(edge: Edge, body: object, word: str) -> None:
    answer = send_raw(edge, json.dumps(body).encode(), media=JSON)
    assert word in assert_problem(answer, 400, "invalid_request")["detail"]


def test_an_empty_request_is_accepted(edge: Edge) -> None:
    assert send_raw(edge, b"").status_code == 200
    assert send_raw(edge, b"{}", media=JSON).json() == {}


def test_spans_without_ids_are_ignored_among_others(edge: Edge) -> None:
    nameless, zeros, found = agent(edge.fresh()), agent(edge.fresh()), agent(edge.fresh())
    nameless.span_id, zeros.trace_id = b"", bytes(16)
    assert export(edge, nameless, zeros, found) == (0, "")
    assert run_of(edge, found)["status"] == "completed"


def test_a_body_of_json_may_hold_more_than_the_ledger_knows(edge: Edge) -> None:
    body = as_json(exported(agent(edge.fresh())))
    sent = body["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    sent |= {"links": [{"traceId": "00"}], "flags": 257, "later": {"a": 1}}
    sent["spanId"], sent["kind"] = sent["spanId"].upper(), "SPAN_KIND_CLIENT"
    assert edge.post(TRACES, json=body).json() == {}


@pytest.mark.parametrize(
    ("permissions", "status"), [(("read",), 403), (("write",), 200), (None, 401)]
)
def test_traces_need_the_permission_to_write(
    edge: Edge, permissions: tuple[str, ...] | None, status: int
) -> None:
    token = "no token" if permissions is None else edge.token(*permissions)
    answer = send(edge, span("x"), token=token)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROTOBUF)
    assert ("www-authenticate" in answer.headers) == (status == 401)


def test_a_body_of_another_kind_or_size_is_refused(edge: Edge) -> None:
    assert_problem(
        edge.post(TRACES, content=b"x", headers={"content-type": "text/plain"}),
        415,
        "unsupported_media_type",
    )
    odd = {"content-type": PROTOBUF, "content-encoding": "br"}
    assert edge.post(TRACES, content=b"x", headers=odd).status_code == 415
    large = gzip.compress(bytes(8 * 1024 * 1024 + 1))
    packed = {"content-type": PROTOBUF, "content-encoding": "gzip"}
    assert edge.post(TRACES, content=large, headers=packed).status_code == 413


ODD = ("\x00", "a\x00b", "\u202e", "x" * 300, "\ud7ff", " ")


@pytest.mark.parametrize("odd", ODD)
def test_odd_texts_are_stored_escaped_or_refused_with_their_field(edge: Edge, odd: str) -> None:
    line, admin = edge.fresh(), edge.token("admin", organization_id=None)
    names = ("gen_ai.agent.name", "gen_ai.response.model", "gen_ai.response.id", "error.type")
    for name in names:
        sent = agent(line, attributes={name: odd, "gen_ai.usage.input_tokens": 1}, error="odd")
        sent.name = odd
        rejected, text = export(edge, sent, chat(sent, **{name: odd}))
        assert rejected == 0 or "/data" in text or "NUL" in text
    for resource in ({"service.name": odd}, {"ledger.service_line_id": odd}):
        for token in (None, admin):
            rejected, text = export(edge, agent(line), agent(None), resource=resource, token=token)
            assert rejected in (1, 2), text


# Walls.


def test_a_workspaces_key_reports_on_its_own_lines_alone(tenant: Tenant) -> None:
    edge = tenant.edge
    mine, others = tenant.line(), tenant.line(workspace_id=SIBLING)
    token = tenant.new_token("read", "write", workspace_id=WORKSPACE)
    rejected, text = export(edge, agent(mine), agent(others), token=token)
    assert (rejected, "No such service line" in text) == (1, True)


def test_an_administrators_spans_belong_to_the_organization_of_their_line(tenant: Tenant) -> None:
    edge, admin = tenant.edge, tenant.edge.token("admin", organization_id=None)
    line, other = tenant.line(), edge.fresh()
    root = agent(line)
    tool = span("tool", root)
    sub, apart = agent(line, tool), agent(other, tool)
    assert export(edge, chat(sub), sub, apart, tool, token=admin) == (0, "")
    assert export(edge, root, token=admin) == (0, "")
    run = run_of(edge, sub, tenant.token)
    assert run["parent_run_id"] == run_of(edge, root, tenant.token)["id"]
    assert run["tokens_used"] == 15
    assert run_of(edge, apart)["parent_run_id"] is None
    rejected, _ = export(edge, agent("LIN-26-999998"), token=admin)
    assert rejected == 1


def count_spans(edge: Edge) -> int:
    ((count,),) = edge.select("SELECT count(*) FROM ledger.span")
    return int(count)


def test_the_answer_to_a_refused_body_keeps_no_span(edge: Edge) -> None:
    before = count_spans(edge)
    answer: httpx.Response = send_raw(edge, logs())
    assert (answer.status_code, count_spans(edge)) == (400, before)


# Bodies with many elements.

MOST_OF_ONE = 10_000


def values(count: int) -> AnyValue:
    found = AnyValue()
    found.array_value.values.extend([AnyValue()] * count)
    return found


def with_attributes_of_a_resource(request: ExportTraceServiceRequest, count: int) -> None:
    attributes = request.resource_spans[0].resource.attributes
    for _ in range(count - len(attributes)):
        attributes.add()


def with_attributes_of_a_scope(request: ExportTraceServiceRequest, count: int) -> None:
    for _ in range(count):
        request.resource_spans[0].scope_spans[0].scope.attributes.add()


def of_a_span(fill: Callable[[Any, int], None]) -> Callable[[ExportTraceServiceRequest, int], None]:
    def add(request: ExportTraceServiceRequest, count: int) -> None:
        sent = request.resource_spans[0].scope_spans[0].spans[0]
        fill(sent, count - len(sent.attributes))

    return add


@of_a_span
def with_attributes(sent: Any, count: int) -> None:
    for _ in range(count):
        sent.attributes.add(key="a,[{", value=AnyValue(string_value='[{},"\\'))


@of_a_span
def with_attributes_of_events(sent: Any, count: int) -> None:
    for _ in range(2):
        attributes = sent.events.add().attributes
        for _ in range(count // 2 - 1):
            attributes.add()
    for _ in range(count % 2):
        attributes.add()


@of_a_span
def with_links(sent: Any, count: int) -> None:
    for _ in range(count - 1):
        sent.links.add()
    sent.links[0].attributes.add()


@of_a_span
def with_values(sent: Any, count: int) -> None:
    sent.attributes.add(key="input.value", value=values(count - 1))


@of_a_span
def with_values_in_values(sent: Any, count: int) -> None:
    value = sent.attributes.add(key="output.value").value
    for _ in range(9):
        value = value.kvlist_value.values.add(key="deeper").value
    value.CopyFrom(values(count - 10))


ALL = [
    with_attributes_of_a_resource, with_attributes_of_a_scope, with_attributes,
    with_attributes_of_events, with_links, with_values, with_values_in_values,
]  # fmt: skip


@pytest.mark.parametrize("media", [JSON, PROTOBUF])
@pytest.mark.parametrize("add", ALL)
def test_ten_thousand_elements_are_accepted_and_one_more_is_refused(
    edge: Edge, add: Callable[[ExportTraceServiceRequest, int], None], media: str
) -> None:
    for count in (MOST_OF_ONE, MOST_OF_ONE + 1):
        sent = agent(edge.fresh())
        request = exported(sent)
        add(request, count)
        body = request.SerializeToString()
        answer = send_raw(edge, encode(as_json(request)) if media == JSON else body, media=media)
        if count == MOST_OF_ONE:
            assert answer.status_code == 200
            assert run_of(edge, sent)["status"] == "completed"
    if media == JSON:
        detail = assert_problem(answer, 413, "too_large")["detail"]
    else:
        assert answer.status_code == 413
        detail = refusal(answer)
    assert "at most 10,000 elements" in detail
    assert "Send fewer spans at once" in detail


@pytest.mark.parametrize("media", [JSON, PROTOBUF])
def test_a_body_has_at_most_a_million_elements(edge: Edge, media: str) -> None:
    ids = f'"traceId":"{trace_id().hex()}","spanId":"{span_id().hex()}"'.encode()
    in_json = b'{%b,"attributes":[%b]}' % (ids, b",".join([b"{}"] * 9_998))
    in_protobuf = Span(trace_id=trace_id(), span_id=span_id())
    for _ in range(9_998):
        in_protobuf.attributes.add()
    for count, status in ((98, 200), (99, 413)):  # with a resource, a scope and 100 such spans
        if media == JSON:
            scope = b'"scope":{"attributes":[%b]}' % b",".join([b"{}"] * count)
            spans = b'"spans":[%b]' % b",".join([in_json] * 100)
            body = b'{"resourceSpans":[{"scopeSpans":[{%b,%b}]}]}' % (scope, spans)
        else:
            request = ExportTraceServiceRequest()
            of_scope = request.resource_spans.add().scope_spans.add()
            of_scope.spans.extend([in_protobuf] * 100)
            for _ in range(count):
                of_scope.scope.attributes.add()
            body = request.SerializeToString()
        answer = send_raw(edge, body, media=media)
        assert answer.status_code == status
    assert b"at most 1,000,000 elements" in answer.content


@pytest.mark.parametrize(
    "body",
    [
        b'{"resourceSpans":[{"later":["%b"]}]}' % (b'","' * 100),
        b'{"resourceSpans":"' + b'\\"' * 100,
        b'{"resourceSpans":[' * 100_000,
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"\xff"}]}]}]}',
    ],
)
def test_a_body_in_json_that_is_broken_is_a_400_or_accepted(edge: Edge, body: bytes) -> None:
    status = 200 if b"later" in body else 400
    assert send_raw(edge, body, media=JSON).status_code == status


def slow(line: str) -> bytes:
    """A body within the bounds that takes seconds, and ends with the span of a run."""
    sent = span("x", attributes={"input.value": values(9_990)})
    return encode(as_json(exported(*[sent] * 60, agent(line))))


def test_a_batch_is_answered_while_a_large_body_is_parsed_and_the_client_may_leave(
    edge: Edge,
) -> None:
    line, other = edge.fresh(), edge.fresh()
    parsing = edge.service.app.state.services.of(Traces).parsing
    head = (
        f"POST {TRACES} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {edge.token('write')}\r\n"
        f"Content-Type: {JSON}\r\nContent-Encoding: gzip\r\nContent-Length: "
    )
    body = gzip.compress(slow(line))
    batch = [encode(fact("execution.checked_in", other, {"note": "x" * 200})) for _ in range(99)]
    with listening(edge) as address:
        with socket.create_connection(address) as client:
            client.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
            until(lambda: parsing._unparsed, "the body")
            assert edge.send_batch(*batch).status_code == 200
            assert parsing._unparsed, "the body is still parsed"
        until(lambda: not parsing._unparsed and not parsing._held, "the end of its parsing")
    assert runs_of(edge, line) == []
