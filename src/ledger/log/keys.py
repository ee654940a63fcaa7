"""The changes that an append makes to the tables of API keys.

A fold of the whole log gives every row of ``api_key`` and ``former_secret``. An append has only its
own events: keys that are stored already are changed by statements.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

from ledger.domain import api_key
from ledger.domain.recorded import Recorded
from ledger.log.tables import ApiKeyRow, FormerSecretRow
from ledger.postgres.pipeline import Statement, named

_UPDATE = """
UPDATE ledger.api_key SET name = %(name)s::text, expires_at = %(expires_at)s::timestamptz
WHERE key_id = %(key)s
"""

# Replace a key's secret. Secrets that were replaced before end no later than the replaced one.
_ROTATE = """
WITH replaced AS (
    INSERT INTO ledger.former_secret
        (secret_hash, key_id, organization_id, workspace_id, valid_until)
    SELECT secret_hash, key_id, organization_id, workspace_id, %(until)s::timestamptz
    FROM ledger.api_key WHERE key_id = %(key)s
), ended AS (
    UPDATE ledger.former_secret SET valid_until = %(until)s::timestamptz
    WHERE key_id = %(key)s AND valid_until > %(until)s::timestamptz
)
UPDATE ledger.api_key SET secret_hash = %(secret_hash)s::bytea, prefix = %(prefix)s::text
WHERE key_id = %(key)s
"""

_REVOKE = "UPDATE ledger.api_key SET revoked_at = %(at)s::timestamptz WHERE key_id = %(key)s"


class _Rotation(NamedTuple):
    """A rotation of a stored key."""

    key_id: str
    secret_hash: bytes
    prefix: str
    until: datetime


class KeyChanges:
    """The rows of new keys, and the changes of stored ones."""

    def __init__(self) -> None:
        self.new: dict[str, ApiKeyRow] = {}
        self._former: dict[str, list[FormerSecretRow]] = {}
        """The replaced secrets of new keys, by key."""
        self._updated: dict[str, api_key.ApiKeyUpdated] = {}
        self._rotated: list[_Rotation] = []
        self._revoked: dict[str, datetime] = {}

    # The fold.

    def created(self, body: api_key.ApiKeyCreated, recorded: Recorded) -> None:
        self.new[recorded.originator_id] = ApiKeyRow(
            key_id=recorded.originator_id,
            secret_hash=body.secret_hash,
            name=body.name,
            organization_id=recorded.organization_id,
            workspace_id=recorded.workspace_id,
            permissions=body.permissions,
            created_at=recorded.recorded_at,
            revoked_at=None,
            expires_at=body.expires_at,
            prefix=body.prefix,
            created_by_type=recorded.actor.type,
            created_by_id=recorded.actor.id,
        )

    def updated(self, body: api_key.ApiKeyUpdated, recorded: Recorded) -> None:
        key_id = recorded.originator_id
        if (row := self.new.get(key_id)) is not None:
            self.new[key_id] = row._replace(name=body.name, expires_at=body.expires_at)
        else:
            self._updated[key_id] = body

    def rotated(self, body: api_key.ApiKeyRotated, recorded: Recorded) -> None:
        key_id = recorded.originator_id
        until = recorded.recorded_at + timedelta(seconds=body.grace_seconds)
        row = self.new.get(key_id)
        if row is None:
            self._rotated.append(_Rotation(key_id, body.secret_hash, body.prefix, until))
            return
        earlier = self._former.get(key_id, ())
        shortened = [
            former._replace(valid_until=min(former.valid_until, until)) for former in earlier
        ]
        tenant = (row.organization_id, row.workspace_id)
        replaced = FormerSecretRow(row.secret_hash, key_id, *tenant, until)
        self._former[key_id] = [*shortened, replaced]
        self.new[key_id] = row._replace(secret_hash=body.secret_hash, prefix=body.prefix)

    def revoked(self, body: api_key.ApiKeyRevoked, recorded: Recorded) -> None:
        key_id, at = recorded.originator_id, recorded.recorded_at
        if (row := self.new.get(key_id)) is not None:
            self.new[key_id] = row._replace(revoked_at=at)
        else:
            self._revoked[key_id] = at

    @property
    def former(self) -> list[FormerSecretRow]:
        """The replaced secrets of new keys."""
        return [row for rows in self._former.values() for row in rows]

    # The changes of stored rows.

    def statements(self) -> list[Statement]:
        """The statements that change stored keys, in the order of their execution."""
        found = [
            named(_UPDATE, {"key": key, "name": body.name, "expires_at": _text(body.expires_at)})
            for key, body in self._updated.items()
        ]
        for rotation in self._rotated:
            values = {
                "key": rotation.key_id,
                "secret_hash": f"\\x{rotation.secret_hash.hex()}",
                "prefix": rotation.prefix,
                "until": _text(rotation.until),
            }
            found.append(named(_ROTATE, values))
        for key, at in self._revoked.items():
            found.append(named(_REVOKE, {"key": key, "at": _text(at)}))
        return found


def _text(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat()
