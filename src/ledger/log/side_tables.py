"""What an append keeps beside the log: outcomes of commands sent under a key, omitted refusals.

Read and written under the append lock, in its transaction: a crash between commit and reply leaves
the outcome where the next try finds it.
"""

from collections.abc import Collection, Sequence

from ledger.log.tables import OMITTED, OUTCOME, OmittedRow, OutcomeRow
from ledger.postgres.binary import array
from ledger.postgres.pipeline import Transaction, named
from ledger.postgres.rows import find, insert

# Counts that are added to what is counted already.
_OMIT = """
INSERT INTO ledger.refusals_omitted AS o (credential, organization_id, workspace_id, since, count)
SELECT unnest(%(credential)s::text[]), unnest(%(organization_id)s::text[]),
    unnest(%(workspace_id)s::text[]), unnest(%(since)s::timestamptz[]), unnest(%(count)s::bigint[])
ON CONFLICT (credential) DO UPDATE SET count = o.count + excluded.count
"""

# Takes the count: an event says it from here on.
_TAKE_OMITTED = """
DELETE FROM ledger.refusals_omitted WHERE credential = %(credential)s
RETURNING credential, organization_id, workspace_id, since, count
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


class SideTables:
    """The tables beside the log, in an append's transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def outcomes(self, keys: Collection[KeyColumns]) -> list[OutcomeRow]:
        """Those kept under these keys, at least one; expired ones too."""
        return [OutcomeRow(*row) for row in self._transaction.run(find(OUTCOME, keys))]

    def keep(self, rows: Sequence[OutcomeRow]) -> None:
        """Keep outcomes, at least one."""
        self._transaction.defer(insert({OUTCOME: rows}))

    def omit(self, rows: Sequence[OmittedRow]) -> None:
        """Count refusals that are not recorded singly, of at least one credential."""
        columns = map(array, OMITTED.columns.values(), zip(*rows, strict=True))
        self._transaction.defer(named(_OMIT, dict(zip(OMITTED.columns, columns, strict=True))))

    def take_omitted(self, credential: str) -> OmittedRow | None:
        """What was counted, and no longer is."""
        rows = self._transaction.run(named(_TAKE_OMITTED, {"credential": credential}))
        return OmittedRow(*rows[0]) if rows else None
