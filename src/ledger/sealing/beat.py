"""The beat of a node: its row each second, with its witness (contract, Several nodes).

The beat has a thread and a connection of its own, so neither a long round of sealing nor another
leader holds it up. The node follows: it takes the database's newest checkpoint as its witness, once
that is proved to continue the one that it has.
"""

import logging
from collections.abc import Callable
from datetime import datetime
from time import monotonic

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger import __version__
from ledger.background import BackgroundLoop
from ledger.log.nodes import BEAT_SECONDS
from ledger.postgres.session import RoundConnection, options_of
from ledger.sealing import shelf
from ledger.sealing.growth import compare_with_tree
from ledger.sealing.note import BadNote
from ledger.sealing.standing import Fit, Verdict, Witnessed, judge
from ledger.sealing.watch import CannotSign, Sight, Watch

_logger = logging.getLogger(__name__)


class _BeatConnection(RoundConnection[TupleRow]):
    """Gives up a silent server soon: a living node must have reported to its successor in 15 s."""

    patience = 4.0


class Beat(BackgroundLoop):
    """Reports this node each second."""

    def __init__(
        self, conninfo: str, watch: Watch, role: str, clock: Callable[[], datetime]
    ) -> None:
        super().__init__("beat")
        self._conninfo, self._watch, self._role, self._clock = conninfo, watch, role, clock
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._fault: str | None = None

    def beat_once(self) -> None:
        """Follow, and report. Raises psycopg.Error if the database cannot be used."""
        connection = self._connect()
        try:
            sight = self._watch.look(connection, leads=False)
        except (CannotSign, BadNote) as error:
            self._tell(f"what was sealed cannot be followed: {error}")
            self._watch.beat(connection, None, False, __version__, self._role)
            return
        verdict = self._follow(connection, sight)
        self._watch.beat(connection, sight, verdict.settles, __version__, self._role)

    def _follow(self, connection: psycopg.Connection[TupleRow], sight: Sight) -> Verdict:
        fault = None

        def compare(witness: Witnessed) -> Fit:
            nonlocal fault
            try:
                return compare_with_tree(connection, sight.newest, witness)
            except CannotSign as error:
                fault = f"what was sealed cannot be followed: {error}"
                return Fit.UNKNOWN

        verdict = judge(sight.known, compare)
        if verdict.contradicted is not None:
            witness, fit = verdict.contradicted
            why = f"{fit.value}: {witness.size} events ({witness.where})"
            if shelf.contradict(connection, sight.state.vkey, self._clock(), why):
                _logger.error("sealer: nothing is signed any more: %s", why)
        if verdict.takes:
            self._watch.follow(sight)
        self._tell(fault)
        return verdict

    def _serve(self) -> None:
        while not self._stopping.is_set():
            began = monotonic()
            try:
                self.beat_once()
            except psycopg.Error as error:
                why = str(error).partition("\n")[0]
                self._tell(f"the node cannot report itself, database error: {why}")
                self.disconnect()
            except Exception:
                _logger.exception("beat: failed")
                self.disconnect()
            self._stopping.wait(max(0.0, BEAT_SECONDS - (monotonic() - began)))
        self.disconnect()

    def _tell(self, fault: str | None) -> None:
        """Log a fault once, until there is another one or none."""
        if fault is not None and self._fault is None:
            _logger.warning("beat: %s", fault)
        self._fault = fault

    def _connect(self) -> psycopg.Connection[TupleRow]:
        if self._connection is None:
            self._connection = _BeatConnection.connect(
                self._conninfo,
                autocommit=True,
                row_factory=tuple_row,
                application_name="ledger beat",
                # A witness lies in a file, too. A synchronous standby may be away, and a node that
                # lives must not fall silent then. A beat that is acknowledged is on this disk.
                options=options_of(self._conninfo, "-c synchronous_commit=local"),
            )
        return self._connection

    def disconnect(self) -> None:
        """Close the connection. The next beat opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
