"""Tokens by model, and their corrections (contract, Facts, State and Reading)."""

from typing import Any

import pytest

from tests.support.edge import Edge
from tests.support.facts import fact
from tests.usage.usage_answers import APRIL, NO_PARTS, ask, used

LARGE = {"model": "large", "input": 100, "output": 40, "cache_read": 60, "cache_write": 40}
SMALL = {"model": "small", "output": 7, "reasoning": 7}
WHOLE = {"input": 0, "output": 0, "cache_read": 0, "cache_write": 0, "reasoning": 0}
BOTH = [WHOLE | LARGE, WHOLE | SMALL]
END, LATER = "2026-04-10T12:00:00Z", "2026-04-14T12:00:00Z"


def run_of(edge: Edge, line: str, ending: dict[str, Any], kind: str = "run.completed") -> str:
    """A run of the 10th of April that ended so."""
    begun = fact("run.started", None, {"service_line_id": line}, time="2026-04-10T11:00:00Z")
    run: str = edge.accept(begun)[0]["subject"]
    edge.accept(fact(kind, run, ending, time=END))
    return run


def usage_of(edge: Edge, run: str, **params: str) -> dict[str, Any]:
    data = edge.data(f"/v1/runs/{run}", params=params)
    return {name: data[name] for name in ("tokens_used", "token_usage", "usage_corrected_at")}


def ordered(usage: list[dict[str, Any]]) -> list[list[tuple[str, Any]]]:
    return [sorted(each.items()) for each in usage]


@pytest.mark.parametrize("kind", ["run.completed", "run.failed", "run.cancelled"])
def test_an_ending_reports_tokens_by_model_which_run_events_and_usage_show(
    edge: Edge, kind: str
) -> None:
    line = edge.fresh()
    run = run_of(edge, line, {"token_usage": [LARGE, SMALL]}, kind)
    usage = usage_of(edge, run)
    assert usage["tokens_used"] == 147
    assert ordered(usage["token_usage"]) == ordered(BOTH)
    history = edge.get(f"/v1/execution/{line}/history").json()["data"]
    (payload,) = (each["payload"] for each in history if each["type"] == kind)
    assert (payload["tokens_used"], payload["token_usage"]) == (147, usage["token_usage"])
    total = ask(edge, line, **APRIL)["total"]
    assert total["tokens_by_model"] == [
        {"model": "large", "tokens_used": 140} | WHOLE | {k: LARGE[k] for k in WHOLE if k in LARGE},
        {"model": "small", "tokens_used": 7} | WHOLE | {"output": 7, "reasoning": 7},
    ]


def test_tokens_of_runs_without_models_stand_under_null_in_usage(edge: Edge) -> None:
    line = edge.fresh()
    run_of(edge, line, {"token_usage": [SMALL], "tokens_used": 7})
    run_of(edge, line, {"tokens_used": 1_000, "token_usage": []})
    run_of(edge, line, {})
    total = ask(edge, line, **APRIL)["total"]
    assert [(row["model"], row["tokens_used"]) for row in total["tokens_by_model"]] == [
        ("small", 7),
        (None, 1_000),
    ]
    assert total["tokens_by_model"][1] == {"model": None, "tokens_used": 1_000} | NO_PARTS


@pytest.mark.parametrize(
    ("data", "pointer"),
    [
        ({"token_usage": [{"input": 1}]}, "/data/token_usage/0/model"),
        ({"token_usage": [{"model": ""}]}, "/data/token_usage/0/model"),
        ({"token_usage": [{"model": "m" * 201}]}, "/data/token_usage/0/model"),
        ({"token_usage": [{"model": "m", "input": -1}]}, "/data/token_usage/0/input"),
        ({"token_usage": [{"model": "m", "input": 1.5}]}, "/data/token_usage/0/input"),
        ({"token_usage": [{"model": "m", "tokens": 1}]}, "/data/token_usage/0/tokens"),
        ({"token_usage": [{"model": "m", "cache_read": 1}]}, "/data/token_usage/0"),
        (
            {"token_usage": [{"model": "m", "input": 5, "cache_read": 3, "cache_write": 3}]},
            "/data/token_usage/0",
        ),
        ({"token_usage": [{"model": "m", "output": 1, "reasoning": 2}]}, "/data/token_usage/0"),
        ({"token_usage": [SMALL, SMALL]}, "/data/token_usage"),
        ({"token_usage": [{"model": f"m{n}"} for n in range(21)]}, "/data/token_usage"),
        ({"token_usage": [LARGE], "tokens_used": 139}, "/data/token_usage"),
        (
            {"token_usage": [{"model": m, "input": 2**53 - 1} for m in "mn"]},
            "/data/token_usage",
        ),
    ],
)
def test_wrong_tokens_are_refused_and_change_nothing(
    edge: Edge, data: dict[str, Any], pointer: str
) -> None:
    begun = fact("run.started", None, {"service_line_id": edge.fresh()})
    run = edge.accept(begun)[0]["subject"]
    for kind in ("run.completed", "run.failed", "run.cancelled", "run.usage_corrected"):
        answer = edge.send(fact(kind, run, data))
        assert answer.status_code == 422, answer.text
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
    assert edge.data(f"/v1/runs/{run}")["status"] == "running"


