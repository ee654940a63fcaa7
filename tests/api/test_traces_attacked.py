"""Traces of hostile and careless senders: what was found wrong (contract, Traces)."""

import time

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.audits import BESIDE, Tenant
from tests.support.edge import Edge, assert_problem
from tests.support.facts import WORKSPACE
from tests.support.traces import (
    PROTOBUF,
    TRACES,
    agent,
    chat,
    exported,
    name_of,
    pairs,
    refusal,
    run_of,
    send,
    send_raw,
    span,
    take,
)

MOST = 2**53 - 1


def varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low]) if not rest else bytes([low | 128]) + varint(rest)


def same_ids(found: Span, other: Span) -> Span:
    found.trace_id, found.span_id = other.trace_id, other.span_id
    return found


@pytest.mark.parametrize("where", ["service", "answer"])
def test_a_text_with_nul_does_not_lose_the_other_spans_of_its_request(
    edge: Edge, where: str
) -> None:
    sent = agent(edge.fresh())
    odd = span("chat", sent, {"gen_ai.response.id": "a\0b"})
    request = exported(sent, *([odd] if where == "answer" else []))
    if where == "service":
        request.resource_spans.extend(
            exported(agent(edge.fresh()), resource={"service.name": "a\0b"}).resource_spans
        )
    assert send_raw(edge, request.SerializeToString()).status_code == 200
    assert run_of(edge, sent)["status"] == "completed"


def test_the_code_of_a_failure_is_the_type_of_the_last_exception(edge: Edge) -> None:
    sent = agent(edge.fresh(), error="no luck")
    for kind in ("First", "Last"):
        sent.events.add(name="exception").attributes.extend(pairs({"exception.type": kind}))
    assert take(edge, sent) == (0, "")
    assert run_of(edge, sent)["error"]["code"] == "Last"


def test_spans_of_two_services_with_the_same_ids_are_two_runs_of_one_request(edge: Edge) -> None:
    line = edge.fresh()
    sent = agent(line)
    request = exported(sent, resource={"service.name": "one"})
    request.resource_spans.extend(exported(sent, resource={"service.name": "two"}).resource_spans)
    assert send_raw(edge, request.SerializeToString()).status_code == 200
    assert len(edge.data("/v1/runs", params={"external_id": name_of(sent)})) == 2


def test_a_run_is_not_lost_beside_another_span_of_its_ids(edge: Edge) -> None:
    sent = agent(edge.fresh())
    rejected, _ = take(edge, sent, same_ids(span("again"), sent))
    found = edge.data("/v1/runs", params={"external_id": name_of(sent)})
    assert len(found) + rejected == 1


@pytest.mark.parametrize("forged", [span("forged"), agent("LIN-26-999999")])
def test_a_workspaces_key_changes_no_parent_of_another_workspace(
    tenant: Tenant, forged: Span
) -> None:
    edge, line = tenant.edge, tenant.line(workspace_id=BESIDE)
    stranger = tenant.new_token("read", "write", workspace_id=WORKSPACE)
    own = tenant.new_token("read", "write", workspace_id=BESIDE)
    root = agent(line)
    call = span("POST", root)
    sub = agent(line, call)
    take(edge, same_ids(forged, call), token=stranger)
    for sent in (sub, call, root):
        assert take(edge, sent, token=own) == (0, "")
    assert run_of(edge, sub, own)["parent_run_id"] == run_of(edge, root, own)["id"]


