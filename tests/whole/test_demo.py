"""The demo's story is accepted, and gives the promised data."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple

import psycopg
import pytest

from ledger.app import demo
from ledger.app.composition.database import prepare_reading
from ledger.app.composition.writing import writing
from ledger.app.demo.cast import LEAD, closing_of, people_of
from ledger.app.demo.closing import Closer
from ledger.app.demo.people import SignIns
from ledger.app.demo.telling import tell
from ledger.app.demo.watching import watch_acts
from ledger.app.settings import Settings
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.values.values import CAUSES, EXECUTION_MODELS, PRODUCT_LINES
from ledger.engine.writer.request import Outcome, Receipt
from ledger.features.facts.fact_types import FACT_TYPES
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import copied
from tests.support.edge import edge_of
from tests.support.ledger import working
from tests.support.log_checker import LogChecker, check
from tests.support.model import STATES, STATUSES, Model
from tests.support.service import Clock
from tests.support.soak import repeated
from tests.support.views import query, until

Fact = dict[str, Any]

instant = datetime.fromisoformat

MOMENTS = {
    "a Wednesday morning": datetime(2026, 4, 15, 9, 12, 45, tzinfo=UTC),
    "a new year, elsewhere": datetime(
        2027, 1, 1, 1, 0, 30, 500_000, tzinfo=timezone(timedelta(hours=1))
    ),
    "a Sunday night": datetime(2026, 8, 2, 3, 0, 0, tzinfo=UTC),
    "a leap day": datetime(2028, 2, 29, 23, 59, 59, tzinfo=UTC),
}

RECORDED_AT = "SELECT notification_id, recorded_at FROM ledger.ledger_events"

IDLE_AT = "SELECT recorded_at FROM ledger.ledger_events WHERE topic = 'execution.idle/1'"


class Story(NamedTuple):
    """The log after the demo was loaded: its model, and what the checker found in it."""

    model: Model
    log: LogChecker
    idle_at: list[datetime]
    """The instants at which lines went idle while the demo was loaded."""
    statements: list[dict[str, Any]]
    changes: dict[str, Any]
    """The changes since the statement, as the API answers them at the end of the story."""
    names: dict[str, str]
    """The names of persons, by their ids."""
    sessions: list[Any]
    """The sessions that have not ended."""


@pytest.fixture(scope="module", params=repeated(MOMENTS.values()), ids=list(MOMENTS))
def now(request: pytest.FixtureRequest) -> datetime:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def facts(now: datetime) -> list[Fact]:
    return list(demo.story(now))


@pytest.fixture(scope="module")
def demo_log(server: EmbeddedPostgres, facts: list[Fact], now: datetime) -> Story:
    settings = Settings(master_key=MASTER_KEY)
    with copied(server.url, "told_demo") as conninfo:
        closing, organization = closing_of(utc(now)), demo.PRIMARY_ORGANIZATION
        acts = [
            Closer(conninfo, prepare_reading(settings, conninfo), closing),
            *watch_acts(conninfo, organization, LEAD, utc(now)),
            SignIns(organization, people_of(closing), utc(now) - timedelta(hours=4)),
        ]
        with writing(settings, conninfo, lambda: utc(now)) as writer:
            outcomes = list(tell(writer, iter(facts), lambda _: None, acts))
        assert len(outcomes) == len(facts)
        assert [outcome for outcome in outcomes if not is_recorded(outcome)] == []
        with working(conninfo, settings, Clock(now.astimezone(UTC))) as ledger:
            idle_at = [at for (at,) in query(conninfo, IDLE_AT)]
            names = dict(query(conninfo, "SELECT sub, name FROM ledger.person"))
            sessions = query(conninfo, "SELECT session_id FROM ledger.session")
            ledger.sweep()
            model, log = Model(ledger.events()), check(conninfo)
        with edge_of(settings, conninfo, Clock(utc(now) + timedelta(minutes=1))) as edge:
            token = edge.token("read", organization_id=demo.PRIMARY_ORGANIZATION)
            statements = edge.data("/v1/statements", token)
            changes = edge.data(f"/v1/statements/{statements[0]['id']}/changes", token)
        return Story(model, log, idle_at, statements, changes, names, sessions)


def utc(now: datetime) -> datetime:
    return now.astimezone(UTC)


def is_recorded(outcome: Outcome) -> bool:
    return isinstance(outcome, Receipt) and not outcome.duplicate


@pytest.fixture(scope="module")
def demo_model(demo_log: Story) -> Model:
    return demo_log.model


def test_a_story_of_which_an_append_failed_is_recorded_whole_with_each_fact_at_its_time(
    facts: list[Fact], now: datetime, conninfo: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The clock of the story kept the instants of the failed append: all later facts were refused.

    The append waits for a lock, and gives up.
    """
    settings, some = Settings(master_key=MASTER_KEY), facts[:900]
    holder = psycopg.connect(conninfo)
    released = threading.Thread(target=lambda: release(holder, caplog))

    def story() -> Iterator[Fact]:
        for number, each in enumerate(some):
            if number == 400:
                holder.execute("LOCK TABLE ledger.append_lock IN EXCLUSIVE MODE")
                released.start()
            yield each

    with holder, writing(settings, conninfo, lambda: now.astimezone(UTC)) as writer:
        outcomes = list(tell(writer, story(), lambda _: None))
        released.join()
    assert len(outcomes) == len(some)
    assert [outcome for outcome in outcomes if not isinstance(outcome, Receipt)] == []
    recorded_at = dict(query(conninfo, RECORDED_AT))
    for event, outcome in zip(some, outcomes, strict=True):
        assert isinstance(outcome, Receipt)
        assert recorded_at[outcome.position] - instant(event["time"]) < timedelta(seconds=1), event


