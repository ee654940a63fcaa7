"""A line's decisions and its fold (contract 3)."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from ledger.domain import execution_events as e
from ledger.domain.errors import InvalidState, RunsNotSupported
from ledger.domain.execution import Execution
from ledger.domain.health import Signal
from ledger.domain.recorded import Event
from tests.support.domain import Given, Past, activated, fold, given_line, minute

OPERATOR = e.Paused(hold="operator", reason="o")
SERVICE = e.Paused(hold="service_line", reason="s")
BLOCKED = e.Blocked(blocker_id="b", cause="capacity_issue")
OTHER = e.Blocked(blocker_id="c", cause="approval_gap", reason="r")
UNBLOCKED, UNBLOCKED_OTHER = e.Unblocked(blocker_id="b"), e.Unblocked(blocker_id="c")
IDLE, WOKEN, CLOSED = e.WentIdle(threshold_seconds=900), e.Woken(), e.Closed()
CREW = e.Resource(type="talent", id="SCR-1")
ALLOCATED = e.ResourceAllocated(resource=CREW)
THRESHOLD = timedelta(minutes=15)


def resumed(hold: Any) -> e.Resumed:
    return e.Resumed(hold=hold)


ACCEPTED: dict[str, tuple[Given, Callable[[Any], Any], Event]] = {
    "pause": (given_line(), lambda x: x.pause("operator", "o"), OPERATOR),
    "pause by the other side": (
        given_line(SERVICE),
        lambda x: x.pause("operator", "o"),
        OPERATOR,
    ),
    "pause while blocked": (given_line(BLOCKED), lambda x: x.pause("operator", "o"), OPERATOR),
    "resume": (given_line(OPERATOR), lambda x: x.resume("operator", None), resumed("operator")),
    "block": (given_line(), lambda x: x.block("c", "approval_gap", "r"), OTHER),
    "block while held": (given_line(SERVICE), lambda x: x.block("c", "approval_gap", "r"), OTHER),
    "block again": (
        given_line(BLOCKED, UNBLOCKED),
        lambda x: x.block("b", "capacity_issue", None),
        BLOCKED,
    ),
    "unblock": (given_line(BLOCKED, OTHER), lambda x: x.unblock("b", None), UNBLOCKED),
    "update": (given_line(IDLE), lambda x: x.update(("t",)), e.Updated(project_tags=("t",))),
    "allocate": (given_line(ALLOCATED), lambda x: x.allocate(CREW), ALLOCATED),
    "release": (
        given_line(ALLOCATED),
        lambda x: x.release("SCR-1"),
        e.ResourceReleased(id="SCR-1"),
    ),
    "signal": (
        given_line(),
        lambda x: x.report_signal(Signal("sla_compliance", "red", 1, "e")),
        e.HealthSignalReported(signal="sla_compliance", status="red", value=1, evidence="e"),
    ),
    "close": (given_line(OPERATOR, BLOCKED), lambda x: x.close(None), CLOSED),
}
REFUSED: dict[str, tuple[Given, Callable[[Any], Any]]] = {
    "pause where the hold is on": (given_line(OPERATOR), lambda x: x.pause("operator", "o")),
    "resume where it is off": (given_line(), lambda x: x.resume("operator", None)),
    "resume the other side's": (given_line(SERVICE), lambda x: x.resume("operator", None)),
    "block an open id": (given_line(BLOCKED), lambda x: x.block("b", "approval_gap", None)),
    "unblock an unknown id": (given_line(BLOCKED), lambda x: x.unblock("c", None)),
    "unblock twice": (given_line(BLOCKED, UNBLOCKED), lambda x: x.unblock("b", None)),
    "release an unknown resource": (given_line(), lambda x: x.release("SCR-1")),
    "a start while held": (given_line((5, SERVICE)), lambda x: x.require_startable(minute(5))),
    "a start while blocked": (given_line((5, BLOCKED)), lambda x: x.require_startable(minute(9))),
    "a start once closed": (given_line((5, CLOSED)), lambda x: x.require_startable(minute(4))),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_a_decision_is_accepted(name: str) -> None:
    given, decide, event = ACCEPTED[name]
    given.when(decide).then(event)


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_decision_is_refused_once_closed(name: str) -> None:
    _, decide, _ = ACCEPTED[name]
    given_line(SERVICE, BLOCKED, ALLOCATED, CLOSED).when(decide).refused(InvalidState)


@pytest.mark.parametrize("name", REFUSED)
def test_a_decision_is_refused(name: str) -> None:
    given, decide = REFUSED[name]
    given.when(decide).refused(InvalidState)


@pytest.mark.parametrize(
    ("past", "state"),
    [
        ([], "running"),
        ([IDLE], "idle"),
        ([IDLE, WOKEN], "running"),
        ([BLOCKED], "blocked"),
        ([BLOCKED, OTHER, UNBLOCKED], "blocked"),
        ([OPERATOR, BLOCKED], "paused"),
        ([BLOCKED, OPERATOR], "paused"),
        ([BLOCKED, OPERATOR, resumed("operator")], "blocked"),
        ([OPERATOR, BLOCKED, UNBLOCKED], "paused"),
        ([OPERATOR, SERVICE, resumed("operator")], "paused"),
        ([OPERATOR, SERVICE, resumed("operator"), resumed("service_line")], "running"),
        ([IDLE, BLOCKED, UNBLOCKED], "running"),
        ([IDLE, OPERATOR, resumed("operator")], "running"),
        ([OPERATOR, BLOCKED, CLOSED], "closed"),
        ([IDLE, CLOSED], "closed"),
    ],
)
def test_closed_beats_paused_beats_blocked_beats_the_rest(past: list[Past], state: str) -> None:
    assert given_line(*past).aggregate.state == state


def test_a_change_takes_effect_no_earlier_than_the_one_before() -> None:
    line = given_line((10, BLOCKED), (4, OPERATOR)).aggregate
    assert line.changed_at == minute(10)
    assert line.holds["operator"].since == minute(10)
    assert line.state_since == minute(10)
    fold(line, [(11, resumed("operator"))])
    assert (line.state, line.state_since) == ("blocked", minute(11))


def test_a_second_hold_or_blocker_does_not_move_state_since() -> None:
    held = given_line((1, OPERATOR), (2, SERVICE), (3, BLOCKED), (4, resumed("operator"))).aggregate
    assert (held.state, held.state_since, held.held_since) == ("paused", minute(1), minute(1))
    assert held.blocked_since == minute(3)
    blocked = given_line((1, BLOCKED), (2, OTHER), (3, UNBLOCKED)).aggregate
    assert (blocked.state_since, blocked.blocked_since) == (minute(1), minute(1))


def test_a_new_stretch_begins_after_the_old_one_ended() -> None:
    line = given_line((1, OPERATOR), (2, resumed("operator")), (3, SERVICE)).aggregate
    assert (line.held_since, line.state_since) == (minute(3), minute(3))
    line = given_line((1, BLOCKED), (2, UNBLOCKED), (3, BLOCKED)).aggregate
    assert line.blocked_since == minute(3)


def test_a_closing_clears_holds_blockers_and_stretches() -> None:
    line = given_line((1, OPERATOR), (2, BLOCKED), (9, CLOSED)).aggregate
    assert (line.holds, line.blockers) == ({}, {})
    assert (line.held_since, line.blocked_since) == (None, None)
    assert line.closed_at == line.state_since == minute(9)


def test_what_is_no_change_leaves_the_clock_alone() -> None:
    signal = e.HealthSignalReported(signal="sla_compliance", status="red")
    past = [(5, ALLOCATED), (6, signal), (7, e.Updated(project_tags=())), (8, e.CheckedIn())]
    line = given_line(*past).aggregate
    assert (line.changed_at, line.state_since, line.version) == (minute(0), minute(0), 5)


def test_a_start_from_before_both_stretches_is_late_news() -> None:
    line = given_line((5, BLOCKED), (8, OPERATOR))
    line.when(lambda x: x.require_startable(minute(5) - timedelta(microseconds=1))).then(None)
    line.when(lambda x: x.require_startable(minute(5))).refused(InvalidState)
    later = given_line((5, BLOCKED), (8, OPERATOR), (9, UNBLOCKED))
    later.when(lambda x: x.require_startable(minute(7))).then(None)
    later.when(lambda x: x.require_startable(minute(8))).refused(InvalidState)


def test_reports_count_on_a_closed_line_up_to_its_closing() -> None:
    line = given_line((5, CLOSED))
    line.when(lambda x: x.require_open_at(minute(5))).then(None)
    line.when(lambda x: x.require_open_at(minute(5.01))).refused(InvalidState)


@pytest.mark.parametrize(
    ("model", "has_runs"),
    [
        ("agent_runtime", True),
        ("timeboxed_outcome", True),
        ("capacity", False),
        ("ongoing_sla", False),
        ("infra_managed", False),
        ("observability", False),
    ],
)
def test_two_models_have_runs(model: str, has_runs: bool) -> None:
    line = Execution("LIN-26-000001")
    fold(line, [activated(model)])
    if has_runs:
        Given(line).when(lambda x: x.require_runs()).then(None)
    else:
        Given(line).when(lambda x: x.require_runs()).refused(RunsNotSupported)


def go_idle(line: Execution, activity: float, now: float, open_runs: int = 0) -> Any:
    return line.go_idle(minute(activity), open_runs, minute(now), THRESHOLD)


def test_idle_is_due_after_the_later_of_activity_and_change() -> None:
    line = given_line((10, OPERATOR), (20, resumed("operator"))).aggregate
    assert go_idle(line, 5, 34.99) is None
    assert go_idle(line, 5, 35) == (IDLE, minute(35))
    assert go_idle(line, 30, 99) == (IDLE, minute(45))
    assert go_idle(line, 5, 99, open_runs=1) is None


@pytest.mark.parametrize("past", [[OPERATOR], [BLOCKED], [IDLE], [CLOSED]])
def test_only_a_running_line_goes_idle(past: list[Past]) -> None:
    assert go_idle(given_line(*past).aggregate, 0, 999) is None


def test_an_activity_wakes_if_it_is_recent_or_opens_a_run() -> None:
    line = given_line((15, IDLE))
    line.when(lambda x: x.wake(minute(45), False, minute(60), THRESHOLD)).then(None)
    line.when(lambda x: x.wake(minute(45.01), False, minute(60), THRESHOLD)).then(WOKEN)
    line.when(lambda x: x.wake(minute(-99), True, minute(60), THRESHOLD)).then(WOKEN)
    for past in ([], [IDLE, OPERATOR], [IDLE, BLOCKED], [IDLE, CLOSED]):
        awake = given_line(*past)
        awake.when(lambda x: x.wake(minute(60), True, minute(60), THRESHOLD)).then(None)


def test_resources_are_replaced_by_id_and_signals_keep_their_first_place() -> None:
    again = e.ResourceAllocated(resource=e.Resource(type="agent", id="SCR-1"))
    red = e.HealthSignalReported(signal="sla_compliance", status="red")
    amber = e.HealthSignalReported(signal="outcome_progress", status="amber")
    green = e.HealthSignalReported(signal="sla_compliance", status="green")
    line = given_line(ALLOCATED, again, red, amber, green).aggregate
    assert line.resources == {"SCR-1": again.resource}
    assert [(s.signal, s.status) for s in line.signals.values()] == [
        ("sla_compliance", "green"),
        ("outcome_progress", "amber"),
    ]


# How much a line shows.

LONG = "x" * 200_000


def full() -> Given:
    """A line that has room for half of a long text."""
    reasons = [e.Blocked(blocker_id=b, cause="capacity_issue", reason=LONG) for b in "bc"]
    return given_line(*reasons, e.ResourceAllocated(resource=CREW))


@pytest.mark.parametrize(
    "grow",
    [
        lambda x: x.block("d", "capacity_issue", LONG),
        lambda x: x.allocate(e.Resource(type="talent", id="SCR-2", name=LONG)),
        lambda x: x.update((LONG,)),
        lambda x: x.report_signal(Signal("sla_compliance", "red", None, LONG)),
    ],
)
def test_a_line_shows_no_more_than_512_kb(grow: Callable[[Any], Any]) -> None:
    full().when(grow).refused(InvalidState)


def test_what_is_replaced_makes_room_and_a_hold_is_never_too_much() -> None:
    signalled = e.HealthSignalReported(signal="sla_compliance", status="red", evidence=LONG)
    line = given_line(signalled, e.Updated(project_tags=(LONG,)))
    amber = e.HealthSignalReported(signal="sla_compliance", status="amber", evidence=LONG)
    line.when(lambda x: x.report_signal(Signal("sla_compliance", "amber", None, LONG))).then(amber)
    line.when(lambda x: x.update((LONG[1:],))).then(e.Updated(project_tags=(LONG[1:],)))
    held = e.Paused(hold="operator", reason=LONG)
    line.when(lambda x: x.pause("operator", LONG)).then(held)
