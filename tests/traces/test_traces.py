"""Spans become runs with their tokens, payloads and parents (contract, Traces)."""

import json
import math
import time
from typing import Any

import pytest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.audits import SIBLING, Tenant
from tests.support.edge import Edge
from tests.support.facts import WORKSPACE
from tests.support.traces import (
    JSON,
    PROTOBUF,
    TRACES,
    agent,
    as_json,
    chat,
    export,
    exported,
    name_of,
    pairs,
    run_of,
    runs_of,
    send,
    send_raw,
    span,
    value,
)

PARTS = ("input", "output", "cache_read", "cache_write", "reasoning")


def test_a_trace_of_an_agent_becomes_two_runs_with_tokens_and_payloads(edge: Edge) -> None:
    line = edge.fresh()
    attributes = {"gen_ai.input.messages": '[{"role": "user"}]', "output.value": "done"}
    root = agent(line, attributes=attributes, seconds=3)
    tool = span("execute_tool search", root, {"gen_ai.operation.name": "execute_tool"})
    sub = agent(line, tool, "research", after=1)
    calls = [chat(root), chat(sub, "m-2", 7, 3), chat(sub, "m-2", 1, 1), chat(tool, "m-1", 2, 2)]
    # An exporter sends what ends first, first.
    assert export(edge, *calls, sub, tool, root) == (0, "")
    run, below = run_of(edge, root), run_of(edge, sub)
    assert run["status"] == "completed"
    assert (run["started_at"], run["completed_at"]) == (
        "2026-04-14T09:00:00Z", "2026-04-14T09:00:03Z",
    )  # fmt: skip
    assert run["triggered_by"] == {"type": "agent", "actor_id": "triage"}
    assert (run["input"], run["output"]) == ([{"role": "user"}], "done")
    assert [(each["model"], each["input"], each["output"]) for each in run["token_usage"]] == [
        ("m-1", 12, 7)
    ]
    assert below["tokens_used"] == 12
    assert (run["parent_run_id"], below["parent_run_id"]) == (None, run["id"])


def test_spans_that_are_sent_ten_times_are_recorded_once(edge: Edge) -> None:
    line = edge.fresh()
    root = agent(line)
    sub = agent(line, root, error="no luck")
    for _ in range(10):
        assert export(edge, chat(root), sub, root) == (0, "")
    assert {run["external_id"] for run in runs_of(edge, line)} == {name_of(root), name_of(sub)}
    history = edge.data(f"/v1/execution/{line}/history", params={"limit": "100"})
    assert len(history) == 5
    assert run_of(edge, root)["tokens_used"] == 15


def test_spans_are_accepted_as_json_and_a_json_sender_gets_json(edge: Edge) -> None:
    line = edge.fresh()
    root = agent(line)
    body = json.dumps(as_json(exported(chat(root), root))).encode()
    answer = send_raw(edge, body, media=JSON)
    assert (answer.status_code, answer.json()) == (200, {})
    assert answer.headers["content-type"] == JSON
    assert run_of(edge, root)["tokens_used"] == 15
    plain = edge.post(TRACES, json=as_json(exported(agent(None))))
    assert plain.json()["partialSuccess"]["rejectedSpans"] == "1"


def test_a_failed_span_is_a_failed_run_with_code_and_message(edge: Edge) -> None:
    line = edge.fresh()
    named = agent(line, attributes={"error.type": "timeout"}, error="No answer in 30 s\x00\x1b[0m")
    raised = agent(line, error="ValueError: no")
    event = raised.events.add(name="exception")
    event.attributes.extend(pairs({"exception.type": "ValueError"}))
    silent = agent(line, error="")
    assert export(edge, named, raised, silent) == (0, "")
    errors = [run_of(edge, each)["error"] for each in (named, raised, silent)]
    assert errors == [
        {"code": "timeout", "message": "No answer in 30 s�\x1b[0m"},
        {"code": "ValueError", "message": "ValueError: no"},
        None,
    ]
    assert {run["status"] for run in runs_of(edge, line)} == {"failed"}


