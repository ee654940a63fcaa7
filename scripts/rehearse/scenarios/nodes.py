"""Failures of the ledger's own nodes, and work on one node while the other continues."""

import signal
from collections.abc import Callable
from functools import partial

from scripts.rehearse.deployed import ROOT
from scripts.rehearse.nodes import Node
from scripts.rehearse.programs import name_of, send, until
from scripts.rehearse.scenario import Course, Goal, Scenario
from scripts.rehearse.sql import execute, query

AT_ONCE = Goal(writes=1.0, reads=1.0)
FAILOVER = Goal(writes=15.0, reads=15.0)
_FROZEN_SECONDS = 25.0
_STILL_SECONDS = 50.0
"""How long loops are frozen: long enough for the alerts about frozen loops."""

_LIVE_TABLE = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class AS c JOIN pg_namespace AS n
    ON n.oid = c.relnamespace
WHERE n.nspname = 'ledger' AND c.relkind = 'r' AND c.relname ~ '^event_g[0-9]+$'
ORDER BY c.relname DESC LIMIT 1
"""


def kill_leading_node(course: Course) -> None:
    """The leading node is killed with all its processes, and started again."""
    node = course.stage.leading_node()
    course.without(node.name)
    other = course.stage.other_than(node)
    node.program.kill()
    course.load.await_more(50, ("front", other.name[-1]))
    node.start()
    course.load.await_more(20)


def frozen_for(seconds: float) -> Callable[[Course], None]:
    """The leading node is frozen, until some time after the other one has taken over."""
    return partial(_freeze, seconds=seconds)


def _freeze(course: Course, seconds: float) -> None:
    node = course.stage.leading_node()
    course.without(node.name)
    other = course.stage.other_than(node)
    node.program.freeze()
    try:
        _await_views(course, other)
        course.load.go_on_for(seconds)
        course.load.await_more(20, (other.name[-1],))
    finally:
        node.program.thaw()
    node.await_ready()
    course.load.await_more(20)


def _lose(course: Course) -> None:
    node = course.stage.leading_node()
    course.without(node.name)
    other = course.stage.other_than(node)
    node.host.vanish()
    try:
        _await_views(course, other)
        course.load.go_on_for(_FROZEN_SECONDS)
        course.load.await_more(20, ("front", other.name[-1]))
    finally:
        node.host.come_back()
    node.await_ready()
    course.load.await_more(20)


def _await_views(course: Course, other: Node) -> None:
    """Wait until the other node leads the projector, and the views follow the log again."""
    own = (other.data / "node").read_text().strip() if (other.data / "node").exists() else ""

    def leads() -> bool:
        rows = query(course.stage.database, "SELECT loop, node_id FROM ledger.leader")
        return ("projector", own) in rows

    try:
        seconds = until(leads, "the other node to lead the projector", 40.0)
    except TimeoutError as error:
        course.faults.append(str(error))
        return
    course.expect(seconds <= 15.0, f"the projector was taken over after {seconds:.1f} s")


def _restart_each(course: Course) -> None:
    """Each node is stopped and started again, while the other one serves."""
    course.groups = ("front",)
    for node in course.stage.nodes:
        node.program.stop()
        course.load.await_more(20, ("front",))
        node.start()
        course.load.await_more(20)


def _upgrade(course: Course) -> None:
    course.groups = ("front",)
    for node in course.stage.nodes:
        node.program.stop()
        node.change(tree=ROOT)
        node.start()
        course.load.await_more(50)


def _put_clock_forward(course: Course) -> None:
    node = course.stage.nodes[1]
    course.groups = ("front", course.stage.nodes[0].name[-1])
    node.program.stop()
    plain, node.wrapper = node.wrapper, ("faketime", "-f", "+3600s")
    node.change()
    try:
        node.program.start()
        until(lambda: node.readiness()[0] == 503, "the refusal to write", 30)
        course.world.prometheus.await_fired("LedgerClockSkew")
    except TimeoutError as error:
        course.faults.append(str(error))
    finally:
        node.program.stop()
        node.wrapper = plain
        node.change()
    ((ahead,),) = query(
        course.stage.database,
        "SELECT count(*) FROM ledger.ledger_events WHERE recorded_at > now() + '1 min'",
    )
    course.expect(ahead == 0, f"{ahead} events were recorded by a wrong clock")
    node.start()


def _stop_view(course: Course) -> None:
    url = course.stage.database
    ((table,),) = query(url, _LIVE_TABLE)
    execute(url, f"ALTER TABLE {table} ADD CONSTRAINT rehearsed CHECK (false) NOT VALID")
    try:
        course.world.prometheus.await_fired("LedgerViewStopped")
        for node in course.stage.nodes:
            status, answer = node.readiness()
            course.expect(
                (status, answer.get("status")) == (200, "degraded"), f"{node.name}: {answer}"
            )
    finally:
        execute(url, f"ALTER TABLE {table} DROP CONSTRAINT rehearsed")
    done = course.stage.nodes[0].run("projections", "rebuild", "event")
    course.expect(done.returncode == 0, f"the rebuild says: {done.stderr.strip()}")


def _freeze_loops(course: Course) -> None:
    nodes = course.stage.nodes
    pids = [
        pid
        for node in nodes
        for pid in node.program.family()
        if name_of(pid).startswith(("ledger-loops", "ledger-sealer"))
    ]
    course.expect(len(pids) >= 2 * len(nodes), "the loops were not found")
    send(signal.SIGSTOP, pids)
    try:
        course.load.go_on_for(_STILL_SECONDS)
    finally:
        send(signal.SIGCONT, pids)
    course.load.await_more(20)


SCENARIOS = [
    Scenario("node-killed", "leading node -9", kill_leading_node, AT_ONCE),
    Scenario("node-frozen", "leading node frozen", frozen_for(_FROZEN_SECONDS), FAILOVER),
    Scenario("node-vanished", "leading node vanished", _lose, FAILOVER),
    Scenario("rolling-restart", "rolling restart", _restart_each, AT_ONCE),
    Scenario(
        "clock",
        "clock of a node + 1 h",
        _put_clock_forward,
        Goal(writes=1.0, reads=1.0, alerts=("LedgerClockSkew",)),
    ),
    Scenario("view-stopped", "a view stopped", _stop_view, Goal(alerts=("LedgerViewStopped",))),
    Scenario(
        "loops-frozen",
        "loops frozen on all nodes",
        _freeze_loops,
        Goal(writes=10.0, alerts=("LedgerViewsBehind", "LedgerSealingBehind")),
    ),
]

UPGRADE = Scenario("rolling-upgrade", "rolling upgrade", _upgrade, AT_ONCE)
