"""The tables of the sealed log: its tiles and checkpoints, its name and its key."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NamedTuple, Self

import psycopg
from psycopg.rows import TupleRow

from ledger.engine.log.append import StoredRow
from ledger.engine.log.vault import Vault
from ledger.features.proof.sealing.note import BadNote, Signer, Verifier
from ledger.features.proof.sealing.tiles import Tile

Connection = psycopg.Connection[TupleRow]

# A key comes with its first checkpoint, or with the reason why it will never sign one.
_BEGIN = """
INSERT INTO ledger.signer (vkey, secret, contradicts, stopped_at, error)
VALUES (%(vkey)s, %(secret)s, %(error)s::text IS NOT NULL, %(at)s, %(error)s)
ON CONFLICT DO NOTHING
"""

_SIGNER = "SELECT vkey, secret FROM ledger.signer"

_LATEST = "SELECT size, position, note FROM ledger.checkpoint ORDER BY size DESC LIMIT 1"

# The present origin, its newest checkpoint, and the PostgreSQL that answers, with the OIDs of the
# database and of the log's table, which a restored dump changes. Fails on a standby.
_STATE = """
SELECT s.vkey, s.secret, s.origin, s.contradicts, s.error, s.waits_for, s.shown_size, s.after,
    concat(ledger.this_postgresql(), ' ', d.oid, '/', 'ledger.ledger_events'::regclass::oid),
    COALESCE(c.size, s.base_size), COALESCE(c.position, s.base_position), c.note
FROM pg_database AS d
LEFT JOIN ledger.signer AS s ON true
LEFT JOIN LATERAL (
    SELECT size, position, note FROM ledger.checkpoint ORDER BY size DESC LIMIT 1
) AS c ON true
WHERE d.datname = current_database()
"""

TILES = """
SELECT level, number, hashes FROM ledger.tile
JOIN unnest(%(levels)s::smallint[], %(numbers)s::bigint[]) AS asked (level, number)
    USING (level, number)
"""

_KEEP_TILES = """
INSERT INTO ledger.tile (level, number, hashes, first_position)
SELECT unnest(%(levels)s::smallint[]), unnest(%(numbers)s::bigint[]), unnest(%(hashes)s::bytea[]),
    unnest(%(positions)s::bigint[])
ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes
"""

_KEEP_CHECKPOINT = """
INSERT INTO ledger.checkpoint (size, position, note, number)
SELECT %s, %s, %s, coalesce((SELECT max(number) FROM ledger.checkpoint), 0) + 1
"""

_MARK = "UPDATE ledger.signer SET secret = %s"

_LOCK = "SELECT FROM ledger.signer FOR UPDATE"

# True if nothing has changed since the decision on a checkpoint.
_IS_UNCHANGED = """
SELECT s.vkey = %(vkey)s AND NOT s.contradicts
    AND COALESCE((SELECT max(size) FROM ledger.checkpoint), s.base_size) = %(size)s
    AND EXISTS (
        SELECT FROM ledger.ledger_events
        WHERE notification_id = %(position)s AND originator_id = %(stream)s AND state = %(state)s
    )
FROM ledger.signer AS s
"""

_SHOW = """
UPDATE ledger.signer SET shown_size = %(size)s
WHERE vkey = %(vkey)s AND NOT contradicts AND shown_size < %(size)s
"""

_STOP = """
UPDATE ledger.signer SET stopped_at = coalesce(stopped_at, %(at)s), error = %(error)s
WHERE error IS DISTINCT FROM %(error)s AND NOT contradicts
"""

# Stop until an operator adopts the log.
_CONTRADICT = """
UPDATE ledger.signer SET stopped_at = %(at)s, error = %(error)s, contradicts = true,
    waits_for = NULL
WHERE vkey = %(vkey)s AND NOT contradicts
"""

_WAIT = """
UPDATE ledger.signer SET waits_for = %(why)s
WHERE vkey = %(vkey)s AND waits_for IS DISTINCT FROM %(why)s
"""

_GO_ON = """
UPDATE ledger.signer SET stopped_at = NULL, error = NULL
WHERE error IS NOT NULL AND NOT contradicts
"""

_PURPOSE = "log/signing-key/v1"

_KEY_BYTES = 32


class Mark(NamedTuple):
    """The last checkpoint that a key has signed, as stored with the key.

    Both are encrypted together under the master key. So a person who can only change the database
    can neither alter the mark, nor remove it without losing the key. The person may restore an
    earlier mark with the key: the witnesses of the nodes detect that.
    """

    number: int
    """The number of the checkpoint in its origin."""
    position: int
    note: str

    def __bytes__(self) -> bytes:
        return f"{self.number} {self.position}\n{self.note}".encode()

    @classmethod
    def of(cls, text: bytes) -> Self:
        counts, _, note = text.decode().partition("\n")
        number, position = counts.split(" ")
        return cls(int(number), int(position), note)


class Sealed(NamedTuple):
    """The latest checkpoint."""

    size: int
    position: int
    note: str | None
    """None if no event is sealed yet."""


class State(NamedTuple):
    """The state of signing, by the database."""

    vkey: str
    """The name and the public key. Before the first checkpoint: those that the calling process
    would give the log."""
    secret: bytes | None
    """The key under the master key; None if the log has no key yet."""
    origin: int
    contradicts: bool
    """True if signing has stopped until an operator adopts the log."""
    error: str | None
    waits_for: str | None
    shown_size: int
    after: str | None
    """The line of the origin's first note that names the last checkpoint of the previous origin."""
    lineage: str
    sealed: Sealed
    """The newest checkpoint, or what the origin began with."""
    orphan: str | None = None
    """A checkpoint that the database has although the log has no key."""

    @property
    def has_signed(self) -> bool:
        return self.secret is not None