def release(holder: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture) -> None:
    """Give back the lock once an append has failed by it."""
    until(lambda: "an append failed" in caplog.text, "an append that fails", 60.0)
    holder.rollback()


def test_the_story_is_sound_and_has_runs_that_failed_by_their_leases(demo_log: Story) -> None:
    log = demo_log.log
    assert log.findings == []
    assert log.leases == {}
    assert len(log.expired) >= 1
    assert {expiry.seconds for expiry in log.expired.values()} == {600}


def test_lines_go_idle_on_many_days_of_the_story(demo_log: Story) -> None:
    assert len({at.date() for at in demo_log.idle_at}) > 10


def test_every_fact_has_a_utc_time_a_complete_actor_or_none_and_no_null_value(
    facts: list[Fact],
) -> None:
    assert len(facts) > 5_000
    for fact in facts:
        assert fact["time"].endswith("Z")
        assert ("actortype" in fact) == ("actorid" in fact)
        assert None not in fact["data"].values()


def test_the_same_now_gives_the_same_story_byte_for_byte(facts: list[Fact], now: datetime) -> None:
    again = list(demo.story(now.astimezone(UTC)))
    assert json.dumps(again) == json.dumps(facts)


def test_a_now_without_an_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="offset"):
        demo.story(datetime(2026, 4, 15))


def test_finance_closed_the_last_full_month_and_two_reports_came_late(
    demo_log: Story, now: datetime
) -> None:
    (statement,) = demo_log.statements
    start, end = instant(statement["from"]), instant(statement["to"])
    assert (start.day, end.day, end.month) == (1, 1, utc(now).month)
    assert end < instant(statement["issued_at"]) < min(end + timedelta(days=2), utc(now))
    assert instant(statement["issued_at"]) > instant(statement["as_of"])
    assert statement["issued_by"]["type"] == "user"
    assert statement["total"]["lines"] >= 3
    assert statement["total"]["hours"] > 20
    assert demo_log.changes["changed"]
    assert demo_log.changes["total"]["then"] == statement["total"]
    moved = {row["now"]["hours"] - row["then"]["hours"]: row for row in demo_log.changes["rows"]}
    assert moved.pop(7.5)["events"]
    moved.pop(0, None)  # Tokens are corrected late, too.
    ((hours, voided),) = moved.items()
    assert hours < 0
    assert (len(voided["events"]), voided["event_count"]) == (1, 1)


def test_people_have_signed_in_and_out_and_have_names(demo_log: Story) -> None:
    topics = {name.partition("/")[0]: count for name, count in demo_log.log.topics.items()}
    assert topics["session.begun"] == topics["session.ended"] == len(demo_log.names) >= 10
    assert demo_log.names[LEAD] == "Priya Nair"
    assert not demo_log.sessions


