"""The decisions of a line, and the fold of its events (contract, State)."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.engine.values.errors import InvalidState
from ledger.engine.values.recorded import Actor, Event
from ledger.features.lines.model import execution_events as e
from ledger.features.lines.model.execution import Execution
from ledger.features.lines.model.health import Signal
from tests.support.domain import (
    ACTIVATED,
    NOTHING,
    Past,
    after,
    at_minute,
    given,
    happen,
    minute,
    recorded,
)

OPERATOR_PAUSED = e.Paused(hold="operator", reason="o")
OPERATOR_RESUMED = e.Resumed(hold="operator")
SERVICE_PAUSED = e.Paused(hold="service_line", reason="s")
B_BLOCKED = e.Blocked(blocker_id="b", cause="capacity_issue")
B_UNBLOCKED = e.Unblocked(blocker_id="b")
C_BLOCKED = e.Blocked(blocker_id="c", cause="approval_gap", reason="r")
WENT_IDLE, WOKEN, CLOSED = e.WentIdle(threshold_seconds=900), e.Woken(), e.Closed()
CREW = e.Resource(type="talent", id="SCR-1")
ALLOCATED, RELEASED = e.ResourceAllocated(resource=CREW), e.ResourceReleased(id="SCR-1")
SIGNAL_RED = e.HealthSignalReported(signal="sla_compliance", status="red", value=1, evidence="e")
THRESHOLD = timedelta(minutes=15)

PAUSE, RESUME = (Execution.pause, "operator", "o"), (Execution.resume, "operator", None)
BLOCK_B = (Execution.block, "b", "capacity_issue", None)
BLOCK_C = (Execution.block, "c", "approval_gap", "r")
UNBLOCK_B, UNBLOCK_C = (Execution.unblock, "b", None), (Execution.unblock, "c", None)
RELEASE = (Execution.release, "SCR-1")


@pytest.mark.parametrize(
    ("past", "command", "event"),
    [
        ([], PAUSE, OPERATOR_PAUSED),
        ([SERVICE_PAUSED], PAUSE, OPERATOR_PAUSED),
        ([B_BLOCKED], PAUSE, OPERATOR_PAUSED),
        ([OPERATOR_PAUSED], RESUME, OPERATOR_RESUMED),
        ([], BLOCK_C, C_BLOCKED),
        ([SERVICE_PAUSED], BLOCK_C, C_BLOCKED),
        ([B_BLOCKED, B_UNBLOCKED], BLOCK_B, B_BLOCKED),
        ([B_BLOCKED, C_BLOCKED], UNBLOCK_B, B_UNBLOCKED),
        ([WENT_IDLE], (Execution.update, ("t",), None), e.Updated(project_tags=("t",))),
        ([ALLOCATED], (Execution.allocate, CREW), ALLOCATED),
        ([ALLOCATED], RELEASE, RELEASED),
        ([], (Execution.report_signal, Signal("sla_compliance", "red", 1, "e")), SIGNAL_RED),
        ([OPERATOR_PAUSED, B_BLOCKED], (Execution.close, None), CLOSED),
    ],
)
def test_an_open_line_accepts_a_command_and_a_closed_line_refuses_it(
    past: list[Past], command: Any, event: Event
) -> None:
    given(ACTIVATED, *past).when(*command).then(event)
    # A closed line refuses every command.
    closed = given(ACTIVATED, SERVICE_PAUSED, B_BLOCKED, ALLOCATED, CLOSED)
    closed.when(*command).then(InvalidState)


@pytest.mark.parametrize(
    ("past", "command"),
    [
        pytest.param([OPERATOR_PAUSED], PAUSE, id="pause under a hold of the same side"),
        pytest.param([OPERATOR_PAUSED, B_BLOCKED], PAUSE, id="pause again beside a blocker"),
        pytest.param([], RESUME, id="resume without a hold"),
        pytest.param([SERVICE_PAUSED], RESUME, id="resume the other side's hold"),
        pytest.param([B_BLOCKED], BLOCK_B, id="block under an open id"),
        pytest.param([B_BLOCKED], UNBLOCK_C, id="unblock an unknown id"),
        pytest.param([B_BLOCKED, B_UNBLOCKED], UNBLOCK_B, id="unblock twice"),
        pytest.param([], RELEASE, id="release an unknown resource"),
    ],
)
def test_a_command_that_contradicts_the_lines_state_is_refused(
    past: list[Past], command: Any
) -> None:
    given(ACTIVATED, *past).when(*command).then(InvalidState)


def test_a_second_hold_or_blocker_does_not_move_state_since() -> None:
    held = after(
        ACTIVATED,
        at_minute(1, OPERATOR_PAUSED),
        at_minute(2, SERVICE_PAUSED),
        at_minute(3, B_BLOCKED),
        at_minute(4, OPERATOR_RESUMED),
    )
    assert (held.state, held.state_since, held.held_since) == ("paused", minute(1), minute(1))
    assert held.blocked_since == minute(3)
    blocked = after(
        ACTIVATED, at_minute(1, B_BLOCKED), at_minute(2, C_BLOCKED), at_minute(3, B_UNBLOCKED)
    )
    assert (blocked.state_since, blocked.blocked_since) == (minute(1), minute(1))


def test_held_since_and_blocked_since_begin_anew_after_the_last_hold_or_blocker_ended() -> None:
    line = after(
        ACTIVATED,
        at_minute(1, OPERATOR_PAUSED),
        at_minute(2, OPERATOR_RESUMED),
        at_minute(3, SERVICE_PAUSED),
    )
    assert (line.held_since, line.state_since) == (minute(3), minute(3))
    line = after(
        ACTIVATED, at_minute(1, B_BLOCKED), at_minute(2, B_UNBLOCKED), at_minute(3, B_BLOCKED)
    )
    assert line.blocked_since == minute(3)


# The end of a hold.

UNTIL_30 = e.Paused(hold="operator", reason="o", until=minute(30))
LIFTED = e.Resumed(hold="operator", reason="until")


def test_a_hold_is_changed_without_being_lifted_and_put_on_where_there_is_none() -> None:
    again, until = Execution.pause_anew, minute(90)
    changed = e.HoldChanged(hold="operator", reason="n", until=until)
    held = given(ACTIVATED, SERVICE_PAUSED, at_minute(5, UNTIL_30))
    held.when(again, "operator", "n", until).then(changed)
    held.when(again, "operator", "o", None).then(e.HoldChanged(hold="operator", reason="o"))
    held.when(again, "operator", "o", minute(30)).then(NOTHING)
    for past in ([], [SERVICE_PAUSED], [OPERATOR_PAUSED, OPERATOR_RESUMED]):
        given(ACTIVATED, *past).when(again, "operator", "o", minute(30)).then(UNTIL_30)
    given(ACTIVATED, UNTIL_30, CLOSED).when(again, "operator", "n", None).then(InvalidState)


def test_a_changed_hold_keeps_since_and_the_states_beginning_and_has_the_actor_of_the_change() -> (
    None
):
    line = after(ACTIVATED, at_minute(5, UNTIL_30))
    changed = e.HoldChanged(hold="operator", reason="n", until=minute(90))
    line.apply(recorded(changed, 3, minute(20), actor=Actor("user", "USR-2")))
    hold = line.holds["operator"]
    assert (hold.reason, hold.since, hold.until) == ("n", minute(5), minute(90))
    assert hold.by == Actor("user", "USR-2")
    assert (line.state_since, line.held_since, line.changed_at) == (minute(5),) * 3
    happen(line, OPERATOR_RESUMED, changed)
    assert (line.state, line.holds) == ("running", {}), "a hold that is off is not changed"


def test_the_operators_hold_is_due_at_its_end_and_not_before() -> None:
    lift, moment = Execution.lift_due, timedelta(microseconds=1)
    held = given(ACTIVATED, SERVICE_PAUSED, B_BLOCKED, UNTIL_30)
    held.when(lift, minute(30) - moment).then(NOTHING)
    held.when(lift, minute(30)).then((LIFTED, minute(30)))
    held.when(lift, minute(999)).then((LIFTED, minute(30)))
    extended = e.HoldChanged(hold="operator", until=minute(60))
    given(ACTIVATED, UNTIL_30, extended).when(lift, minute(59)).then(NOTHING)
    given(ACTIVATED, UNTIL_30, extended).when(lift, minute(60)).then((LIFTED, minute(60)))
    endless = e.HoldChanged(hold="operator")
    for more in ([OPERATOR_RESUMED], [CLOSED], [endless], [OPERATOR_RESUMED, OPERATOR_PAUSED]):
        given(ACTIVATED, UNTIL_30, *more).when(lift, minute(999)).then(NOTHING)


# The start of a run.


# Idleness.


def test_a_line_goes_idle_a_threshold_after_the_later_of_activity_and_change() -> None:
    resumed = given(ACTIVATED, at_minute(10, OPERATOR_PAUSED), at_minute(20, OPERATOR_RESUMED))
    go_idle = Execution.go_idle
    resumed.when(go_idle, minute(5), 0, minute(34.99), THRESHOLD).then(NOTHING)
    resumed.when(go_idle, minute(5), 0, minute(35), THRESHOLD).then((WENT_IDLE, minute(35)))
    resumed.when(go_idle, minute(30), 0, minute(99), THRESHOLD).then((WENT_IDLE, minute(45)))


def test_a_line_with_an_open_run_does_not_go_idle() -> None:
    one_open_run = (minute(5), 1, minute(99), THRESHOLD)
    given(ACTIVATED).when(Execution.go_idle, *one_open_run).then(NOTHING)


@pytest.mark.parametrize("past", [OPERATOR_PAUSED, B_BLOCKED, WENT_IDLE, CLOSED])
def test_only_a_running_line_goes_idle(past: Past) -> None:
    long_ago = (minute(0), 0, minute(999), THRESHOLD)
    given(ACTIVATED, past).when(Execution.go_idle, *long_ago).then(NOTHING)


def test_an_activity_wakes_an_idle_line_if_it_is_recent_or_opens_a_run() -> None:
    now, wake = minute(60), Execution.wake
    idle = given(ACTIVATED, at_minute(15, WENT_IDLE))
    idle.when(wake, minute(45), False, now, THRESHOLD).then(NOTHING)
    idle.when(wake, minute(45.01), False, now, THRESHOLD).then(WOKEN)
    idle.when(wake, minute(-99), True, now, THRESHOLD).then(WOKEN)


@pytest.mark.parametrize("more", [[], [WENT_IDLE, OPERATOR_PAUSED], [WENT_IDLE, B_BLOCKED],
                                  [WENT_IDLE, CLOSED]])  # fmt: skip
def test_an_activity_wakes_no_line_that_is_not_idle(more: list[Past]) -> None:
    now = minute(60)
    given(ACTIVATED, *more).when(Execution.wake, now, True, now, THRESHOLD).then(NOTHING)


def test_a_line_has_the_name_of_its_activation_until_an_update_replaces_it() -> None:
    named = replace(ACTIVATED, name="Backend team")
    renamed = e.Updated(project_tags=(), name="Core team")
    assert after(ACTIVATED).name is None
    assert after(named).name == "Backend team"
    assert after(named, renamed).name == "Core team"
    assert after(named, renamed, e.Updated(project_tags=())).name is None


# The size of a line.

LONG = "x" * 200_000


@pytest.mark.parametrize(
    "command",
    [
        (Execution.block, "d", "capacity_issue", LONG),
        (Execution.allocate, e.Resource(type="talent", id="SCR-2", name=LONG)),
        (Execution.update, (LONG,), None),
        (Execution.report_signal, Signal("sla_compliance", "red", None, LONG)),
    ],
)
def test_a_command_that_would_let_a_line_show_more_than_512_kb_is_refused(command: Any) -> None:
    long_b = e.Blocked(blocker_id="b", cause="capacity_issue", reason=LONG)
    long_c = e.Blocked(blocker_id="c", cause="capacity_issue", reason=LONG)
    given(ACTIVATED, long_b, long_c, ALLOCATED).when(*command).then(InvalidState)


def test_a_full_line_accepts_replacements_of_its_values_and_a_hold() -> None:
    red = e.HealthSignalReported(signal="sla_compliance", status="red", evidence=LONG)
    amber = e.HealthSignalReported(signal="sla_compliance", status="amber", evidence=LONG)
    tags, other_tags = e.Updated(project_tags=(LONG,)), e.Updated(project_tags=(LONG[1:],))
    held = e.Paused(hold="operator", reason=LONG)
    full = given(ACTIVATED, red, tags)
    report_amber = (Execution.report_signal, Signal("sla_compliance", "amber", None, LONG))
    full.when(*report_amber).then(amber)
    full.when(Execution.update, (LONG[1:],), None).then(other_tags)
    full.when(Execution.pause, "operator", LONG).then(held)
