"""A line's timeline: how long it was in which state, and for what causes (contract 4)."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from ledger.api.models import TimelineAnswer
from projections.execution import statements
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.stories import (
    CAUSES,
    STATES,
    Life,
    history_of,
    timeline_of,
    touched,
    turns_of,
)

MORNING = "2026-04-15T"
"""The day on which the edge's clock stands, at 12:00."""


def ask(edge: Edge, line: str, **bounds: str) -> dict[str, Any]:
    """The answer's data, once the views have all of the log."""
    headers = {"ledger-min-position": str(edge.log()[0][0])}
    params = {name.rstrip("_"): value for name, value in bounds.items()}
    answer = edge.get(f"/v1/execution/{line}/timeline", params=params, headers=headers)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def short(data: dict[str, Any]) -> list[tuple[Any, ...]]:
    """(state, causes, minute of the hour at which it began) of each interval."""
    return [
        (one["state"], one["causes"], datetime.fromisoformat(one["from"]).minute)
        for one in data["intervals"]
    ]


def at(clock: str) -> dict[str, str]:
    return {"time": f"{MORNING}{clock}Z"}


@pytest.fixture(scope="module")
def tale(edge: Edge) -> str:
    """Active at 10:00; two causes at once, a hold over them, and the end at 10:50."""
    line = edge.fresh(**at("10:00:00"))
    edge.accept(
        fact("service_line.updated", line, {"project_tags": ["x"]}, **at("10:05:00")),
        fact("execution.blocked", line, blocker("1", "delivery_blocker"), **at("10:10:00")),
        fact("execution.blocked", line, blocker("2", "approval_gap"), **at("10:20:00")),
        fact("execution.blocked", line, blocker("3", "approval_gap"), **at("10:22:00")),
        fact("service_line.paused", line, **at("10:25:00")),
        fact("execution.unblocked", line, {"blocker_id": "1"}, **at("10:30:00")),
        fact("service_line.resumed", line, **at("10:35:00")),
        fact("execution.unblocked", line, {"blocker_id": "2"}, **at("10:40:00")),
        fact("execution.unblocked", line, {"blocker_id": "3"}, **at("10:45:00")),
        fact("service_line.closed", line, **at("10:50:00.25")),
    )
    return line


def blocker(identifier: str, cause: str) -> dict[str, str]:
    return {"blocker_id": identifier, "cause": cause}


def test_two_causes_at_once_and_a_hold_over_them(edge: Edge, tale: str) -> None:
    data = ask(edge, tale)
    both = ["approval_gap", "delivery_blocker"]
    assert short(data) == [
        ("running", [], 0),
        ("blocked", ["delivery_blocker"], 10),
        ("blocked", both, 20),
        ("paused", both, 25),
        ("paused", ["approval_gap"], 30),
        ("blocked", ["approval_gap"], 35),
        ("running", [], 45),
        ("closed", [], 50),
    ]
    now = edge.clock.now
    closed = (now - datetime.fromisoformat("2026-04-15T10:50:00.25Z")).total_seconds()
    assert data["totals"] == {
        "by_state": {
            "running": 15 * 60 + 0.25, "idle": 0, "paused": 600, "blocked": 1500, "closed": closed,
        },
        "by_cause": {
            "approval_gap": 1500, "capacity_issue": 0, "policy_violation": 0,
            "delivery_blocker": 1200,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        ({"to": "10:00:00"}, []),
        ({"to": "10:00:00.000001"}, [("running", "10:00:00", "10:00:00.000001")]),
        ({"from_": "10:05:00", "to": "10:10:00"}, [("running", "10:05:00", "10:10:00")]),
        ({"from_": "10:40:00", "to": "10:44:59.5"}, [("blocked", "10:40:00", "10:44:59.5")]),
        (
            {"from_": "10:44:59", "to": "10:45:01"},
            [("blocked", "10:44:59", "10:45:00"), ("running", "10:45:00", "10:45:01")],
        ),
        ({"from_": "10:45:00", "to": "10:45:00"}, []),
        ({"from_": "10:12:00", "to": "10:12:00"}, []),
        ({"from_": "08:00:00", "to": "09:59:00"}, []),
        ({"from_": "10:51:00"}, [("closed", "10:51:00", None)]),
        (
            {"from_": "10:47:00", "to": "23:00:00"},
            [("running", "10:47:00", "10:50:00.25"), ("closed", "10:50:00.25", None)],
        ),
    ],
)
def test_from_and_to_clip(
    edge: Edge, tale: str, bounds: dict[str, str], expected: list[tuple[str, str, str | None]]
) -> None:
    data = ask(edge, tale, **{name: f"{MORNING}{clock}Z" for name, clock in bounds.items()})
    assert [(i["state"], i["from"], i["to"]) for i in data["intervals"]] == [
        (state, f"{MORNING}{began}Z", until and f"{MORNING}{until}Z")
        for state, began, until in expected
    ]
    assert list(data["totals"]["by_state"]) == STATES
    assert list(data["totals"]["by_cause"]) == CAUSES