@pytest.mark.parametrize(
    ("attributes", "is_run"),
    [
        ({"gen_ai.operation.name": "invoke_workflow"}, True),
        ({"openinference.span.kind": "AGENT"}, True),
        ({"ledger.run": True}, True),
        ({"ledger.run": "true"}, True),
        ({"traceloop.span.kind": "workflow"}, True),
        ({"traceloop.span.kind": "workflow", "gen_ai.operation.name": "execute_tool"}, False),
        ({"traceloop.span.kind": "agent", "openinference.span.kind": "CHAIN"}, False),
        ({"gen_ai.operation.name": "chat", "openinference.span.kind": "AGENT"}, True),
        ({"gen_ai.operation.name": "create_agent"}, False),
        ({"ledger.run": False}, False),
        ({"ledger.run": "false"}, False),
        ({"ledger.run": 1}, False),
        ({}, False),
    ],
)
def test_a_span_is_a_run_by_its_marks(edge: Edge, attributes: dict[str, Any], is_run: bool) -> None:
    line = edge.fresh()
    sent = span("work", None, attributes | {"ledger.service_line_id": line})
    assert export(edge, sent) == (0, "")
    assert len(runs_of(edge, line)) == is_run


def test_a_line_on_the_span_counts_before_that_of_the_resource(edge: Edge) -> None:
    mine, others = edge.fresh(), edge.fresh()
    own, inherited = agent(mine), agent(None)
    assert export(edge, own, inherited, resource={"ledger.service_line_id": others}) == (0, "")
    assert [len(runs_of(edge, line)) for line in (mine, others)] == [1, 1]
    assert run_of(edge, own)["service_line_id"] == mine


def test_input_and_output_are_json_where_their_text_is_an_object_or_array(edge: Edge) -> None:
    line = edge.fresh()
    cases: list[tuple[dict[str, Any], Any, Any]] = [
        ({"input.value": '{"a": 1}', "output.value": "42"}, {"a": 1}, "42"),
        ({"input.value": 42, "output.value": [1.5, "x", True]}, 42, [1.5, "x", True]),
        (
            {"gen_ai.input.messages": [{"role": "user"}], "input.value": "no"},
            [{"role": "user"}],
            None,
        ),
        ({"input.value": "[1,", "output.value": b"\x00\x01"}, "[1,", "AAE="),
        ({"input.value": math.inf, "traceloop.entity.output": "o"}, "inf", "o"),
        ({"input.value": value(AnyValue())}, None, None),
    ]
    for attributes, expected, ended in cases:
        sent = agent(line, attributes=attributes)
        assert export(edge, sent) == (0, "")
        run = run_of(edge, sent)
        assert (run["input"], run["output"]) == (expected, ended)


@pytest.mark.parametrize("large", ["x" * 300_000, "\x00", [2**60]])
def test_a_payload_that_no_fact_can_hold_is_left_out_and_reported(edge: Edge, large: Any) -> None:
    sent = agent(edge.fresh(), attributes={"input.value": large, "output.value": "short"})
    rejected, text = export(edge, sent)
    assert rejected == 0
    assert text.startswith(f"span {sent.span_id.hex()} (invoke_agent triage): its input was left")
    run = run_of(edge, sent)
    assert (run["status"], run["input"], run["output"]) == ("completed", None, "short")
    assert export(edge, sent) == (0, "")


def test_a_run_has_its_own_tokens_or_those_below_but_never_both(edge: Edge) -> None:
    line = edge.fresh()
    own = agent(line, attributes={"gen_ai.usage.input_tokens": 3, "llm.model_name": "m-9"})
    nameless = agent(line, attributes={"llm.token_count.prompt": 3})
    several = agent(line)
    assert export(
        edge,
        *(chat(own), own),
        *(chat(nameless, "m-1"), chat(nameless, None), nameless),
        *(chat(several, "m-1"), chat(several, None), several),
    ) == (0, "")
    assert used(edge, own) == {"m-9": (3, 0)}
    assert used(edge, nameless) == {"m-1": (3, 0)}
    run = run_of(edge, several)
    assert (run["tokens_used"], run["token_usage"]) == (30, None)


