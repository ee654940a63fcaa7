"""Sealing, in a process of its own: hashing would hold up the loops' interpreter.

The nightly verification hashes too, so it is in this process.
"""

from collections.abc import Sequence
from pathlib import Path

from ledger.background import BackgroundLoop
from ledger.postgres.leadership import Beat
from ledger.sealing.nightly import NightlyVerification
from ledger.sealing.sealer import Sealer
from ledger.service.composition.database import open_vault
from ledger.service.composition.writing import Clock, utc_now
from ledger.service.roles import leads
from ledger.settings import Settings


class Sealing:
    """The sealer and the nightly verification; neither runs in a role that does not lead."""

    def __init__(
        self, settings: Settings, conninfo: str, clock: Clock = utc_now, *, role: str = "all"
    ) -> None:
        self._beat = Beat(conninfo)
        conninfo = self._beat.conninfo
        folder, at = witness_folder(settings), settings.verified_at
        self._loops: Sequence[BackgroundLoop] = (
            [
                create_sealer(settings, conninfo, clock),
                NightlyVerification(conninfo, folder, at, clock),
            ]
            if leads(role)
            else []
        )

    def start(self) -> None:
        """Start both loops."""
        self._beat.start()
        for loop in self._loops:
            loop.start()

    def stop(self) -> None:
        """End both loops. A part that is being verified is verified again at the next start."""
        for loop in reversed(self._loops):
            loop.stop()
        self._beat.stop()


def create_sealer(settings: Settings, conninfo: str, clock: Clock = utc_now) -> Sealer:
    """The sealer; it keeps the last checkpoint in the data directory, too."""
    return Sealer(conninfo, open_vault(settings), clock, witness_folder(settings))


def witness_folder(settings: Settings) -> Path:
    """The folder of the last checkpoint outside of the database."""
    return settings.data_dir / "sealed"
