"""The tables of the sealed log: its tiles and checkpoints, its name and its key."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NamedTuple

import psycopg
from psycopg.rows import TupleRow

from ledger.log.vault import Vault
from ledger.sealing.note import BadNote, Signer, Verifier
from ledger.sealing.tiles import Tile

Connection = psycopg.Connection[TupleRow]

# The first process names the log and makes its key.
_BEGIN = "INSERT INTO ledger.signer (vkey, secret) VALUES (%s, %s) ON CONFLICT DO NOTHING"

_SIGNER = "SELECT vkey, secret FROM ledger.signer"

_LATEST = "SELECT size, position, note FROM ledger.checkpoint ORDER BY size DESC LIMIT 1"

# The tiles that exist among those asked for.
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

_STOP = """
UPDATE ledger.signer SET stopped_at = coalesce(stopped_at, %(at)s), error = %(error)s
WHERE error IS DISTINCT FROM %(error)s
"""

_GO_ON = "UPDATE ledger.signer SET stopped_at = NULL, error = NULL WHERE error IS NOT NULL"

_PURPOSE = "log/signing-key/v1"


class Sealed(NamedTuple):
    """The latest checkpoint."""

    size: int
    position: int
    note: str | None
    """None if no event is sealed yet."""


def begin(connection: Connection, vault: Vault) -> None:
    """Give the log a name and a key, if it has none."""
    signer = Signer.create()
    connection.execute(_BEGIN, (signer.vkey, vault.seal(_PURPOSE, signer.secret)))


def signer_of(connection: Connection, vault: Vault) -> Signer:
    """The log's name and key.

    Raises BadNote if they were damaged or do not belong together, and CannotOpen if the key was not
    encrypted under this master key.
    """
    ((vkey, secret),) = connection.execute(_SIGNER).fetchall()
    signer = Signer(Verifier(vkey).name, vault.open(_PURPOSE, secret))
    if signer.vkey != vkey:
        raise BadNote("not the key that others were told")
    return signer


def verifier_of(connection: Connection) -> Verifier:
    """The verifier of the log's checkpoints. Raises BadNote if the key was damaged or removed."""
    row = connection.execute(_SIGNER).fetchone()
    if row is None:
        raise BadNote("the log has no key")
    return Verifier(row[0])


def latest(connection: Connection) -> Sealed:
    """The latest checkpoint: how far the log is sealed."""
    row = connection.execute(_LATEST).fetchone()
    return Sealed(*row) if row else Sealed(0, 0, None)


def tiles(connection: Connection, wanted: Collection[Tile]) -> dict[Tile, bytes]:
    """The tiles that exist among those wanted."""
    asked = {"levels": [level for level, _ in wanted], "numbers": [number for _, number in wanted]}
    found = connection.execute(TILES, asked, binary=True)
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


def stop(connection: Connection, at: datetime, error: str) -> bool:
    """Note that sealing has stopped, and why; return whether the reason is new."""
    return connection.execute(_STOP, {"at": at, "error": error}).rowcount > 0


def go_on(connection: Connection) -> None:
    """Note that sealing goes on."""
    connection.execute(_GO_ON)
