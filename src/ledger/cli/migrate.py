"""The command ``ledger migrate``: what a start does to the schema, without a start."""

from ledger.service.composition.database import migrate_database
from ledger.service.composition.reading import admit_reads
from ledger.settings import Settings


def migrate(settings: Settings, conninfo: str) -> int:
    """Bring the schema up to date; print each migration that was applied."""
    conninfo, applied = migrate_database(settings, conninfo)
    admit_reads(settings, conninfo)
    for name in applied:
        print(name)
    if not applied:
        print("No migration was due.")
    return 0
