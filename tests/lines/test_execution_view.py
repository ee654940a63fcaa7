"""The view of lines: events in, rows out."""

from datetime import date, datetime, timedelta
from typing import Any

from ledger.engine.values.recorded import Recorded
from ledger.features.lines.model import execution_events as e
from ledger.features.runs.model import run as r
from projections.lines.counts import COUNT, CountRow
from projections.lines.hours import DAY, DayRow
from projections.lines.rank import NEVER_DUE, NO_SCORE, RANK, RankRow
from projections.lines.rows import (
    ACTIVITY,
    EXECUTION,
    EXECUTION_VERSION,
    FOREVER,
    INTERVAL,
    QUIET,
    RESOURCE,
    STEP,
    TAG,
    ActivityRow,
    ExecutionRow,
    IntervalRow,
    QuietRow,
    ResourceRow,
    StepRow,
    TagRow,
    VersionRow,
)
from projections.lines.view import ExecutionView
from tests.support.domain import START, activated, minute, recorded
from tests.support.view_rows import given

LINE, ORG, WS, TAGGED = "LIN-26-000001", "ORG-26-000001", "WS-26-000001", "PROJ-26-000001"
KEY = RECORD = 26_000_000_000_001
BEGUN = recorded(activated("capacity", project_tags=(TAGGED,)), 1)
BLOCKED = recorded(
    e.Blocked(blocker_id="b", cause="approval_gap", assignee="USR-1", due_at=minute(60)),
    2,
    minute(1),
)
CHECKED_IN = recorded(e.CheckedIn(hours=7.5, resource_id="SCR-1"), 2, minute(2))

HEAD = (
    '"id":"RUN-26-000001","service_line_id":"LIN-26-000001","execution_model":"capacity",'
    '"state":"{state}","workspace_id":"WS-26-000001","organization_id":"ORG-26-000001",'
    '"product_line":"ods",'
    '"project_tags":["PROJ-26-000001"],"state_since":"{since}","health_status":null,'
    '"started_at":"2026-04-15T12:00:00Z","name":null,"health_score":null,"oldest_blocker":'
)
BLOCKER = (
    '{"id":"b","cause":"approval_gap","reason":null,"since":"2026-04-15T12:01:00Z",'
    '"assignee":"USR-1","due_at":"2026-04-15T13:00:00Z"'
)
EXTRA = (
    '"resources":[],"health":{"score":null,"status":null,"signals":[]},'
    '"blockers":%s,"holds":[],"closed_at":null'
)
RUNNING = HEAD.format(state="running", since="2026-04-15T12:00:00Z") + "null", EXTRA % "[]"
STUCK = (
    HEAD.format(state="blocked", since="2026-04-15T12:01:00Z") + BLOCKER + "}",
    EXTRA % f'[{BLOCKER},"reported_by":"KEY-26-000001"}}]',
)
COUNTED = '"last_activity_at":"2026-04-15T12:00:00Z","open_runs":0'


def interval(opened: int, ended: int, **more: Any) -> IntervalRow:
    values: dict[str, Any] = {
        "since": START,
        "state_since": START,
        "turned": True,
        "state": "running",
        "causes": (),
        "open_blockers": 0,
        "health_score": None,
        "position": max(opened, ended if ended != FOREVER else 0),
    }
    return IntervalRow(
        line_key=KEY,
        opened=opened,
        ended=ended,
        project_tags=(TAGGED,),
        record_key=RECORD,
        organization_id=ORG,
        workspace_id=WS,
        execution_model="capacity",
        product_line="ods",
        **values | more,
    )


def step(position: int, **more: Any) -> StepRow:
    values: dict[str, Any] = dict.fromkeys(StepRow._fields)
    values |= {"line_key": KEY, "position": position, "last_activity_at": START}
    return StepRow(**values | {"hours_total": 0, "open_runs": 0} | more)


def counted(
    state: str, causes: tuple[str, ...], lines: int, position: int, health: str = "none"
) -> list[CountRow]:
    line = (ORG, "capacity", "ods", state, health, causes, lines, position)
    return [
        CountRow("organization", "", "", *line),
        CountRow("workspace", "", WS, *line),
        CountRow("project_tag", TAGGED, WS, *line),
    ]


def rank(state: str, since: datetime, position: int, **more: Any) -> RankRow:
    values: dict[str, Any] = {"causes": (), "health_score": NO_SCORE, "health_status": "none"}
    values |= {"assignees": [], "unassigned": False, "due_at": NEVER_DUE}
    return RankRow(
        line_id=LINE,
        newest=-RECORD,
        organization_id=ORG,
        workspace_id=WS,
        execution_model="capacity",
        product_line="ods",
        state=state,
        state_since=since,
        stretch_since=since,
        blocked_since=since if state == "blocked" else None,
        position=position,
        **values | more,
    )


