"""Turns itself into a program of the embedded PostgreSQL that dies with its parent.

Run by path, `python -I -S child.py PARENT UID GID PROGRAM ARGUMENT...`, importing nothing of ours.

A short-lived interpreter (15 ms) in place of `preexec_fn` of `subprocess`: that runs Python
between fork and exec, where it can hang if the parent has threads, as it has when a working
service starts its PostgreSQL again (Python 3.12 and later warn of it). In place of `user=` too:
this interpreter may be below /root, where nobody but root can start it.
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
    """Let the kernel send this process SIGINT when its parent dies, of kill -9 too.

    To PostgreSQL that is a fast shutdown. Asked for after the change of user, which clears it. The
    parent may have died before: then the signal would never come, so look afterwards. Elsewhere
    than on Linux a killed parent leaves an orphan, and the next start stops that.
    """
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGINT) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
        if os.getppid() != parent:
            raise SystemExit("the process that started PostgreSQL has died meanwhile")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
