"""Traces of hostile and careless senders: what was found wrong (contract, Traces)."""

from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.audits import BESIDE, Tenant
from tests.support.edge import Edge
from tests.support.facts import WORKSPACE
from tests.support.traces import (
    PROTOBUF,
    TRACES,
    agent,
    chat,
    exported,
    name_of,
    pairs,
    run_of,
    send,
    send_raw,
    span,
    take,
)


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


LARGE: list[dict[str, Any]] = [
    {"error": "x" * 300_000},
    {"attributes": {"gen_ai.agent.name": "a\0b"}},
    {"attributes": {"gen_ai.usage.input_tokens": 1, "llm.token_count.prompt_details.cache_read":
                    2**53 - 1}},
]  # fmt: skip


@pytest.mark.parametrize("said", LARGE, ids=["message", "name", "tokens"])
def test_every_refused_run_has_an_audit_entry(tenant: Tenant, said: dict[str, Any]) -> None:
    line = tenant.line()
    before = len(tenant.log())
    rejected, _ = take(tenant.edge, agent(line, **said), token=tenant.token)
    assert (rejected, len(tenant.log()) - before) == (1, 1)


def test_a_refusal_is_a_status_whatever_the_parameters_of_the_media_type(edge: Edge) -> None:
    headers = {"content-type": f"{PROTOBUF}; charset=utf-8"}
    answer = edge.post(TRACES, content=b"\xff", headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (400, PROTOBUF)
    assert send(edge, span("x")).status_code == 200
