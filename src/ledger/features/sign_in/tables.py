"""Sessions and the names of persons, as an append reads and changes them (contract, Sign-in).

The rows are outside the log. An append changes them together with its event, so that one node at a
time requests a session's claims from the provider, and a session ends once.
"""

from collections.abc import Sequence
from datetime import datetime

from ledger.engine.log.append import Append, Wanted
from ledger.engine.log.tables import PERSON, SESSION, PersonRow, SessionRow
from ledger.engine.postgres.binary import array
from ledger.engine.postgres.pipeline import Value

_COLUMNS = ", ".join(SESSION.columns)

# The sessions that a provider ends: those of its own session if it names one, else the person's.
_OF_PROVIDER = f"""
SELECT {_COLUMNS} FROM ledger.session
WHERE issuer = %(issuer)s::text AND CASE WHEN %(sid)s::text IS NULL THEN sub = %(sub)s::text
    ELSE sid = %(sid)s::text AND sub = coalesce(%(sub)s::text, sub) END
    AND date_trunc('second', signed_at) <= %(until)s::timestamptz
ORDER BY session_id
"""

_OF_SECRETS = f"SELECT {_COLUMNS} FROM ledger.session WHERE secret_hash = ANY(%(secrets)s::bytea[])"

# The oldest sessions of a person, beyond the latest ones.
_OLDEST = f"""
SELECT {_COLUMNS} FROM ledger.session
WHERE sub = %(sub)s::text AND issuer IS NOT DISTINCT FROM %(issuer)s::text
ORDER BY begun_at DESC OFFSET %(most)s::int
"""

_END = """
WITH used AS (DELETE FROM ledger.key_use WHERE key_id = ANY(%(session)s::text[]))
DELETE FROM ledger.session WHERE session_id = ANY(%(session)s::text[])
"""


class SessionRows:
    """The sessions of one append, with its own changes."""

    def __init__(self, append: Append) -> None:
        self._append = append
        self._rows: dict[str, SessionRow | None] = {}
        """The sessions that were read or changed; None for ended ones."""
        self._changed: set[str] = set()
        self._persons: dict[str, PersonRow] = {}

    def find(self, session_id: str) -> SessionRow | None:
        """The row of a session; None if there is none, or if it has ended."""
        if session_id not in self._rows:
            found = self._append.read(Wanted(rows={SESSION: [(session_id,)]})).rows.get(SESSION)
            self._rows[session_id] = found[0] if found else None
        return self._rows[session_id]

    def of_provider(
        self, issuer: str, sub: str | None, sid: str | None, until: datetime
    ) -> list[SessionRow]:
        """The provider's sessions of a person, or of its own session, begun by an instant."""
        filters: dict[str, Value] = {"issuer": issuer, "sub": sub, "sid": sid}
        return self._select(_OF_PROVIDER, filters | {"until": until.isoformat()})

    def of_secrets(self, secrets: Sequence[bytes]) -> list[SessionRow]:
        return self._select(_OF_SECRETS, {"secrets": array("bytea", secrets)})

    def beyond(self, most: int, sub: str, issuer: str | None) -> list[SessionRow]:
        return self._select(_OLDEST, {"sub": sub, "issuer": issuer, "most": most})

    def _select(self, statement: str, values: dict[str, Value]) -> list[SessionRow]:
        found = [SessionRow(*row) for row in self._append.select(statement, values)]
        current = [self._rows.setdefault(row.session_id, row) for row in found]
        return [row for row in current if row is not None]

    def keep(self, row: SessionRow) -> None:
        self._rows[row.session_id] = row
        self._changed.add(row.session_id)

    def end(self, session_id: str) -> None:
        self._rows[session_id] = None
        self._changed.add(session_id)

    def person(self, sub: str) -> PersonRow | None:
        """The names of a person; None if none are stored."""
        if sub not in self._persons:
            found = self._append.read(Wanted(rows={PERSON: [(sub,)]})).rows.get(PERSON)
            return found[0] if found else None
        return self._persons[sub]

    def name_person(self, row: PersonRow) -> None:
        self._persons[row.sub] = row

    def write(self) -> None:
        """Write the changes; the statements are sent with the commit."""
        changed = {each: self._rows[each] for each in sorted(self._changed)}
        stored = [row for row in changed.values() if row is not None]
        self._append.write_rows({SESSION: stored, PERSON: [*self._persons.values()]})
        if ended := [each for each, row in changed.items() if row is None]:
            self._append.change(_END, session=array("text", ended))
