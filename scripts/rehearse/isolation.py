"""Everything that a rehearsal starts lives in namespaces of its own, and ends with them.

The kernel ends all processes of a namespace with its first one, and removes the network and the
mounts when nothing uses them any more: also after Ctrl-C, and after a rehearsal that was killed.
"""

import ctypes
import os
import signal
import sys

_INSIDE = "REHEARSAL_IS_ISOLATED"
_PR_SET_PDEATHSIG = 1


def is_isolated() -> bool:
    """True if this process is in namespaces of its own, which reach no other host."""
    return os.environ.get(_INSIDE) == "1"


def isolate(module: str) -> None:
    """Go on in new namespaces of processes, mounts and networks; must be called first.

    Returns in a process whose parent is the first one of the namespace. Only root may do so.
    """
    if not is_isolated():
        os.environ[_INSIDE] = "1"
        options = ["--fork", "--kill-child", "--pid", "--mount-proc", "--mount", "--net"]
        again = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execvp("unshare", ["unshare", *options, "--", *again])
    child = os.fork()
    if child:
        os._exit(_await(child))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _await(child: int) -> int:
    """Take leave of every process that ends, as a first process must; return the child's code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGINT))
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status) & 0xFF
