"""The loops that follow the log, in one process beside the API workers."""

from collections.abc import Callable
from datetime import timedelta

from ledger.application.loops import Housekeeper, LeaseWatch, Sweeper
from ledger.application.metrics import WriterMetrics
from ledger.application.writer import Writer
from ledger.log.codec import EnvelopeMapper
from ledger.log.event_log import Log
from ledger.postgres.leadership import LeadBeat
from ledger.service.composition.writing import Clock, create_writer, utc_now
from ledger.settings import Settings
from ledger.views.projector import Projector
from ledger.views.rebuilder import Rebuilder
from projections import projections
from projections.execution.statements import IDLE_CANDIDATES


def create_sweeper(
    conninfo: str,
    writer: Writer,
    clock: Clock,
    idle_after: Callable[[str], timedelta],
    every_seconds: float,
) -> Sweeper:
    """The idle sweeper, over the lines that the view of executions shows as quiet."""
    return Sweeper(conninfo, IDLE_CANDIDATES, writer, clock, idle_after, every_seconds)


class Loops:
    """The loops that follow the log, with their writer."""

    def __init__(self, settings: Settings, conninfo: str, clock: Clock = utc_now) -> None:
        self._log = Log(conninfo)
        self._writer = create_writer(settings, self._log, clock, observer=WriterMetrics())
        self._beat = LeadBeat(conninfo)
        conninfo = self._beat.conninfo
        self.projector = Projector(conninfo, EnvelopeMapper(), projections())
        self.rebuilder = Rebuilder(conninfo, EnvelopeMapper(), projections())
        self.sweeper = create_sweeper(
            conninfo, self._writer, clock, settings.idle_after, settings.idle_sweep_seconds
        )
        self.lease_watch = LeaseWatch(conninfo, self._writer)
        # By a wrong clock, outcomes would be dropped before their day is over.
        self.housekeeper = Housekeeper(conninfo, self._writer, self._beat.corrected(clock))

    def start(self) -> None:
        """Start all loops."""
        self._writer.start()
        self._beat.start()
        self.projector.start()
        self.rebuilder.start()
        self.sweeper.start()
        self.lease_watch.start()
        self.housekeeper.start()

    def stop(self) -> None:
        """End all loops, each after the work in hand."""
        self.housekeeper.stop()
        self.lease_watch.stop()
        self.sweeper.stop()
        self.rebuilder.stop()
        self.projector.stop()
        self._beat.stop()
        self._writer.stop()
        self._log.close()
