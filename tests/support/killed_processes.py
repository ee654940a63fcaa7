"""Processes that are killed in the midst of an append, or just after its commit."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from ledger.engine.log.append import Append
from ledger.engine.log.event_log import Log
from ledger.engine.log.vault import Vault
from ledger.engine.writer.command import Command
from ledger.engine.writer.writer import Writer
from tests.support.forked import CONTEXT


class KilledBeforeCommit(Log):
    """A log that kills its process when all is written, but nothing committed."""

    @contextlib.contextmanager
    def append_transaction(self) -> Iterator[Append]:
        with super().append_transaction() as append:
            yield append
            # A read flushes the pipeline: the server has executed all deferred statements before
            # the read's reply arrives.
            append.open_runs("LIN-26-999999")
            os.kill(os.getpid(), signal.SIGKILL)


class KilledAfterCommit(Log):
    """A log that kills its process after the commit, before any caller has an answer."""

    @contextlib.contextmanager
    def append_transaction(self) -> Iterator[Append]:
        with super().append_transaction() as append:
            yield append
        os.kill(os.getpid(), signal.SIGKILL)


def start_killed_process(
    writers_log: type[Log],
    conninfo: str,
    master_key: str,
    clock: Callable[[], Any],
    command: Command,
) -> Any:
    """Start a process that executes a command and is killed; the caller joins the process."""
    arguments = (writers_log, conninfo, master_key, clock, command)
    process = CONTEXT.Process(target=_execute, args=arguments)
    process.start()
    return process


def _execute(
    writers_log: type[Log],
    conninfo: str,
    master_key: str,
    clock: Callable[[], Any],
    command: Command,
) -> None:
    log = writers_log(conninfo)
    vault = Vault(bytes.fromhex(master_key))
    writer = Writer(log, vault, clock, lambda _: timedelta(hours=1))
    writer.start()
    writer.execute(command)
