"""The processes of a service that its supervisor keeps running."""

import errno
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from ctypes import c_bool, c_char
from multiprocessing.process import BaseProcess

import psycopg

from ledger.app.composition.database import ConfigurationError
from ledger.app.metrics import count_restart, forget_metrics
from ledger.app.privileges import become
from ledger.app.processes import show_name
from ledger.engine.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError
from ledger.engine.postgres.embedded.account import Account

_logger = logging.getLogger(__name__)

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A closed terminal sends SIGHUP. Under ``nohup`` the signal is ignored, and stays so."""

_RESTART_SECONDS = 1.0
"""The least time between two starts of a child, and between two failed starts of PostgreSQL."""

START_SECONDS = 60.0
"""After failing to start a child for so long, the service ends."""

_LONGEST_REASON = 500
"""The most bytes of the reason why a child ended."""

_FORESEEN = (psycopg.OperationalError, psycopg.InterfaceError, OSError)
"""The errors of a child while the database is away: logged in one line, not as bugs."""

_ADDRESS_IN_USE = errno.EADDRINUSE
"""The exit code of a child that cannot listen, since another service listens at the address."""

ChildMain = Callable[[Callable[[], None]], None]
"""The work of a process. It calls its argument once the process has started."""


class AddressInUse(Exception):
    """Another service listens at the address that both have bound: a start is in vain."""


class Child:
    """A process that is kept running.

    ``let_go`` closes the inherited files that the child must not hold. ``run`` calls its argument
    once the child has started. ``account`` is the child's user; None for the supervisor's.
    """

    def __init__(
        self,
        name: str,
        run: ChildMain,
        let_go: Sequence[Callable[[], None]],
        account: Account | None,
    ) -> None:
        self.name, self._run, self._let_go, self._account = name, run, let_go, account
        self._started_at = 0.0
        self._trying_since: float | None = None
        """When the first of the failed attempts to start the child began."""
        # Shared memory, without a lock that a killed process could leave locked.
        self._has_started = multiprocessing.RawValue(c_bool, False)
        self._reason = multiprocessing.RawArray(c_char, _LONGEST_REASON)
        """Why the child ended. The supervisor logs it: each attempt to start is a new process,
        which cannot know that the same was logged a second before."""
        self.process: BaseProcess | None = None

    def ensure_running(self) -> None:
        """Start the child unless it runs; log its death if it had died.

        Raises ConfigurationError if no start has succeeded for too long, and AddressInUse.
        """
        if self._has_started.value:
            self._trying_since = None
        since = self._trying_since
        if since is not None and time.monotonic() - since > START_SECONDS:
            raise ConfigurationError(f"{self.name} could not be started for {START_SECONDS:.0f} s.")
        if self.process is not None and self.process.is_alive():
            return
        if self.process is not None and self.process.exitcode == _ADDRESS_IN_USE:
            raise AddressInUse
        if time.monotonic() - self._started_at < _RESTART_SECONDS:
            return
        if self.process is not None:
            reason = self._reason.value.decode(errors="replace") or f"exit {self.process.exitcode}"
            why = ChildProcessError(reason)  # as an error: the name alone tells faults apart
            _logger.error("%s ended; starting it again: %s", self.name, why)
            count_restart(self.name)
            forget_metrics(self.process.pid)
            self._reason.value = b""
        self._started_at = time.monotonic()
        if self._trying_since is None:
            self._trying_since = self._started_at
        self._has_started.value = False
        context = multiprocessing.get_context("fork")
        self.process = context.Process(target=self._live, name=f"ledger-{self.name}")
        # A signal to stop must wait until the child has dropped the supervisor's handlers, which
        # would swallow it in the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)

    def _live(self) -> None:
        # A terminal sends its signals to every process of its session. Only the supervisor should
        # get them, since it ends the loops after the workers.
        os.setsid()
        for number in STOPS:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        for let_go in self._let_go:
            let_go()
        show_name()
        if self._account is not None:
            become(self._account)
        try:
            self._run(self._tell_started)
        except _FORESEEN as error:
            self._reason.value = str(error).strip().partition("\n")[0].encode()[:_LONGEST_REASON]
            is_in_use = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            sys.exit(_ADDRESS_IN_USE if is_in_use else 1)
        except Exception:
            _logger.exception("%s failed", self.name)
            sys.exit(1)

    def _tell_started(self) -> None:
        self._has_started.value = True

    def terminate(self) -> None:
        if self.process is not None and self.process.is_alive():
            self.process.terminate()

    def join(self, deadline: float) -> None:
        """Wait for the child's end until the deadline, then kill it."""
        if self.process is not None:
            self.process.join(max(0.0, deadline - time.monotonic()))
            if self.process.is_alive():
                self.process.kill()
                self.process.join()


class Database:
    """The embedded PostgreSQL, kept running."""

    def __init__(self, postgres: EmbeddedPostgres) -> None:
        self._postgres = postgres
        self._failed_at = 0.0

    def ensure_running(self) -> None:
        """Start PostgreSQL again if it has ended.

        A start that fails, as on a full disk, is repeated until it succeeds. Requests get 503
        meanwhile.
        """
        if self._postgres.poll() is None or time.monotonic() - self._failed_at < _RESTART_SECONDS:
            return
        _logger.error("PostgreSQL ended; starting it again")
        count_restart("postgres")
        try:
            self._postgres.start()
        except EmbeddedPostgresError as error:
            _logger.error("%s", error)
            self._failed_at = time.monotonic()
