"""Processes: parts of the client start anew in a fork's child, and end with a child process."""

import ctypes
import os
import signal
import sys
import threading
import time
import weakref
from types import FrameType
from typing import Protocol

TERMINATED_SECONDS = 2.0
"""How long a SIGTERM waits for facts without an outcome, in seconds."""


class Forking(Protocol):
    """A part of the client with threads, locks or connections."""

    def after_fork(self) -> None:
        """Start anew in the child, without touching the parent's connections."""


class Ending(Protocol):
    """A part of the client with work to do before a process ends."""

    def at_exit(self) -> None:
        """End with the process."""

    def terminate(self, seconds: float) -> None:
        """Finish the remaining work within these seconds: then a signal ends the process."""


_PARTS: "weakref.WeakSet[Forking]" = weakref.WeakSet()
_ENDING: "weakref.WeakSet[Ending]" = weakref.WeakSet()


def renewed_in_children(part: Forking) -> None:
    """Call ``after_fork`` of this part in each child."""
    _PARTS.add(part)


def _renew() -> None:
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:  # its thread is in the parent
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for part in list(_PARTS):
        part.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def ended_with_children(part: Ending) -> None:
    """End a part when this process ends, if it is a child of multiprocessing.

    Such a child ends without ``atexit``, by finalizers of its own. ``with Pool()`` ends its workers
    by SIGTERM, which runs no finalizer. So handle SIGTERM, unless somebody else does.
    """
    children = sys.modules.get("multiprocessing.util")
    if children is None or sys.modules["multiprocessing"].parent_process() is None:
        return
    children.Finalize(None, part.at_exit, exitpriority=100)
    _ENDING.add(part)
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and os.name == "posix" and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        _handle_sigterm()


_pipe = (0, 0)
"""The pipe to the thread that ends the process."""


def _handle_sigterm() -> None:
    """Let a thread flush and end the process, whatever the main thread does.

    A handler alone would run only when the main thread returns to Python. During a call in C that
    may never happen, and the pool waits for its workers.
    """
    global _pipe
    _pipe = os.pipe()
    os.set_blocking(_pipe[1], False)
    before = signal.set_wakeup_fd(_pipe[1], warn_on_full_buffer=False)  # written at once, by C
    if before != -1:  # somebody else's, such as an event loop's
        signal.set_wakeup_fd(before)
    signal.signal(signal.SIGTERM, _on_sigterm)
    threading.Thread(target=_terminate, args=(_pipe[0],), daemon=True).start()


def _on_sigterm(number: int, _: FrameType | None) -> None:
    os.write(_pipe[1], bytes([number]))


def _terminate(pipe: int) -> None:
    """Wait for the signal, flush, and end the process by it."""
    while signal.SIGTERM not in os.read(pipe, 512):
        pass
    end = time.monotonic() + TERMINATED_SECONDS
    for part in list(_ENDING):
        part.terminate(max(end - time.monotonic(), 0.0))
    ctypes.CDLL(None).signal(signal.SIGTERM, None)  # the default; Python needs the main thread
    os.kill(os.getpid(), signal.SIGTERM)
