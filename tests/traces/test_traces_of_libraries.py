"""Unmodified libraries send their traces: OpenTelemetry's SDK, and two that watch OpenAI's agents.

No library knows of the ledger: the exporter's own variables tell the address and the token, and the
resource of the spans names the line.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.support.edge import Edge
from tests.support.openai_agents import ASKS, FAILS, HANDS_OVER, Says
from tests.support.openai_agents import work as work_of_agents
from tests.support.streaming import listening
from tests.support.traces import SERVICE, runs_of

LINE = "ledger.service_line_id"

CALL = {
    "gen_ai.operation.name": "chat",
    "gen_ai.response.model": "m-1",
    "gen_ai.usage.input_tokens": 10,
    "gen_ai.usage.output_tokens": 5,
}


@pytest.fixture(scope="module")
def variables(edge: Edge) -> Iterator[dict[str, str]]:
    """The variables that give an exporter the address of a service, with a right clock."""
    edge.clock.now = datetime.now(UTC) + timedelta(minutes=5)
    with listening(edge) as (host, port):
        yield {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}:{port}/v1/otlp",
            "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{edge.token('write')}",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
        }


@pytest.fixture
def exporter(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[OTLPSpanExporter]:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    exporter = OTLPSpanExporter()
    yield exporter
    exporter.shutdown()


@contextmanager
def tracing(
    exporter: SpanExporter, line: str | None, processor: Any = BatchSpanProcessor
) -> Iterator[TracerProvider]:
    """The SDK, whose resource names the line; what is left to export is exported at the end."""
    of_resource = {"service.name": SERVICE} | ({} if line is None else {LINE: line})
    provider = TracerProvider(resource=Resource(of_resource), shutdown_on_exit=False)
    provider.add_span_processor(processor(exporter))
    yield provider
    provider.shutdown()


def agent(name: str, **more: str) -> dict[str, str]:
    """The attributes of an agent's span."""
    messages = json.dumps([{"role": "user", "parts": [{"type": "text", "content": name}]}])
    values = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": name}
    return values | {"gen_ai.input.messages": messages, "gen_ai.output.messages": messages} | more


def work(provider: TracerProvider) -> None:
    """An agent works, with a call of a model, and a tool that asks another agent."""
    tracer = provider.get_tracer("own")
    with tracer.start_as_current_span("invoke_agent triage", attributes=agent("triage")):
        tracer.start_span("chat m", attributes=CALL).end()
        with (
            tracer.start_as_current_span("execute_tool ask"),
            tracer.start_as_current_span("invoke_agent research", attributes=agent("research")),
        ):
            for _ in range(2):
                tracer.start_span("chat m", attributes=CALL).end()


WORK = [
    ("research", "triage", "completed", [("m-1", 20, 10)]),
    ("triage", None, "completed", [("m-1", 10, 5)]),
]
"""The runs of that work, as the API returns them."""


def summaries(edge: Edge, line: str) -> list[tuple[Any, ...]]:
    """The agent, the parent's agent, the status and the tokens by model of each run of a line."""
    runs = runs_of(edge, line)
    nobody = {"actor_id": "workflow"}
    names = {run["id"]: (run["triggered_by"] or nobody)["actor_id"] for run in runs}
    return sorted(
        (
            names[run["id"]],
            names.get(run["parent_run_id"]),
            run["status"],
            [(used["model"], used["input"], used["output"]) for used in run["token_usage"] or ()],
        )
        for run in runs
    )


@pytest.mark.parametrize("processor", [BatchSpanProcessor, SimpleSpanProcessor])
def test_agents_of_the_sdk_are_runs_with_tokens_payloads_and_parents(
    edge: Edge, exporter: OTLPSpanExporter, processor: Any
) -> None:
    line = edge.fresh()
    with tracing(exporter, line, processor) as provider:
        work(provider)
    assert summaries(edge, line) == WORK
    for run in runs_of(edge, line):
        (message,) = run["input"]
        assert message["parts"][0]["content"] == run["triggered_by"]["actor_id"]
        assert run["output"] == run["input"]


def test_spans_that_an_exporter_sends_ten_times_are_recorded_once(
    edge: Edge, exporter: OTLPSpanExporter
) -> None:
    line, memory = edge.fresh(), InMemorySpanExporter()
    with tracing(memory, line) as provider:
        work(provider)
    spans = memory.get_finished_spans()
    assert {exporter.export(spans) for _ in range(10)} == {SpanExportResult.SUCCESS}
    assert summaries(edge, line) == WORK
    assert len(edge.data(f"/v1/execution/{line}/history", params={"limit": "100"})) == 5


def test_an_agent_without_a_line_leaves_the_export_a_success_and_others_recorded(
    edge: Edge, exporter: OTLPSpanExporter
) -> None:
    line, memory = edge.fresh(), InMemorySpanExporter()
    with tracing(memory, None) as provider:
        tracer = provider.get_tracer("own")
        with tracer.start_as_current_span("stray", attributes=agent("stray")):
            tracer.start_span("triage", attributes=agent("triage", **{LINE: line})).end()
    assert exporter.export(memory.get_finished_spans()) == SpanExportResult.SUCCESS
    assert [agent for agent, *_ in summaries(edge, line)] == ["triage"]


OPENINFERENCE, TRACELOOP = LIBRARIES = (
    "openinference.instrumentation.openai_agents",
    "opentelemetry.instrumentation.openai_agents",
)

WORKFLOW = ("workflow", None, "completed", [])
"""The run that both libraries show above the agents, even if an agent fails."""


def calls(digits: int) -> list[tuple[str, int, int]]:
    """The tokens of calls: the n-th digit from the right is how often the n-th call counts."""
    return [("m-1", 2 * digits, digits)]


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def watched(
    library: str, edge: Edge, exporter: OTLPSpanExporter, says: list[Says]
) -> list[tuple[Any, ...]]:
    """The runs of OpenAI's agents whose work a library watches."""
    from agents import set_trace_processors

    line, instrumentor = edge.fresh(), import_module(library).OpenAIAgentsInstrumentor()
    set_trace_processors([])  # else OpenAI gets the spans
    with tracing(exporter, line) as provider:
        instrumentor.instrument(tracer_provider=provider)
        try:
            asyncio.run(work_of_agents(says))
        finally:
            instrumentor.uninstrument()
    return summaries(edge, line)


def test_an_agent_and_another_one_that_it_asks_have_each_call_once(
    edge: Edge, exporter: OTLPSpanExporter, library: str
) -> None:
    # Traceloop's library shows both side by side.
    asker = {OPENINFERENCE: "boss", TRACELOOP: "workflow"}[library]
    assert watched(library, edge, exporter, ASKS) == [
        ("boss", "workflow", "completed", calls(1001)),
        ("helper", asker, "completed", calls(110)),
        WORKFLOW,
    ]


def test_an_agent_that_hands_over_and_its_successor_have_each_call_once(
    edge: Edge, exporter: OTLPSpanExporter, library: str
) -> None:
    assert watched(library, edge, exporter, HANDS_OVER) == [
        ("boss", "workflow", "completed", calls(1)),
        ("helper", "workflow", "completed", calls(110)),
        WORKFLOW,
    ]


def test_an_agent_whose_model_refuses_has_failed(
    edge: Edge, exporter: OTLPSpanExporter, library: str
) -> None:
    assert watched(library, edge, exporter, FAILS) == [
        ("boss", "workflow", "failed", []),
        WORKFLOW,
    ]
