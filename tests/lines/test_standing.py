"""State and health side by side where they disagree, and each value once."""

from typing import Any

import pytest

from ledger.features.lines.page.standing import says
from tests.support.edge import Edge
from tests.support.facts import fact
from tests.support.visitor import Visited, visitor


def signalled(line_id: str, **statuses: str) -> list[dict[str, Any]]:
    """Reports of signals, by name."""
    return [
        fact("health.signal_reported", line_id, {"signal": name, "status": status})
        for name, status in statuses.items()
    ]


def blocked(line_id: str, blocker_id: str, cause: str) -> dict[str, Any]:
    return fact("execution.blocked", line_id, {"blocker_id": blocker_id, "cause": cause})


def page_of(edge: Edge, line_id: str) -> Visited:
    return visitor(edge).get(f"/ui/lines/{line_id}")


@pytest.mark.parametrize(
    ("signals", "causes", "text"),
    [
        (["green"], ["policy_violation"],
         "Blocked by a policy violation. All health signals are green."),
        (["green", "amber"], ["policy_violation", "approval_gap"],
         "Blocked by an approval gap and a policy violation."
         " Health is green: of 2 signals, 1 amber."),
        (["green"], None, "Paused by a service line hold. All health signals are green."),
        (["red", "red", "amber"], [],
         "The line is running. Health is red: of 3 signals, 2 red and 1 amber."),
        # Nothing where state and health agree.
        ([], ["approval_gap"], None),
        (["green"], [], None),
        (["red", "red"], ["approval_gap"], None),
    ],
)  # fmt: skip
def test_a_line_says_where_its_state_and_its_health_disagree(
    edge: Edge, signals: list[str], causes: list[str] | None, text: str | None
) -> None:
    """Without causes, the line is paused."""
    line_id = edge.fresh()
    names = ("sla_compliance", "agent_error_rate", "outcome_progress")
    edge.accept(*signalled(line_id, **dict(zip(names, signals, strict=False))))
    edge.accept(*(blocked(line_id, f"B-{cause}", cause) for cause in causes or ()))
    if causes is None:
        edge.accept(fact("service_line.paused", line_id, {"reason": "Office move"}))
    assert page_of(edge, line_id).words(".contrast") == ([] if text is None else [text])


@pytest.mark.parametrize(
    ("value", "evidence", "is_in_evidence"),
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
    value: Any, evidence: Any, is_in_evidence: bool
) -> None:
    assert says(evidence, value) is is_in_evidence


def test_a_signal_shows_its_value_once(edge: Edge) -> None:
    line_id = edge.fresh()
    report = {"signal": "hours_on_target", "status": "green", "value": 97, "evidence": "97 % done"}
    edge.accept(fact("health.signal_reported", line_id, report))
    (text,) = page_of(edge, line_id).words(".signals li")
    assert text == "Hours on target green 0 points 97 % done"


@pytest.mark.parametrize(
    ("model", "has_runs"),
    [("capacity", False), ("observability", False), ("ongoing_sla", False),
     ("infra_managed", False), ("agent_runtime", True)],
)  # fmt: skip
def test_only_lines_with_runs_show_open_runs_and_no_metric_repeats_the_score(
    edge: Edge, model: str, has_runs: bool
) -> None:
    line_id = edge.fresh(model)
    edge.accept(*signalled(line_id, sla_compliance="green"))
    page = page_of(edge, line_id)
    (metrics,) = page.words("section[aria-labelledby=h-metrics]")
    assert has_runs or page.all("#h-runs") == []
    assert ("Open runs" in metrics) is has_runs
    assert "Health score" not in metrics
