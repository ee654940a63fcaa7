"""A line's timeline: how long it was in which state, and for which causes (contract, Reading)."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import msgspec
import psycopg
import pytest

from ledger.engine.http.replies import AnswerOf
from ledger.engine.values.values import sort_key
from ledger.features.feed.routes.stories import ShownTimeline
from projections.lines import statements
from tests.support.edge import Edge, assert_problem
from tests.support.facts import ORGANIZATION, activation, fact
from tests.support.log_checker import check
from tests.support.model import CAUSES, STATES, Change, model_of
from tests.support.plans import rows_touched
from tests.support.random_life import Life
from tests.support.soak import repeated

MORNING = "2026-04-15T"
"""The day on which the edge's clock stands, at 12:00."""


def ask(edge: Edge, line: str, **bounds: str) -> dict[str, Any]:
    """The timeline of a line, once the views have the whole log."""
    headers = {"ledger-min-position": str(edge.log()[0][0])}
    params = {name.rstrip("_"): value for name, value in bounds.items()}
    answer = edge.get(f"/v1/execution/{line}/timeline", params=params, headers=headers)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def short(data: dict[str, Any]) -> list[tuple[Any, ...]]:
    """(state, causes, minute of the hour at which it began) of each interval."""
    return [
        (interval["state"], interval["causes"], datetime.fromisoformat(interval["from"]).minute)
        for interval in data["intervals"]
    ]


def at(clock: str) -> dict[str, str]:
    return {"time": f"{MORNING}{clock}Z"}


@pytest.fixture(scope="module")
def eventful(edge: Edge) -> str:
    """A line from 10:00 to 10:50 with two causes at once, and with a hold over both."""
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


def test_intervals_show_two_causes_at_once_and_a_hold_over_them(edge: Edge, eventful: str) -> None:
    data = ask(edge, eventful)
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
def test_from_and_to_clip_the_timeline(
    edge: Edge, eventful: str, bounds: dict[str, str], expected: list[tuple[str, str, str | None]]
) -> None:
    data = ask(edge, eventful, **{name: f"{MORNING}{clock}Z" for name, clock in bounds.items()})
    assert [(i["state"], i["from"], i["to"]) for i in data["intervals"]] == [
        (state, f"{MORNING}{began}Z", until and f"{MORNING}{until}Z")
        for state, began, until in expected
    ]
    assert list(data["totals"]["by_state"]) == STATES
    assert list(data["totals"]["by_cause"]) == CAUSES


def test_a_bound_may_be_a_date_or_have_an_offset(edge: Edge, eventful: str) -> None:
    assert ask(edge, eventful, from_="2026-04-15") == ask(edge, eventful)
    assert ask(edge, eventful, to="2026-04-15")["intervals"] == []
    here = ask(edge, eventful, from_=f"{MORNING}10:12:00Z", to=f"{MORNING}10:33:00Z")
    there = ask(edge, eventful, from_=f"{MORNING}12:12:00+02:00", to=f"{MORNING}05:33:00-05:00")
    assert here == there


def test_an_empty_range_after_now_has_no_interval(edge: Edge, eventful: str) -> None:
    tomorrow = (edge.clock.now + timedelta(days=1)).isoformat()
    assert ask(edge, eventful, from_=tomorrow, to=tomorrow)["intervals"] == []


def test_idleness_and_waking_are_shown_at_their_effective_times(edge: Edge) -> None:
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


def test_a_fact_from_before_the_last_change_takes_effect_at_that_change(edge: Edge) -> None:
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


def test_a_change_that_is_undone_at_its_own_instant_leaves_no_interval(edge: Edge) -> None:
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
        (interval,) = ask(edge, line)["intervals"]
        began = datetime.fromisoformat(interval["from"])
        assert interval["to"] is None
        assert interval["seconds"] == (edge.clock.now - began).total_seconds()
    assert interval["seconds"] == 86_461.5
    (clipped,) = ask(edge, line, to=edge.clock.now.isoformat())["intervals"]
    assert (instant(clipped["to"]), clipped["seconds"]) == (edge.clock.now, 86_461.5)


