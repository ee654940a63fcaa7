"""A PostgreSQL that can be lost: a standby that is behind, or a backup, takes its place."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.support.data_dirs import QUICK, copy_of


class Failover:
    """A server, and copies of its files. A copy that takes over begins a new timeline."""

    def __init__(self, folder: Path, template: Path) -> None:
        self._folder = folder
        self.postgres = EmbeddedPostgres(
            copy_of(template, folder / "server"), purpose="tests", settings=QUICK
        )

    @property
    def url(self) -> str:
        return self.postgres.url

    @property
    def _files(self) -> Path:
        return self.postgres.paths.database

    def copy(self, name: str) -> None:
        """Make a copy of the server's present data."""
        self.postgres.stop()
        subprocess.run(["cp", "-a", self._files, self._folder / name], check=True)
        self.postgres.start()

    def lose_to(self, name: str) -> None:
        """Lose the server for good; a copy takes over, as a standby that is promoted."""
        self.postgres.stop()
        subprocess.run(["rm", "-rf", self._files], check=True)
        subprocess.run(["cp", "-a", self._folder / name, self._files], check=True)
        signal = self._files / "standby.signal"
        subprocess.run(["cp", "-a", self._files / "PG_VERSION", signal], check=True)
        self.postgres.start()
        with psycopg.connect(self.url, autocommit=True) as connection:
            assert connection.execute("SELECT pg_promote()").fetchone() == (True,)


@contextmanager
def failover_in(folder: Path, template: Path) -> Iterator[Failover]:
    """A running server, stopped at the end."""
    cluster = Failover(folder, template)
    cluster.postgres.start()
    try:
        yield cluster
    finally:
        cluster.postgres.stop()
