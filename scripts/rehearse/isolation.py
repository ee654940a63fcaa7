"""Everything that a rehearsal starts lives in its own namespaces, and ends with them.

When the first process of a namespace ends, the kernel ends all its other processes. When nothing
uses the network and the mounts any more, the kernel removes them. This also holds after Ctrl-C, and
after the rehearsal was killed.
"""

import ctypes
import os
import signal
import sys

_INSIDE = "REHEARSAL_IS_ISOLATED"
_PR_SET_PDEATHSIG = 1


def is_isolated() -> bool:
    """Return True if this process is in its own namespaces, which reach no other host."""
    return os.environ.get(_INSIDE) == "1"


def isolate(module: str) -> None:
    """Continue in new namespaces of processes, mounts and networks. Call this first.

    It returns in a process whose parent is the first one of the namespace. Only root may call it.
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
    """Reap every process that ends, as a first process must; return the child's exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGINT))
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status) & 0xFF
