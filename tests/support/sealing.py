"""Helpers for tests of the sealed log: a sealer, the check of a log, and damage to a log."""

import hashlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from ledger.app.composition.database import open_vault
from ledger.app.settings import Settings
from ledger.engine.log.vault import Vault
from ledger.engine.views.definitions import load
from ledger.features.proof.sealing import shelf
from ledger.features.proof.sealing.beat import NodeBeat
from ledger.features.proof.sealing.origins import Adopted, adopt
from ledger.features.proof.sealing.sealer import Sealer
from ledger.features.proof.sealing.shelf import Mark
from ledger.features.proof.sealing.watch import WitnessWatch
from ledger.features.proof.sealing.witness import LineageFile, Witness
from ledger.features.proof.tables import Difference
from ledger.features.proof.verification.check import Checked, check
from tests.support.data_dirs import MASTER_KEY
from tests.support.ledger import Ledger
from tests.support.service import Clock
from tests.support.stored import CHECK, DROP_CHECK
from tests.support.views import led, until

VAULT: Vault = open_vault(Settings(master_key=MASTER_KEY))


def watch_of(folder: Path, timeout: float = 0.0, node_id: str | None = None) -> WitnessWatch:
    """The knowledge of a node that keeps its witness in a folder, and has waited for the others."""
    node_id = node_id or hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    return WitnessWatch(node_id, folder, timeout=timeout)


def sealer_of(
    conninfo: str,
    folder: Path,
    clock: Callable[[], Any] | None = None,
    watch: WitnessWatch | None = None,
) -> Sealer:
    """A sealer without its thread; call ``run_once``, and ``disconnect`` at the end."""
    return Sealer(led(conninfo, "sealer"), VAULT, clock or Clock(), watch or watch_of(folder))


def keep_witness(conninfo: str, folder: Path) -> None:
    """Make the newest checkpoint of the database the witness of a node that existed before."""
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        sealed, name = shelf.latest(connection), shelf.verifier_of(connection).name
    assert sealed.note is not None
    Witness(folder, name).keep(sealed.note)
    keep_lineage(conninfo, folder)


def keep_lineage(conninfo: str, folder: Path) -> None:
    """Let a node have waited for the others' reports on this PostgreSQL."""
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        LineageFile(folder).keep(shelf.state(connection, "").lineage)


class Node:
    """A node with its witness in a folder: its beat and its sealer, called in turn."""

    def __init__(
        self, conninfo: str, folder: Path, timeout: float = 30.0, node_id: str | None = None
    ) -> None:
        self.watch = watch_of(folder, timeout, node_id)
        self.conninfo, self.folder = conninfo, folder
        self.sealer = sealer_of(conninfo, folder, watch=self.watch)
        self._beat = NodeBeat(conninfo, self.watch, "all", Clock())

    def beat(self) -> None:
        """Follow, and report."""
        self._beat.beat_once()

    def join(self) -> None:
        """Beat until the node has a witness.

        After a slow answer, a node does not know if the others have beaten since its start.
        """
        until(lambda: self.beat() or any(self.folder.glob("*.checkpoint")), "the first witness")

    def seal(self) -> int:
        """A round of the sealer; return how many events were sealed."""
        return self.sealer.run_once()

    def __enter__(self) -> "Node":
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Close both connections. The next step opens others."""
        self._beat.disconnect()
        self.sealer.disconnect()


def shown_size(ledger: Ledger) -> int:
    (row,) = ledger.rows(
        "SELECT max(c.size) AS size FROM ledger.checkpoint AS c, ledger.signer AS s"
        " WHERE c.size <= s.shown_size"
    )
    return int(row["size"])


def adopt_log(conninfo: str, folder: Path, reason: str = "a standby was behind") -> Adopted:
    """Adopt the log with the data directory of the node that has its witness in a folder."""
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        return adopt(
            connection, VAULT, watch_of(folder), reason=reason, by="cli:test", clock=Clock()
        )


def seal(conninfo: str, folder: Path) -> int:
    """Seal the events that are not sealed yet, by a new sealer; return their number."""
    sealer = sealer_of(conninfo, folder)
    try:
        return sealer.run_once()
    finally:
        sealer.disconnect()


def checked(conninfo: str, folder: Path, vault: Vault = VAULT) -> tuple[Checked, list[str]]:
    """The result of ``ledger verify`` on the sealed log, and the differences that were named."""
    found: list[Difference] = []
    result = check(conninfo, folder, found.append, lambda *_: None, vault=vault)
    return result, list(map(str, found))


def stop_reason(conninfo: str) -> str | None:
    """The reason why sealing has stopped, if it has."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute("SELECT error FROM ledger.signer").fetchone()
    assert row is not None
    error: str | None = row[0]
    return error


OBJECTS = len(load((files("ledger.engine.views") / "definitions.txt").read_text()))
"""The objects of the schema; where a service has started, its rights are compared too."""


def mark(conninfo: str) -> None:
    """Put the mark of the newest checkpoint to the key, as in a backup of that time."""
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        signer = shelf.signer_of(connection, VAULT)
        (newest,) = connection.execute(
            "SELECT number, position, note FROM ledger.checkpoint ORDER BY size DESC LIMIT 1"
        ).fetchall()
        shelf.mark(connection, shelf.sealed_secret(VAULT, signer, Mark(*newest)))


def vandalize(conninfo: str, *statements: str) -> None:
    """Execute statements without the log's triggers and check, as the owner of the database can."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        again = connection.execute(CHECK).fetchone()
        connection.execute(DROP_CHECK)
        for statement in statements:
            connection.execute(statement.encode())
        if again is not None:
            connection.execute(again[0])
