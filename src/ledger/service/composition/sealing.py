"""Sealing, in a process of its own: hashing would hold up the loops' interpreter.

The node's beat reports the witness of sealing, and the nightly verification hashes too: so both are
in this process.
"""

from pathlib import Path

from ledger.application.periodic import LedSession
from ledger.background import Parts
from ledger.log.nodes import node_id_in
from ledger.postgres import locks
from ledger.postgres.leadership import Candidate
from ledger.postgres.timing import LIVING_SECONDS
from ledger.sealing.beat import NodeBeat
from ledger.sealing.sealer import Sealer
from ledger.sealing.watch import Watch
from ledger.service.composition.database import open_vault
from ledger.service.composition.writing import Clock, utc_now
from ledger.service.roles import leads
from ledger.settings import Settings
from ledger.verification.nightly import NightlyVerification


class Sealing(Parts):
    """The node's beat; and the sealer and the nightly verification, if the role leads loops.

    A part that is being verified at the end is verified again at the next start.
    """

    def __init__(
        self, settings: Settings, conninfo: str, clock: Clock = utc_now, *, role: str = "all"
    ) -> None:
        watch = create_watch(settings)
        self.beat = NodeBeat(conninfo, watch, role, clock)
        conninfo, candidate = self.beat.conninfo, Candidate(locks.SEALING)
        session, vault = LedSession(conninfo, "sealer", candidate), open_vault(settings)
        self.sealer = Sealer(session, vault, clock, watch)
        verification = NightlyVerification(
            LedSession(conninfo, "verification", candidate, takes=False),
            vault,
            watch.folder,
            settings.verified_at,
            clock,
        )
        self.parts = (self.beat, self.sealer, verification) if leads(role) else (self.beat,)


def create_watch(settings: Settings, patience: float = LIVING_SECONDS) -> Watch:
    """The knowledge of the node of this data directory, which waits for others for ``patience``."""
    return Watch(node_id_in(settings.data_dir), witness_folder(settings), patience=patience)


def witness_folder(settings: Settings) -> Path:
    """The folder of the last checkpoint outside of the database."""
    return settings.data_dir / "sealed"