@pytest.mark.parametrize(
    ("message", "stored"),
    [
        ({"gen_ai.usage.prompt_tokens": 5, "gen_ai.usage.completion_tokens": 2}, (5, 2, 0, 0, 0)),
        ({"llm.token_count.prompt": 5, "llm.token_count.completion": 2}, (5, 2, 0, 0, 0)),
        ({"gen_ai.usage.input_tokens": 5, "llm.token_count.prompt": 9}, (5, 0, 0, 0, 0)),
        ({"gen_ai.usage.input_tokens": "5", "gen_ai.usage.output_tokens": 2.0}, (5, 2, 0, 0, 0)),
        (
            {
                "gen_ai.usage.input_tokens": 100,
                "gen_ai.usage.cache_read.input_tokens": 60,
                "gen_ai.usage.cache_creation.input_tokens": 40,
                "gen_ai.usage.cache_write.input_tokens": 40,
            },
            (100, 0, 60, 40, 0),
        ),
        (
            {
                "gen_ai.usage.input_tokens": 10,
                "llm.token_count.prompt_details.cache_read": 60,
                "llm.token_count.prompt_details.cache_write": 5,
                "gen_ai.usage.output_tokens": 1,
                "gen_ai.usage.reasoning.output_tokens": 7,
            },
            (75, 8, 60, 5, 7),
        ),
        ({"gen_ai.usage.input_tokens": 0, "gen_ai.usage.output_tokens": 0}, (0, 0, 0, 0, 0)),
    ],
)
def test_tokens_are_read_by_every_name_and_caches_are_a_part_of_the_input(
    edge: Edge, message: dict[str, Any], stored: tuple[int, ...]
) -> None:
    sent = agent(edge.fresh(), attributes=message | {"gen_ai.request.model": "m"})
    assert export(edge, sent) == (0, "")
    (usage,) = run_of(edge, sent)["token_usage"]
    assert tuple(usage[each] for each in PARTS) == stored


def test_numbers_that_count_nothing_are_no_tokens(edge: Edge) -> None:
    odd = (-1, 1.5, "many", True, 2**60, [1])
    sent = [agent(edge.fresh(), attributes={"gen_ai.usage.input_tokens": each}) for each in odd]
    assert export(edge, *sent) == (0, "")
    assert {run_of(edge, each)["tokens_used"] for each in sent} == {None}


def test_tokens_of_more_than_twenty_models_are_listed_together(edge: Edge) -> None:
    root = agent(edge.fresh())
    assert export(edge, *[chat(root, f"m-{n}", 1, 1) for n in range(21)], root) == (0, "")
    run = run_of(edge, root)
    assert (run["tokens_used"], run["token_usage"]) == (42, None)


def test_descendants_that_came_before_count_and_later_ones_do_not(edge: Edge) -> None:
    root = agent(edge.fresh())
    tool = span("tool", root)
    assert export(edge, chat(tool)) == (0, "")
    assert export(edge, tool) == (0, "")
    assert export(edge, root) == (0, "")
    assert export(edge, chat(tool)) == (0, "")
    assert used(edge, root) == {"m-1": (10, 5)}


def test_events_of_a_run_name_its_facts_and_its_trace(edge: Edge) -> None:
    line = edge.fresh()
    sent = agent(line)
    assert export(edge, sent) == (0, "")
    history = edge.data(f"/v1/execution/{line}/history")[1:]
    assert [(each["fact"]["source"], each["fact"]["id"]) for each in history] == [
        ("otlp:agents", f"{name_of(sent)}-start"),
        ("otlp:agents", f"{name_of(sent)}-end"),
    ]
    assert {each["trace_id"] for each in history} == {sent.trace_id.hex()}


def test_an_erasure_reaches_the_payloads_of_a_span(edge: Edge) -> None:
    sent = agent(edge.fresh(), attributes={"input.value": "personal", "output.value": "personal"})
    assert export(edge, sent) == (0, "")
    run = run_of(edge, sent)
    eraser = edge.token("runs:erase")
    assert edge.post(f"/v1/runs/{run['id']}/erase", eraser, json={"reason": "r"}).status_code == 200
    assert export(edge, sent) == (0, "")
    again = run_of(edge, sent)
    assert (again["input"], again["output"]) == (None, None)


