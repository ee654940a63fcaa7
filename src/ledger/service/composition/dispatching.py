"""The dispatcher, in a process of its own: it would compete with the loops for the interpreter."""

from functools import partial

from ledger.application.commands.webhooks import open_secret
from ledger.application.metrics import WriterMetrics
from ledger.background import Parts
from ledger.feed.dispatcher import Dispatcher
from ledger.feed.lead import Means
from ledger.feed.roster import MOST_IN_FLIGHT
from ledger.feed.schedule import Schedule
from ledger.feed.sender import DEADLINE_SECONDS, Sender
from ledger.log.event_log import Log
from ledger.postgres.leadership import LeadBeat
from ledger.service.composition.database import open_vault
from ledger.service.composition.writing import Clock, create_writer, utc_now
from ledger.service.processes import connections_allowed
from ledger.settings import Settings


class Dispatching(Parts):
    """The dispatcher with its writer. ``deadline`` is how long a receiver may take (seconds)."""

    def __init__(
        self,
        settings: Settings,
        conninfo: str,
        clock: Clock = utc_now,
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        self._log = Log(conninfo)
        self._writer = create_writer(settings, self._log, clock, observer=WriterMetrics())
        self._beat = LeadBeat(conninfo)
        # Receivers refuse a request that is signed under a wrong time.
        clock = self._beat.corrected(clock)
        means = Means(
            self._writer.submit,
            partial(open_secret, open_vault(settings)),
            Schedule(settings.webhook_delays),
            clock,
            min(MOST_IN_FLIGHT, connections_allowed()),
        )
        sender = partial(Sender, settings.webhook_allow_private, clock, deadline)
        self.dispatcher = Dispatcher(self._beat.conninfo, sender, means)
        self.parts = (self._writer, self._beat, self.dispatcher)

    def stop(self) -> None:
        """Stop once the requests in flight are answered and recorded."""
        super().stop()
        self._log.close()
