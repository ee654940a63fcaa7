"""The loops that follow the log, in one process beside the API workers."""

from collections.abc import Callable
from datetime import timedelta

from ledger.application.loops import Housekeeper, LeaseWatch, Sweeper
from ledger.application.metrics import WriterMetrics
from ledger.application.periodic import LedSession
from ledger.application.writer import Writer
from ledger.background import Parts
from ledger.log.codec import EnvelopeMapper
from ledger.log.event_log import Log
from ledger.postgres import locks
from ledger.postgres.leadership import Candidate, LeadBeat
from ledger.service.composition.writing import Clock, create_writer, utc_now
from ledger.settings import Settings
from ledger.views.projector import Projector
from ledger.views.rebuilder import Rebuilder
from projections import projections
from projections.execution.statements import IDLE_CANDIDATES


def create_sweeper(
    session: LedSession,
    writer: Writer,
    clock: Clock,
    idle_after: Callable[[str], timedelta],
    every_seconds: float,
) -> Sweeper:
    """The idle sweeper, over the lines that the view of executions shows as quiet."""
    return Sweeper(session, IDLE_CANDIDATES, writer, clock, idle_after, every_seconds)


class Loops(Parts):
    """The loops that follow the log, with their writer."""

    def __init__(self, settings: Settings, conninfo: str, clock: Clock = utc_now) -> None:
        self._log = Log(conninfo)
        self._writer = create_writer(settings, self._log, clock, observer=WriterMetrics())
        self._beat = LeadBeat(conninfo)
        conninfo, candidate = self._beat.conninfo, Candidate(locks.FOLLOWING)
        self.projector = Projector(conninfo, EnvelopeMapper(), projections(), candidate)
        session = LedSession(conninfo, "loops", candidate, takes=False)
        self.rebuilder = Rebuilder(conninfo, EnvelopeMapper(), projections())
        self.sweeper = create_sweeper(
            session, self._writer, clock, settings.idle_after, settings.idle_sweep_seconds
        )
        self.lease_watch = LeaseWatch(session, self._writer)
        # By a wrong clock, outcomes would be dropped before their day is over.
        self.housekeeper = Housekeeper(session, self._writer, self._beat.corrected(clock))
        self.lease_watch.beside = (self.sweeper, self.housekeeper)
        self.parts = (
            self._writer,
            self._beat,
            self.projector,
            self.rebuilder,
            self.lease_watch,
        )

    def stop(self) -> None:
        super().stop()
        self._log.close()