def used(edge: Edge, sent: Span) -> dict[str, tuple[int, int]]:
    usage = run_of(edge, sent)["token_usage"]
    return {each["model"]: (each["input"], each["output"]) for each in usage}


# Hostile and careless senders.


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
    assert export(edge, sent) == (0, "")
    assert run_of(edge, sent)["error"]["code"] == "Last"


def test_spans_of_two_services_with_the_same_ids_are_two_runs_of_one_request(edge: Edge) -> None:
    line = edge.fresh()
    sent = agent(line)
    request = exported(sent, resource={"service.name": "one"})
    request.resource_spans.extend(exported(sent, resource={"service.name": "two"}).resource_spans)
    assert send_raw(edge, request.SerializeToString()).status_code == 200
    assert len(edge.data("/v1/runs", params={"external_id": name_of(sent)})) == 2


def test_a_run_is_not_lost_among_others_span_of_its_ids(edge: Edge) -> None:
    sent = agent(edge.fresh())
    rejected, _ = export(edge, sent, same_ids(span("again"), sent))
    found = edge.data("/v1/runs", params={"external_id": name_of(sent)})
    assert len(found) + rejected == 1


@pytest.mark.parametrize("forged", [span("forged"), agent("LIN-26-999999")])
def test_a_workspaces_key_changes_no_parent_of_another_workspace(
    tenant: Tenant, forged: Span
) -> None:
    edge, line = tenant.edge, tenant.line(workspace_id=SIBLING)
    stranger = tenant.new_token("read", "write", workspace_id=WORKSPACE)
    own = tenant.new_token("read", "write", workspace_id=SIBLING)
    root = agent(line)
    call = span("POST", root)
    sub = agent(line, call)
    export(edge, same_ids(forged, call), token=stranger)
    for sent in (sub, call, root):
        assert export(edge, sent, token=own) == (0, "")
    assert run_of(edge, sub, own)["parent_run_id"] == run_of(edge, root, own)["id"]


def test_a_workspaces_key_counts_no_tokens_from_another_workspace(tenant: Tenant) -> None:
    edge, line = tenant.edge, tenant.line(workspace_id=SIBLING)
    stranger = tenant.new_token("read", "write", workspace_id=WORKSPACE)
    own = tenant.new_token("read", "write", workspace_id=SIBLING)
    root = agent(line)
    call = chat(root)
    export(edge, same_ids(span("forged"), call), token=stranger)
    assert export(edge, call, token=own) == (0, "")
    assert export(edge, root, token=own) == (0, "")
    assert run_of(edge, root, own)["tokens_used"] == 15


def test_a_recorded_run_gets_no_parent_from_other_content_of_its_span(edge: Edge) -> None:
    line = edge.fresh()
    root = agent(line)
    sub = agent(line, root.trace_id)
    assert export(edge, root, sub) == (0, "")
    assert export(edge, same_ids(agent(line, root), sub)) == (0, "")
    assert run_of(edge, sub)["parent_run_id"] is None


def test_a_refused_run_is_no_parent_and_the_one_above_it_is(edge: Edge) -> None:
    line = edge.fresh()
    root = agent(line)
    refused = agent("LIN-26-999999", root)
    sub = agent(line, refused)
    rejected, _ = export(edge, root, refused, sub)
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
    rejected, text = export(edge, *sent)
    assert (rejected, text.count("its tokens were left out")) == (0, 1)
    assert len(run_of(edge, long)["error"]["message"]) == 32_769
    assert run_of(edge, odd)["triggered_by"]["actor_id"] == "a\\x00b"
    assert [run_of(edge, each)["tokens_used"] for each in (many, above)] == [MOST, None]


def test_spans_below_a_refused_run_get_it_once_it_is_accepted(edge: Edge) -> None:
    line = edge.fresh()
    refused = agent("LIN-26-999999")
    sub = agent(line, refused)
    assert export(edge, sub, refused)[0] == 1
    assert run_of(edge, sub)["parent_run_id"] is None
    assert export(edge, same_ids(agent(line), refused)) == (0, "")
    assert run_of(edge, sub)["parent_run_id"] == run_of(edge, refused)["id"]