def test_watches_alerted_the_lead_who_takes_care_of_some_alerts_and_some_are_over(
    demo_log: Story,
) -> None:
    topics = {name.partition("/")[0]: count for name, count in demo_log.log.topics.items()}
    assert topics["watch.created"] == 6
    assert topics["alert.opened"] >= 8
    assert topics["alert.acknowledged"] >= 4
    assert 2 <= topics["alert.resolved"] <= topics["alert.opened"] - 4


def test_facts_are_sorted_by_time_but_a_late_one_and_end_moments_before_now(
    facts: list[Fact], now: datetime
) -> None:
    late = [fact for fact in facts if fact["id"].endswith("-late")]
    assert len(late) == 1
    times = [instant(fact["time"]) for fact in facts if fact not in late]
    assert times == sorted(times)
    assert now - timedelta(minutes=1) < times[-1] < now
    assert timedelta(weeks=5) < times[-1] - times[0] < timedelta(weeks=7)


def test_cycles_have_names_and_those_after_a_failed_cycle_are_a_part_of_it(
    facts: list[Fact],
) -> None:
    begun = [f for f in facts if f["type"] == "run.requested" and f["source"] == "/ods/cycles"]
    names = [fact["data"]["external_id"] for fact in begun]
    assert len(names) == len(set(names)) > 10
    ended = {f["subject"] for f in facts if f["type"] == "run.failed"}
    failed = {f["data"]["external_id"] for f in begun if f["subject"] in ended}
    parents = {f["data"].get("parent_external_id") for f in begun} - {None}
    assert parents
    assert parents <= failed


def test_agents_try_some_failed_runs_again_under_their_names(facts: list[Fact]) -> None:
    failed = {fact["subject"] for fact in facts if fact["type"] == "run.failed"}
    begun = [fact for fact in facts if fact["type"] in ("run.requested", "run.started")]
    tried = [fact for fact in begun if " task " in fact["data"].get("external_id", "")]
    again = {f["data"]["external_id"] for f in tried if f["data"].get("attempt") == 2}
    first = {f["data"]["external_id"]: f["subject"] for f in tried if "attempt" not in f["data"]}
    assert len(again) > 20
    assert {first[name] for name in again} <= failed
    assert all(len(fact["traceparent"]) == 55 for fact in tried)


def test_no_two_facts_share_source_and_id(facts: list[Fact]) -> None:
    assert len({(fact["source"], fact["id"]) for fact in facts}) == len(facts)


def test_ids_are_well_formed_and_carry_this_year_or_the_year_of_the_seed(
    facts: list[Fact], now: datetime
) -> None:
    years = {f"{now.astimezone(UTC):%y}", "26"}
    mentioned = set(re.findall(r"\b[A-Z]{2,6}-\d[\d-]*\d", json.dumps(facts)))
    assert len(mentioned) > 4_900
    for id in mentioned | {fact["subject"] for fact in facts}:
        shape = re.fullmatch(r"SCR-\d{6}|([A-Z]+)-(\d\d)-\d{6}", id)
        assert shape is not None, id
        assert shape[2] is None or shape[2] in years, id


def test_the_story_has_its_promised_size(demo_model: Model) -> None:
    lines = demo_model.lines.values()
    assert {line.organization for line in lines} == set(demo.ORGANIZATIONS)
    assert 55 <= len(lines) <= 65
    assert 4_900 <= len(demo_model.runs) <= 5_200
    pairs = {(line.product_line, line.execution_model) for line in lines}
    assert len(pairs) == 6
    assert dict(pairs).keys() == set(PRODUCT_LINES)
    assert set(dict(pairs).values()) == set(EXECUTION_MODELS)
    for organization, workspaces in demo.WORKSPACES.items():
        owned = {line.workspace for line in lines if line.organization == organization}
        assert owned == set(workspaces)


def test_the_story_uses_every_fact_type_run_status_and_trigger(
    facts: list[Fact], demo_model: Model
) -> None:
    assert {fact["type"] for fact in facts} == set(FACT_TYPES)
    assert {run.status for run in demo_model.runs.values()} == set(STATUSES)
    triggers = {run.triggered_by["type"] for run in demo_model.runs.values()}
    assert triggers == {"api", "user", "agent", "schedule", "system"}


