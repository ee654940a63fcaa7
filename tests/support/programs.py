"""A program ``ledger`` for shells and pipes. Each start is a fork (``forked.py``)."""

import contextlib
import functools
import marshal
import multiprocessing
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path

from ledger.app.cli.arguments import main
from tests.support.forked import Forked, take_environment

# Imports that an interpreter has anyway: it starts in a fortieth of the time of a command.
_STUB = """
import _socket, marshal, os, sys
server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
server.connect(sys.argv[1])
streams = b"".join(number.to_bytes(4, sys.byteorder) for number in range(3))
asked = marshal.dumps((sys.argv[2:], os.getcwd(), dict(os.environ)))
server.sendmsg([asked], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)])
os._exit(server.recv(1)[0])
"""


@contextlib.contextmanager
def program_in(folder: Path) -> Iterator[Path]:
    program, stub, address = folder / "ledger", folder / "stub.py", folder / "server"
    stub.write_text(_STUB)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{stub}" "{address}" "$@"\n')
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(address))
        listener.listen(64)
        output = folder / "said"
        server = Forked((), os.environ, output, output, functools.partial(_serve, listener))
    yield program
    server.terminate()
    server.wait(20)


def _serve(listener: socket.socket, _: Sequence[str]) -> int:
    """Fork a command for each stub, until the tests end. Returns in each fork, too."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    while parent.sentinel not in wait([listener, parent.sentinel]):
        stub, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _perform(stub)
        stub.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    return 0


def _perform(stub: socket.socket) -> int:
    """Run the stub's command with its streams, and send it the exit code."""
    command, streams, _, _ = socket.recv_fds(stub, 1 << 20, 3)
    arguments, folder, environment = marshal.loads(command)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, buffering=lines, encoding="utf-8", closefd=False)
        for number, mode, lines in ((0, "r", -1), (1, "w", -1), (2, "w", 1))
    )
    os.chdir(folder)
    take_environment(environment)
    try:
        code = main(arguments)
    except SystemExit as ended:  # a misuse of the command
        code = int(ended.code or 0)
    sys.stdout.flush()
    stub.send(bytes([code]))
    return code
