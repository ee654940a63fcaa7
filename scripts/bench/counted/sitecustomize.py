"""Counts the Python calls of an interpreter that has this folder in PYTHONPATH, and of its forks.

A resumed generator or coroutine counts as a call. Each process counts in a file of the folder
``BENCH_CALLS``: one unsigned number of eight bytes. Needs Python 3.12 or newer.
"""

import mmap
import os
import sys
from pathlib import Path
from types import CodeType

_SIZE = 8  # bytes


def _new_cell() -> memoryview:
    """The number of this process, at zero."""
    with (Path(os.environ["BENCH_CALLS"]) / str(os.getpid())).open("w+b") as file:
        file.truncate(_SIZE)
        return memoryview(mmap.mmap(file.fileno(), _SIZE)).cast("Q")


def _start_anew() -> None:
    """In a fork: two processes that add to one number would lose some calls."""
    global _cell
    _cell = _new_cell()


def _count(code: CodeType, offset: int) -> None:
    _cell[0] += 1


_cell = _new_cell()
os.register_at_fork(after_in_child=_start_anew)
sys.monitoring.use_tool_id(sys.monitoring.PROFILER_ID, "bench")
for _event in (sys.monitoring.events.PY_START, sys.monitoring.events.PY_RESUME):
    sys.monitoring.register_callback(sys.monitoring.PROFILER_ID, _event, _count)
sys.monitoring.set_events(
    sys.monitoring.PROFILER_ID,
    sys.monitoring.events.PY_START | sys.monitoring.events.PY_RESUME,
)
