"""A scenario: a failure under load, what it may cost, and what it did cost."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from scripts.rehearse.load import Load
from scripts.rehearse.stage import Stage
from scripts.rehearse.tally import Tally, tally
from scripts.rehearse.world import World

ALL = ("front", "a", "b")
_WARM_FACTS = 30
"""How many facts each group of clients reports before the failure, and after it."""


class LeftOut(Exception):
    """This machine cannot cause the failure; the text says why."""


@dataclass(frozen=True)
class Goal:
    """The bounds of a scenario, in seconds; None for no bound."""

    writes: float | None = None
    reads: float | None = None
    loses: bool = False
    """True if acknowledged facts may be lost, as by a restore. Positions are never used twice."""
    alerts: tuple[str, ...] = ()
    """The alerts that must fire."""


@dataclass
class Course:
    """What a scenario works with: the stage and load, and the clients that its goal is about."""

    stage: Stage
    load: Load
    surroundings: World | None = None
    groups: tuple[str, ...] = ALL
    """The names of these groups of clients. Those of nodes that the scenario kills are left out."""
    faults: list[str] = field(default_factory=list)
    """What went wrong."""

    @property
    def world(self) -> World:
        """The cluster, the servers and Prometheus. Only the long form has them."""
        assert self.surroundings is not None
        return self.surroundings

    def expect(self, held: bool, fault: str) -> None:
        """Note a fault, unless the expectation holds."""
        if not held:
            self.faults.append(fault)

    def without(self, node_name: str) -> None:
        """Leave out a node's clients: they cannot be served during the failure."""
        self.groups = tuple(group for group in self.groups if group != node_name[-1])


@dataclass(frozen=True)
class Scenario:
    """A failure: its name, and the function that causes it."""

    name: str
    title: str
    run: Callable[[Course], None]
    goal: Goal


@dataclass
class Outcome:
    """The cost of a scenario, as a row of the table."""

    scenario: Scenario
    counted: Tally | None = None
    writes: float = 0.0
    reads: float = 0.0
    slowest: float = 0.0
    verified: str = ""
    alerts: set[str] = field(default_factory=set)
    missed: list[str] = field(default_factory=list)
    """The missed goals."""


def perform(stage: Stage, scenario: Scenario, world: World | None = None) -> Outcome:
    """Cause the failure under load, and compare its cost with the goal."""
    outcome, began = Outcome(scenario), time.monotonic()
    with stage.load(scenario.name) as load:
        course = Course(stage, load, world)
        try:
            load.await_more(_WARM_FACTS)
            load.began_at = time.monotonic()
            scenario.run(course)
            load.await_more(_WARM_FACTS)
        except LeftOut as error:
            outcome.verified = f"left out: {error}"
            return outcome
        except TimeoutError as error:
            course.faults.append(str(error))
        load.stop()
    outcome.missed += course.faults
    outcome.writes, outcome.reads = (load.gap(course.groups, reads=each) for each in (False, True))
    outcome.slowest = max(load.groups[name].slowest for name in course.groups)
    _settle(stage, outcome)
    if world is not None:
        outcome.alerts = world.prometheus.fired_since(began)
    _read_back(stage, outcome, load)
    judge(outcome, has_alerts=world is not None)
    return outcome


def _settle(stage: Stage, outcome: Outcome) -> None:
    try:
        stage.await_whole()
    except TimeoutError as error:
        outcome.missed.append(str(error))


def _read_back(stage: Stage, outcome: Outcome, load: Load) -> None:
    outcome.counted = tally(load, stage.database)
    done = stage.nodes[0].run("verify")
    lines = (done.stdout or done.stderr).strip().splitlines() or [""]
    outcome.verified = "clean" if done.returncode == 0 else lines[-1][:60]
    if done.returncode:
        outcome.missed.append(f"ledger verify: {' '.join(lines)[:500]}")
    if stage.notes is not None:
        outcome.missed += stage.notes.contradictions()


def judge(outcome: Outcome, has_alerts: bool) -> None:
    """Compare an outcome with its goal. Alerts are expected only if Prometheus runs."""
    goal, counted = outcome.scenario.goal, outcome.counted
    assert counted is not None
    if counted.lost and not goal.loses:
        outcome.missed.append(f"{counted.lost} facts lost")
    if counted.doubled:
        outcome.missed.append(f"{counted.doubled} facts doubled")
    if counted.reused:
        outcome.missed.append(f"{counted.reused} positions used again")
    for what, gap, bound in (
        ("writes", outcome.writes, goal.writes),
        ("reads", outcome.reads, goal.reads),
    ):
        if bound is not None and gap > bound:
            outcome.missed.append(f"no {what} for {gap:.1f} s, the goal is {bound:.0f} s")
    for alert in sorted(set(goal.alerts) - outcome.alerts) if has_alerts else ():
        outcome.missed.append(f"the alert {alert} did not fire")
