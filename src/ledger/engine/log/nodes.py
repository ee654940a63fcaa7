"""The nodes of a ledger, which report each second (contract, Several nodes).

A node is a ``ledger serve`` with its data directory, which holds its id. So a node that starts with
an empty directory is a new one. Instants are those of the database's clock.
"""

import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

import psycopg

from ledger import __version__
from ledger.engine.postgres.timing import LIVING_SECONDS
from ledger.engine.values.event_table import LANGUAGE

FORGET_SECONDS = 7 * 86_400.0
"""A node without a beat for so long is forgotten."""

_ID = re.compile(r"[0-9a-f]{16}")

_BEAT = """
INSERT INTO ledger.node AS n
    (node_id, version, role, language, started_at, beaten_at, witness, lineage)
VALUES (%(node_id)s, %(version)s, %(role)s, %(language)s, clock_timestamp(), clock_timestamp(),
    %(witness)s, %(lineage)s)
ON CONFLICT (node_id) DO UPDATE SET version = excluded.version, role = excluded.role,
    language = excluded.language, beaten_at = excluded.beaten_at, witness = excluded.witness,
    lineage = COALESCE(excluded.lineage, n.lineage)
RETURNING beaten_at
"""

# The nodes, with the seconds since the last beat of each.
_NODES = """
SELECT node_id, version, role, started_at, beaten_at, witness,
    extract(epoch FROM clock_timestamp() - beaten_at)::float8, lineage
FROM ledger.node ORDER BY node_id
"""

# The oldest language among the nodes that live.
SPOKEN = f"""
SELECT min(language) FROM ledger.node
WHERE beaten_at > clock_timestamp() - interval '{LIVING_SECONDS} seconds'
""".encode()
_FORGET = "DELETE FROM ledger.node WHERE beaten_at < clock_timestamp() - %s * interval '1 s'"


class Node(NamedTuple):
    """A node that has beaten."""

    node_id: str
    version: str
    role: str
    started_at: datetime
    beaten_at: datetime
    witness: str | None
    """The newest checkpoint that the node has seen, a signed note."""
    silent_seconds: float
    lineage: str | None = None
    """The PostgreSQL on which it has waited for the others' reports
    (``features/proof/sealing/peers.py``)."""

    @property
    def lives(self) -> bool:
        return self.silent_seconds < LIVING_SECONDS


def stored_node_id(folder: Path) -> str | None:
    """The node id in a data directory; None before the node's first beat."""
    with suppress(OSError):
        return _id_in(folder / "node")
    return None


def node_id_in(folder: Path) -> str:
    """The node id in a data directory, created at its first start. Raises OSError."""
    path = folder / "node"
    if (existing := _id_in(path)) is not None:
        return existing
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = os.urandom(8).hex()
    own = path.with_name(f"node.{made}")
    own.write_text(f"{made}\n")
    own.chmod(0o644)  # processes of another user read it, too
    try:
        # Another process may make the file at the same time, and both must have the same id.
        os.link(own, path)
    except FileExistsError:
        if (existing := _id_in(path)) is not None:
            return existing
        own.replace(path)
    finally:
        own.unlink(missing_ok=True)
    return made


def _id_in(path: Path) -> str | None:
    with suppress(FileNotFoundError):
        if _ID.fullmatch(text := path.read_text("utf-8", "replace").strip()):
            return text
    return None


def beat(
    connection: psycopg.Connection[Any],
    node_id: str,
    version: str,
    role: str,
    witness: str | None,
    lineage: str | None = None,
) -> datetime:
    """Write the node's row anew; return the instant of the beat. None keeps the lineage."""
    values = {"node_id": node_id, "version": version, "role": role, "witness": witness}
    ((beaten_at,),) = connection.execute(
        _BEAT, values | {"lineage": lineage, "language": LANGUAGE}
    ).fetchall()
    return cast("datetime", beaten_at)


def forget(connection: psycopg.Connection[Any]) -> None:
    connection.execute(_FORGET, (FORGET_SECONDS,))


def runs_other_version(connection: psycopg.Connection[tuple[Any, ...]]) -> bool:
    """True if a node of another version lives. Beats in the future do not count."""
    living = [n for n in nodes(connection) if n.lives and n.silent_seconds >= 0]
    return any(node.version != __version__ for node in living)


def nodes(connection: psycopg.Connection[tuple[Any, ...]]) -> list[Node]:
    """All nodes that have beaten, even those that are silent now."""
    return [Node(*row) for row in connection.execute(_NODES).fetchall()]
