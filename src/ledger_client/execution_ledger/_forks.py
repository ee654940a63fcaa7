"""Processes: parts begin anew in the child of a fork, and end with a child of multiprocessing."""

import os
import signal
import sys
import threading
import time
import weakref
from types import FrameType
from typing import Protocol

TERMINATED_SECONDS = 2.0
"""How long a SIGTERM waits for facts that are not judged."""


class Forking(Protocol):
    """A part of the client with threads, locks or connections."""

    def after_fork(self) -> None:
        """Begin anew, in the child, without touching the parent's connections."""


class Ending(Protocol):
    """A part of the client that has something to do before a process ends."""

    def at_exit(self) -> None:
        """End with the process."""

    def terminate(self, seconds: float) -> None:
        """Do in so many seconds what is left to do: a signal ends the process then."""


_PARTS: "weakref.WeakSet[Forking]" = weakref.WeakSet()
_ENDING: "weakref.WeakSet[Ending]" = weakref.WeakSet()


def renewed_in_children(part: Forking) -> None:
    """Call ``after_fork`` of this part in each child."""
    _PARTS.add(part)


def _renew() -> None:
    _ENDING.clear()
    for part in list(_PARTS):
        part.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def ended_with_children(part: Ending) -> None:
    """End a part as this process ends, if it is a child of multiprocessing.

    Such a child ends without ``atexit``, by finalizers of its own. ``with Pool()`` ends its workers
    by SIGTERM, which runs nothing at all, unless somebody handles it: so do we, where nobody does.
    """
    children = sys.modules.get("multiprocessing.util")
    if children is None or sys.modules["multiprocessing"].parent_process() is None:
        return
    children.Finalize(None, part.at_exit, exitpriority=100)
    _ENDING.add(part)
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, _: FrameType | None) -> None:
    end = time.monotonic() + TERMINATED_SECONDS
    for part in list(_ENDING):
        part.terminate(max(end - time.monotonic(), 0.0))
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
