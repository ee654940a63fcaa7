"""Sealing, in a process of its own: hashing would hold up the loops' interpreter.

The nightly verification hashes too, so it is in this process.
"""

from pathlib import Path

from ledger.sealing.nightly import NightlyVerification
from ledger.sealing.sealer import Sealer
from ledger.service.composition.database import open_vault
from ledger.service.composition.writing import Clock, utc_now
from ledger.settings import Settings


class Sealing:
    """The sealer and the nightly verification."""

    def __init__(self, settings: Settings, conninfo: str, clock: Clock = utc_now) -> None:
        self._sealer = create_sealer(settings, conninfo, clock)
        self._verification = NightlyVerification(
            conninfo, witness_folder(settings), settings.verified_at, clock
        )

    def start(self) -> None:
        """Start both loops."""
        self._sealer.start()
        self._verification.start()

    def stop(self) -> None:
        """End both loops. A part that is being verified is verified again at the next start."""
        self._verification.stop()
        self._sealer.stop()


def create_sealer(settings: Settings, conninfo: str, clock: Clock = utc_now) -> Sealer:
    """The sealer; it keeps the last checkpoint in the data directory, too."""
    return Sealer(conninfo, open_vault(settings), clock, witness_folder(settings))


def witness_folder(settings: Settings) -> Path:
    """The folder of the last checkpoint outside of the database."""
    return settings.data_dir / "sealed"
