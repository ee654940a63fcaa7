"""Processes that are killed in the midst of an append, or just after its commit.

(Nothing here imports the edge: every child would spend a second on it.)
"""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from ledger.application.command import Command
from ledger.application.writer import Writer
from ledger.log.append import Append
from ledger.log.event_log import Log
from ledger.log.recorder import LedgerRecorder
from ledger.log.vault import Vault

_spawn = multiprocessing.get_context("spawn")


class DyingRecorder(LedgerRecorder):
    """Its process is killed with all written, but nothing committed."""

    @contextlib.contextmanager
    def append_transaction(self) -> Iterator[Append]:
        with super().append_transaction() as append:
            yield append
            # On the server by then, as every statement of the append is.
            append._transaction.flush()
            os.kill(os.getpid(), signal.SIGKILL)


class DyingLateRecorder(LedgerRecorder):
    """Its process is killed after the commit, before anybody is answered."""

    @contextlib.contextmanager
    def append_transaction(self) -> Iterator[Append]:
        with super().append_transaction() as append:
            yield append
        os.kill(os.getpid(), signal.SIGKILL)


def dying(
    recorder: type[LedgerRecorder],
    conninfo: str,
    master_key: str,
    clock: Callable[[], Any],
    command: Command,
) -> Any:
    """A process that carries a command out and is killed; to be joined."""
    arguments = (recorder, conninfo, master_key, clock, command)
    process = _spawn.Process(target=_carry_out, args=arguments)
    process.start()
    return process


def _carry_out(
    recorder: type[LedgerRecorder],
    conninfo: str,
    master_key: str,
    clock: Callable[[], Any],
    command: Command,
) -> None:
    log = Log(conninfo)
    log.recorder.__class__ = recorder
    vault = Vault(bytes.fromhex(master_key))
    writer = Writer(log, vault, clock, lambda _: timedelta(hours=1))
    writer.start()
    writer.execute(command)
