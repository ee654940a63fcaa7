"""Metrics follow ``time``, not arrival, and are correct at every instant (contract, State)."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.support.facts import fact
from tests.support.ledger import Ledger, new_id

HOURS = ["capacity", "ongoing_sla"]
COUNTS = ["infra_managed", "observability"]
# Around Monday, 20 April 2026, 00:00Z.
SUNDAY_LATE = datetime(2026, 4, 19, 23, 58, tzinfo=UTC)
MONDAY = "2026-04-20T00:00:00Z"
SUNDAY_END = "2026-04-19T23:59:59.999999Z"


def check_in(line: str, hours: float | None = None, **attributes: Any) -> dict[str, Any]:
    return fact("execution.checked_in", line, {"hours": hours}, **attributes)


def start(line: str, **attributes: Any) -> dict[str, Any]:
    return fact("run.started", new_id("RUN"), {"service_line_id": line}, **attributes)


@pytest.mark.parametrize(
    ("model", "metrics"),
    [
        ("capacity", {"hours_this_week": 0, "hours_total": 0, "health_score": None}),
        ("ongoing_sla", {"hours_this_week": 0, "hours_total": 0, "health_score": None}),
        (
            "agent_runtime",
            {"invocations_today": 0, "invocations_total": 0, "last_run_duration_ms": None},
        ),
        (
            "timeboxed_outcome",
            {"cycles_total": 0, "cycles_completed": 0, "last_run_duration_ms": None},
        ),
        ("infra_managed", {"check_ins_this_week": 0, "health_score": None}),
        ("observability", {"check_ins_this_week": 0, "health_score": None}),
    ],
)
def test_a_new_line_shows_every_metric_of_its_model(
    own_ledger: Ledger, model: str, metrics: dict[str, Any]
) -> None:
    assert own_ledger.metrics(own_ledger.line(model)) == metrics


@pytest.mark.parametrize("model", HOURS)
def test_hours_are_added_as_decimals(own_ledger: Ledger, model: str) -> None:
    line = own_ledger.line(model)
    own_ledger.report(*(check_in(line, 0.1) for _ in range(10)), check_in(line, 1_000_000))
    own_ledger.accept(check_in(line), check_in(line, 0.29))
    metrics = own_ledger.metrics(line)
    assert metrics["hours_this_week"] == metrics["hours_total"] == 1_000_001.29


@pytest.mark.parametrize("model", HOURS)
def test_hours_of_the_week_reset_on_monday_at_midnight_without_an_event(
    own_ledger: Ledger, model: str
) -> None:
    line = own_ledger.line(model)
    own_ledger.accept(check_in(line, 8, time="2026-04-13T00:00:00Z"))
    own_ledger.accept(check_in(line, 4, time="2026-04-12T23:59:59Z"))
    assert own_ledger.metrics(line)["hours_this_week"] == 8
    own_ledger.clock.now = datetime(2026, 4, 19, 23, 59, 59, 999_999, tzinfo=UTC)
    assert own_ledger.metrics(line)["hours_this_week"] == 8
    own_ledger.clock.advance(microseconds=1)
    metrics = own_ledger.metrics(line)
    assert (metrics["hours_this_week"], metrics["hours_total"]) == (0, 12)


@pytest.mark.parametrize("model", COUNTS)
def test_check_ins_of_the_week_are_counted_unless_voided(own_ledger: Ledger, model: str) -> None:
    line = own_ledger.line(model)
    first, second = check_in(line), check_in(line, 3)
    own_ledger.accept(first, second, check_in(line, time="2026-04-12T23:59:59Z"))
    assert own_ledger.metrics(line)["check_ins_this_week"] == 2
    own_ledger.accept(fact("execution.check_in_voided", line, {"fact_id": first["id"]}))
    assert own_ledger.metrics(line)["check_ins_this_week"] == 1
    own_ledger.clock.advance(days=7)
    assert own_ledger.metrics(line)["check_ins_this_week"] == 0


def test_an_early_check_in_counts_in_its_own_week(own_ledger: Ledger) -> None:
    line = own_ledger.line("capacity")
    own_ledger.accept(check_in(line, 2))
    own_ledger.clock.now = SUNDAY_LATE
    own_ledger.accept(
        check_in(line, 1, time="2026-04-20T00:02:00Z"), check_in(line, 4, time=MONDAY)
    )
    own_ledger.accept(check_in(line, 8, time=SUNDAY_END))
    assert own_ledger.metrics(line)["hours_this_week"] == 10
    own_ledger.clock.advance(minutes=3)
    assert own_ledger.metrics(line)["hours_this_week"] == 5
    assert own_ledger.metrics(line)["hours_total"] == 15


def test_a_late_check_in_counts_in_its_own_week(own_ledger: Ledger) -> None:
    line = own_ledger.line("capacity")
    old = check_in(line, 1, time="2026-01-01T10:00:00Z")
    own_ledger.accept(check_in(line, 2), old, check_in(line, 4, time="2026-04-08T10:00:00Z"))
    own_ledger.clock.now = SUNDAY_LATE
    own_ledger.accept(check_in(line, 8, time="2026-04-20T00:01:00Z"))
    own_ledger.accept(fact("execution.check_in_voided", line, {"fact_id": old["id"]}))
    metrics = own_ledger.metrics(line)
    assert (metrics["hours_this_week"], metrics["hours_total"]) == (2, 14)
    own_ledger.clock.now = datetime(2026, 4, 20, 9, tzinfo=UTC)
    own_ledger.accept(check_in(line, 16, time="2026-04-15T10:00:00Z"))
    metrics = own_ledger.metrics(line)
    assert (metrics["hours_this_week"], metrics["hours_total"]) == (8, 30)


def test_a_void_subtracts_the_hours_from_the_week_of_its_check_in(own_ledger: Ledger) -> None:
    line = own_ledger.line("ongoing_sla")
    first = check_in(line, 7)
    own_ledger.accept(first)
    own_ledger.clock.advance(days=7)
    own_ledger.accept(check_in(line, 2))
    own_ledger.accept(fact("execution.check_in_voided", line, {"fact_id": first["id"]}))
    metrics = own_ledger.metrics(line)
    assert (metrics["hours_this_week"], metrics["hours_total"]) == (2, 2)


def test_invocations_of_the_day_count_started_runs_and_reset_at_midnight(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line()
    own_ledger.accept(start(line, time="2026-04-14T23:59:59.999999Z"))
    own_ledger.accept(start(line, time="2026-04-15T00:00:00Z"))
    own_ledger.run(line, started=False)
    own_ledger.accept(start(line, time="2026-04-15T01:30:00+02:00"))
    metrics = own_ledger.metrics(line)
    assert (metrics["invocations_today"], metrics["invocations_total"]) == (1, 3)
    own_ledger.clock.now = datetime(2026, 4, 16, tzinfo=UTC)
    metrics = own_ledger.metrics(line)
    assert (metrics["invocations_today"], metrics["invocations_total"]) == (0, 3)


def test_a_run_reported_before_midnight_for_the_next_day_counts_on_the_next_day(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line()
    own_ledger.accept(start(line))
    own_ledger.clock.now = datetime(2026, 4, 15, 23, 57, tzinfo=UTC)
    own_ledger.accept(start(line, time="2026-04-16T00:01:00Z"), start(line))
    own_ledger.accept(start(line, time="2026-04-14T09:00:00Z"))
    assert own_ledger.metrics(line)["invocations_today"] == 2
    own_ledger.clock.advance(minutes=3)
    assert own_ledger.metrics(line)["invocations_today"] == 1
    assert own_ledger.metrics(line)["invocations_total"] == 4


def test_the_last_run_duration_is_that_of_the_latest_ending_not_of_the_latest_report(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line()
    runs = [own_ledger.run(line, time=own_ledger.ago(minutes=30)) for _ in range(5)]

    def end(type: str, run: str, minutes: int, **data: Any) -> None:
        own_ledger.accept(fact(type, run, data, time=own_ledger.ago(minutes=minutes)))
        values.append(own_ledger.metrics(line)["last_run_duration_ms"])

    values: list[int | None] = []
    end("run.completed", runs[0], 10, duration_ms=1)
    end("run.failed", runs[1], 5, duration_ms=2)
    end("run.completed", runs[2], 7, duration_ms=3)
    end("run.cancelled", runs[3], 1)
    end("run.completed", runs[4], 5, duration_ms=4)  # at equal instants the later report wins
    assert values == [1, 2, 2, 2, 4]


def test_cycles_are_counted_when_their_run_starts_and_when_it_completes(own_ledger: Ledger) -> None:
    line = own_ledger.line("timeboxed_outcome")
    own_ledger.run(line, started=False)
    runs = [own_ledger.run(line) for _ in range(3)]
    own_ledger.accept(
        fact("run.completed", runs[0], {"duration_ms": 9}), fact("run.failed", runs[1])
    )
    own_ledger.accept(fact("service_line.closed", line, time=own_ledger.at(minutes=1)))
    metrics = own_ledger.metrics(line)
    assert (metrics["cycles_total"], metrics["cycles_completed"]) == (3, 1)
    own_ledger.accept(
        fact("run.completed", runs[2], {"duration_ms": 8}, time=own_ledger.at(seconds=9))
    )
    metrics = own_ledger.metrics(line)
    assert (metrics["cycles_total"], metrics["cycles_completed"]) == (3, 2)
    assert metrics["last_run_duration_ms"] == 8


SIGNALS = [
    "hours_on_target", "sla_compliance", "delivery_velocity", "capacity_utilisation",
    "incident_frequency", "agent_error_rate", "outcome_progress",
]  # fmt: skip


@pytest.mark.parametrize("model", ["capacity", "ongoing_sla", "infra_managed", "observability"])
def test_health_is_shown_in_the_detail_the_head_and_the_metrics_of_a_line(
    own_ledger: Ledger, model: str
) -> None:
    line = own_ledger.line(model)
    assert own_ledger.detail(line)["health"] == {"score": None, "status": None, "signals": []}
    for signal, status in zip(reversed(SIGNALS), ["red", "amber", "amber"], strict=False):
        own_ledger.accept(
            fact("health.signal_reported", line, {"signal": signal, "status": status})
        )
    detail = own_ledger.detail(line)
    assert (detail["health"]["score"], detail["health"]["status"]) == (57, "amber")
    assert detail["health_status"] == "amber"
    assert detail["metrics"]["health_score"] == 57
    assert [signal["signal"] for signal in detail["health"]["signals"]] == SIGNALS[:-4:-1]


def test_health_signals_keep_the_order_of_first_report_and_show_the_latest_report(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line()
    for signal, status, value in (
        ("outcome_progress", "red", None),
        ("sla_compliance", "amber", 0.5),
        ("outcome_progress", "green", {"a": [1, 2.5]}),
    ):
        data = {"signal": signal, "status": status, "value": value, "evidence": "e"}
        own_ledger.accept(fact("health.signal_reported", line, data))
    first, second = own_ledger.detail(line)["health"]["signals"]
    assert first == {
        "signal": "outcome_progress",
        "status": "green",
        "value": {"a": [1, 2.5]},
        "evidence": "e",
    }
    assert second["value"] == 0.5


def test_views_continue_correctly_from_stored_rows_after_their_memory_is_dropped(
    own_ledger: Ledger,
) -> None:
    line = own_ledger.line("capacity", project_tags=['a"b\\c', "{x,y}", "NULL", "ü"])
    first = check_in(line, 2)
    own_ledger.accept(first, fact("service_line.paused", line, {"reason": '"\\'}))
    own_ledger.detail(line)
    own_ledger.projector.forget()
    own_ledger.accept(
        fact("execution.check_in_voided", line, {"fact_id": first["id"]}), check_in(line, 3)
    )
    detail = own_ledger.detail(line)
    assert detail["metrics"]["hours_total"] == 3
    assert detail["project_tags"] == ['a"b\\c', "{x,y}", "NULL", "ü"]
    assert (
        own_ledger.rows("SELECT project_tags FROM ledger.execution")[0]["project_tags"]
        == (detail["project_tags"])
    )
    assert detail["holds"][0]["reason"] == '"\\'
