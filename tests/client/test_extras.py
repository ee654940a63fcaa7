"""The extras for LangChain, the OpenAI Agents SDK and Prefect.

CI has none of these libraries: there the handlers are driven by hand, with stand-ins for the
classes that they extend. Where a library is installed, the tests use it, and its own runs besides.
"""

import asyncio
import importlib
import sys
import uuid
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from execution_ledger.testing import FakeLedger

from tests.client.test_package import EXTRAS, PROJECT

LINE = "LIN-26-000050"
NAMES = {
    "langchain_core": {"callbacks": ["BaseCallbackHandler"], "outputs": ["LLMResult"]},
    "agents": {
        "tracing": ["Span", "Trace", "TracingProcessor"],
        "tracing.span_data": ["GenerationSpanData", "ResponseSpanData"],
    },
    "prefect": {"runtime": ["flow_run"]},
}
"""The names that the extras import of each library."""


def extra(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of an extra, on its library or on stand-ins for it."""
    library = EXTRAS[name]
    if find_spec(library) is not None:
        return importlib.import_module(f"execution_ledger.{name}")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, library, ModuleType(library))
        for module, classes in NAMES[library].items():
            made = ModuleType(f"{library}.{module}")
            vars(made).update(
                {each: type(each, (SimpleNamespace,), {"type": each}) for each in classes}
            )
            patch.setitem(sys.modules, made.__name__, made)
        try:
            return importlib.import_module(f"execution_ledger.{name}")
        finally:
            sys.modules.pop(f"execution_ledger.{name}", None)


def reported(ledger: FakeLedger) -> list[tuple[str, str | None, str | None, str]]:
    """(actor, name, parent, ending) of each reported run, in the order of their starts."""
    return [
        (run.started["triggered_by"].get("actor_id"), run.name,
         run.started.get("parent_external_id"),
         run.ended.get("error", {}).get("code", run.status))
        for run in ledger.reported_runs
    ]  # fmt: skip


@pytest.mark.parametrize("name", EXTRAS)
def test_an_extra_says_in_a_line_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = EXTRAS[name]
    for module in [each for each in sys.modules if each.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"execution_ledger.{name}", raising=False)
    called = name.replace("_", "-")
    with pytest.raises(ImportError, match=rf"pip install 'execution-ledger-client\[{called}\]'"):
        importlib.import_module(f"execution_ledger.{name}")
    assert called in PROJECT["optional-dependencies"]


def test_steps_of_a_chain_are_runs_whichever_ends_first(monkeypatch: pytest.MonkeyPatch) -> None:
    chain, model, tool = (uuid.uuid4() for _ in range(3))
    usage = {"input_tokens": 10, "output_tokens": 5, "input_token_details": {"cache_read": 4}}
    message = SimpleNamespace(usage_metadata=usage, response_metadata={"model_name": "small"})
    answer = SimpleNamespace(generations=[[SimpleNamespace(message=message)]])
    with FakeLedger() as ledger:
        callback = extra("langchain", monkeypatch).LedgerCallback(ledger, LINE)
        callback.on_chat_model_start({"name": "Chat"}, [[]], run_id=model, parent_run_id=chain)
        callback.on_chain_start(None, {}, run_id=chain, tags=[], metadata={}, name="triage")
        callback.on_chain_end({}, run_id=chain, parent_run_id=None)
        callback.on_tool_start({"name": "look\nup"}, "q", run_id=tool, parent_run_id=chain)
        callback.on_tool_error(KeyError("secret"), run_id=tool, parent_run_id=chain)
        callback.on_llm_end(answer, run_id=model, parent_run_id=chain)
        callback.on_llm_end(answer, run_id=model, parent_run_id=chain)
        callback.on_retriever_error(OSError(), run_id=uuid.uuid4())
        assert reported(ledger) == [
            ("Chat", str(model), str(chain), "completed"),
            ("triage", str(chain), None, "completed"),
            ("lookup", str(tool), str(chain), "KeyError"),
        ]
        first = ledger.reported_runs[0]
        assert "secret" not in str(ledger.facts)
    parts = {"input": 10, "output": 5, "cache_read": 4}
    assert first.ended["token_usage"] == [{"model": "small", **parts}]


@pytest.mark.skipif(find_spec("langchain_core") is None, reason="langchain-core is not installed")
def test_langchain_reports_its_chains_through_the_callback() -> None:
    from execution_ledger.langchain import LedgerCallback
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
    from langchain_core.messages import AIMessage
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda

    usage: Any = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    answer = AIMessage("14", usage_metadata=usage, response_metadata={"model_name": "small"})
    model = GenericFakeChatModel(messages=iter([answer] * 3))
    chain: Runnable[Any, Any] = ChatPromptTemplate.from_messages([("user", "{q}")]) | model
    with FakeLedger() as ledger:
        config: RunnableConfig = {"callbacks": [LedgerCallback(ledger, LINE)]}
        chain.invoke({"q": "Summarise"}, config)
        asyncio.run(chain.ainvoke({"q": "Summarise"}, config))
        for _ in chain.stream({"q": "Summarise"}, config):
            break
        with pytest.raises(ZeroDivisionError):
            RunnableLambda(lambda whole: whole / 0).invoke(1, config)
        *runs, broken = reported(ledger)
        tokens = [run.ended.get("token_usage") for run in ledger.reported_runs]
    assert broken[3] == "ZeroDivisionError"
    names = ["RunnableSequence", "ChatPromptTemplate", "GenericFakeChatModel"]
    assert [actor for actor, *_ in runs] == names * 3
    assert {ending for *_, ending in runs} == {"completed"}
    for number in (0, 3, 6):
        whole = runs[number][1]
        assert [parent for _, _, parent, _ in runs[number:][:3]] == [None, whole, whole]
    assert tokens[2] == tokens[5] == [{"model": "small", "input": 10, "output": 5}]


def span(name: str, parent: str | None, data: Any, error: Any = None) -> Any:
    """A span as the SDK shows it to processors."""
    return SimpleNamespace(
        span_id=name, trace_id="trace", parent_id=parent, span_data=data, error=error
    )


def test_spans_of_a_trace_are_runs_with_their_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    module = extra("openai_agents", monkeypatch)
    usage = {"input_tokens": 9, "output_tokens": 4, "output_tokens_details": {"reasoning": 1}}
    usage |= {"input_tokens_details": {"cached_tokens": 3}}
    model = module.GenerationSpanData(model="small", usage=usage)
    response = SimpleNamespace(model="large")
    answer = module.ResponseSpanData(response=response, usage=usage)  # type: ignore[arg-type]
    agent = SimpleNamespace(name="triage", type="agent", usage=usage)
    tool = SimpleNamespace(name="lookup", type="function")
    trace = SimpleNamespace(trace_id="trace", name="whole")
    with FakeLedger() as ledger:
        processor = module.LedgerProcessor(ledger, LINE)
        processor.on_trace_start(trace)
        whole, part = span("s-1", None, agent), span("s-2", "s-1", model)
        other = span("s-3", "s-1", answer)
        broken = span("s-4", "s-1", tool, {"message": "No.", "data": None})
        for each in (whole, part, other, broken):
            processor.on_span_start(each)
        try:
            raise OSError("of the caller")
        except OSError:
            with pytest.raises(KeyError):
                interrupted(processor, span("s-5", "s-1", tool))
            processor.on_span_start(span("s-6", "s-1", tool))
            processor.on_span_end(span("s-6", "s-1", tool))
        for each in (whole, part, other, broken):
            processor.on_span_end(each)
        processor.on_trace_end(trace)
        processor.force_flush()
        runs, found = reported(ledger), {run.name: run.ended for run in ledger.reported_runs}
    assert runs[0] == ("whole", "trace", None, "completed")
    assert runs[1] == ("triage", "s-1", "trace", "completed")
    endings = ["completed", "completed", "SpanError", "KeyError", "completed"]
    assert [(parent, ending) for _, _, parent, ending in runs[2:]] == [("s-1", e) for e in endings]
    models = [found[name]["token_usage"][0]["model"] for name in ("s-2", "s-3")]
    assert models == ["small", "large"]
    assert "token_usage" not in found["s-1"]


def interrupted(processor: Any, each: Any) -> None:
    """A span that an exception leaves."""
    processor.on_span_start(each)
    try:
        raise KeyError("q")
    finally:
        processor.on_span_end(each)


def test_the_agents_sdk_reports_its_traces_through_the_processor() -> None:
    from agents import Agent, Runner, generation_span, set_trace_processors, trace
    from agents.testing import ModelStep, ScriptedModel, assistant_message
    from execution_ledger.openai_agents import LedgerProcessor

    with FakeLedger() as ledger:
        set_trace_processors([LedgerProcessor(ledger, LINE)])
        model = ScriptedModel(
            [ModelStep(output=[assistant_message("14")]), ModelStep.raise_error(OSError("away"))]
        )
        agent = Agent(name="triage", model=model)
        assert asyncio.run(Runner.run(agent, "Summarise")).final_output == "14"
        good = reported(ledger)
        with pytest.raises(OSError, match="away"):
            asyncio.run(Runner.run(agent, "Summarise"))
        bad = reported(ledger)[len(good) :]
        usage = {"input_tokens": 9, "output_tokens": 4}
        with trace("by hand"), generation_span(model="small", usage=usage):
            pass
        last = ledger.reported_runs[-1]
    assert {ending for *_, ending in good} == {"completed"}
    assert {ending for *_, ending in bad} == {"OSError"}
    assert "triage" in [actor for actor, *_ in good]
    assert [name for _, name, parent, _ in good if parent is None] == [good[0][1]]
    assert last.ended["token_usage"][0]["model"] == "small"


def attempts(ledger: FakeLedger) -> list[tuple[str, str | None, int | None]]:
    """(type, parent, attempt) of each fact."""
    return [
        (f["type"], f["data"].get("parent_external_id"), f["data"].get("attempt"))
        for f in ledger.facts
    ]


def test_a_flow_that_is_tried_again_is_attempts_of_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    module = extra("prefect", monkeypatch)
    flow_run = SimpleNamespace(id="flow-run-7", run_count=1)
    monkeypatch.setattr(module, "flow_run", flow_run)
    with FakeLedger() as ledger:
        with pytest.raises(KeyError), module.LedgerFlow(ledger, LINE, lease=600):
            raise KeyError
        flow_run.run_count = 2
        with module.LedgerFlow(ledger, LINE, lease=600) as run:
            assert run.name == "flow-run-7"
        flow_run.id, flow_run.run_count = None, 0  # outside of a flow
        with module.LedgerFlow(ledger, LINE):
            """Nothing."""
        sent = attempts(ledger)
    kinds = ["run.started", "run.failed", "run.started", "run.completed"]
    assert sent[:4] == list(zip(kinds, [None] * 4, [1, 1, 2, 2], strict=True))
    assert sent[4:] == [("run.started", None, None), ("run.completed", None, None)]


@pytest.mark.skipif(find_spec("prefect") is None, reason="prefect is not installed")
def test_prefect_counts_the_attempts_of_its_flows() -> None:
    from execution_ledger.prefect import LedgerFlow
    from prefect import flow
    from prefect.testing.utilities import prefect_test_harness

    tries = []
    with FakeLedger() as ledger, prefect_test_harness():

        @flow
        def part() -> None:
            with LedgerFlow(ledger, LINE):
                tries.append("part")

        @flow(retries=1, retry_delay_seconds=0)
        def whole() -> None:
            with LedgerFlow(ledger, LINE):
                tries.append("whole")
                part()
                if len(tries) < 3:
                    raise KeyError

        whole()
        sent = attempts(ledger)
        name = ledger.facts[0]["data"]["external_id"]
    first = [("run.started", None, 1), ("run.started", name, 1), ("run.completed", None, 1)]
    assert sent[:4] == [*first, ("run.failed", None, 1)]
    assert sent[4:] == [
        ("run.started", None, 2), first[1], first[2], ("run.completed", None, 2)
    ]  # fmt: skip