def test_a_workspaces_key_takes_no_tokens_from_another_workspace(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line(workspace_id=BESIDE)
    stranger = tenant.new_token("read", "write", workspace_id=WORKSPACE)
    own = tenant.new_token("read", "write", workspace_id=BESIDE)
    root = agent(line)
    call = chat(root)
    take(edge, same_ids(span("forged"), call), token=stranger)
    assert take(edge, call, token=own) == (0, "")
    assert take(edge, root, token=own) == (0, "")
    assert run_of(edge, root, own)["tokens_used"] == 15


def test_a_recorded_run_gets_no_parent_from_other_content_of_its_span(edge: Edge) -> None:
    line = edge.fresh()
    root = agent(line)
    sub = agent(line, root.trace_id)
    assert take(edge, root, sub) == (0, "")
    assert take(edge, same_ids(agent(line, root), sub)) == (0, "")
    assert run_of(edge, sub)["parent_run_id"] is None


def test_a_refused_run_is_no_parent_and_the_one_above_it_is(edge: Edge) -> None:
    line = edge.fresh()
    root = agent(line)
    refused = agent("LIN-26-999999", root)
    sub = agent(line, refused)
    rejected, _ = take(edge, root, refused, sub)
    assert rejected == 1
    assert run_of(edge, sub)["parent_run_id"] == run_of(edge, root)["id"]


def test_a_run_is_not_lost_for_a_long_message_an_odd_name_or_a_sum_of_tokens(edge: Edge) -> None:
    line = edge.fresh()
    long, odd, many = (
        agent(line, error="x" * 300_000),
        agent(line, name="a\0b"),
        agent(line, attributes={"gen_ai.usage.input_tokens": MOST, "gen_ai.response.model": "m"}),
    )
    above = agent(line)
    sent = [chat(above, input=MOST), chat(above, input=MOST), long, odd, many, above]
    rejected, told = take(edge, *sent)
    assert (rejected, told.count("its tokens were left out")) == (0, 1)
    assert len(run_of(edge, long)["error"]["message"]) == 32_769
    assert run_of(edge, odd)["triggered_by"]["actor_id"] == "a\\x00b"
    assert [run_of(edge, each)["tokens_used"] for each in (many, above)] == [MOST, None]


def test_spans_below_a_refused_run_get_it_once_it_is_accepted(edge: Edge) -> None:
    line = edge.fresh()
    refused = agent("LIN-26-999999")
    sub = agent(line, refused)
    assert take(edge, sub, refused)[0] == 1
    assert run_of(edge, sub)["parent_run_id"] is None
    assert take(edge, same_ids(agent(line), refused)) == (0, "")
    assert run_of(edge, sub)["parent_run_id"] == run_of(edge, refused)["id"]


def test_the_service_that_a_run_was_accepted_from_names_the_parent(edge: Edge) -> None:
    line = edge.fresh()
    root = agent(line)
    lost = same_ids(agent("LIN-26-999999"), root)
    assert take(edge, lost, resource={"service.name": "wrong"})[0] == 1
    assert take(edge, root, resource={"service.name": "right"}) == (0, "")
    sub = agent(line, root)
    assert take(edge, sub) == (0, "")
    assert run_of(edge, sub)["parent_run_id"] == run_of(edge, root)["id"]


def test_a_span_without_times_happened_when_it_was_recorded(edge: Edge) -> None:
    neither, ended = agent(edge.fresh()), agent(edge.fresh())
    neither.start_time_unix_nano = neither.end_time_unix_nano = ended.start_time_unix_nano = 0
    assert take(edge, neither, ended) == (0, "")
    assert run_of(edge, neither)["started_at"][:10] == f"{edge.clock():%Y-%m-%d}"
    assert run_of(edge, ended)["duration_ms"] == 0


def test_parents_in_many_traces_are_found_by_trace(tenant: Tenant) -> None:
    """Else each of n spans of one id would be looked at for each of n traces."""
    edge, line = tenant.edge, tenant.line()
    parents = [agent(line, seconds=0) for _ in range(2)] + [span("x") for _ in range(6_000)]
    below = []
    for each in parents:
        each.span_id = parents[0].span_id
        below.append(span("y", each))
    assert take(edge, *below, token=tenant.token) == (0, "")
    began = time.monotonic()
    assert take(edge, *parents, token=tenant.token) == (0, "")
    assert time.monotonic() - began < 2.5


@pytest.mark.parametrize("element", [b"\x12\x00", b"\x0a\x00"], ids=["spans", "resources"])
def test_a_body_of_empty_elements_is_refused_before_they_take_memory(
    edge: Edge, element: bytes
) -> None:
    empty = element * 1_000_000
    body = b"\x0a" + varint(len(empty) + 5) + b"\x12" + varint(len(empty)) + empty
    answer = send_raw(edge, empty if element[0] == 0x0A else body)
    assert (answer.status_code, "100,000" in refusal(answer)) == (413, True)
    many = [{}] * 100_001
    told = {"resourceSpans": many if element[0] == 0x0A else [{"scopeSpans": [{"spans": many}]}]}
    assert_problem(edge.post(TRACES, json=told), 413, "too_large")


def test_a_refusal_is_a_status_whatever_the_parameters_of_the_media_type(edge: Edge) -> None:
    headers = {"content-type": f"{PROTOBUF}; charset=utf-8"}
    answer = edge.post(TRACES, content=b"\xff", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (400, PROTOBUF)
    assert send(edge, span("x")).status_code == 200
