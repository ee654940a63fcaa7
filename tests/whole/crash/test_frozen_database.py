"""A database whose processes are frozen: ``/readyz`` and ``/metrics`` answer nevertheless."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.served import Served, serving_at
from tests.support.views import until

PROBES = 8


@contextmanager
def frozen(served: Served) -> Iterator[None]:
    """The embedded server's processes stand still, the postmaster too."""
    postmaster = served.postmaster()
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    pids = [postmaster, *map(int, children)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            # A process that was about to end is gone once the postmaster goes on.
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def test_probes_are_answered_while_the_database_is_frozen(data_dir: Path) -> None:
    with serving_at(data_dir, workers=1) as served, served.client("none") as client:
        until(lambda: client.get("/readyz").status_code == 200, "the service to be ready")
        with frozen(served):
            seconds = []
            for _ in range(PROBES):
                began = time.monotonic()
                answer = client.get("/readyz")
                seconds.append(time.monotonic() - began)
                assert (answer.status_code, answer.json()["database"]) == (503, "unreachable")
            # On a busy machine some answers take longer; statements have a limit of nine seconds.
            assert min(seconds) < 1
            assert max(seconds) < 9
            metrics = client.get("/metrics")
            assert metrics.status_code == 200
            assert "ledger_database_up 0.0" in metrics.text
            assert "ledger_append_seconds_count" in metrics.text
            assert 'process_cpu_seconds_total{process="loops"}' in metrics.text
            assert "ledger_log_position" not in metrics.text
        until(lambda: client.get("/readyz").status_code == 200, "the service to be ready", 20.0)
