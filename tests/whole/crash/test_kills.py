"""Processes of a real service are killed under load; no acknowledged fact is lost or doubled."""

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest

from ledger.engine.log.vault import Vault, load_master_key
from ledger.engine.postgres.embedded.place import find_paths
from tests.support.facts import activation
from tests.support.load import Load, recorded, total_hours
from tests.support.log_checker import check
from tests.support.rebuilding import verify_all
from tests.support.sealing import checked
from tests.support.served import Served, free_port, post
from tests.support.views import until

TARGETS = ("worker", "writer", "loops", "postmaster", "database kept away", "supervisor", "sealer")


class Trial:
    """A service under load whose processes are killed."""

    def __init__(self, data_dir: Path, threads: int, facts: int) -> None:
        """``facts`` must be acknowledged before each kill, and as many after it."""
        self.data_dir, self.port = data_dir, free_port()
        self._threads, self._facts = threads, facts
        self._sealed = data_dir / "sealed"
        self.conninfo = ""

    def rounds(self, targets: list[str]) -> None:
        with contextlib.ExitStack() as stack:
            served = stack.enter_context(Served(self.data_dir, self.port))
            self.conninfo = find_paths(self.data_dir).url()
            token = served.token()
            with served.client(token) as client:
                assert post(client, activation(model="capacity")).status_code == 201
            acknowledged: dict[str, int] = {}
            for number, target in enumerate(targets):
                load = Load(served, token, self._threads, name=f"round-{number}")
                with load:
                    load.await_more(self._facts)
                    served = self._kill(target, served, stack, load)
                    load.served = served
                    load.await_more(self._facts)
                self._judge(target, load, served, token, acknowledged)

    def _kill(self, target: str, served: Served, stack: contextlib.ExitStack, load: Load) -> Served:
        if target == "worker":
            os.kill(random.choice(served.api_workers()), signal.SIGKILL)
            return served
        if target == "writer":
            os.kill(served.writer(), signal.SIGKILL)
            return served
        if target == "postmaster":
            os.kill(served.postmaster(), signal.SIGKILL)
            return served
        if target == "loops":
            os.kill(served.loops(), signal.SIGKILL)
            return served
        if target == "sealer":
            os.kill(served.sealer(), signal.SIGKILL)
            return served
        if target == "database kept away":
            # While the supervisor is stopped, no process starts the database again.
            os.kill(served.process.pid, signal.SIGSTOP)
            os.kill(served.postmaster(), signal.SIGKILL)
            refused = load.statuses[503] + self._facts // 2
            until(lambda: load.statuses[503] >= refused, "refusals")
            os.kill(served.process.pid, signal.SIGCONT)
            return served
        os.kill(served.process.pid, signal.SIGKILL)
        served.process.wait()
        until(lambda: not served.processes(), "the end of the service's processes", 10.0)
        return stack.enter_context(Served(self.data_dir, self.port))

    def _judge(
        self, target: str, load: Load, served: Served, token: str, acknowledged: dict[str, int]
    ) -> None:
        assert set(load.statuses) <= {200, 201, 503}, load.statuses
        assert load.without_retry_after == 0
        assert load.timed_out == 0
        if target in ("writer", "loops", "sealer", "postmaster", "database kept away"):
            assert load.outages == 0, "the workers live: every request has an answer"
        before = dict(load.acknowledged)
        outcomes = load.send_again()
        assert outcomes["duplicate"] >= len(before)
        acknowledged |= load.acknowledged
        names = recorded(self.conninfo)
        assert sorted(names) == sorted(acknowledged), "each fact is there exactly once"
        log = check(self.conninfo)
        assert log.findings == []
        vault = Vault(load_master_key(self.data_dir / "master.key"))
        until(lambda: checked(self.conninfo, self._sealed, vault)[0].unsealed == 0, "the sealing")
        assert checked(self.conninfo, self._sealed, vault)[1] == []
        with served.client(token) as client:
            assert total_hours(client) == len(names)
        assert verify_all(self.conninfo) == []
        until(lambda: len(served.api_workers()) == served.workers, "the worker's successor")


def test_acknowledged_facts_outlive_kills_of_worker_writer_database_and_supervisor(
    data_dir: Path,
) -> None:
    Trial(data_dir, 2, 10).rounds(["worker", "writer", "database kept away", "supervisor"])


@pytest.mark.crash
def test_acknowledged_facts_outlive_many_kills(data_dir: Path, pytestconfig: pytest.Config) -> None:
    rounds = pytestconfig.getoption("--crash-rounds")
    targets = [TARGETS[number % len(TARGETS)] for number in range(rounds)]
    random.shuffle(targets)
    Trial(data_dir, 4, 40).rounds(targets)
