"""A beat: a statement each second, from a thread and a connection of its own.

So neither a long statement nor a long round holds up the beat of a process that lives.
"""

import logging
from time import monotonic
from typing import ClassVar

import psycopg
from psycopg.rows import TupleRow, tuple_row

from ledger.background import BackgroundLoop
from ledger.postgres import timing
from ledger.postgres.session import RoundConnection, options_of

_logger = logging.getLogger(__name__)


class Beat(BackgroundLoop):
    """Beats each second, also after an error; a subclass implements ``beat``."""

    connects_by: ClassVar[type[RoundConnection[TupleRow]]]
    """The class of the connection: its patience is for how long a silent server is waited for."""
    commits: ClassVar[str]
    """PostgreSQL's ``synchronous_commit`` of the beats."""

    def __init__(self, conninfo: str) -> None:
        super().__init__("beat")
        self.conninfo = conninfo
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._fault: str | None = None

    def beat(self, connection: psycopg.Connection[TupleRow]) -> str | None:
        """Beat; return what is wrong nevertheless, if anything is. Raises psycopg.Error."""
        raise NotImplementedError

    def beat_once(self) -> None:
        """Beat, and tell of a fault. Raises psycopg.Error if the database cannot be used."""
        self._tell(self.beat(self._connect()))

    def _serve(self) -> None:
        while not self._stopping.is_set():
            began = monotonic()
            try:
                self.beat_once()
            except psycopg.Error as error:
                why = str(error).partition("\n")[0]
                self._tell(f"the database cannot be used: {why}")
                self.disconnect()
            except Exception:
                _logger.exception("beat: failed")
                self.disconnect()
            self._stopping.wait(max(0.0, timing.BEAT_SECONDS - (monotonic() - began)))
        self.disconnect()

    def _tell(self, fault: str | None) -> None:
        """Log a fault once, until there is none."""
        if fault is not None and self._fault is None:
            _logger.warning("beat: %s", fault)
        self._fault = fault

    def _connect(self) -> psycopg.Connection[TupleRow]:
        if self._connection is None:
            self._connection = self.connects_by.connect(
                self.conninfo,
                autocommit=True,
                row_factory=tuple_row,
                application_name="ledger beat",
                options=options_of(self.conninfo, f"-c synchronous_commit={self.commits}"),
            )
        return self._connection

    def disconnect(self) -> None:
        """Close the connection. The next beat opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