def test_a_correction_needs_tokens(edge: Edge) -> None:
    run = run_of(edge, edge.fresh(), {"tokens_used": 3})
    for data in ({}, {"reason": "r"}, {"token_usage": []}, {"tokens_used": None}):
        assert edge.send(fact("run.usage_corrected", run, data)).status_code == 422
    assert usage_of(edge, run)["tokens_used"] == 3


def test_a_correction_counts_at_the_end_of_the_run_and_the_past_answers_what_was_known(
    edge: Edge,
) -> None:
    line = edge.fresh()
    run = run_of(edge, line, {"token_usage": [LARGE]})
    edge.clock.advance(seconds=60)
    before = edge.clock.now.isoformat()
    edge.clock.advance(seconds=60)
    data = {"token_usage": [SMALL], "reason": "billed"}
    edge.accept(fact("run.usage_corrected", run, data, time=LATER))
    edge.clock.advance(seconds=60)
    between = edge.clock.now.isoformat()
    edge.clock.advance(seconds=60)
    edge.accept(fact("run.usage_corrected", run, {"tokens_used": 0}, time=LATER))

    def models(**params: str) -> list[tuple[str | None, int]]:
        rows = ask(edge, line, **APRIL, **params)["total"]["tokens_by_model"]
        return [(row["model"], row["tokens_used"]) for row in rows]

    assert used(ask(edge, line, **APRIL, as_of=before)) == {
        "2026-04-10": {"completed": 1, "tokens_used": 140}
    }
    assert models(as_of=before) == [("large", 140)]
    assert usage_of(edge, run, as_of=before)["usage_corrected_at"] is None
    assert models(as_of=between) == [("small", 7)]
    assert usage_of(edge, run, as_of=between)["tokens_used"] == 7
    assert used(ask(edge, line, **APRIL)) == {"2026-04-10": {"completed": 1}}
    assert models() == []
    expected = {"tokens_used": 0, "token_usage": None, "usage_corrected_at": LATER}
    assert usage_of(edge, run) == expected
    events = edge.get(f"/v1/events?service_line_id={line}&type=run.usage_corrected").json()["data"]
    payloads = [event["payload"] for event in events]
    assert [(p["tokens_used"], p["previous"], p["reason"]) for p in payloads] == [
        (7, 140, "billed"),
        (0, 7, None),
    ]


def test_a_correction_by_the_name_of_the_run_is_no_activity_and_holds_on_a_closed_line(
    edge: Edge,
) -> None:
    line = edge.fresh()
    named = fact("run.started", None, {"service_line_id": line, "external_id": "b1"}, source="/ci")
    run = edge.accept(named)[0]["subject"]
    edge.accept(fact("run.completed", run, {"tokens_used": 1}))
    edge.accept(fact("service_line.closed", line))
    before = edge.data(f"/v1/execution/{line}")
    edge.clock.advance(seconds=60)
    correction = {"external_id": "b1", "tokens_used": 2}
    edge.accept(fact("run.usage_corrected", None, correction, source="/ci"))
    assert usage_of(edge, run)["tokens_used"] == 2
    assert edge.data(f"/v1/execution/{line}") == before


def test_an_erased_run_accepts_a_correction(edge: Edge) -> None:
    run = run_of(edge, edge.fresh(), {"tokens_used": 1, "output": "o"})
    assert edge.post(f"/v1/runs/{run}/erase", json={"reason": "asked"}).status_code == 200
    edge.accept(fact("run.usage_corrected", run, {"tokens_used": 9}))
    assert usage_of(edge, run)["tokens_used"] == 9


@pytest.mark.parametrize("kind", [None, "service_line.closed"])
def test_a_run_that_may_still_end_accepts_no_correction(edge: Edge, kind: str | None) -> None:
    line = edge.fresh()
    run = edge.accept(fact("run.started", None, {"service_line_id": line}))[0]["subject"]
    if kind is not None:
        edge.accept(fact(kind, line))
    answer = edge.send(fact("run.usage_corrected", run, {"tokens_used": 9}))
    assert (answer.status_code, answer.json()["code"]) == (409, "invalid_state")
    assert usage_of(edge, run)["tokens_used"] is None
