"""The table of statements' documents: stored before their events, and never changed."""

from datetime import timedelta

from ledger.engine.log.tables import STATEMENT_DOCUMENT, DocumentRow
from ledger.engine.postgres.session import RoundConnection
from ledger.engine.values.values import EARLIEST
from ledger.engine.writer.housekeeper import Round

_STORE = f"""
INSERT INTO ledger.{STATEMENT_DOCUMENT.name} ({", ".join(STATEMENT_DOCUMENT.columns)})
VALUES ({", ".join(["%s"] * len(STATEMENT_DOCUMENT.columns))}) ON CONFLICT DO NOTHING
"""

# Drop the documents of an interval that have no event. An event's identity is a digest of
# organization and hash (``Identity.of_document``), which PostgreSQL computes as the domain does.
_DROP_UNISSUED = r"""
DELETE FROM ledger.statement_document AS d
WHERE stored_at > %(after)s AND stored_at <= %(until)s AND NOT EXISTS (
    SELECT FROM ledger.identity WHERE digest = encode(substring(sha256(
        convert_to(d.organization_id, 'UTF8') || '\x0000'::bytea
        || convert_to(encode(d.document_sha256, 'hex'), 'UTF8') || '\x00'::bytea
        || convert_to('document', 'UTF8')
    ) FOR 16), 'hex')::uuid
)
"""

_UNISSUED_AFTER = timedelta(hours=1)
"""How long a document may wait for its event. A request takes seconds."""


class Documents:
    """Stores documents. Statements are few, so each store opens a connection."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo

    def store(self, row: DocumentRow) -> None:
        """Store a document. After an error of PostgreSQL the document may or may not be stored."""
        with RoundConnection.connect(
            self._conninfo, autocommit=True, application_name="ledger documents"
        ) as connection:
            connection.execute(_STORE.encode(), row)


class DropUnissued:
    """The housekeeper's chore: drops documents without a statement."""

    def __init__(self) -> None:
        self._looked_until = EARLIEST
        """Each document that was stored by this instant has its statement, or was dropped."""

    def __call__(self, round: Round) -> tuple[int, bool]:
        stored = {"after": self._looked_until, "until": round.now - _UNISSUED_AFTER}
        dropped = round.connection.execute(_DROP_UNISSUED, stored).rowcount
        self._looked_until = stored["until"]
        return dropped, False
