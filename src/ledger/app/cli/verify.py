"""The command ``ledger verify``: compares stored data with the log (contract, Proof)."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection

import psycopg
from psycopg.rows import tuple_row

from ledger.app.cli.printing import progress_bars
from ledger.app.composition.database import configured_master_key
from ledger.app.composition.verification import compare
from ledger.app.features import projections
from ledger.app.processes import Lifeline
from ledger.app.settings import Settings
from ledger.engine.log.vault import Vault
from ledger.engine.values.values import escaped
from ledger.engine.views.definitions import Definitions
from ledger.engine.views.definitions import compare as compare_definitions
from ledger.features.proof.sealing.note import BadNote
from ledger.features.proof.sealing.origins import former_origins
from ledger.features.proof.tables import Difference
from ledger.features.proof.verification.check import check
from ledger.features.proof.verification.derived import TABLES, Compared

_PRINTED = 1000
"""The most differences of a table that are printed; all are counted."""


def verify(settings: Settings, conninfo: str) -> int:
    """Print each difference; return 1 if there is any.

    The definitions of the schema are compared first, since everything else is read through them.
    Then the sealed log and the other tables are compared at the same time, in two processes.
    """
    differences, key = _Differences(), configured_master_key(settings)
    schema = _compare_schema(conninfo, differences)
    ours, child = Lifeline().fork(partial(_compare, conninfo))
    with (
        progress_bars("Verifying", ["the sealed log", "the tables beside it"]) as bars,
        ThreadPoolExecutor(1) as threads,
    ):
        received = threads.submit(_receive, ours, differences, bars["the tables beside it"])
        try:
            found = check(
                conninfo,
                settings.witness_folder,
                differences.add,
                bars["the sealed log"],
                vault=Vault(key) if key is not None else None,
            )
        except BadNote as error:
            print(f"signer is_only=true: its column vkey: {error}")
            child.terminate()
            return 1
        except BaseException:
            child.terminate()
            raise
        tables = received.result()
    child.join()
    differences.print_rest()
    _print_adopted(conninfo)
    _print_uncompared(schema)
    print(
        f"{found.events:,} events in {found.checkpoints:,} checkpoints,"
        f" {found.faults:,} differences; {found.unsealed:,} not sealed yet."
    )
    print(f"{tables.rows:,} rows of {len(TABLES)} tables, {tables.faults:,} differences.")
    print(f"{schema.objects:,} objects of the schema, {len(schema.differing):,} differences.")
    return 1 if found.faults or tables.faults or schema.differing else 0


def _compare_schema(conninfo: str, differences: "_Differences") -> Definitions:
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        schema = compare_definitions(connection, projections())
    for each in schema.differing:
        differences.add(Difference.of_object(each))
    return schema


def _print_uncompared(schema: Definitions) -> None:
    """Print the parts of the schema that this version cannot judge; they are no differences."""
    for view in schema.elsewhere:
        print(f"The view {view} is of another version: its tables were not compared.")
    for role in schema.admitted:
        print(f"The rights of {role} were not compared: default privileges name it.")


def _print_adopted(conninfo: str) -> None:
    """Print what the log has lost of earlier origins, and who adopted that: no differences."""
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        for origin in former_origins(connection):
            lost = max(0, origin.last_size - origin.kept_size)
            print(
                f"{origin.name} ended {origin.ended_at:%Y-%m-%d %H:%M:%S} UTC, with {lost:,} of"
                f" {origin.last_size:,} sealed events lost: adopted by {origin.ended_by}"
                f" ({escaped(origin.reason)})."
            )


def _compare(conninfo: str, pipe: Connection) -> None:
    """Compare the tables beside the log, in a process of its own; send the results."""
    try:
        pipe.send(compare(conninfo, pipe.send, lambda *progress: pipe.send(progress)))
    except BrokenPipeError:
        pass  # the command was interrupted
    except Exception as error:
        pipe.send(error)


def _receive(
    pipe: Connection, differences: "_Differences", progress: Callable[[int, int], None]
) -> Compared:
    """Process what the other process sends. Raises the error that it ended with."""
    while True:
        try:
            message = pipe.recv()
        except EOFError as error:
            raise OSError("The process that compares tables has ended.") from error
        if isinstance(message, Compared):
            return message
        if isinstance(message, Difference):
            differences.add(message)
        elif isinstance(message, Exception):
            raise message
        else:
            progress(*message)


class _Differences:
    """Prints differences as they are found, for each table a bounded number."""

    def __init__(self) -> None:
        self._found: Counter[str] = Counter()

    def add(self, difference: Difference) -> None:
        self._found[difference.table] += 1
        if self._found[difference.table] <= _PRINTED:
            print(difference)

    def print_rest(self) -> None:
        for table, number in sorted(self._found.items()):
            if number > _PRINTED:
                print(f"{table}: {number - _PRINTED:,} more differences")
