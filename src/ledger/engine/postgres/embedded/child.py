"""A process that becomes a program of the embedded PostgreSQL, which dies with its parent.

Run by path, `python -I -S child.py PARENT UID GID PROGRAM ARGUMENT...`; imports no ledger module.

This short-lived interpreter (15 ms) replaces `preexec_fn` of `subprocess`, which runs Python
between fork and exec. There Python can hang if the parent has threads (Python 3.12 and later warn
of that), and a running service has threads when it starts its PostgreSQL again. The interpreter
replaces `user=` too: Python may be installed below /root, where only root can execute it.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, uid: int, gid: int, command: list[str]) -> None:
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    die_with(parent)
    os.execv(command[0], command)


def die_with(parent: int) -> None:
    """Let the kernel send this process SIGINT when its parent dies, even of kill -9.

    For PostgreSQL, SIGINT means a fast shutdown. The call comes after the change of user, which
    clears the setting. If the parent died before the call, the signal never comes, so the parent is
    checked afterwards. On systems other than Linux a killed parent leaves an orphan, which the next
    start stops.
    """
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGINT) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:
            raise SystemExit("the process that started PostgreSQL has died meanwhile")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
