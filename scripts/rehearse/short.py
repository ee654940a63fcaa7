"""The short form: two nodes on one embedded PostgreSQL, killed and frozen: ``make rehearse-short``.

It takes half a minute, needs neither root nor packages, and listens only on the loopback. The exit
code is 1 if a goal was missed. ``make test`` kills the database
(``tests/whole/crash/test_kills.py``).
"""

import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path

from ledger.engine.postgres.embedded import EmbeddedPostgres
from scripts.rehearse.hosts import Host
from scripts.rehearse.report import print_outcome, print_table
from scripts.rehearse.scenario import Outcome, Scenario, perform
from scripts.rehearse.scenarios.nodes import FAILOVER, frozen_for, kill_leading_node
from scripts.rehearse.stage import Stage

_FROZEN_SECONDS = 2.0
_SCENARIOS = (
    # The long form's bound is 1 s. Other work on the machine could exceed it.
    Scenario("node-killed", "leading node -9", kill_leading_node, FAILOVER),
    Scenario("node-frozen", "leading node frozen", frozen_for(_FROZEN_SECONDS), FAILOVER),
)

_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
"""Ends a node with the rehearsal, even if the rehearsal is killed."""


def main() -> int:
    """Perform the scenarios for which one machine is enough."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="ledger-rehearsal-"))
    folder.chmod(0o755)
    outcomes: list[Outcome] = []
    try:
        postgres = EmbeddedPostgres(folder / "database", purpose="rehearsal")
        postgres.start()
        try:
            _perform_all(folder, postgres.url, outcomes)
        finally:
            postgres.stop()
    finally:
        print_table(outcomes)
        shutil.rmtree(folder, ignore_errors=True)
    return int(any(outcome.missed for outcome in outcomes))


def _perform_all(folder: Path, database: str, outcomes: list[Outcome]) -> None:
    nodes = [(Host.this(), _free_port()) for _ in range(2)]
    stage = Stage(folder / "node", nodes, [database] * 2, wrapper=_WITH_US)
    try:
        stage.start()
        for scenario in _SCENARIOS:
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
