"""What an append keeps beside the log: outcomes of commands sent under a key, omitted refusals.

Read and written under the append lock, in its transaction: a crash between commit and reply leaves
the outcome where the next try finds it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from ledger.postgres.arrays import array
from ledger.postgres.pipeline import Transaction, named

# The outcomes kept under these keys. (OFFSET 0: as in ``append.py``.)
_OUTCOMES = """
SELECT i.*
FROM unnest(%(credential)s::text[], %(path)s::text[], %(key)s::text[])
    AS asked (credential, path, key)
CROSS JOIN LATERAL (
    SELECT credential, path, key, fingerprint, outcome, recorded_at FROM ledger.idempotency
    WHERE credential = asked.credential AND path = asked.path AND key = asked.key
    OFFSET 0
) AS i
"""

# An outcome; one that is there still has outlived its day.
_KEEP = """
INSERT INTO ledger.idempotency (credential, path, key, fingerprint, outcome, recorded_at)
SELECT * FROM unnest(%(credential)s::text[], %(path)s::text[], %(key)s::text[],
    %(fingerprint)s::bytea[], %(outcome)s::bytea[], %(recorded_at)s::timestamptz[])
ON CONFLICT (credential, path, key) DO UPDATE
SET fingerprint = excluded.fingerprint, outcome = excluded.outcome,
    recorded_at = excluded.recorded_at
"""

_OMIT = """
INSERT INTO ledger.refusals_omitted AS o (credential, organization_id, workspace_id, since, count)
VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (credential) DO UPDATE SET count = o.count + excluded.count
"""

# Takes the count: an event says it from here on.
_TAKE_OMITTED = """
DELETE FROM ledger.refusals_omitted WHERE credential = %s
RETURNING organization_id, workspace_id, since, count
"""

# Counts that have waited long enough to be told.
DUE_OMITTED = "SELECT credential FROM ledger.refusals_omitted WHERE since <= %s LIMIT %s"

# Outcomes that have outlived their day. The outer condition is for one that is being replaced at
# this moment: once that has committed, the row is looked at again, and is a young one.
DROP_EXPIRED = """
DELETE FROM ledger.idempotency WHERE recorded_at <= %(until)s AND (credential, path, key) IN (
    SELECT credential, path, key FROM ledger.idempotency
    WHERE recorded_at <= %(until)s ORDER BY recorded_at LIMIT %(limit)s)
"""

KeyColumns = tuple[str, str, str]
"""(credential, path, key)"""


class OutcomeRow(NamedTuple):
    """One kept outcome."""

    credential: str
    path: str
    key: str
    fingerprint: bytes
    outcome: bytes
    recorded_at: datetime


class Omitted(NamedTuple):
    """A credential's refusals that were only counted."""

    organization_id: str | None
    workspace_id: str | None
    since: datetime
    number: int


class SideTables:
    """The tables beside the log, in an append's transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def outcomes(self, keys: Sequence[KeyColumns]) -> list[OutcomeRow]:
        """Those kept under these keys, expired ones too."""
        names = ("credential", "path", "key")
        columns = dict(zip(names, map(array, zip(*keys, strict=True)), strict=True))
        return [OutcomeRow(*row) for row in self._transaction.run(named(_OUTCOMES, columns))]

    def keep(self, rows: Iterable[OutcomeRow]) -> None:
        """Keep outcomes."""
        columns = dict(zip(OutcomeRow._fields, map(array, zip(*rows, strict=True)), strict=True))
        self._transaction.defer(named(_KEEP, columns))

    def omit(self, credential: str, omitted: Omitted) -> None:
        """Count refusals that are not recorded singly."""
        self._transaction.execute(_OMIT, (credential, *omitted))

    def take_omitted(self, credential: str) -> Omitted | None:
        """What was counted, and no longer is."""
        row = self._transaction.execute(_TAKE_OMITTED, (credential,)).fetchone()
        return None if row is None else Omitted(*row)
