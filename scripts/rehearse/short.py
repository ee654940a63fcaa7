"""The short form: two nodes on one embedded PostgreSQL, killed and frozen: ``make rehearse-short``.

Takes at most two minutes, needs neither root nor packages, and listens on the loopback alone. The
exit code is 1 if a goal was missed.
"""

import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

from ledger.postgres.embedded import EmbeddedPostgres
from scripts.rehearse.hosts import Host
from scripts.rehearse.programs import until
from scripts.rehearse.report import print_outcome, print_table
from scripts.rehearse.scenario import Course, Goal, Outcome, Scenario, perform
from scripts.rehearse.scenarios.nodes import (
    TAKEN_OVER,
    frozen_for,
    kill_leading_node,
    restart_in_turn,
)
from scripts.rehearse.stage import Stage

_FROZEN_SECONDS = 2.0
_AT_ONCE = Goal(writes=1.9, reads=1.9)
"""Twice the bound of the long form, for a machine that others use, too. Views that stand still for
2 s, after which a write is answered without them, are noticed all the same."""

_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""A node ends with the rehearsal, also with one that is killed."""


class _Database:
    """The embedded PostgreSQL, which is started again after a kill."""

    def __init__(self, folder: Path) -> None:
        self.postgres = EmbeddedPostgres(folder, purpose="rehearsal")

    def kill(self, course: Course) -> None:
        """Kill the server's first process, and start the server again."""
        pid = self.postgres.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.postgres.poll() is not None, "the end of the server", 10)
        self.postgres.start()
        course.load.await_more(50)


def main() -> int:
    """Perform the scenarios that one machine is enough for."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="ledger-rehearsal-"))
    folder.chmod(0o755)
    outcomes: list[Outcome] = []
    try:
        database = _Database(folder / "database")
        database.postgres.start()
        try:
            _perform_all(folder, database, outcomes)
        finally:
            database.postgres.stop()
    finally:
        print_table(outcomes)
        shutil.rmtree(folder, ignore_errors=True)
    return int(any(outcome.missed for outcome in outcomes))


def _perform_all(folder: Path, database: _Database, outcomes: list[Outcome]) -> None:
    here = Host.this()
    places = [(here, _free_port()) for _ in range(2)]
    stage = Stage(folder / "node", places, [database.postgres.url] * 2, wrapper=_WITH_US)
    frozen = frozen_for(_FROZEN_SECONDS)
    try:
        stage.start()
        for scenario in (
            Scenario("node-killed", "leading node -9", kill_leading_node, _AT_ONCE),
            Scenario("node-frozen", "leading node frozen", frozen, TAKEN_OVER),
            Scenario("rolling-restart", "rolling restart", restart_in_turn, _AT_ONCE),
            Scenario("postmaster-killed", "postmaster -9", database.kill, Goal(writes=6.0)),
        ):
            outcomes.append(perform(stage, scenario))
            print_outcome(outcomes[-1])
    finally:
        stage.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