def test_most_runs_of_agents_name_their_models_and_some_are_corrected_once_or_twice(
    facts: list[Fact], demo_model: Model
) -> None:
    counted = [run for run in demo_model.runs.values() if run.tokens_used]
    assert len(counted) > 4_000
    named = [run for run in counted if run.token_usage]
    assert 0.8 < len(named) / len(counted) < 0.9
    assert {len(run.token_usage or ()) for run in named} == {1, 2}
    assert any(run.status == "cancelled" for run in named)
    corrected = Counter(f["subject"] for f in facts if f["type"] == "run.usage_corrected")
    assert 0.01 < len(corrected) / len(counted) < 0.025
    assert set(corrected.values()) == {1, 2}


def test_the_board_shows_every_state_in_both_organizations(demo_model: Model) -> None:
    for organization in demo.ORGANIZATIONS:
        owned = [line for line in demo_model.lines.values() if line.organization == organization]
        states = Counter(line.state for line in owned)
        assert set(states) == set(STATES)
        assert states["running"] >= 10


def test_at_least_ten_lines_had_activity_within_the_last_15_minutes(
    demo_model: Model, now: datetime
) -> None:
    lines = demo_model.lines.values()
    fresh = [line for line in lines if now - line.last_activity_at < timedelta(minutes=15)]
    assert len(fresh) >= 10
    assert {"talent", "agent_gateway"} <= {line.product_line for line in fresh}


def test_blockers_cover_every_cause_and_have_reasons_and_some_lines_have_two(
    demo_model: Model,
) -> None:
    blockers = [list(line.blockers.values()) for line in demo_model.lines.values()]
    assert {blocker["cause"] for some in blockers for blocker in some} == set(CAUSES)
    assert all(blocker["reason"] for some in blockers for blocker in some)
    assert sum(len(some) == 2 for some in blockers) >= 2


def test_lines_have_names_and_every_workspace_and_most_projects_too(facts: list[Fact]) -> None:
    begun = [fact["data"] for fact in facts if fact["type"] == "service_line.activated"]
    assert all(data["name"] for data in begun)
    named = {fact["subject"]: fact for fact in facts if fact["type"] == "directory.named"}
    assert all(fact["data"]["name"] for fact in named.values())
    assert {data["workspace_id"] for data in begun} <= named.keys()
    assert {tag for data in begun for tag in data["project_tags"]} <= named.keys()
    tags = {tag for fact in facts for tag in fact["data"].get("project_tags", ())}
    assert tags - named.keys()


def test_open_blockers_say_who_should_act_by_when_or_that_nobody_is_named_yet(
    demo_model: Model,
) -> None:
    some = [b for line in demo_model.lines.values() for b in line.blockers.values()]
    assert {("assignee" in blocker, "due_at" in blocker) for blocker in some} == {
        (True, True),
        (True, False),
        (False, False),
    }


def test_health_signals_cover_every_status_with_value_and_evidence_and_scores_vary(
    demo_model: Model,
) -> None:
    reports = [signal for line in demo_model.lines.values() for signal in line.signals.values()]
    assert {report["status"] for report in reports} == {"green", "amber", "red"}
    assert all("value" in report and report["evidence"] for report in reports)
    scores = [line.score for line in demo_model.lines.values() if line.score is not None]
    assert max(scores) == 100
    assert min(scores) < 50
    assert any(50 <= score < 70 for score in scores)


def test_the_lines_of_the_seed_exist_and_only_they_bring_record_ids(
    facts: list[Fact], demo_model: Model
) -> None:
    bringing = [fact for fact in facts if "execution_id" in fact["data"]]
    brought = {fact["subject"]: fact["data"]["execution_id"] for fact in bringing}
    assert brought == {"LIN-26-084729": "RUN-26-000419", "LIN-26-091100": "RUN-26-000388"}
    assert {demo_model.lines[line].record for line in brought} == set(brought.values())
    assert "SCR-128491" in demo_model.lines["LIN-26-084729"].resources
    assert demo_model.lines["LIN-26-084729"].tags == ["PROJ-26-004281"]
    numbers = sorted(int(run_id.rsplit("-")[-1]) for run_id in demo_model.runs)
    assert numbers == list(range(100_001, 100_001 + len(demo_model.runs)))
