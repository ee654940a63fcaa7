"""A random workload through two writers: tables and views equal a fold of the raw log."""

import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from ledger.app.settings import Settings
from ledger.engine.values.recorded import Identity
from ledger.engine.values.values import format_instant
from ledger.engine.writer import group, memory
from ledger.engine.writer.command import Command
from ledger.features.facts import envelope
from ledger.features.facts.report import command_of
from ledger.features.lines.commands.lines import Pause, Resume
from ledger.features.runs.commands import EraseRun
from tests.support.decision_tables import assert_decision_tables_match_log
from tests.support.facts import ORGANIZATION, activation, encode, fact
from tests.support.ledger import REPORTER, Ledger, instant, working
from tests.support.log_checker import check
from tests.support.model import Model
from tests.support.soak import repeated

MODELS = ["agent_runtime", "timeboxed_outcome", "capacity", "observability"]
LINES = [f"LIN-26-00000{n}" for n in range(1, 10)]
RUNS = [f"RUN-26-{n:06d}" for n in range(1, 40)]
NAMES = [f"build {n}" for n in range(90)]
CAUSES = ["approval_gap", "capacity_issue", "policy_violation", "delivery_blocker"]
SIGNALS = ["sla_compliance", "delivery_velocity", "outcome_progress"]


class Chance:
    """Random facts about few lines and runs, so that refusals and successes are both common."""

    def __init__(self, seed: int, ledger: Ledger) -> None:
        self.random, self.ledger = random.Random(seed), ledger
        self.sent: list[dict[str, Any]] = []
        self.recorded: list[dict[str, Any]] = []

    def time(self) -> dict[str, str]:
        if self.random.random() < 0.3:
            return {}
        behind = timedelta(seconds=self.random.choice([-200, 0, 1, 60, 899, 900, 5_000, 90_000]))
        return {"time": format_instant(self.ledger.clock.now - behind)}

    def command(self) -> Command:
        line, pick = self.random.choice(LINES), self.random.choice
        if self.random.random() < 0.5:
            return Resume(line, REPORTER, reason="r")
        ahead = pick([None, 1, 500, 30_000])
        until = None if ahead is None else self.ledger.clock.now + timedelta(seconds=ahead)
        return Pause(line, REPORTER, reason=pick("rs"), until=until, replace=pick([True, False]))

    def fact(self) -> dict[str, Any]:
        if self.recorded and self.random.random() < 0.2:
            return self.random.choice(self.recorded)
        event = self._new() | self.time()
        self.sent.append(event)
        return event

    def _new(self) -> dict[str, Any]:
        pick, line = self.random.choice, self.random.choice(LINES)
        run = pick([None, *RUNS])
        blocker = {"blocker_id": pick("ab")}
        resource = {"id": pick("rs")}
        begun = {"service_line_id": line, "input": {"n": pick([1, 2.0])}}
        begun |= {"external_id": pick([None, *NAMES]), "parent_run_id": pick([None] * 9 + [run])}
        named = {"external_id": pick(NAMES)}
        signal = {"signal": pick(SIGNALS), "status": pick(["green", "amber", "red"])}
        check_ins = [e["id"] for e in self.sent if e["type"] == "execution.checked_in"]
        kinds: list[tuple[float, dict[str, Any]]] = [
            (3, activation(line, pick(MODELS), execution_id=pick([None, *RUNS[:9]]))),
            (1, fact("service_line.updated", line, {"project_tags": [pick("xyz")]})),
            (3, fact("service_line.paused", line)),
            (4, fact("service_line.resumed", line)),
            (0.3, fact("service_line.closed", line)),
            (8, fact("execution.checked_in", line, {"hours": pick([0, 1.25, None])})),
            (4, fact("execution.check_in_voided", line, {"fact_id": pick([*check_ins, "none"])})),
            (3, fact("execution.blocked", line, blocker | {"cause": pick(CAUSES)})),
            (4, fact("execution.unblocked", line, blocker)),
            (2, fact("resource.allocated", line, resource | {"type": "t"})),
            (2, fact("resource.released", line, resource)),
            (2, fact("health.signal_reported", line, signal)),
            (9, fact("run.requested", run, begun)),
            (9, fact("run.started", run, begun)),
            (9, fact("run.completed", run or RUNS[0], {"tokens_used": 5})),
            (4, fact("run.failed", run or RUNS[0])),
            (3, fact("run.cancelled", run or RUNS[0])),
            (5, fact("run.completed", pick([None, run]), named)),
            (3, fact("run.failed", None, named)),
            (3, fact("run.started", pick([None, run]), named)),
        ]
        weights = [weight for weight, _ in kinds]
        return self.random.choices([event for _, event in kinds], weights)[0]


@pytest.fixture
def twin(own_ledger: Ledger, settings: Settings) -> Iterator[Ledger]:
    """A second writer over the same database, with its own memory; it also keeps the views."""
    own_ledger.projector.disconnect()
    with working(own_ledger.conninfo, settings, own_ledger.clock) as second:
        yield second


