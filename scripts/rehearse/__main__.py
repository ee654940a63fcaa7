"""Rehearse failures on a real cluster, on this machine: ``make rehearse``.

Builds PostgreSQL with Patroni, etcd and haproxy, and two nodes of the ledger, in namespaces. Then
it causes every known failure under load, searches the log for each acknowledged fact, and prints a
table. The exit code is 1 if a goal was missed. Needs root, and Debian for the packages.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

from scripts.rehearse.isolation import isolate
from scripts.rehearse.packages import install
from scripts.rehearse.report import print_outcome, print_table
from scripts.rehearse.scenario import Outcome, Scenario, perform
from scripts.rehearse.scenarios import database, losses, nodes, single
from scripts.rehearse.stage import Stage
from scripts.rehearse.versions import version_before
from scripts.rehearse.world import World

_ON_CLUSTER = [nodes.UPGRADE, *nodes.SCENARIOS, *database.SCENARIOS, losses.ASYNC_FAILOVER]
"""In this order: an upgrade needs a new database, and a loss comes last."""

_DISK = "1G"


def main() -> int:
    """Perform the scenarios that the command line names."""
    options = _options()
    install()
    isolate("scripts.rehearse")
    folder = Path(tempfile.mkdtemp(prefix="ledger-rehearsal-"))
    folder.chmod(0o755)
    print(f"The logs of all programs are below {folder}.", flush=True)
    outcomes: list[Outcome] = []
    try:
        world = World(folder)
        try:
            world.start()
            for outcome in _perform_all(world, options):
                outcomes.append(outcome)
                print_outcome(outcome)
        finally:
            world.stop()
    finally:
        print_table(outcomes)
        if not options.keep:
            subprocess.run(["umount", "--lazy", str(folder / "server-0")], capture_output=True)
            shutil.rmtree(folder, ignore_errors=True)
    return int(any(outcome.missed for outcome in outcomes))


def _options() -> argparse.Namespace:
    names = [one.name for one in [*_ON_CLUSTER, *single.SCENARIOS]]
    parser = argparse.ArgumentParser(prog="make rehearse", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", default=names)
    parser.add_argument("--before", metavar="COMMIT", help="the version that is upgraded from")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs")
    return parser.parse_args()


def _perform_all(world: World, options: argparse.Namespace) -> Iterator[Outcome]:
    on_cluster = [one for one in _ON_CLUSTER if one.name in options.only]
    if on_cluster:
        world.cluster.start()
        before = None
        if nodes.UPGRADE in on_cluster:
            before = version_before(options.before, world.folder)
        yield from _perform_on(world.stage_on_cluster(before), on_cluster, world)
        world.cluster.stop()
    on_server = [one for one in single.SCENARIOS if one.name in options.only]
    if on_server:
        _make_server(world)
        yield from _perform_on(world.stage_on_server(), on_server, world)


def _make_server(world: World) -> None:
    """Make a server on a small disk of its own."""
    folder = world.folder / "server-0"
    folder.mkdir()
    disk = ["mount", "-t", "tmpfs", "-o", f"size={_DISK},mode=755", "tmpfs", str(folder)]
    subprocess.run(disk, check=True)
    world.new_server().create()


def _perform_on(stage: Stage, scenarios: list[Scenario], world: World) -> Iterator[Outcome]:
    try:
        stage.start()
        for scenario in scenarios:
            yield _perform(stage, scenario, world)
    finally:
        stage.stop()


def _perform(stage: Stage, scenario: Scenario, world: World) -> Outcome:
    print(f"… {scenario.title}", flush=True)
    try:
        return perform(stage, scenario, world)
    except Exception as error:  # the next scenarios are performed anyway
        traceback.print_exc()
        with contextlib.suppress(TimeoutError):
            stage.start_nodes()
        return Outcome(scenario, missed=[f"{type(error).__name__}: {error}"])


if __name__ == "__main__":
    sys.exit(main())
