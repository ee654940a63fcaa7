"""Single PostgreSQL servers: to fill a disk, restore a backup, or recover to a point in time."""

import shutil
from pathlib import Path

import psycopg

from scripts.rehearse.cluster import LEDGER_PASSWORD
from scripts.rehearse.deployed import filled
from scripts.rehearse.hosts import NETWORK, Host
from scripts.rehearse.packages import postgres_programs
from scripts.rehearse.programs import Program, as_user, run, until
from scripts.rehearse.sql import query, run_psql

_USER = "postgres"


class Server:
    """A PostgreSQL server with the ledger's user, and an empty database for the ledger."""

    def __init__(self, host: Host, folder: Path, port: int, programs: Path | None = None) -> None:
        self.host, self.folder, self.port = host, folder, port
        self.programs = programs or postgres_programs()
        self.data = folder / "data"
        folder.mkdir(exist_ok=True, mode=0o755)
        shutil.chown(folder, _USER, _USER)
        self.program = Program(
            host,
            [str(self.programs / "postgres"), "-D", str(self.data)],
            folder / "log",
            user=_USER,
        )

    def url(self, database: str = "ledger", user: str = "ledger") -> str:
        return f"postgresql://{user}:{LEDGER_PASSWORD}@{self.host.address}:{self.port}/{database}"

    def create(self, **parameters: str) -> None:
        """Make the server, start it, and make the ledger's user and database."""
        self.run("initdb", "-D", str(self.data), "-U", _USER, "-A", "trust", "--locale=C.UTF-8")
        with (self.data / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {NETWORK} trust\nhost replication all {NETWORK} trust\n")
        self.configure(
            listen_addresses=self.host.address,
            port=str(self.port),
            unix_socket_directories=str(self.folder),
            **parameters,
        )
        self.start()
        script = filled("patroni/ledger.sql", ledger_password=LEDGER_PASSWORD)
        run_psql(self.url("postgres", _USER), script)

    def configure(self, **parameters: str) -> None:
        """Set parameters of the server. They apply from its next start."""
        with (self.data / "postgresql.conf").open("a") as configuration:
            for name, value in parameters.items():
                configuration.write(f"{name} = '{value}'\n")

    def start(self, seconds: float = 60.0) -> None:
        """Start the server, and wait until it takes writes."""
        self.program.start()
        until(self._is_primary, "the server", seconds)

    def stop(self) -> None:
        """End the server."""
        self.program.stop()

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs to its end, as its user. Raises RuntimeError."""
        run([*as_user(_USER), str(self.programs / program), *arguments])

    def _is_primary(self) -> bool:
        try:
            return query(self.url("postgres", _USER), "SELECT NOT pg_is_in_recovery()") == [(True,)]
        except psycopg.OperationalError:  # the server is still starting
            return False
