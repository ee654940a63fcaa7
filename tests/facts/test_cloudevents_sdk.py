"""Facts that are sent by the SDK of the CloudEvents project (contract, Facts)."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings import http as binding
from cloudevents.core.v1.event import CloudEvent

from tests.support.edge import Edge
from tests.support.facts import activation, fact


def event_of(sent: dict[str, Any], clock: Any, **more: Any) -> CloudEvent:
    """The fact as a CloudEvent of the SDK."""
    attributes = {k: v for k, v in sent.items() if k != "data"} | more
    attributes.setdefault("time", clock() - timedelta(minutes=1))
    return CloudEvent(attributes=attributes, data=sent["data"])


def post(edge: Edge, message: Any) -> httpx.Response:
    return edge.post("/v1/facts", content=message.body, headers=message.headers)


@pytest.mark.parametrize("encode", [binding.to_structured_event, binding.to_binary_event])
def test_structured_and_binary_events_of_the_sdk_are_recorded(edge: Edge, encode: Any) -> None:
    line = edge.fresh_id()
    more = {"datacontenttype": "application/json", "actortype": "agent", "actorid": "café 7"}
    answer = post(edge, encode(event_of(activation(line), edge.clock, **more)))
    assert answer.status_code == 201, answer.text
    sent = fact("service_line.paused", line, {"reason": "Prüfung"})
    assert post(edge, encode(event_of(sent, edge.clock, **more))).status_code == 201
    (hold,) = edge.data(f"/v1/execution/{line}")["holds"]
    assert (hold["reason"], hold["by"]) == ("Prüfung", {"type": "agent", "id": "café 7"})


def test_an_event_in_both_modes_is_the_same_fact(edge: Edge) -> None:
    sent = fact("execution.checked_in", edge.fresh(), {"hours": 8.0})
    event = event_of(sent, edge.clock, datacontenttype="application/json")
    first = post(edge, binding.to_structured_event(event))
    again = post(edge, binding.to_binary_event(event))
    assert (first.status_code, again.status_code) == (201, 200), again.text


def test_a_structured_event_needs_no_datacontenttype(edge: Edge) -> None:
    event = event_of(fact("execution.checked_in", edge.fresh()), edge.clock)
    assert post(edge, binding.to_structured_event(event)).status_code == 201


def test_a_binary_event_needs_no_datacontenttype(edge: Edge) -> None:
    event = event_of(fact("execution.checked_in", edge.fresh(), {"hours": 1}), edge.clock)
    assert post(edge, binding.to_binary_event(event)).status_code == 201


def test_an_attribute_that_is_null_is_unset(edge: Edge) -> None:
    sent = fact("execution.checked_in", edge.fresh(), actortype=None, actorid=None, time=None)
    assert edge.send(sent).status_code == 201


@pytest.mark.parametrize("ending", ["completed", "failed"])
def test_the_platforms_names_of_run_facts_are_aliases(edge: Edge, ending: str) -> None:
    line = edge.fresh()
    (begun,) = edge.accept(fact("agent.run.started", None, {"service_line_id": line}))
    edge.accept(fact(f"agent.run.{ending}", begun["subject"], {"output": {"n": 1}}))
    run = edge.data(f"/v1/runs/{begun['subject']}")
    assert (run["status"], run["output"]) == (ending, {"n": 1})


@pytest.mark.parametrize("name", ["agent.run.requested", "agent.run.cancelled", "agent.run"])
def test_there_are_no_other_aliases(edge: Edge, name: str) -> None:
    answer = edge.send(fact(name, None, {"service_line_id": edge.fresh()}))
    assert answer.status_code == 422
