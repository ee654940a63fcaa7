"""A line's usage: hours, runs and tokens by UTC day, and in total (contract, Reading)."""

from typing import Any

import pytest

from ledger.engine.values.values import format_instant
from ledger.features.feed.routes import stories
from tests.support.edge import Edge, assert_problem
from tests.support.facts import fact
from tests.support.ledger import new_id
from tests.support.soak import repeated
from tests.usage.usage_answers import APRIL, NO_PARTS, NOTHING, ask, check_in, days_of, used


def run(line: str, started: str, ended: str | None = None, **data: Any) -> list[dict[str, Any]]:
    run_id = new_id("RUN")
    facts = [fact("run.started", run_id, {"service_line_id": line}, time=started)]
    if ended is not None:
        facts.append(fact(data.pop("kind", "run.completed"), run_id, data, time=ended))
    return facts


def test_each_amount_counts_on_its_own_day(edge: Edge) -> None:
    line = edge.fresh()
    edge.accept(
        check_in(line, "2026-04-09T23:59:59.999999Z", 1.5, "b"),
        check_in(line, "2026-04-10T00:00:00Z", 0.25),
        check_in(line, "2026-04-10T12:00:00Z", 2, "a"),
        check_in(line, "2026-04-10T13:00:00Z", 0.1, "b"),
        check_in(line, "2026-04-10T14:00:00Z", 0.2, "b"),
        *run(line, "2026-04-09T22:00:00Z", "2026-04-11T01:00:00Z", tokens_used=70),
        *run(line, "2026-04-09T23:00:00Z", "2026-04-10T01:00:00Z", kind="run.failed"),
        *run(line, "2026-04-10T00:00:00Z", "2026-04-10T00:00:01Z", tokens_used=2**53 - 1),
        *run(line, "2026-04-12T09:00:00Z"),
    )
    data = ask(edge, line, **APRIL)
    assert (data["from"], data["to"]) == ("2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z")
    assert used(data) == {
        "2026-04-09": {"hours": 1.5, "completed": 1, "failed": 1},
        "2026-04-10": {"hours": 2.55, "completed": 1, "tokens_used": 2**53 - 1},
        "2026-04-11": {"tokens_used": 70},
        "2026-04-12": {"running": 1},
    }
    assert days_of(data)["2026-04-10"]["hours_by_resource"] == [
        {"resource_id": "a", "hours": 2},
        {"resource_id": "b", "hours": 0.3},
        {"resource_id": None, "hours": 0.25},
    ]
    assert data["total"] == {
        "hours": 4.05,
        "hours_by_resource": [
            {"resource_id": "a", "hours": 2},
            {"resource_id": "b", "hours": 1.8},
            {"resource_id": None, "hours": 0.25},
        ],
        "check_ins": 5,
        "runs": NOTHING["runs"] | {"running": 1, "completed": 2, "failed": 1},
        "tokens_used": 2**53 + 69,
        "tokens_by_model": [{"model": None, "tokens_used": 2**53 + 69, **NO_PARTS}],
    }
    quiet = [day for date, day in days_of(data).items() if date not in used(data)]
    assert quiet == [NOTHING] * 26


def test_a_late_completion_counts_its_run_as_completed(edge: Edge) -> None:
    line = edge.fresh(time="2026-04-08T00:00:00Z")
    late, lost = run(line, "2026-04-10T10:00:00Z"), run(line, "2026-04-10T11:00:00Z")
    closing = fact("service_line.closed", line, time="2026-04-12T10:00:00Z")
    edge.accept(*late, *lost, closing)
    assert used(ask(edge, line, **APRIL)) == {"2026-04-10": {"cancelled": 2}}
    ending = {"tokens_used": 5}
    edge.accept(
        fact("run.completed", late[0]["subject"], ending, time="2026-04-11T10:00:00Z"),
        check_in(line, "2026-04-12T10:00:00Z", 3),
    )
    assert used(ask(edge, line, **APRIL)) == {
        "2026-04-10": {"cancelled": 1, "completed": 1},
        "2026-04-11": {"tokens_used": 5},
        "2026-04-12": {"hours": 3},
    }