@pytest.mark.parametrize(
    "query",
    [
        "from=2026-04-16&to=2026-04-15", "from=2026-04-15T12:00:00.000001Z&to=2026-04-15T12:00:00Z",
        "from=yesterday", "to=2026-04-15T12:00:00", "limit=5", "cursor=x", "state=running", "from=",
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_a_422(edge: Edge, eventful: str, query: str) -> None:
    answer = edge.get(f"/v1/execution/{eventful}/timeline?{query}")
    assert_problem(answer, 422, "invalid_request")


# Random workloads, compared with the model of the raw log.


@pytest.fixture(scope="module", params=repeated([1, 2, 3, 4]))
def life(edge: Edge, request: pytest.FixtureRequest) -> Life:
    life = Life(edge, request.param)
    life.live(70)
    if request.param % 2 == 0:
        life.close()
    return life


def spans(life: Life, states: list[Change]) -> Iterator[tuple[datetime | None, datetime | None]]:
    """No bounds, and random ranges with bounds at turning points, beside them, and after now."""
    yield None, None
    instants = [change.at for change in states]
    instants += [at + timedelta(microseconds=life.random.choice([-1, 1, 500])) for at in instants]
    instants += [life.edge.clock.now, life.edge.clock.now + timedelta(hours=1)]
    for _ in range(25):
        start, end = sorted(life.random.sample(instants, 2))
        if start < end:
            yield life.random.choice([(start, end), (start, None), (None, end)])


def test_the_timeline_equals_the_timeline_that_the_log_tells(edge: Edge, life: Life) -> None:
    assert check(edge.conninfo).findings == []
    model = model_of(edge.conninfo)
    states = model.lines[life.line].changes
    assert len({(change.state, change.causes) for change in states}) > 6
    assert len(states) > len({change.at for change in states})
    for start, end in spans(life, states):
        bounds = {"from_": start, "to": end}
        data = ask(edge, life.line, **{k: v.isoformat() for k, v in bounds.items() if v})
        intervals = [i | {"from": instant(i["from"]), "to": instant(i["to"])}
                 for i in data["intervals"]]  # fmt: skip
        assert intervals == model.timeline(life.line, start, end, edge.clock.now)
        assert_sums(data)


def instant(text: str | None) -> datetime | None:
    return text and datetime.fromisoformat(text)  # type: ignore[return-value]


def assert_sums(data: dict[str, Any]) -> None:
    found, totals = data["intervals"], data["totals"]
    for name, key in (("by_state", "state"), ("by_cause", "causes")):
        for word, seconds in totals[name].items():
            matching = [i["seconds"] for i in found if word == i[key] or word in i[key]]
            assert seconds == pytest.approx(sum(matching), abs=1e-6)
    for interval, following in pairwise(found):
        assert interval["to"] == following["from"]


def test_the_timeline_fits_its_documented_model(edge: Edge, life: Life) -> None:
    answer = edge.get(f"/v1/execution/{life.line}/timeline")
    assert msgspec.json.decode(answer.content, type=AnswerOf[ShownTimeline]).data.intervals
    for interval in answer.json()["data"]["intervals"]:
        assert list(interval) == ["state", "causes", "from", "to", "seconds"]
    edge.accept(activation(fresh := edge.fresh_id()))
    answer = edge.get(f"/v1/execution/{fresh}/timeline?to=2020-01-01")
    assert msgspec.json.decode(answer.content, type=AnswerOf[ShownTimeline]).data.intervals == []


# Too long.


@pytest.mark.soak
def test_ten_thousand_intervals_are_an_answer_and_a_further_interval_is_a_422(edge: Edge) -> None:
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
    # A read of a narrow range touches few rows.
    values = {"organization": ORGANIZATION, "line_id": line, "limit": 20_000}
    values |= {"from": start + timedelta(seconds=9_000), "to": start + timedelta(seconds=9_010)}
    assert rows_touched(edge, statements.timeline_read(frozenset({"organization"})), values) < 300


# 20,000 copies of a pause, each undone at its own instant, written without any event.
_COPY = """
INSERT INTO ledger.execution_interval
SELECT (jsonb_populate_record(i, jsonb_build_object(
    'opened', -n, 'state', CASE mod(n, 2) WHEN 0 THEN 'paused' ELSE 'running' END))).*
FROM ledger.execution_interval AS i, generate_series(1, 20000) AS n
WHERE i.line_key = %s AND i.state = 'paused'
"""


def test_turning_points_without_length_are_no_intervals(edge: Edge) -> None:
    line = edge.fresh(**at("09:00:00"))
    edge.accept(fact("service_line.paused", line, **at("09:30:00")))
    expected = short(ask(edge, line))
    with psycopg.connect(edge.conninfo, autocommit=True) as connection:
        connection.execute(_COPY.encode(), (sort_key(line),))
    assert short(ask(edge, line)) == expected
