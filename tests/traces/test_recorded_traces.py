"""Traces that libraries made: each agent is a run with its parent, and each call counts once.

In a recording a boss asks a helper, which has a tool; then an agent fails. (The client of a model
knows no agents: there the boss makes all the calls.) A call uses 3·10ⁿ tokens of input and 2·10ⁿ
of output, with 10ⁿ of each part of them, where n is 0 to 3: so the digits of a sum tell how often
each call counts.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.edge import Edge
from tests.support.soak import repeated
from tests.support.traces import BEGAN, TRACES, nanoseconds, runs_of, trace_id

FOLDER = Path(__file__).parents[1] / "fixtures/traces"

TEAM = {"boss": (None, 1001), "helper": ("boss", 110)}
ALONE = {"boss": (None, 1111)}
"""The agents that succeed: the parent, and the calls."""

CACHES = ("cache_read", "cache_write")
PARTS = (*CACHES, "reasoning")


class Recording(NamedTuple):
    """The account of a library."""

    agents: dict[str, tuple[str | None, int]]
    model: str
    parts: tuple[str, ...]
    """The parts of tokens that it counts."""
    broken: str | None = "failed"
    """The status of the run that fails; None: its span never ends."""


RECORDINGS = {
    "agno-traceloop": Recording(TEAM, "m", (), broken="completed"),
    "anthropic-genai": Recording(ALONE, "m-1", CACHES),
    "anthropic-openinference": Recording(ALONE, "m-1", CACHES),
    "anthropic-traceloop": Recording(ALONE, "m-1", CACHES),
    "langchain-genai": Recording(TEAM, "m-1", PARTS),
    "pydantic-ai-openinference": Recording(TEAM, "m-1", PARTS),
    "smolagents-openinference": Recording(TEAM, "m", (), broken=None),
}


def spans_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        span
        for of_resource in body["resourceSpans"]
        for of_scope in of_resource["scopeSpans"]
        for span in of_scope["spans"]
    ]


def recorded(name: str, line: str) -> dict[str, Any]:
    """A recording of agents on this line, who begin at ``BEGAN``, in traces of new ids."""
    body: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    for of_resource in body["resourceSpans"]:
        attribute = {"key": "ledger.service_line_id", "value": {"stringValue": line}}
        of_resource["resource"]["attributes"].append(attribute)
    times = ("startTimeUnixNano", "endTimeUnixNano")
    later = nanoseconds(BEGAN) - min(int(span[times[0]]) for span in spans_of(body))
    new_ids: dict[str, str] = defaultdict(lambda: trace_id().hex())
    for span in spans_of(body):
        span |= {time: str(int(span[time]) + later) for time in times}
        span["traceId"] = new_ids[span["traceId"]]
    return body


def test_every_recording_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(RECORDINGS)


def at_once(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [body]


def one_by_one(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The spans of a recording, each in a request of its own, as they end."""
    return [
        {"resourceSpans": [of_resource | {"scopeSpans": [of_scope | {"spans": [span]}]}]}
        for span in sorted(spans_of(body), key=lambda span: int(span["endTimeUnixNano"]))
        for of_resource in body["resourceSpans"]
        for of_scope in of_resource["scopeSpans"]
        if span in of_scope["spans"]
    ]


@pytest.mark.parametrize(
    ("name", "split"),
    [(name, at_once) for name in RECORDINGS]
    + repeated(((name, one_by_one) for name in sorted(RECORDINGS)), 3),
)
def test_a_recorded_trace_becomes_runs_that_have_each_call_once(
    edge: Edge, name: str, split: Any
) -> None:
    line = edge.fresh()
    body = recorded(name, line)
    for sent in split(body):
        answer = edge.post(TRACES, json=sent)
        assert (answer.status_code, answer.json()) == (200, {})
    runs = runs_of(edge, line)
    names = {run["id"]: agent_of(run, body) for run in runs}
    assert {
        names[run["id"]]: (names.get(run["parent_run_id"]), run["status"], run["token_usage"])
        for run in runs
    } == expected_of(RECORDINGS[name])
    assert len(set(names.values())) == len(runs)


def agent_of(run: dict[str, Any], body: dict[str, Any]) -> str:
    """The agent of a run; some libraries name it in the span's name alone."""
    names = {f"{span['traceId']}-{span['spanId']}": span["name"] for span in spans_of(body)}
    return next(
        agent for agent in ("boss", "helper", "broken") if agent in names[run["external_id"]]
    )


def expected_of(recording: Recording) -> dict[str, tuple[str | None, str, Any]]:
    """The parent, status and tokens of the run of each agent."""

    def usage(calls: int) -> list[dict[str, Any]]:
        parts = {part: calls if part in recording.parts else 0 for part in PARTS}
        return [{"model": recording.model, "input": 3 * calls, "output": 2 * calls} | parts]

    found: dict[str, tuple[str | None, str, Any]] = {
        agent: (parent, "completed", usage(calls))
        for agent, (parent, calls) in recording.agents.items()
    }
    if recording.broken is not None:
        # A library that does not report the failure reports that no tokens were used.
        used = None if recording.broken == "failed" else usage(0)
        found["broken"] = (None, recording.broken, used)
    return found
