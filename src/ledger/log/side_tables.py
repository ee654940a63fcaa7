"""Tables that an append keeps beside the log: outcomes by idempotency key, omitted refusals.

The rows are read and written under the append lock, in the append transaction. So if a process
crashes between commit and reply, the outcome is stored, and the client's next try finds it.
"""

from collections.abc import Collection, Sequence

from ledger.log.tables import OMITTED, OUTCOME, OmittedRow, OutcomeRow
from ledger.postgres.binary import array
from ledger.postgres.pipeline import Transaction, named
from ledger.postgres.rows import find, insert

# Add to the counts of credentials.
_OMIT = """
INSERT INTO ledger.refusals_omitted AS o (credential, organization_id, workspace_id, since, count)
SELECT unnest(%(credential)s::text[]), unnest(%(organization_id)s::text[]),
    unnest(%(workspace_id)s::text[]), unnest(%(since)s::timestamptz[]), unnest(%(count)s::bigint[])
ON CONFLICT (credential) DO UPDATE SET count = o.count + excluded.count
"""

# Take a credential's count out of the table: from now on an event tells it.
_TAKE_OMITTED = """
DELETE FROM ledger.refusals_omitted WHERE credential = %(credential)s
RETURNING credential, organization_id, workspace_id, since, count
"""

# The credentials whose counts have waited long enough to become events.
DUE_OMITTED = "SELECT credential FROM ledger.refusals_omitted WHERE since <= %s LIMIT %s"

# Delete outcomes older than their 24 hours. An append may be replacing such a row at this moment.
# Then this DELETE waits for its commit and evaluates the outer condition again, on the new row
# (READ COMMITTED); the new row is young and stays.
DROP_EXPIRED = """
DELETE FROM ledger.idempotency WHERE recorded_at <= %(until)s AND (credential, path, key) IN (
    SELECT credential, path, key FROM ledger.idempotency
    WHERE recorded_at <= %(until)s ORDER BY recorded_at LIMIT %(limit)s)
"""

KeyColumns = tuple[str, str, str]
"""(credential, path, key)"""


class SideTables:
    """The tables beside the log, within an append transaction."""

    def __init__(self, transaction: Transaction) -> None:
        self._transaction = transaction

    def outcomes(self, keys: Collection[KeyColumns]) -> list[OutcomeRow]:
        """Return the outcomes that are stored under these keys (at least one), expired ones too."""
        return [OutcomeRow(*row) for row in self._transaction.run(find(OUTCOME, keys))]

    def keep(self, rows: Sequence[OutcomeRow]) -> None:
        self._transaction.defer(insert({OUTCOME: rows}))

    def omit(self, rows: Sequence[OmittedRow]) -> None:
        """Count refusals that get no event of their own, of at least one credential."""
        columns = map(array, OMITTED.columns.values(), zip(*rows, strict=True))
        self._transaction.defer(named(_OMIT, dict(zip(OMITTED.columns, columns, strict=True))))

    def take_omitted(self, credential: str) -> OmittedRow | None:
        """Remove and return the credential's count of refusals, or None."""
        rows = self._transaction.run(named(_TAKE_OMITTED, {"credential": credential}))
        return OmittedRow(*rows[0]) if rows else None
