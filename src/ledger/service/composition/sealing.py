"""Sealing, in a process of its own: hashing would hold up the loops' interpreter.

The node's beat reports the witness of sealing, and the nightly verification hashes too: so both are
in this process.
"""

from collections.abc import Sequence
from pathlib import Path

from ledger.background import BackgroundLoop
from ledger.log.nodes import node_id_in
from ledger.postgres.leadership import LeadBeat
from ledger.postgres.timing import LIVING_SECONDS
from ledger.sealing.beat import NodeBeat
from ledger.sealing.nightly import NightlyVerification
from ledger.sealing.sealer import Sealer
from ledger.sealing.watch import Watch
from ledger.service.composition.database import open_vault
from ledger.service.composition.writing import Clock, utc_now
from ledger.service.roles import leads
from ledger.settings import Settings


class Sealing:
    """The node's beat; and the sealer and the nightly verification, if the role leads loops."""

    def __init__(
        self, settings: Settings, conninfo: str, clock: Clock = utc_now, *, role: str = "all"
    ) -> None:
        watch = create_watch(settings)
        self.beat = NodeBeat(conninfo, watch, role, clock)
        leading = LeadBeat(conninfo)
        self.sealer = create_sealer(settings, leading.conninfo, watch, clock)
        verification = NightlyVerification(
            leading.conninfo, open_vault(settings), watch.folder, settings.verified_at, clock
        )
        self._loops: Sequence[BackgroundLoop] = [self.beat]
        if leads(role):
            self._loops = [self.beat, leading, self.sealer, verification]

    def start(self) -> None:
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """End the loops. A part that is being verified is verified again at the next start."""
        for loop in reversed(self._loops):
            loop.stop()


def create_watch(settings: Settings, patience: float = LIVING_SECONDS) -> Watch:
    """The knowledge of the node of this data directory, which waits for others for ``patience``."""
    return Watch(node_id_in(settings.data_dir), witness_folder(settings), patience=patience)


def create_sealer(
    settings: Settings, conninfo: str, watch: Watch, clock: Clock = utc_now
) -> Sealer:
    return Sealer(conninfo, open_vault(settings), clock, watch)


def witness_folder(settings: Settings) -> Path:
    """The folder of the last checkpoint outside of the database."""
    return settings.data_dir / "sealed"
