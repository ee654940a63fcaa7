"""Failures of the database's hosts, in a cluster whose commits wait for a standby."""

import contextlib
import signal
from dataclasses import replace

import psycopg

from scripts.rehearse.cluster import TTL, Member
from scripts.rehearse.programs import send, until
from scripts.rehearse.scenario import Course, Goal, LeftOut, Scenario

_FAILOVER = Goal(writes=6.0)
_VANISHED = Goal(writes=TTL + 5.0)
_HELD_SECONDS = 15.0
_DELAY_MILLISECONDS = 10


def _switch_over(course: Course) -> None:
    cluster = course.world.cluster
    cluster.switch_over()
    course.load.await_more(20)
    cluster.await_whole()


def _kill_postmaster(course: Course) -> None:
    cluster = course.world.cluster
    cluster.primary().kill_postgres()
    course.load.await_more(20)
    cluster.await_whole()


def _kill_primary(course: Course) -> None:
    cluster = course.world.cluster
    killed = cluster.primary()
    killed.kill()
    _await_successor(course, killed)
    killed.start()
    cluster.await_whole()


def _freeze_primary(course: Course) -> None:
    cluster = course.world.cluster
    frozen = cluster.primary()
    send(signal.SIGSTOP, frozen.processes())
    try:
        _await_successor(course, frozen)
    finally:
        send(signal.SIGCONT, frozen.processes())
    cluster.await_whole()


def _lose_primary(course: Course) -> None:
    cluster = course.world.cluster
    lost = cluster.primary()
    lost.host.vanish()
    try:
        _await_successor(course, lost)
    finally:
        lost.host.come_back()
    cluster.await_whole()


def _lose_standby(course: Course) -> None:
    cluster = course.world.cluster
    lost = cluster.standbys()[0]
    lost.host.vanish()
    try:
        course.load.await_more(20)
    finally:
        lost.host.come_back()
    cluster.await_whole()


def _await_successor(course: Course, former: Member) -> None:
    """Wait until another member takes writes, and the nodes have found it."""
    cluster = course.world.cluster
    others = [member for member in cluster.members if member is not former]
    until(lambda: any(m.ask("/primary")[0] == 200 for m in others), "a new primary", TTL + 30)
    course.load.await_more(20)


def _exhaust_connections(course: Course) -> None:
    url = f"{course.world.cluster.primary().url('ledger', 'ledger')}?connect_timeout=2"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(psycopg.connect(url, autocommit=True))
        course.load.go_on_for(_HELD_SECONDS)
        for node in course.stage.nodes:
            status, answer = node.readiness()
            course.expect(status == 200, f"{node.name} is not ready: {answer}")


def _slow_down(course: Course) -> None:
    primary = course.world.cluster.primary()
    if not primary.host.delay(_DELAY_MILLISECONDS):
        raise LeftOut("the kernel has no netem")
    try:
        course.load.go_on_for(_HELD_SECONDS)
    finally:
        primary.host.delay(0)


SCENARIOS = [
    Scenario("switchover", "switchover", _switch_over, _FAILOVER),
    Scenario("postmaster-killed", "postmaster -9", _kill_postmaster, _FAILOVER),
    Scenario("primary-killed", "PostgreSQL and Patroni -9", _kill_primary, _VANISHED),
    Scenario("member-frozen", "primary's host frozen", _freeze_primary, _VANISHED),
    Scenario(
        "member-vanished",
        "primary's host vanished",
        _lose_primary,
        replace(_VANISHED, alerts=("LedgerDatabaseDown",)),
    ),
    Scenario("standby-vanished", "synchronous standby vanished", _lose_standby, _VANISHED),
    Scenario("slow", "10 ms more to the primary", _slow_down, Goal(1.0, 1.0)),
    Scenario("connections", "connections exhausted", _exhaust_connections, Goal(1.0, 1.0)),
]