@pytest.mark.parametrize(
    ("seed", "remembered", "ahead"),
    repeated([(3, (3, 9), None), (4, (0, 9), 2), (6, None, None), (2, None, 1)]),
)
def test_tables_and_views_equal_a_fold_of_the_log_after_a_random_workload(
    own_ledger: Ledger,
    twin: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seed: int,
    remembered: tuple[int, int] | None,
    ahead: int | None,
) -> None:
    if remembered is not None:
        monkeypatch.setattr(memory, "_UNPACKED", remembered[0])
        monkeypatch.setattr(memory, "_PACKED", remembered[1])
    if ahead is not None:
        monkeypatch.setattr(group, "_AHEAD", ahead)
    chance = Chance(seed, own_ledger)
    outcomes: list[str] = []
    for _ in range(130):
        writer = chance.random.choice([own_ledger, twin])
        batch = [chance.fact() for _ in range(chance.random.choice([1, 1, 2, 4, 9]))]
        items = writer.report(*batch)
        outcomes += [item.outcome for item in items]
        chance.recorded += [e for e, i in zip(batch, items, strict=True) if i.outcome == "recorded"]
        own_ledger.clock.advance(seconds=chance.random.choice([0, 0, 1, 60, 1_000, 40_000]))
        if chance.random.random() < 0.2:
            writer.execute(chance.command())
        if chance.random.random() < 0.3:
            writer.execute(EraseRun(chance.random.choice(RUNS), REPORTER, reason="r"))
        if chance.random.random() < 0.1:
            twin.sweep()

    assert caplog.messages == [], "no group failed and was carried out one by one"
    # The workload is useful only if each outcome is common.
    assert min(outcomes.count(o) for o in ("recorded", "refused", "duplicate")) > 20
    twin.catch_up()
    assert check(twin.conninfo).findings == []
    model = Model(twin.events())
    assert_tables(twin, model)
    assert_decision_tables_match_log(twin.conninfo)
    assert_views(twin, model)


def assert_tables(ledger: Ledger, model: Model) -> None:
    activity = ledger.rows("SELECT * FROM ledger.line_activity")
    assert {row.pop("line_id"): row for row in activity} == {
        name: {
            "last_activity_at": line.last_activity_at,
            "open_runs": len(model.open_runs(name)),
        }
        for name, line in model.lines.items()
    }
    open_runs = ledger.rows("SELECT run_id, line_id, version, started_at FROM ledger.open_run")
    assert {row["run_id"]: tuple(row.values())[1:] for row in open_runs} == {
        run_id: (run.line, run.version, run.started_at)
        for name in model.lines
        for run_id, run in model.open_runs(name).items()
    }
    records = ledger.rows("SELECT execution_id, line_id FROM ledger.execution_record")
    assert {row["execution_id"]: row["line_id"] for row in records} == model.records
    counters = ledger.rows("SELECT year, last FROM ledger.id_counter WHERE prefix = 'RUN'")
    assert {("RUN", row["year"]): row["last"] for row in counters} == +model.counters
    identities = ledger.rows("SELECT digest, position FROM ledger.identity")
    stored = {row["digest"].bytes: row["position"] for row in identities}
    facts = {Identity(*key).digest: position for key, position in model.facts.items()}
    assert stored.items() >= facts.items()
    names: dict[str, tuple[str, str]] = {}
    for event in ledger.events():
        is_begin = event["topic"] in ("run.requested/1", "run.started/1")
        if is_begin and (name := event["state"]["body"].get("external_id")):
            names.setdefault(event["originator_id"], (event["state"]["fact"]["source"], name))
    assert len(names) > 2
    assert stored.keys() - facts.keys() == {
        Identity.of_run(ORGANIZATION, *name).digest for name in names.values()
    } | {
        Identity(ORGANIZATION, *key).void.digest
        for line in model.lines.values()
        for key, check_in in line.check_ins.items()
        if check_in.voided
    }
    keys = ledger.rows("SELECT run_id, wrapped IS NULL AS destroyed FROM ledger.run_key")
    assert {row["run_id"] for row in keys} == model.runs.keys()
    assert {row["run_id"] for row in keys if row["destroyed"]} == model.erased != set()


def assert_views(ledger: Ledger, model: Model) -> None:
    rows = ledger.rows("SELECT line_id FROM ledger.execution")
    assert {row["line_id"] for row in rows} == model.lines.keys()
    for name, line in model.lines.items():
        detail = ledger.detail(name)
        assert detail["open_runs"] == len(model.open_runs(name))
        assert instant(detail["last_activity_at"]) == line.last_activity_at
        assert (detail["state"], instant(detail["state_since"])) == (line.state, line.state_since)
        assert {hold["hold"]: hold["until"] for hold in detail["holds"]} == line.holds
        assert {b["id"]: b["cause"] for b in detail["blockers"]} == {
            blocker_id: blocker["cause"] for blocker_id, blocker in line.blockers.items()
        }
        assert {resource["id"] for resource in detail["resources"]} == line.resources.keys()
        assert {s["signal"]: s["status"] for s in detail["health"]["signals"]} == {
            signal: report["status"] for signal, report in line.signals.items()
        }
        assert detail["health"]["score"] == line.score
        assert detail["metrics"] == model.metrics(name, ledger.clock.now)
    runs = ledger.rows("SELECT run_id FROM ledger.run")
    assert {row["run_id"] for row in runs} == model.runs.keys()
    for run_id, run in model.runs.items():
        detail = ledger.run_view(run_id)
        assert (detail["status"], detail["service_line_id"]) == (run.status, run.line)
        assert instant(detail["requested_at"]) == run.requested_at
        times = [detail[k] and instant(detail[k]) for k in ("started_at", "completed_at")]
        assert times == [run.started_at, run.completed_at]


def test_a_fact_sent_to_two_writers_is_recorded_once(own_ledger: Ledger, twin: Ledger) -> None:
    line = own_ledger.line()
    start = fact("run.started", None, {"service_line_id": line})
    parsed = envelope.from_structured(encode(start))
    assert isinstance(parsed, envelope.Fact)
    futures = [w.writer.submit([command_of(parsed, REPORTER)]) for w in (own_ledger, twin)]
    (first,), (second,) = (future.result() for future in futures)
    assert {first.duplicate, second.duplicate} == {True, False}
    assert first.subject == second.subject
