"""The rebuilder: builds new views, and views of another version, in the background at start.

Meanwhile reads get the old rows, at their old position. They are refused (``behind``) if the view
has other tables now. No write waits for these views. One process at a time builds, by the session
that leads.
"""

import logging
import time
from collections.abc import Sequence

import psycopg
from psycopg.rows import TupleRow

from ledger.engine.background import BackgroundLoop
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.postgres import locks
from ledger.engine.postgres.leadership import Candidate
from ledger.engine.postgres.timing import POLL_SECONDS
from ledger.engine.views.contract import Projection
from ledger.engine.views.rebuilding.rebuild import rebuild
from ledger.engine.views.rebuilding.shadow import CannotBuild, clean_up, connect, is_outdated

_RETRY_SECONDS = 30.0
"""The pause before a failed view is built again: each try reads the whole log."""

_SAY_SECONDS = 10.0
"""The time between two log messages about a rebuild's progress."""

_logger = logging.getLogger(__name__)


class Stopping(Exception):
    """The service is stopping: the unfinished shadow is dropped."""


class Rebuilder(BackgroundLoop):
    """Runs ``run_once`` until every view is up to date; then its thread ends."""

    def __init__(
        self, conninfo: str, codec: EnvelopeMapper, projections: Sequence[Projection]
    ) -> None:
        super().__init__("rebuilder")
        self._conninfo, self._codec, self._projections = conninfo, codec, projections
        self._candidate = Candidate({"rebuilder": locks.REBUILDER})
        self._session: psycopg.Connection[TupleRow] | None = None
        self._has_led = False
        """True if the last attempt was to build, not only to lead."""
        self._logged_at = 0.0
        """When the last log message about the rebuild was written."""

    def run_once(self) -> bool:
        """Clean up after killed rebuilds and build outdated views. Return True if that is done.

        Nothing is done while another process leads.
        """
        self._has_led = False
        if self._session is None:
            self._session = connect(self._conninfo)
        try:
            if not self._candidate.try_lead(self._session):
                return False
            self._has_led = True
            is_done = self._build_all(self._session)
        except BaseException:
            self._disconnect()
            raise
        self._disconnect()
        return is_done

    def _build_all(self, session: psycopg.Connection[TupleRow]) -> bool:
        is_done = True
        for projection in self._projections:
            try:
                clean_up(self._conninfo, projection, session)
                if is_outdated(session, projection):
                    self._say("building %s, version %s", projection.name, projection.version)
                    built = rebuild(self._conninfo, self._codec, projection, self._go_on, session)
                    _logger.info("built %s up to position %s", projection.name, built.position)
            except CannotBuild as error:
                _logger.error("%s", error)
                is_done = False
        return is_done

    def _disconnect(self) -> None:
        """Close the session, which ends the lead."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _go_on(self, position: int, end: int) -> None:
        if self._stopping.is_set():
            raise Stopping
        if time.monotonic() - self._logged_at >= _SAY_SECONDS:
            self._say("at position %s of %s", f"{position:,}", f"{end:,}")

    def _say(self, message: str, *values: object) -> None:
        _logger.info(message, *values)
        self._logged_at = time.monotonic()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                if self.run_once():
                    return
            except Stopping:
                return
            except psycopg.Error as error:
                _logger.warning("rebuilder lost the database: %s", error)
            self._stopping.wait(_RETRY_SECONDS if self._has_led else POLL_SECONDS)
        self._disconnect()
