"""The command ``ledger verify``: compares the sealed log with the stored events."""

from ledger.cli.printing import progress_bars
from ledger.sealing.check import check
from ledger.sealing.note import BadNote
from ledger.service.composition.sealing import witness_folder
from ledger.settings import Settings


def verify(settings: Settings, conninfo: str) -> int:
    """Print each difference between the sealed log and the events; return 1 if there is any."""
    with progress_bars("Verifying", ["the sealed log"]) as shown:
        try:
            found = check(conninfo, witness_folder(settings), print, shown["the sealed log"])
        except BadNote as error:
            print(f"the log's key: {error}")
            return 1
    print(
        f"{found.events:,} events in {found.checkpoints:,} checkpoints,"
        f" {found.faults:,} differences; {found.unsealed:,} not sealed yet."
    )
    return 1 if found.faults else 0