def test_a_date_means_its_first_instant_and_an_offset_is_understood(edge: Edge, tale: str) -> None:
    assert ask(edge, tale, from_="2026-04-15") == ask(edge, tale)
    assert ask(edge, tale, to="2026-04-15")["intervals"] == []
    here = ask(edge, tale, from_=f"{MORNING}10:12:00Z", to=f"{MORNING}10:33:00Z")
    there = ask(edge, tale, from_=f"{MORNING}12:12:00+02:00", to=f"{MORNING}05:33:00-05:00")
    assert here == there


def test_an_empty_range_after_now_has_no_interval(edge: Edge, tale: str) -> None:
    tomorrow = (edge.clock.now + timedelta(days=1)).isoformat()
    assert ask(edge, tale, from_=tomorrow, to=tomorrow)["intervals"] == []


def test_idleness_and_waking_are_told_at_the_time_they_took_effect(edge: Edge) -> None:
    began = edge.clock.now
    line = edge.fresh(time=began.isoformat())
    edge.clock.advance(seconds=1000)
    edge.run(edge.service.sweep())
    edge.clock.advance(seconds=200)
    edge.accept(fact("execution.checked_in", line, time=edge.clock.now.isoformat()))
    data = ask(edge, line)
    assert [(i["state"], i["seconds"]) for i in data["intervals"]] == [
        ("running", 900), ("idle", 300), ("running", 0),
    ]  # fmt: skip
    assert datetime.fromisoformat(data["intervals"][1]["from"]) == began + timedelta(seconds=900)


def test_news_from_before_the_last_change_takes_effect_with_it(edge: Edge) -> None:
    line = edge.fresh(**at("09:00:00"))
    edge.accept(
        fact("service_line.paused", line, **at("09:30:00")),
        fact("execution.blocked", line, blocker("1", "capacity_issue"), **at("09:10:00")),
        fact("service_line.resumed", line, **at("09:20:00")),
        fact("execution.unblocked", line, {"blocker_id": "1"}, **at("09:40:00")),
    )
    assert short(ask(edge, line)) == [
        ("running", [], 0), ("blocked", ["capacity_issue"], 30), ("running", [], 40),
    ]  # fmt: skip


def test_a_change_that_was_taken_back_at_once_leaves_no_trace(edge: Edge) -> None:
    line = edge.fresh(**at("09:00:00"))
    edge.accept(
        fact("service_line.paused", line, **at("09:30:00")),
        fact("service_line.resumed", line, **at("09:30:00")),
        fact("service_line.paused", line, **at("09:15:00")),
        fact("service_line.resumed", line, **at("09:16:00")),
    )
    assert short(ask(edge, line)) == [("running", [], 0)]


def test_the_open_interval_follows_the_clock(edge: Edge) -> None:
    line = edge.fresh(time=edge.clock.now.isoformat())
    for passed in (0, 61.5, 86_400):
        edge.clock.advance(seconds=passed)
        (one,) = ask(edge, line)["intervals"]
        began = datetime.fromisoformat(one["from"])
        assert one["to"] is None
        assert one["seconds"] == (edge.clock.now - began).total_seconds()
    assert one["seconds"] == 86_461.5
    (clipped,) = ask(edge, line, to=edge.clock.now.isoformat())["intervals"]
    assert (instant(clipped["to"]), clipped["seconds"]) == (edge.clock.now, 86_461.5)


