"""Failures that lose acknowledged facts: reported loudly, never signed over, no position reused."""

import signal
from pathlib import Path

from scripts.rehearse.programs import run, send, until
from scripts.rehearse.scenario import Course, Goal, Scenario
from scripts.rehearse.stage import Stage

_LAG_SECONDS = 1.5
_LOSSY = Goal(loses=True, alerts=("LedgerSealingStopped",))


def _fail_over_behind(course: Course) -> None:
    cluster = course.world.cluster
    cluster.set_synchronous(False)
    course.load.await_more(20)
    killed = cluster.primary()
    senders = killed.senders()
    course.expect(len(senders) == 2, f"the primary has {len(senders)} senders")
    send(signal.SIGSTOP, senders)
    course.load.go_on_for(_LAG_SECONDS)
    killed.kill()
    others = [member for member in cluster.members if member is not killed]
    until(lambda: any(m.ask("/primary")[0] == 200 for m in others), "a new primary", 60)
    course.load.await_more(20)
    killed.start()
    cluster.await_whole()
    cluster.set_synchronous(True)
    adopt(course)


def adopt(course: Course) -> None:
    """Wait until sealing has stopped, run the operator's command, wait until sealing continues."""
    try:
        course.world.prometheus.await_fired("LedgerSealingStopped")
    except TimeoutError as error:
        course.faults.append(str(error))
    decide(course, "the loss was rehearsed")


def decide(course: Course, reason: str) -> None:
    """Adopt the log as it is, by the operator's command, and wait until sealing continues."""
    stage = course.stage
    sealing = stage.nodes[0].readiness()[1].get("sealing", {"position": 0, "lag": 0})
    wanted = sealing["position"] + sealing["lag"]
    done = stage.nodes[0].run("seal", "adopt", "--reason", reason)
    course.expect(done.returncode == 0, f"seal adopt says: {done.stderr.strip()[-300:]}")
    try:
        until(lambda: is_sealed_up_to(stage, wanted), "sealing to go on", 30)
    except TimeoutError as error:
        course.faults.append(str(error))


def is_sealed_up_to(stage: Stage, position: int) -> bool:
    """Return True if both nodes report that the log is sealed up to a position."""
    sealing = [node.readiness()[1].get("sealing", {}) for node in stage.nodes]
    return all(one.get("position", 0) >= position and not one["stopped"] for one in sealing)


def dump(url: str, file: Path, programs: Path) -> None:
    """Make a backup with the command of the page on operating. Raises RuntimeError."""
    run([str(programs / "pg_dump"), "-Fc", f"--file={file}", url])


def restore(url: str, file: Path, programs: Path) -> None:
    """Restore a backup into an empty database. Raises RuntimeError."""
    options = ["--exit-on-error", "--no-owner", "--no-acl", f"--dbname={url}"]
    run([str(programs / "pg_restore"), *options, str(file)])


ASYNC_FAILOVER = Scenario(
    "async-failover", "asynchronous failover to a standby behind", _fail_over_behind, _LOSSY
)
