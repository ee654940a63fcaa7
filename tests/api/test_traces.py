"""Spans become runs with their tokens, payloads and parents (contract, Traces)."""

import json

from tests.support.edge import Edge
from tests.support.traces import (
    JSON,
    TRACES,
    agent,
    as_json,
    chat,
    exported,
    name_of,
    run_of,
    runs_of,
    send_raw,
    span,
    take,
)


def test_a_trace_of_an_agent_becomes_two_runs_with_tokens_and_payloads(edge: Edge) -> None:
    line = edge.fresh()
    said = {"gen_ai.input.messages": '[{"role": "user"}]', "output.value": "done"}
    root = agent(line, attributes=said, seconds=3)
    tool = span("execute_tool search", root, {"gen_ai.operation.name": "execute_tool"})
    sub = agent(line, tool, "research", after=1)
    calls = [chat(root), chat(sub, "m-2", 7, 3), chat(sub, "m-2", 1, 1), chat(tool, "m-1", 2, 2)]
    # An exporter sends what ends first, first.
    assert take(edge, *calls, sub, tool, root) == (0, "")
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
        assert take(edge, chat(root), sub, root) == (0, "")
    assert {run["external_id"] for run in runs_of(edge, line)} == {name_of(root), name_of(sub)}
    history = edge.data(f"/v1/execution/{line}/history", params={"limit": "100"})
    assert len(history) == 5
    assert run_of(edge, root)["tokens_used"] == 15


def test_spans_are_taken_as_json_and_a_json_sender_gets_json(edge: Edge) -> None:
    line = edge.fresh()
    root = agent(line)
    body = json.dumps(as_json(exported(chat(root), root))).encode()
    answer = send_raw(edge, body, media=JSON)
    assert (answer.status_code, answer.json()) == (200, {})
    assert answer.headers["content-type"] == JSON
    assert run_of(edge, root)["tokens_used"] == 15
    plain = edge.post(TRACES, json=as_json(exported(agent(None))))
    assert plain.json()["partialSuccess"]["rejectedSpans"] == "1"
