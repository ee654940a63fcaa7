"""State and health side by side where they disagree, and each value once."""

from typing import Any

import pytest

from ledger.features.lines.page.standing import says
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import Seen, visitor


def signalled(line_id: str, **statuses: str) -> list[dict[str, Any]]:
    """Reports of signals, by name."""
    return [
        fact("health.signal_reported", line_id, {"signal": name, "status": status})
        for name, status in statuses.items()
    ]


def blocked(line_id: str, blocker_id: str, cause: str) -> dict[str, Any]:
    return fact("execution.blocked", line_id, {"blocker_id": blocker_id, "cause": cause})


def page_of(edge: Edge, line_id: str) -> Seen:
    return visitor(edge).get(f"/ui/lines/{line_id}")


def test_a_blocked_line_with_green_signals_says_both(edge: Edge) -> None:
    line_id = edge.fresh()
    edge.accept(
        *signalled(line_id, sla_compliance="green"), blocked(line_id, "B", "policy_violation")
    )
    said = "Blocked by a policy violation. All health signals are green."
    assert page_of(edge, line_id).words(".contrast") == [said]
    edge.accept(
        *signalled(line_id, incident_frequency="amber"), blocked(line_id, "C", "approval_gap")
    )
    said = (
        "Blocked by an approval gap and a policy violation. Health is green: of 2 signals, 1 amber."
    )
    assert page_of(edge, line_id).words(".contrast") == [said]


def test_a_paused_line_with_green_signals_says_both(edge: Edge) -> None:
    line_id = edge.fresh()
    pause = fact("service_line.paused", line_id, {"reason": "Office move"})
    edge.accept(*signalled(line_id, sla_compliance="green"), pause)
    said = "Paused by a service line hold. All health signals are green."
    assert page_of(edge, line_id).words(".contrast") == [said]


def test_a_line_at_work_with_bad_signals_says_both(edge: Edge) -> None:
    line_id = edge.fresh()
    signals = {"sla_compliance": "red", "agent_error_rate": "red", "outcome_progress": "amber"}
    edge.accept(*signalled(line_id, **signals))
    said = "The line is running. Health is red: of 3 signals, 2 red and 1 amber."
    assert page_of(edge, line_id).words(".contrast") == [said]


def test_nothing_is_said_where_state_and_health_agree(edge: Edge) -> None:
    silent, well, ill = edge.fresh(), edge.fresh(), edge.fresh()
    both = {"sla_compliance": "red", "agent_error_rate": "red"}
    edge.accept(
        blocked(silent, "B", "approval_gap"),
        *signalled(well, sla_compliance="green"),
        *signalled(ill, **both),
        blocked(ill, "B", "approval_gap"),
    )
    for line_id in (silent, well, ill):
        assert page_of(edge, line_id).words(".contrast") == []


@pytest.mark.parametrize(
    ("value", "evidence", "is_said"),
    [
        (97, "97 % of the committed hours", True),
        (97.0, "97 % of the committed hours", True),
        (1234, "1,234 tickets", True),
        ("P1", "P1 of last night", True),
        (0.76, "Tasks done at 0.76 of the baseline rate", True),
        (0.76, "Tasks done at 10.76 of the baseline rate", False),
        (9, "97 % of the committed hours", False),
        (97, "97.5 % of the committed hours", False),
        (7, "0 incidents in the last 7 days", False),
        (True, "True", False),
        (None, "no data", False),
        (5, None, False),
        ("", "empty", False),
    ],
)
def test_a_value_that_the_evidence_tells_is_not_repeated(
    value: Any, evidence: Any, is_said: bool
) -> None:
    assert says(evidence, value) is is_said


def test_a_signal_shows_its_value_once(edge: Edge) -> None:
    line_id = edge.fresh()
    report = {"signal": "hours_on_target", "status": "green", "value": 97, "evidence": "97 % done"}
    edge.accept(fact("health.signal_reported", line_id, report))
    (shown,) = page_of(edge, line_id).words(".signals li")
    assert shown == "Hours on target green 0 points 97 % done"


@pytest.mark.parametrize(
    ("model", "has_runs"),
    [("capacity", False), ("observability", False), ("agent_runtime", True)],
)
def test_only_lines_with_runs_show_open_runs_and_no_metric_repeats_the_score(
    edge: Edge, model: str, has_runs: bool
) -> None:
    line_id = edge.fresh(model)
    edge.accept(*signalled(line_id, sla_compliance="green"))
    (metrics,) = page_of(edge, line_id).words("section[aria-labelledby=h-metrics]")
    assert ("Open runs" in metrics) is has_runs
    assert "Health score" not in metrics
