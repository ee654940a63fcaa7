"""What the tests of the sealed log share: a ledger with events, its sealer, and what it checks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from ledger.log.vault import Vault
from ledger.sealing.check import Checked, check
from ledger.sealing.sealer import Sealer
from ledger.service.composition.database import open_vault
from ledger.settings import Settings
from tests.conftest import MASTER_KEY
from tests.support.service import Clock

VAULT: Vault = open_vault(Settings(master_key=MASTER_KEY))


def sealer_of(conninfo: str, folder: Path, clock: Callable[[], Any] | None = None) -> Sealer:
    """One that no other process knows of; call ``run_once``, and ``close`` at the end."""
    return Sealer(conninfo, VAULT, clock or Clock(), folder)


def seal(conninfo: str, folder: Path) -> int:
    """Seal what there is, by a process of its own; how many events that were."""
    sealer = sealer_of(conninfo, folder)
    try:
        return sealer.run_once()
    finally:
        sealer._disconnect()


def checked(conninfo: str, folder: Path) -> tuple[Checked, list[str]]:
    """What ``ledger verify`` finds, and the faults that it names."""
    faults: list[str] = []
    return check(conninfo, folder, faults.append, lambda *_: None), faults


def stopped(conninfo: str) -> str | None:
    """Why sealing has stopped."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute("SELECT error FROM ledger.signer").fetchone()
    assert row is not None
    error: str | None = row[0]
    return error


def vandalize(conninfo: str, *statements: str) -> None:
    """What whoever owns the database can do: the log's own guards are off."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        for statement in statements:
            connection.execute(statement.encode())