def test_an_activation_makes_a_line_with_its_first_interval() -> None:
    written = given(ExecutionView()).when(BEGUN)
    written.then(
        EXECUTION,
        ExecutionRow(
            line_id=LINE,
            line_key=KEY,
            record_key=RECORD,
            organization_id=ORG,
            workspace_id=WS,
            execution_model="capacity",
            product_line="ods",
            activated=1,
            project_tags=(TAGGED,),
            state="running",
            causes=(),
            head=RUNNING[0],
            extra=RUNNING[1],
            quiet='"hours_this_week":0.0,',
            position=1,
        ),
    )
    written.then(
        ACTIVITY,
        ActivityRow(
            line_id=LINE,
            organization_id=ORG,
            workspace_id=WS,
            counts=COUNTED,
            metrics='"hours_total":0.0,"health_score":null',
            period_1=None,
            now_1=None,
            period_2=None,
            now_2=None,
            fold=b"",
            position=1,
        ),
    )
    written.then(RANK, rank("running", START, 1))
    written.then(TAG, TagRow(LINE, TAGGED, True, RECORD, ORG, WS, 1)).then(RESOURCE)
    written.then(QUIET, QuietRow(LINE, "capacity", START, START, None, 1))
    written.then(INTERVAL, interval(1, FOREVER))
    written.then(COUNT, *counted("running", (), 1, 1))
    written.then(EXECUTION_VERSION, VersionRow(KEY, 1, None, *RUNNING))
    written.then(STEP, step(1))
    written.then(DAY)


def test_a_blocker_ends_an_interval_and_moves_the_line_to_the_counts_of_blocked_lines() -> None:
    written = given(ExecutionView(), BEGUN).when(BLOCKED)
    after = {
        "state": "blocked",
        "causes": ("approval_gap",),
        "since": minute(1),
        "state_since": minute(1),
        "open_blockers": 1,
    }
    written.then(INTERVAL, interval(1, 2), interval(2, FOREVER, **after))
    written.then(COUNT, *counted("running", (), 0, 2), *counted("blocked", ("approval_gap",), 1, 2))
    written.then(EXECUTION_VERSION, VersionRow(KEY, 2, None, *STUCK))
    written.then(QUIET, QuietRow(LINE, "capacity", None, None, None, 2))
    due = {"assignees": ["USR-1"], "due_at": minute(60)}
    written.then(RANK, rank("blocked", minute(1), 2, causes=("approval_gap",), **due))
    written.then(TAG).then(STEP).then(DAY)


def test_a_check_in_adds_to_its_day_and_to_the_metrics() -> None:
    written = given(ExecutionView(), BEGUN).when(CHECKED_IN)
    week = {"period_1": date(2026, 4, 13), "amount_1": 750}
    written.then(STEP, step(2, last_activity_at=minute(2), hours_total=750, **week))
    written.then(DAY, DayRow(KEY, 2, minute(2), 750, date(2026, 4, 15), 1, "SCR-1"))
    written.then(EXECUTION_VERSION).then(INTERVAL).then(COUNT)
    (row,) = written.rows(ACTIVITY)
    assert (row.period_1, row.now_1) == (date(2026, 4, 13), '"hours_this_week":7.5,')
    assert row.position == 2


def test_a_check_in_writes_no_row_with_an_index_of_lists() -> None:
    """The update of the line's row of activity then stays within its page (HOT)."""
    written = given(ExecutionView(), BEGUN).when(CHECKED_IN)
    written.then(EXECUTION).then(RANK).then(TAG).then(RESOURCE)


def test_the_row_of_a_line_has_the_position_of_its_own_event_in_a_batch_too() -> None:
    later = recorded(e.CheckedIn(), 3, minute(3))
    (row,) = given(ExecutionView(), BEGUN).when(BLOCKED, later).rows(EXECUTION)
    assert (row.state, row.position) == ("blocked", 2)


def test_a_resource_is_the_lines_from_its_allocation_to_its_release() -> None:
    resource = e.Resource(id="SCR-1", type="person", name="Ada")
    allocated = recorded(e.ResourceAllocated(resource=resource), 2, minute(1))
    released = recorded(e.ResourceReleased(id="SCR-1"), 3, minute(2))
    row = ResourceRow(LINE, "SCR-1", True, RECORD, ORG, WS, 2)
    given(ExecutionView(), BEGUN).when(allocated).then(RESOURCE, row)
    again = recorded(e.ResourceAllocated(resource=resource), 3, minute(2))
    given(ExecutionView(), BEGUN, allocated).when(again).then(RESOURCE)
    gone = row._replace(present=False, position=3)
    given(ExecutionView(), BEGUN, allocated).when(released).then(RESOURCE, gone)


