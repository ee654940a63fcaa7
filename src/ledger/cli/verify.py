"""The command ``ledger verify``: compares the sealed log and decision tables with the events."""

from ledger.cli.printing import progress_bars
from ledger.log.derived import TABLES, compare
from ledger.sealing.check import check
from ledger.sealing.note import BadNote
from ledger.service.composition.sealing import witness_folder
from ledger.settings import Settings


def verify(settings: Settings, conninfo: str) -> int:
    """Print each difference to the stored events; return 1 if there is any."""
    with progress_bars("Verifying", ["the sealed log", "the decision tables"]) as shown:
        try:
            found = check(conninfo, witness_folder(settings), print, shown["the sealed log"])
        except BadNote as error:
            print(f"the log's key: {error}")
            return 1
        tables = compare(conninfo, print, shown["the decision tables"])
    print(
        f"{found.events:,} events in {found.checkpoints:,} checkpoints,"
        f" {found.faults:,} differences; {found.unsealed:,} not sealed yet."
    )
    print(f"{tables.rows:,} rows of {len(TABLES)} decision tables, {tables.faults:,} differences.")
    return 1 if found.faults or tables.faults else 0
