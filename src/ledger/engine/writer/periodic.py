"""Periodic loops: rounds on a thread, while their process leads."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.engine.background import BackgroundLoop
from ledger.engine.postgres import locks
from ledger.engine.postgres.leadership import Candidate, assert_alive
from ledger.engine.postgres.session import RoundConnection
from ledger.engine.postgres.timing import LIVING_SECONDS, POLL_SECONDS
from ledger.engine.values.errors import ClockSkew, LedgerError
from ledger.engine.writer.command import Command
from ledger.engine.writer.request import Outcome, Receipt
from ledger.engine.writer.writer import Writer

_logger = logging.getLogger(__name__)

_BREATH_SECONDS = 0.1
"""The pause between two rounds if there is more to do: the views need a moment to catch up."""

_RARE_SECONDS = 20.0
"""Before a longer pause the connection is closed, unless it holds the lead."""

# True if another node lives that may lead, too.
_HAS_RIVAL = """
SELECT EXISTS (
    SELECT FROM ledger.node WHERE role IN ('all', 'loops')
      AND node_id IS DISTINCT FROM current_setting('ledger.node_id', true)
      AND beaten_at > clock_timestamp() - %s * interval '1 second')
"""


def assert_decided(outcomes: Iterable[Outcome]) -> None:
    """Raise ClockSkew if the writer refused commands because of it: another node must decide."""
    for outcome in outcomes:
        if isinstance(outcome, ClockSkew):
            raise outcome


class LeaderSession:
    """A session that works while its process leads. It connects when there is work.

    A session that ``competes`` takes the lead, and holds it until it is closed; others follow it.
    """

    def __init__(
        self, conninfo: str, name: str, candidate: Candidate, *, competes: bool = True
    ) -> None:
        self.candidate = candidate
        self.conninfo, self.competes, self._name = conninfo, competes, name
        self._connection: psycopg.Connection[TupleRow] | None = None
        self.lock = threading.RLock()
        """Held while a loop uses the session: a test calls ``run_once`` besides the thread."""

    def leads(self) -> psycopg.Connection[TupleRow] | None:
        """The connection if the process leads, or takes the lead now. Raises psycopg.Error."""
        if self.candidate.is_left or not (self.competes or self.candidate.leads):
            self.close()
            return None
        if self._connection is None:
            self._connection = RoundConnection.connect(
                self.conninfo,
                autocommit=True,
                row_factory=tuple_row,
                application_name=f"ledger {self._name}",
            )
        else:
            assert_alive(self._connection)
        if not self.candidate.leads:
            self.candidate.try_lead(self._connection)
        return self._connection if self.candidate.leads else None

    def assert_leads(self) -> None:
        """Raise psycopg.OperationalError if the process no longer leads; for long rounds."""
        if self.competes and self._connection is not None:
            assert_alive(self._connection)
        if not self.candidate.leads:
            raise psycopg.OperationalError("another process may lead now")

    def leave(self) -> None:
        """Leave the lead to another living node that may lead: this one cannot do the work.

        Without such a node the lead stays, since other work of the process goes on.
        """
        try:
            connection = self.leads()
            if connection is not None and connection.execute(
                _HAS_RIVAL, (LIVING_SECONDS,)
            ).fetchone() == (True,):
                self.candidate.leave()
                self.close()
        except psycopg.Error:
            self.close()

    def close(self) -> None:
        """Close the connection, which ends the lead that it has taken."""
        if self.competes:
            self.candidate.leads = False
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Periodic(BackgroundLoop):
    """Does a round every ``every_seconds`` while its process leads; a subclass implements ``work``.

    The writer must be started before the loop.
    """

    def __init__(self, session: LeaderSession, name: str, every_seconds: float) -> None:
        super().__init__(name)
        self.session = session
        self._name, self._every = name, every_seconds
        self.attached: Sequence[Periodic] = ()
        """Loops of the same session whose rounds run on this loop's thread too."""
        self._next_at = 0.0

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Do one round; return the amount of work done, and True if there is more to do."""
        raise NotImplementedError

    def is_called(self) -> bool:
        """True if a round should begin before it is due."""
        return False

    def run_once(self) -> int:
        """Lead if possible, and do one round; return the amount of work done."""
        return self._round()[0]

    def _round(self) -> tuple[int, bool]:
        with self.session.lock:
            connection = self.session.leads()
            if connection is None:
                return 0, False
            try:
                return self.work(connection)
            finally:
                if self._every > _RARE_SECONDS and not self.session.competes:
                    self.session.close()

    def _serve(self) -> None:
        loops = (self, *self.attached)
        for loop in loops:
            loop._next_at = time.monotonic() + loop._every
        while not self._stopping.wait(min(loop._pause() for loop in loops)):
            for loop in loops:
                loop._step()
        self.disconnect()

    def _pause(self) -> float:
        """The seconds until the next round, or until the next check of who leads."""
        if not self.session.candidate.leads:
            return min(POLL_SECONDS, self._every)
        return max(0.0, min(POLL_SECONDS, self._next_at - time.monotonic()))

    def _step(self) -> None:
        try:
            is_due = time.monotonic() >= self._next_at or self.is_called()
            with self.session.lock:
                if not (is_due or self.session.competes) or self.session.leads() is None:
                    return
            if is_due:
                self._next_at = time.monotonic() + self._every
                # While there is more to do, rounds follow each other almost without pause.
                has_more = self._round()[1]
                self._next_at = time.monotonic() + (_BREATH_SECONDS if has_more else self._every)
        except ClockSkew as error:
            # The next leader may be of a node whose clock is right.
            _logger.warning("%s: the lead is given up: %s", self._name, error)
            with self.session.lock:
                self.session.leave()
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

    def disconnect(self) -> None:
        """Close the session, which ends the lead that it took. The next round opens another."""
        with self.session.lock:
            self.session.close()


@contextmanager
def present(connection: psycopg.Connection[TupleRow]) -> Iterator[bool]:
    """Yield True if rounds may decide by the present time in the block: no demo is loaded."""
    share = "SELECT pg_try_advisory_lock_shared(%s)"
    is_now = connection.execute(share, (locks.STORY,)).fetchone() == (True,)
    try:
        yield is_now
    finally:
        if is_now and not connection.closed:
            connection.execute("SELECT pg_advisory_unlock_shared(%s)", (locks.STORY,))


def decided(
    connection: psycopg.Connection[TupleRow], writer: Writer, commands: Sequence[Command]
) -> int:
    """Have the writer decide by the present time; return how many commands changed something.

    The writer decides under the append lock, from the current state. A lagging view or a second
    process can cost a needless check, but never a wrong or duplicate event (contract, State,
    Facts). No command changes anything while a story is told.
    """
    if not commands:
        return 0
    with present(connection) as is_now:
        outcomes = writer.submit(commands).result() if is_now else []
    assert_decided(outcomes)
    return sum(1 for o in outcomes if isinstance(o, Receipt) and not o.duplicate)


@contextmanager
def sweepers_paused(conninfo: str) -> Iterator[None]:
    """Let no process decide by time meanwhile: no line becomes idle, and no lease ends.

    Use it to record facts under a time other than now: the loops decide by the present time.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (locks.STORY,))
        yield