@pytest.mark.parametrize(
    "query",
    [
        "from=2026-04-16&to=2026-04-15", "from=2026-04-15T12:00:00.000001Z&to=2026-04-15T12:00:00Z",
        "from=yesterday", "to=2026-04-15T12:00:00", "limit=5", "cursor=x", "state=running", "from=",
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_a_422(edge: Edge, tale: str, query: str) -> None:
    answer = edge.get(f"/v1/execution/{tale}/timeline?{query}")
    assert_problem(answer, 422, "invalid_request")


def test_a_line_of_others_or_of_nobody_is_a_404(edge: Edge, tale: str) -> None:
    stranger = edge.token("read", organization_id="ORG-26-000002")
    elsewhere = edge.token("read", workspace_id="WS-26-000002")
    for line, token in ((tale, stranger), (tale, elsewhere), ("LIN-26-999999", None), ("x", None)):
        answer = edge.get(f"/v1/execution/{line}/timeline", token)
        assert_problem(answer, 404, "not_found")


# Random lives against the history.


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def life(edge: Edge, request: pytest.FixtureRequest) -> Life:
    life = Life(edge, request.param)
    life.live(70)
    if request.param % 2 == 0:
        life.close()
    return life


def spans(life: Life, turns: list[Any]) -> Iterator[tuple[datetime | None, datetime | None]]:
    """Nothing, all around, and ranges by chance: at turning points and between them."""
    yield None, None
    hooks = [at for at, _ in turns]
    hooks += [at + timedelta(microseconds=life.random.choice([-1, 1, 500])) for at in hooks]
    hooks += [life.edge.clock.now, life.edge.clock.now + timedelta(hours=1)]
    for _ in range(25):
        one, other = sorted(life.random.sample(hooks, 2))
        if one < other:
            yield life.random.choice([(one, other), (one, None), (None, other)])


def test_the_timeline_is_what_the_history_tells(edge: Edge, life: Life) -> None:
    turns = turns_of(history_of(edge, life.line))
    assert len({held for _, held in turns}) > 6
    assert len(turns) > len({at for at, _ in turns})
    for start, end in spans(life, turns):
        bounds = {"from_": start, "to": end}
        data = ask(edge, life.line, **{k: v.isoformat() for k, v in bounds.items() if v})
        shown = [one | {"from": instant(one["from"]), "to": instant(one["to"])}
                 for one in data["intervals"]]  # fmt: skip
        assert shown == timeline_of(turns, start, end, edge.clock.now)
        assert_sums(data)


def instant(text: str | None) -> datetime | None:
    return text and datetime.fromisoformat(text)  # type: ignore[return-value]


def assert_sums(data: dict[str, Any]) -> None:
    found, totals = data["intervals"], data["totals"]
    for name, key in (("by_state", "state"), ("by_cause", "causes")):
        for word, seconds in totals[name].items():
            matching = [i["seconds"] for i in found if word == i[key] or word in i[key]]
            assert seconds == pytest.approx(sum(matching), abs=1e-6)
    for one, following in pairwise(found):
        assert one["to"] == following["from"]


def test_the_answer_is_as_documented(edge: Edge, life: Life) -> None:
    answer = edge.get(f"/v1/execution/{life.line}/timeline")
    assert TimelineAnswer.model_validate_json(answer.content, strict=True).data.intervals
    for one in answer.json()["data"]["intervals"]:
        assert list(one) == ["state", "causes", "from", "to", "seconds"]
    edge.accept(activation(fresh := edge.fresh_id()))
    answer = edge.get(f"/v1/execution/{fresh}/timeline?to=2020-01-01")
    assert TimelineAnswer.model_validate_json(answer.content, strict=True).data.intervals == []


# Too long.


def test_ten_thousand_intervals_are_an_answer_and_one_more_is_a_422(edge: Edge) -> None:
    start = edge.clock.now - timedelta(seconds=20_000)
    line = edge.fresh(time=start.isoformat())
    kinds = ["service_line.resumed", "service_line.paused"]
    facts = [
        fact(kinds[n % 2], line, time=(start + timedelta(seconds=n)).isoformat())
        for n in range(1, 10_001)
    ]
    for first in range(0, 9_999, 1_000):
        edge.accept(*facts[first : min(first + 1_000, 9_999)])
    data = ask(edge, line)
    assert len(data["intervals"]) == 10_000
    assert data["totals"]["by_state"]["running"] == 5_000
    edge.accept(facts[-1])
    headers = {"ledger-min-position": str(edge.log()[0][0])}
    answer = edge.get(f"/v1/execution/{line}/timeline", headers=headers)
    problem = assert_problem(answer, 422, "invalid_request")
    assert "narrow" in problem["errors"][0]["detail"]
    narrowed = ask(edge, line, from_=(start + timedelta(seconds=1)).isoformat())
    assert len(narrowed["intervals"]) == 10_000
    assert narrowed["intervals"][0]["state"] == "paused"
    end = start + timedelta(seconds=10_000)
    *rest, last = ask(edge, line, to=end.isoformat())["intervals"]
    assert rest == data["intervals"][:-1]
    assert (last["state"], instant(last["to"]), last["seconds"]) == ("paused", end, 1)
    # A narrow look at it touches few rows.
    values = {"organization": ORGANIZATION, "line_id": line, "limit": 20_000}
    values |= {"from": start + timedelta(seconds=9_000), "to": start + timedelta(seconds=9_010)}
    assert touched(edge, statements.timeline_statement(frozenset({"organization"})), values) < 300


# The same turn 20,000 times, each taken back at its own instant; copied past the log.
_COPY = """
INSERT INTO ledger.execution_interval
SELECT (jsonb_populate_record(i, jsonb_build_object(
    'opened', -n, 'state', CASE mod(n, 2) WHEN 0 THEN 'paused' ELSE 'running' END))).*
FROM ledger.execution_interval AS i, generate_series(1, 20000) AS n
WHERE i.line_id = %s AND i.state = 'paused'
"""


def test_turning_points_without_length_are_no_intervals(edge: Edge) -> None:
    line = edge.fresh(**at("09:00:00"))
    edge.accept(fact("service_line.paused", line, **at("09:30:00")))
    expected = short(ask(edge, line))
    with psycopg.connect(edge.conninfo, autocommit=True) as connection:
        connection.execute(_COPY.encode(), (line,))
    assert short(ask(edge, line)) == expected