def begin(
    connection: Connection,
    vault: Vault,
    signer: Signer,
    mark: Mark | None = None,
    *,
    at: datetime | None = None,
    error: str | None = None,
) -> bool:
    """Give the log its name and key; return True if it had none.

    The same transaction must store the first checkpoint. Otherwise ``error`` says why nothing is
    signed until an operator adopts the log.
    """
    secret = sealed_secret(vault, signer, mark)
    values = {"vkey": signer.vkey, "secret": secret, "at": at, "error": error}
    return connection.execute(_BEGIN, values).rowcount > 0


def signer_of(connection: Connection, vault: Vault) -> Signer:
    """Raises as ``opened`` does."""
    row = connection.execute(_SIGNER).fetchone()
    if row is None:
        raise BadNote("the log has no key")
    return opened(vault, *row)[0]


def opened(vault: Vault, vkey: str, secret: bytes) -> tuple[Signer, Mark | None]:
    """A name and its key, and the mark; None for the mark if the key never signs (``begin``).

    Raises BadNote if they were damaged or do not belong together, and CannotOpen if another master
    key encrypted the key.
    """
    text = vault.open(_PURPOSE, secret)
    signer = Signer(Verifier(vkey).name, text[:_KEY_BYTES])
    if signer.vkey != vkey:
        raise BadNote("not the key that others were told")
    return signer, Mark.of(text[_KEY_BYTES:]) if len(text) > _KEY_BYTES else None


def verifier_of(connection: Connection) -> Verifier:
    """Raises BadNote if the key was damaged or removed."""
    row = connection.execute(_SIGNER).fetchone()
    if row is None:
        raise BadNote("the log has no key")
    return Verifier(row[0])


def latest(connection: Connection) -> Sealed:
    row = connection.execute(_LATEST).fetchone()
    return Sealed(*row) if row else Sealed(0, 0, None)


def state(connection: Connection, newborn: str) -> State:
    """The state of signing; ``newborn`` is the key that a log without a key would get."""
    ((vkey, *row),) = connection.execute(_STATE).fetchall()
    if vkey is None:
        nothing = Sealed(0, 0, None)
        return State(newborn, None, 1, False, None, None, 0, None, row[-4], nothing, row[-1])
    return State._make((vkey, *row[:-3], Sealed(*row[-3:]), None))


def tiles(connection: Connection, wanted: Collection[Tile]) -> dict[Tile, bytes]:
    values = {"levels": [level for level, _ in wanted], "numbers": [number for _, number in wanted]}
    found = connection.execute(TILES, values, binary=True)
    return {(level, number): hashes for level, number, hashes in found}


def keep(
    connection: Connection,
    changed: Mapping[Tile, bytes],
    first_positions: Mapping[int, int],
    sealed: Sealed,
) -> None:
    """Write the tiles that have grown, and the checkpoint.

    ``first_positions`` has the position of the first event of each new tile of leaves.
    """
    connection.execute(
        _KEEP_TILES,
        {
            "levels": [level for level, _ in changed],
            "numbers": [number for _, number in changed],
            "hashes": list(changed.values()),
            "positions": [None if level else first_positions[n] for level, n in changed],
        },
    )
    connection.execute(_KEEP_CHECKPOINT, sealed)


def lock(connection: Connection) -> None:
    """Let no other process sign, show, stop or adopt before the end of the transaction."""
    connection.execute(_LOCK)


def sealed_secret(vault: Vault, signer: Signer, mark: Mark | None) -> bytes:
    """Encrypt a signer's key and the last checkpoint that it signed, under the master key."""
    return vault.seal(_PURPOSE, signer.secret + (b"" if mark is None else bytes(mark)))


def mark(connection: Connection, secret: bytes) -> None:
    """Store the key with another mark. The transaction holds the lock (``is_unchanged``)."""
    connection.execute(_MARK, (secret,))


def is_unchanged(connection: Connection, vkey: str, sealed: Sealed, last: StoredRow) -> bool:
    """Return True if the checkpoint may still be stored, in this transaction.

    The origin and its newest checkpoint must be the same, and the log must still have the last
    event to seal. The process may have been frozen for any time since it read them.
    """
    lock(connection)
    values = {"vkey": vkey, "size": sealed.size, "position": last[4], "stream": last[0]}
    row = connection.execute(_IS_UNCHANGED, values | {"state": last[3]}).fetchone()
    return row == (True,)


def show(connection: Connection, vkey: str, size: int) -> None:
    """Show the checkpoints of an origin up to a size, if it is the present one."""
    connection.execute(_SHOW, {"vkey": vkey, "size": size})


def has_key(connection: Connection) -> bool:
    return connection.execute(_SIGNER).fetchone() is not None


def stop(connection: Connection, at: datetime, error: str) -> bool:
    """Store why nothing can be signed; return True if the reason is new."""
    return connection.execute(_STOP, {"at": at, "error": error}).rowcount > 0


def contradict(connection: Connection, vkey: str, at: datetime, error: str) -> bool:
    """Stop signing under an origin until an operator adopts the log; return True if that is new."""
    values = {"vkey": vkey, "at": at, "error": error}
    return connection.execute(_CONTRADICT, values).rowcount > 0


def wait(connection: Connection, vkey: str, why: str | None) -> bool:
    """Store why no node may sign, or None if one may; return True if that is new."""
    return connection.execute(_WAIT, {"vkey": vkey, "why": why}).rowcount > 0


def go_on(connection: Connection) -> None:
    """Clear the reason after it was fixed."""
    connection.execute(_GO_ON)
