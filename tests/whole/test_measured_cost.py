"""How the bench measures what processes spend: their CPU time, and their Python calls."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from scripts.bench import processes
from scripts.bench.processes import usage_of

COUNTER = Path(processes.__file__).with_name("counted")
CALLING = """
import os
def call(): pass
for _ in range(1000): call()
if (fork := os.fork()) == 0:
    for _ in range(500): call()
    os._exit(0)
os.waitpid(fork, 0)
"""


def spend() -> None:
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass


def test_the_cpu_time_of_threads_and_children_that_have_ended_is_counted() -> None:
    before = usage_of(os.getpid())
    thread = threading.Thread(target=spend)
    thread.start()
    thread.join()
    after = usage_of(os.getpid())
    assert after.cpu - before.cpu >= 0.05
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-S", "-c", busy], check=True)
    assert usage_of(os.getpid()).cpu - after.cpu >= 0.15


def test_a_waiting_thread_switches_its_context() -> None:
    before = usage_of(os.getpid())
    subprocess.run([sys.executable, "-S", "-c", ""], check=True)
    assert usage_of(os.getpid()).switches_since(before) > 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring is new in Python 3.12")
def test_calls_of_a_process_and_its_fork_are_counted_apart(tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(COUNTER), "BENCH_CALLS": str(tmp_path)}
    subprocess.run([sys.executable, "-c", CALLING], env=env, check=True)
    counted = sorted(
        int.from_bytes(file.read_bytes(), sys.byteorder) for file in tmp_path.iterdir()
    )
    assert len(counted) == 2
    assert 500 <= counted[0] < 1000 <= counted[1] < 1500