def test_a_void_subtracts_the_hours_from_the_day_of_the_check_in() -> None:
    body = e.CheckInVoided(
        fact_id="f", reason="r", hours=7.5, checked_in_at=minute(2), resource_id="SCR-1"
    )
    written = given(ExecutionView(), BEGUN, CHECKED_IN).when(recorded(body, 3, minute(9)))
    written.then(DAY, DayRow(KEY, 3, minute(2), 0, date(2026, 4, 15), 0, "SCR-1"))


def test_a_check_in_without_hours_counts_on_its_day() -> None:
    bare = recorded(e.CheckedIn(), 3, minute(3))
    written = given(ExecutionView(), BEGUN, CHECKED_IN).when(bare)
    written.then(DAY, DayRow(KEY, 3, minute(3), 0, date(2026, 4, 15), 1, ""))


def test_a_step_has_no_period_that_had_ended_when_the_event_was_recorded() -> None:
    late = recorded(e.CheckedIn(hours=2), 2, START - timedelta(days=7), recorded_at=START)
    step_of = given(ExecutionView(), BEGUN).when(late).rows(STEP)
    assert step_of == [step(2, hours_total=200)]
    early = recorded(e.CheckedIn(hours=2), 2, START + timedelta(days=7), recorded_at=START)
    now = recorded(e.CheckedIn(hours=1), 3, START, recorded_at=START)
    _, last = given(ExecutionView(), BEGUN).when(early, now).rows(STEP)
    assert (last.period_1, last.amount_1) == (date(2026, 4, 20), 200)
    assert (last.period_2, last.amount_2) == (date(2026, 4, 13), 100)


def test_an_event_that_changes_no_number_adds_no_step() -> None:
    late = recorded(e.CheckedIn(), 3, minute(1))
    assert given(ExecutionView(), BEGUN, CHECKED_IN).when(late).rows(STEP) == []


def test_a_changed_health_score_begins_an_interval_that_is_no_turning_point() -> None:
    red = recorded(e.HealthSignalReported(signal="sla_compliance", status="red"), 2, minute(1))
    written = given(ExecutionView(), BEGUN).when(red)
    after = interval(2, FOREVER, turned=False, health_score=69)
    written.then(INTERVAL, interval(1, 2), after).then(STEP)
    written.then(RANK, rank("running", START, 2, health_score=69, health_status="amber"))
    moved = [*counted("running", (), 0, 2), *counted("running", (), 1, 2, "amber")]
    written.then(COUNT, *moved)
    again = recorded(e.HealthSignalReported(signal="sla_compliance", status="red"), 3, minute(2))
    given(ExecutionView(), BEGUN, red).when(again).then(INTERVAL).then(RANK).then(COUNT)


def test_a_second_blocker_of_the_same_cause_begins_an_interval_that_is_no_turning_point() -> None:
    second = recorded(e.Blocked(blocker_id="c", cause="approval_gap"), 3, minute(2))
    (_, after) = given(ExecutionView(), BEGUN, BLOCKED).when(second).rows(INTERVAL)
    assert (after.opened, after.turned, after.open_blockers) == (3, False, 2)


def test_a_removed_tag_keeps_its_row_which_says_that_the_tag_is_not_present() -> None:
    written = given(ExecutionView(), BEGUN).when(recorded(e.Updated(project_tags=()), 2))
    written.then(TAG, TagRow(LINE, TAGGED, False, RECORD, ORG, WS, 2))
    written.then(
        INTERVAL, interval(1, 2), interval(2, FOREVER, turned=False)._replace(project_tags=())
    )


def test_a_line_is_a_candidate_for_lifting_while_its_hold_has_an_end() -> None:
    paused = recorded(e.Paused(hold="operator", until=minute(30)), 2, minute(1))
    changed = recorded(e.HoldChanged(hold="operator", until=minute(20)), 3, minute(2))
    resumed = recorded(e.Resumed(hold="operator"), 4, minute(3))
    held = given(ExecutionView(), BEGUN).when(paused)
    held.then(QUIET, QuietRow(LINE, "capacity", None, None, minute(30), 2))
    shortened = given(ExecutionView(), BEGUN, paused).when(changed)
    shortened.then(QUIET, QuietRow(LINE, "capacity", None, None, minute(20), 3))
    shortened.then(RANK).then(INTERVAL).then(COUNT)
    lifted = given(ExecutionView(), BEGUN, paused, changed).when(resumed)
    lifted.then(QUIET, QuietRow(LINE, "capacity", minute(3), minute(3), None, 4))


def test_a_line_with_an_open_run_is_no_candidate_for_idling() -> None:
    begun = recorded(activated(), 1)
    requested = r.RunRequested(run_id_origin="issued")
    run: Recorded = recorded(requested, 1, minute(1), originator_id="RUN-26-000009", position=2)
    written = given(ExecutionView(), begun).when(run)
    written.then(QUIET, QuietRow(LINE, "agent_runtime", None, None, None, 2)).then(
        EXECUTION_VERSION
    )
