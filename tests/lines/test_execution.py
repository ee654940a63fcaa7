"""The decisions of a line, and the fold of its events (contract, State)."""

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from ledger.engine.values.errors import InvalidState, RunsNotSupported
from ledger.engine.values.recorded import Actor, Event
from ledger.features.lines.model import execution_events as e
from ledger.features.lines.model.execution import Execution
from ledger.features.lines.model.health import Signal
from tests.support.domain import (
    ACTIVATED,
    NOTHING,
    Past,
    activated,
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
SERVICE_RESUMED = e.Resumed(hold="service_line")
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


@pytest.mark.parametrize(
    ("past", "state"),
    [
        ([], "running"),
        ([WENT_IDLE], "idle"),
        ([WENT_IDLE, WOKEN], "running"),
        ([B_BLOCKED], "blocked"),
        ([B_BLOCKED, C_BLOCKED, B_UNBLOCKED], "blocked"),
        ([OPERATOR_PAUSED, B_BLOCKED], "paused"),
        ([B_BLOCKED, OPERATOR_PAUSED], "paused"),
        ([B_BLOCKED, OPERATOR_PAUSED, OPERATOR_RESUMED], "blocked"),
        ([OPERATOR_PAUSED, B_BLOCKED, B_UNBLOCKED], "paused"),
        ([OPERATOR_PAUSED, SERVICE_PAUSED, OPERATOR_RESUMED], "paused"),
        ([OPERATOR_PAUSED, SERVICE_PAUSED, OPERATOR_RESUMED, SERVICE_RESUMED], "running"),
        ([WENT_IDLE, B_BLOCKED, B_UNBLOCKED], "running"),
        ([WENT_IDLE, OPERATOR_PAUSED, OPERATOR_RESUMED], "running"),
        ([OPERATOR_PAUSED, B_BLOCKED, CLOSED], "closed"),
        ([WENT_IDLE, CLOSED], "closed"),
    ],
)
def test_closed_takes_precedence_over_paused_over_blocked_over_idle_and_running(
    past: list[Past], state: str
) -> None:
    assert after(ACTIVATED, *past).state == state


def test_a_change_takes_effect_no_earlier_than_the_previous_change() -> None:
    line = after(ACTIVATED, at_minute(10, B_BLOCKED), at_minute(4, OPERATOR_PAUSED))
    assert line.changed_at == minute(10)
    assert line.holds["operator"].since == minute(10)
    assert line.state_since == minute(10)
    happen(line, at_minute(11, OPERATOR_RESUMED))
    assert (line.state, line.state_since) == ("blocked", minute(11))


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


def test_a_closing_clears_holds_and_blockers_and_their_times() -> None:
    line = after(
        ACTIVATED, at_minute(1, OPERATOR_PAUSED), at_minute(2, B_BLOCKED), at_minute(9, CLOSED)
    )
    assert (line.holds, line.blockers) == ({}, {})
    assert (line.held_since, line.blocked_since) == (None, None)
    assert line.closed_at == line.state_since == minute(9)


def test_an_event_that_changes_no_state_leaves_the_time_of_the_last_change_alone() -> None:
    line = after(
        ACTIVATED,
        at_minute(5, ALLOCATED),
        at_minute(6, SIGNAL_RED),
        at_minute(7, e.Updated(project_tags=())),
        at_minute(8, e.CheckedIn()),
    )
    assert (line.changed_at, line.state_since, line.version) == (minute(0), minute(0), 5)


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


def test_a_start_is_refused_while_the_line_is_held_or_blocked_and_once_it_is_closed() -> None:
    start = Execution.require_startable
    given(ACTIVATED, at_minute(5, SERVICE_PAUSED)).when(start, minute(5)).then(InvalidState)
    given(ACTIVATED, at_minute(5, B_BLOCKED)).when(start, minute(9)).then(InvalidState)
    given(ACTIVATED, at_minute(5, CLOSED)).when(start, minute(4)).then(InvalidState)


def test_a_start_that_occurred_before_the_line_was_held_or_blocked_is_accepted() -> None:
    start, moment = Execution.require_startable, timedelta(microseconds=1)
    both = given(ACTIVATED, at_minute(5, B_BLOCKED), at_minute(8, OPERATOR_PAUSED))
    both.when(start, minute(5) - moment).then(NOTHING)
    both.when(start, minute(5)).then(InvalidState)
    held = given(
        ACTIVATED,
        at_minute(5, B_BLOCKED),
        at_minute(8, OPERATOR_PAUSED),
        at_minute(9, B_UNBLOCKED),
    )
    held.when(start, minute(7)).then(NOTHING)
    held.when(start, minute(8)).then(InvalidState)


def test_a_closed_line_accepts_reports_that_occurred_up_to_its_closing() -> None:
    closed = given(ACTIVATED, at_minute(5, CLOSED))
    closed.when(Execution.require_open_at, minute(5)).then(NOTHING)
    closed.when(Execution.require_open_at, minute(5.01)).then(InvalidState)


@pytest.mark.parametrize("model", ["agent_runtime", "timeboxed_outcome"])
def test_two_execution_models_have_runs(model: str) -> None:
    given(activated(model)).when(Execution.require_runs).then(NOTHING)


@pytest.mark.parametrize("model", ["capacity", "ongoing_sla", "infra_managed", "observability"])
def test_the_four_continuous_execution_models_have_no_runs(model: str) -> None:
    given(activated(model)).when(Execution.require_runs).then(RunsNotSupported)


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


def test_resources_are_replaced_by_id_and_signals_keep_their_first_place() -> None:
    again = e.ResourceAllocated(resource=e.Resource(type="agent", id="SCR-1"))
    amber = e.HealthSignalReported(signal="outcome_progress", status="amber")
    green = e.HealthSignalReported(signal="sla_compliance", status="green")
    line = after(ACTIVATED, ALLOCATED, again, SIGNAL_RED, amber, green)
    assert line.resources == {"SCR-1": again.resource}
    assert [(s.signal, s.status) for s in line.signals.values()] == [
        ("sla_compliance", "green"),
        ("outcome_progress", "amber"),
    ]


def test_a_line_has_the_name_of_its_activation_until_an_update_replaces_it() -> None:
    named = replace(ACTIVATED, name="Backend team")
    renamed = e.Updated(project_tags=(), name="Core team")
    assert after(ACTIVATED).name is None
    assert after(named).name == "Backend team"
    assert after(named, renamed).name == "Core team"
    assert after(named, renamed, e.Updated(project_tags=())).name is None


def test_a_blocker_keeps_its_assignee_due_date_and_reporter_while_it_is_open() -> None:
    assigned = e.Blocked(
        blocker_id="b", cause="approval_gap", assignee="USR-26-000044", due_at=minute(90)
    )
    given(ACTIVATED).when(
        Execution.block, "b", "approval_gap", None, "USR-26-000044", minute(90)
    ).then(assigned)
    (blocker,) = after(ACTIVATED, assigned).blockers.values()
    assert (blocker.assignee, blocker.due_at) == ("USR-26-000044", minute(90))
    assert blocker.reported_by == "KEY-26-000001"


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