def test_bounds_within_a_day_are_exact_to_the_instant(edge: Edge) -> None:
    line = edge.fresh()
    edge.accept(
        check_in(line, "2026-04-10T09:59:59.999999Z", 1),
        check_in(line, "2026-04-10T10:00:00Z", 2),
        check_in(line, "2026-04-11T12:00:00Z", 4),
        check_in(line, "2026-04-12T10:00:00Z", 8),
        check_in(line, "2026-04-12T10:00:00.000001Z", 16),
    )
    data = ask(edge, line, from_="2026-04-10T10:00:00Z", to="2026-04-12T10:00:00.000001Z")
    assert used(data) == {
        "2026-04-10": {"hours": 2}, "2026-04-11": {"hours": 4}, "2026-04-12": {"hours": 8},
    }  # fmt: skip
    assert data["total"]["hours"] == 14
    assert data["to"] == "2026-04-12T10:00:00.000001Z"
    data = ask(edge, line, from_="2026-04-10T12:00:00+02:00", to="2026-04-10T10:00:00.000001Z")
    assert used(data) == {"2026-04-10": {"hours": 2}}


def test_usage_of_the_past_leaves_out_later_check_ins_of_each_resource(edge: Edge) -> None:
    """The hours of a whole day and of a day in part are found in different ways."""
    line, resources = edge.fresh(), ("a", "b", "c", None)
    day = [check_in(line, "2026-04-10T10:00:00Z", 1, resource) for resource in resources]
    edge.accept(*day)
    edge.clock.advance(seconds=1)
    before = format_instant(edge.clock.now)
    edge.clock.advance(seconds=1)
    later = (*resources, "aa", "d")
    edge.accept(*(check_in(line, "2026-04-10T11:00:00Z", 2, resource) for resource in later))
    for bounds in (APRIL, APRIL | {"to": "2026-04-10T12:00:00Z"}):
        then = ask(edge, line, **bounds, as_of=before)["total"]["hours_by_resource"]
        assert then == [{"resource_id": resource, "hours": 1} for resource in resources]


def test_usage_without_bounds_is_that_of_the_last_30_days_including_today(edge: Edge) -> None:
    line = edge.fresh()
    edge.accept(
        check_in(line, "2026-03-16T23:59:59Z", 1),
        check_in(line, "2026-03-17T00:00:00Z", 2),
        check_in(line, "2026-04-15T12:04:00Z", 4),
    )
    data = ask(edge, line)
    assert (data["from"], data["to"]) == ("2026-03-17T00:00:00Z", "2026-04-16T00:00:00Z")
    assert (len(data["by_day"]), data["total"]["hours"]) == (30, 6)
    data = ask(edge, line, from_="2026-03-16")
    assert (len(data["by_day"]), data["total"]["hours"]) == (31, 7)
    data = ask(edge, line, to="2026-04-15")
    assert data["from"] == "2026-03-16T00:00:00Z"
    assert (len(data["by_day"]), data["total"]["hours"]) == (30, 3)
    to = ask(edge, line, to="2026-04-14T12:00:00Z")
    assert (to["from"], len(to["by_day"])) == ("2026-03-15T12:00:00Z", 31)


@pytest.mark.parametrize(
    ("start", "end", "days"),
    [
        ("2025-01-01", "2026-02-05", 400),
        ("2025-01-01T00:00:00.000001Z", "2026-02-04T23:59:59.999999Z", 400),
        ("2025-01-01", "2026-02-05T00:00:00.000001Z", None),
        ("2024-12-31T23:59:59.999999Z", "2026-02-05", None),
        ("2025-01-01", "2026-02-06", None),
        ("1900-01-01", "2099-12-31", None),
        ("2025-01-01", None, None),
        ("2025-03-12", None, 400),
        ("2025-03-11T23:00:00Z", None, None),
        (None, "1900-01-02", 30),
    ],
)
def test_a_range_of_more_than_400_days_is_a_422(
    edge: Edge, start: str | None, end: str | None, days: int | None
) -> None:
    params = {name: bound for name, bound in (("from", start), ("to", end)) if bound}
    answer = edge.get(f"/v1/execution/{edge.fresh()}/usage", params=params)
    if days is None:
        assert_problem(answer, 422, "invalid_request")
    else:
        assert len(answer.json()["data"]["by_day"]) == days
        assert answer.json()["data"]["total"] == NOTHING


