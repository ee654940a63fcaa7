"""The loops and the writer of ``ledger serve``, in processes beside the API workers.

In one process they would compete for the interpreter. They are the loops that follow the log, the
dispatcher, and sealing with the nightly verification, which hash. The node's beat reports the
witness of sealing, so it is in that process.
"""

from datetime import timedelta
from functools import partial

from ledger.app import leads
from ledger.app.composition.database import open_vault
from ledger.app.composition.metrics import WriterMetrics
from ledger.app.composition.node_writer import create_node_writer
from ledger.app.composition.verification import nightly_verification
from ledger.app.composition.writing import Clock, create_writer, utc_now
from ledger.app.features import LoopDeps, chores, loops, projections
from ledger.app.processes import connections_allowed
from ledger.app.settings import Settings
from ledger.engine.background import Parts
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.event_log import Log
from ledger.engine.log.nodes import node_id_in
from ledger.engine.postgres import locks
from ledger.engine.postgres.leadership import Candidate, LeadBeat
from ledger.engine.views.projector import Projector
from ledger.engine.views.rebuilding.rebuilder import Rebuilder
from ledger.engine.writer.hand_over import HostedWriter, Post
from ledger.engine.writer.housekeeper import Housekeeper
from ledger.engine.writer.periodic import LeaderSession
from ledger.features.proof.sealing.beat import NodeBeat
from ledger.features.proof.sealing.sealer import Sealer
from ledger.features.proof.sealing.watch import WitnessWatch
from ledger.features.webhooks.commands import open_secret
from ledger.features.webhooks.delivery.dispatcher import Dispatcher
from ledger.features.webhooks.delivery.lead import DispatcherDeps
from ledger.features.webhooks.delivery.mailer import Mailer
from ledger.features.webhooks.delivery.registry import GATHER_SECONDS, MOST_IN_FLIGHT
from ledger.features.webhooks.delivery.schedule import Schedule
from ledger.features.webhooks.delivery.sender import DEADLINE_SECONDS, Sender


class NodeWriter(Parts):
    """The writer of a node with several workers, which hand their commands over to it."""

    def __init__(self, settings: Settings, conninfo: str, post: Post) -> None:
        create = partial(HostedWriter, post)
        self.parts = (create_node_writer(settings, conninfo, create=create),)


class _Writing(Parts):
    """Loops that lead and write: with a beat and a writer."""

    def __init__(self, settings: Settings, conninfo: str, clock: Clock) -> None:
        self._writer = create_writer(settings, Log(conninfo), clock, observer=WriterMetrics())
        self._beat = LeadBeat(conninfo)


class Loops(_Writing):
    """The loops that follow the log, with their writer."""

    def __init__(self, settings: Settings, conninfo: str, clock: Clock = utc_now) -> None:
        super().__init__(settings, conninfo, clock)
        conninfo, candidate = self._beat.conninfo, Candidate(locks.FOLLOWING)
        self.projector = Projector(conninfo, EnvelopeMapper(), projections(), candidate)
        session = LeaderSession(conninfo, "loops", candidate, competes=False)
        self.rebuilder = Rebuilder(conninfo, EnvelopeMapper(), projections())
        # By a wrong clock, outcomes would be dropped before their day is over.
        self.housekeeper = Housekeeper(
            session, self._writer, self._beat.corrected(clock), chores(settings)
        )
        deps = LoopDeps(settings, session, self._writer, clock)
        self.housekeeper.attached = tuple(make(deps) for make in loops())
        self.parts = (self._writer, self._beat, self.projector, self.rebuilder, self.housekeeper)


class Dispatching(_Writing):
    """The dispatcher with its writer.

    ``deadline`` is how long a receiver may take (seconds), and ``gather`` how long a message to
    people waits for others about the same watch. ``stop`` returns once the requests in flight are
    answered and recorded.
    """

    def __init__(
        self,
        settings: Settings,
        conninfo: str,
        clock: Clock = utc_now,
        deadline: float = DEADLINE_SECONDS,
        gather: float = GATHER_SECONDS,
    ) -> None:
        super().__init__(settings, conninfo, clock)
        # Receivers refuse a request that is signed under a wrong time.
        clock = self._beat.corrected(clock)
        deps = DispatcherDeps(
            self._writer.submit,
            partial(open_secret, open_vault(settings)),
            Schedule(settings.webhook_delays),
            clock,
            min(MOST_IN_FLIGHT, connections_allowed()),
            partial(Mailer, settings.mail_server, clock, deadline),
            settings.public_url,
            timedelta(seconds=gather),
        )
        sender = partial(Sender, settings.webhook_allow_private, clock, deadline)
        self.dispatcher = Dispatcher(self._beat.conninfo, sender, deps)
        self.parts = (self._writer, self._beat, self.dispatcher)


class Sealing(Parts):
    """The node's beat; and the sealer and the nightly verification, if the role leads loops.

    A part that is being verified at the end is verified again at the next start.
    """

    def __init__(
        self, settings: Settings, conninfo: str, clock: Clock = utc_now, *, role: str = "all"
    ) -> None:
        watch = WitnessWatch(node_id_in(settings.data_dir), settings.witness_folder)
        self.beat = NodeBeat(conninfo, watch, role, clock)
        conninfo, candidate = self.beat.conninfo, Candidate(locks.SEALING)
        session, vault = LeaderSession(conninfo, "sealer", candidate), open_vault(settings)
        self.sealer = Sealer(session, vault, clock, watch)
        verification = nightly_verification(
            LeaderSession(conninfo, "verification", candidate, competes=False),
            vault,
            watch.folder,
            settings.verified_at,
            clock,
        )
        self.parts = (self.beat, self.sealer, verification) if leads(role) else (self.beat,)
