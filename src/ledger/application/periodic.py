"""A periodic loop on a thread; only one process at a time works for a database."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.background import BackgroundLoop
from ledger.domain.errors import ClockSkew, LedgerError
from ledger.intake.request import Outcome
from ledger.postgres import locks
from ledger.postgres.leadership import Candidate, assert_alive
from ledger.postgres.session import RoundConnection
from ledger.postgres.timing import LOOK_SECONDS

_logger = logging.getLogger(__name__)

_BREATH_SECONDS = 0.1
"""The pause between two rounds if there is more to do: the views need a moment to catch up."""


def assert_decided(outcomes: Iterable[Outcome]) -> None:
    """Raise ClockSkew if the writer refused commands because of it: another node must decide."""
    for outcome in outcomes:
        if isinstance(outcome, ClockSkew):
            raise outcome


class Periodic(BackgroundLoop):
    """Does a round every ``every_seconds`` while it leads; a subclass implements ``work``.

    The advisory lock ``leader`` keeps other processes from leading. The session that got the lock
    does all rounds. The writer must be started before the loop.
    """

    decides_by_time = False
    """Whether rounds decide by the present time: none takes place while a story is told."""

    def __init__(self, conninfo: str, name: str, leader: int, every_seconds: float) -> None:
        super().__init__(name)
        self._conninfo, self._name, self._every = conninfo, name, every_seconds
        self._candidate = Candidate(name, leader)
        self._leads = False
        """Whether the connection's session leads."""
        self._turn = threading.RLock()
        """Held during a round: a test calls ``run_once`` beside the thread."""
        self._next_at = 0.0
        """When the next round begins."""
        self._connection: psycopg.Connection[TupleRow] | None = None

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Do one round; return the amount of work done, and whether there is more to do."""
        raise NotImplementedError

    def run_once(self) -> int:
        """Lead if possible, and do one round; return the amount of work done."""
        return self._round()[0]

    def assert_leads(self) -> None:
        """Raise psycopg.OperationalError if the session that leads was ended: in a long round."""
        if self._connection is not None:
            assert_alive(self._connection)

    def leave(self) -> None:
        """Leave the lead to other nodes for a while, since this one cannot do the work."""
        self._candidate.leave()
        self.disconnect()

    def _round(self) -> tuple[int, bool]:
        with self._turn:
            if not self._lead():
                return 0, False
            connection = self._connect()
            if not self.decides_by_time:
                return self.work(connection)
            with _present(connection) as is_now:
                return self.work(connection) if is_now else (0, False)

    def _lead(self) -> bool:
        """Whether the loop leads, now at the latest."""
        with self._turn:
            connection = self._connect()
            if self._leads:
                assert_alive(connection)
            else:
                self._leads = self._candidate.take(connection)
            return self._leads

    def _serve(self) -> None:
        self._next_at = time.monotonic() + self._every
        while not self._stopping.wait(self._pause()):
            try:
                if self._lead() and time.monotonic() >= self._next_at:
                    self._do_rounds()
            except ClockSkew as error:
                # The next leader may be of a node whose clock is right.
                _logger.warning("%s: the lead is given up: %s", self._name, error)
                self.leave()
            except LedgerError as error:
                _logger.warning("%s: round postponed: %s", self._name, error)
            except psycopg.Error as error:
                # The connection was lost, or the view that the round reads is still being built.
                _logger.warning("%s: round postponed, database error: %s", self._name, error)
                self.disconnect()
            except Exception:
                # A bug: the next round may succeed nevertheless.
                _logger.exception("%s: a round failed", self._name)
                self.disconnect()
        self.disconnect()

    def _pause(self) -> float:
        """The seconds until the next round, or until the next look at who leads."""
        if not self._leads:
            return min(LOOK_SECONDS, self._every)
        return max(0.0, min(LOOK_SECONDS, self._next_at - time.monotonic()))

    def _do_rounds(self) -> None:
        try:
            # As long as there is more to do, rounds follow each other almost without pause.
            while self._round()[1] and not self._stopping.wait(_BREATH_SECONDS):
                pass
        finally:
            self._next_at = time.monotonic() + self._every

    def _connect(self) -> psycopg.Connection[TupleRow]:
        if self._connection is None:
            self._connection = RoundConnection.connect(
                self._conninfo,
                autocommit=True,
                row_factory=tuple_row,
                application_name=f"ledger {self._name}",
            )
        return self._connection

    def disconnect(self) -> None:
        """Close the connection, which ends the lead. The next round opens another."""
        with self._turn:
            self._leads = False
            if self._connection is not None:
                self._connection.close()
                self._connection = None


@contextmanager
def _present(connection: psycopg.Connection[TupleRow]) -> Iterator[bool]:
    """Whether a round may decide by the present time, until it ends."""
    share = "SELECT pg_try_advisory_lock_shared(%s)"
    is_now = connection.execute(share, (locks.STORY,)).fetchone() == (True,)
    try:
        yield is_now
    finally:
        if is_now and not connection.closed:
            connection.execute("SELECT pg_advisory_unlock_shared(%s)", (locks.STORY,))


@contextmanager
def sweepers_kept_away(conninfo: str) -> Iterator[None]:
    """Let no process decide by time meanwhile: no line becomes idle, and no lease ends.

    A caller that records facts under another time than now needs this: the loops decide by the
    present time.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (locks.STORY,))
        yield