def test_an_empty_range_has_no_usage(edge: Edge) -> None:
    line = edge.fresh()
    edge.accept(
        check_in(line, "2026-04-10T00:00:00Z", 1), check_in(line, "2026-04-10T09:00:00Z", 2)
    )
    data = ask(edge, line, from_="2026-04-10", to="2026-04-10")
    assert data["by_day"] == []
    assert data["total"] == NOTHING
    data = ask(edge, line, from_="2026-04-10T09:00:00Z", to="2026-04-10T09:00:00Z")
    assert used(data) == {}
    assert data["total"] == NOTHING
    # Without ``to`` the range ends with today, or where it starts if that is later.
    data = ask(edge, line, from_="2026-05-01")
    assert (data["from"], data["to"], data["by_day"]) == (*["2026-05-01T00:00:00Z"] * 2, [])


@pytest.mark.parametrize(
    "query",
    ["from=2026-04-16&to=2026-04-15", "from=today", "to=2026-04-15T12:00:00", "limit=5", "to="],
)
def test_a_wrong_parameter_is_a_422(edge: Edge, query: str) -> None:
    answer = edge.get(f"/v1/execution/{edge.fresh()}/usage?{query}")
    assert_problem(answer, 422, "invalid_request")


@pytest.mark.parametrize("most", repeated([200, 10_000]))
def test_ten_thousand_pairs_of_day_and_resource_are_an_answer_and_more_are_a_422(
    edge: Edge, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    assert stories.MAX_PAIRS == 10_000
    monkeypatch.setattr(stories, "MAX_PAIRS", most)
    line = edge.fresh()
    for day in range(1, 11):
        edge.accept(
            *(
                check_in(line, f"2026-04-{day:02}T10:00:00Z", 0.01, f"r{n}")
                for n in range(most // 10)
            )
        )
    # On a day in part a resource counts once, and not at all if all its hours were voided.
    part = {"from_": "2026-04-01", "to": "2026-04-10T12:00:00Z"}
    again = check_in(line, "2026-04-10T11:00:00Z", 0.01, "r1")
    wrong = check_in(line, "2026-04-10T11:00:00Z", 0.01, "wrong")
    void = fact("execution.check_in_voided", line, {"fact_id": wrong["id"]})
    edge.accept(again, wrong, void)
    edge.clock.advance(seconds=1)
    before = format_instant(edge.clock.now)
    for bounds in (APRIL, part):
        data = ask(edge, line, **bounds)
        assert sum(len(day["hours_by_resource"]) for day in data["by_day"]) == most
        assert data["total"]["hours"] == (most + 1) / 100
    edge.clock.advance(seconds=1)
    edge.accept(check_in(line, "2026-04-10T11:00:00Z", 0.01))
    for bounds in (APRIL, part):
        params = {name.rstrip("_"): value for name, value in bounds.items()}
        answer = edge.get(f"/v1/execution/{line}/usage", params=params)
        (error,) = assert_problem(answer, 422, "invalid_request")["errors"]
        assert error["pointer"] == "/from"
        assert error["detail"].endswith("narrow it")
        assert ask(edge, line, **bounds, as_of=before)["total"]["hours"] == (most + 1) / 100
    assert (
        ask(edge, line, **APRIL | {"from_": "2026-04-02"})["total"]["hours"]
        == (most * 9 // 10 + 2) / 100
    )
