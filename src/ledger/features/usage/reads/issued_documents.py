"""The documents of statements, compared with the events that issued them (contract, Statements)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ledger.engine.log.tables import STATEMENT_DOCUMENT
from ledger.engine.values.recorded import Recorded
from ledger.features.proof.sealing.shelf import Connection
from ledger.features.proof.tables import Report
from ledger.features.proof.verification.differing import differs, missing
from ledger.features.usage.model.statement import StatementIssued

# The documents with these hashes. The total of an altered document is not read.
_DOCUMENTS = """
SELECT asked.hash, d.organization_id, d.workspace_id, actual.hash, d.total,
    CASE WHEN actual.hash = asked.hash
         THEN (convert_from(d.document, 'UTF8')::json -> 'total')::text END, d.stored_at
FROM unnest(%s::bytea[]) AS asked (hash)
LEFT JOIN ledger.statement_document AS d ON d.document_sha256 = asked.hash
LEFT JOIN LATERAL (SELECT sha256(d.document) AS hash OFFSET 0) AS actual ON true
"""


class IssuedDocuments:
    """Checks the documents of the statements that were folded since the last comparison."""

    def __init__(self, connection: Connection, report: Report) -> None:
        self._connection, self._report = connection, report
        self._issued: dict[bytes, tuple[StatementIssued, datetime]] = {}
        self.rows = 0

    def note(self, recorded: Recorded) -> None:
        if isinstance(recorded.body, StatementIssued):
            hash_ = bytes.fromhex(recorded.body.document_sha256)
            self._issued[hash_] = recorded.body, recorded.recorded_at

    def compare(self) -> None:
        """Compare the documents of the statements that were folded since the last call."""
        if not self._issued:
            return
        issued, self._issued = self._issued, {}
        self.rows += len(issued)
        found = self._connection.execute(_DOCUMENTS, ([*issued],), binary=True)
        for hash_, organization_id, workspace_id, *rest in found:
            stored = organization_id, workspace_id, *rest
            self._compare(hash_, *issued[hash_], stored)

    def _compare(
        self, hash_: bytes, event: StatementIssued, at: datetime, stored: Sequence[Any]
    ) -> None:
        organization_id, workspace_id, actual, total, expected, stored_at = stored
        if organization_id is None and actual is None:
            self._report(missing(STATEMENT_DOCUMENT, (hash_,)))
            return
        for column, says, log in (
            ("document", actual, hash_),
            ("organization_id", organization_id, event.organization_id),
            ("workspace_id", workspace_id, event.workspace_id),
            ("total", total, expected if actual == hash_ else total),
            # A time of storage after the event is wrong; None stands for infinity.
            ("stored_at", stored_at, at if stored_at is None or stored_at > at else stored_at),
        ):
            if says != log:
                self._report(differs(STATEMENT_DOCUMENT, (hash_,), column, says, log))
