"""The folder where the processes of a service add up their metrics, and the count of restarts."""

import contextlib
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # prometheus-client looks for the folder while being loaded, so the folder must exist before.
    from prometheus_client import Counter

_MEMORY = Path("/dev/shm")
_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@contextlib.contextmanager
def metrics_folder(data_dir: Path, port: int) -> Iterator[Path]:
    """The folder where the workers add up their metrics (prometheus-client's multiprocess mode).

    Its path is fixed, and it is emptied at start, so the metrics of a killed run are not counted
    again. It is in memory if the system allows that: metrics are written into mapped files, and on
    a full disk the kernel kills a process that writes there.
    """
    # Loaded without any folder, every process would count for itself, and a worker would report
    # only its own counts.
    counts_in_files = "prometheus_client" not in sys.modules or _VARIABLE in os.environ
    assert counts_in_files, "prometheus-client was loaded too early"
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]
    folder = _MEMORY / f"execution-ledger-{name}-{port}"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
    except OSError:  # no such place, or somebody else's folder
        folder = data_dir / f"metrics-{port}"
        shutil.rmtree(folder, ignore_errors=True)
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    os.environ[_VARIABLE] = str(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def forget_metrics(pid: int | None) -> None:
    """Subtract the live gauges of a dead process (such as its open streams)."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid)  # type: ignore[no-untyped-call]


def expect_restarts(processes: Iterable[str]) -> None:
    """Begin to count the restarts of these processes.

    It opens the file of the counts before the children's user gets the folder. Otherwise the
    supervisor, which may be root, would open a file that this user could have put there.
    """
    for process in processes:
        _restarts().labels(process)


def count_restart(process: str) -> None:
    """Count the restart of a process that had ended. Only the supervisor calls this."""
    _restarts().labels(process).inc()


@cache
def _restarts() -> "Counter":
    from prometheus_client import Counter

    return Counter(
        "ledger_restarts", "Processes that had ended and were started again.", ["process"]
    )