def test_the_service_that_a_run_was_accepted_from_names_the_parent(edge: Edge) -> None:
    line = edge.fresh()
    root = agent(line)
    lost = same_ids(agent("LIN-26-999999"), root)
    assert export(edge, lost, resource={"service.name": "wrong"})[0] == 1
    assert export(edge, root, resource={"service.name": "right"}) == (0, "")
    sub = agent(line, root)
    assert export(edge, sub) == (0, "")
    assert run_of(edge, sub)["parent_run_id"] == run_of(edge, root)["id"]


def test_a_refusal_removes_no_parent_from_a_run_that_was_recorded(edge: Edge) -> None:
    line = edge.fresh()
    root = agent(line)
    assert export(edge, root) == (0, "")
    lost = same_ids(agent("LIN-26-999999"), root)
    for service in ("other", "agents"):
        export(edge, lost, resource={"service.name": service})
    sub = agent(line, root)
    assert export(edge, sub) == (0, "")
    assert run_of(edge, sub)["parent_run_id"] == run_of(edge, root)["id"]


@pytest.mark.parametrize("apart", [False, True])
def test_of_spans_of_one_answer_the_first_counts(edge: Edge, apart: bool) -> None:
    root = agent(edge.fresh())
    calls = [chat(root, input=tokens, **{"gen_ai.response.id": "r-1"}) for tokens in (10, 1_000, 7)]
    for sent in (calls[:1], [*calls[1:], root]) if apart else ([*calls, root],):
        assert export(edge, *sent) == (0, "")
    assert run_of(edge, root)["tokens_used"] == 15


def test_a_resource_is_read_once_for_all_its_spans(edge: Edge) -> None:
    """Else 30 KB of empty attributes and of spans would take seconds."""
    spans = [span("x").SerializeToString() for _ in range(2_000)]
    scope = b"".join(b"\x12" + varint(len(each)) + each for each in spans)
    resource = b"\x0a\x00" * 10_000
    inner = b"\x0a" + varint(len(resource)) + resource
    inner += b"\x12" + varint(len(scope)) + scope
    began = time.monotonic()
    assert send_raw(edge, b"\x0a" + varint(len(inner)) + inner).status_code == 200
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("group", [b"\x7b", b"\x7c"])
def test_a_body_with_half_a_group_is_refused(edge: Edge, group: bytes) -> None:
    assert send_raw(edge, group + exported(span("x")).SerializeToString()).status_code == 400


def test_a_span_without_times_happened_when_it_was_recorded(edge: Edge) -> None:
    neither, ended = agent(edge.fresh()), agent(edge.fresh())
    neither.start_time_unix_nano = neither.end_time_unix_nano = ended.start_time_unix_nano = 0
    assert export(edge, neither, ended) == (0, "")
    assert run_of(edge, neither)["started_at"][:10] == f"{edge.clock():%Y-%m-%d}"
    assert run_of(edge, ended)["duration_ms"] == 0


def test_parents_in_many_traces_are_found_by_trace(tenant: Tenant) -> None:
    """Else each of n spans of one id would be searched for each of n traces."""
    edge, line = tenant.edge, tenant.line()
    parents = [agent(line, seconds=0) for _ in range(2)] + [span("x") for _ in range(6_000)]
    below = []
    for each in parents:
        each.span_id = parents[0].span_id
        below.append(span("y", each))
    assert export(edge, *below, token=tenant.token) == (0, "")
    began = time.monotonic()
    assert export(edge, *parents, token=tenant.token) == (0, "")
    assert time.monotonic() - began < 2.5


def test_a_refusal_is_a_status_whatever_the_parameters_of_the_media_type(edge: Edge) -> None:
    headers = {"content-type": f"{PROTOBUF}; charset=utf-8"}
    answer = edge.post(TRACES, content=b"\xff", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (400, PROTOBUF)
    assert send(edge, span("x")).status_code == 200
