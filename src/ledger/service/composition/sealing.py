"""The sealer, in a process of its own: hashing would hold up the loops' interpreter."""

from pathlib import Path

from ledger.sealing.sealer import Sealer
from ledger.service.composition.database import open_vault
from ledger.service.composition.writing import Clock, utc_now
from ledger.settings import Settings


def create_sealer(settings: Settings, conninfo: str, clock: Clock = utc_now) -> Sealer:
    """The sealer; it keeps the last checkpoint in the data directory, too."""
    return Sealer(conninfo, open_vault(settings), clock, witness_folder(settings))


def witness_folder(settings: Settings) -> Path:
    """The folder of the last checkpoint outside of the database."""
    return settings.data_dir / "sealed"
