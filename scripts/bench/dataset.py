"""Data sets for measurements: a ledger full of lines, always the same, made once and reused.

    python scripts/bench/dataset.py                            1 M events on 100,000 lines
    python scripts/bench/dataset.py --events 10000000 --lines 1000000
    python scripts/bench/dataset.py --verify                   … and have every view verified

A data set is a data directory for `ledger serve`, under `build/bench-data` (or LEDGER_BENCH_DATA);
its path is printed last. The log is generated and copied in, `ledger projections rebuild` builds
the views, and the log is sealed. An existing data set is reused if this code would make the same
one. If only views have changed, only the views are built again.
"""

import argparse
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from chronicle import SPAN, TABLES, Chronicle
from line_histories import Teller
from line_requests import Asker
from load_log import load, move_sequence
from population import Population
from product import Client, Product, copy_ledger, run_ledger
from story import ORGANIZATION

from ledger.app.composition.database import open_vault, prepare_database
from ledger.app.composition.writing import utc_now
from ledger.app.features import projections
from ledger.app.processes import calm_collector
from ledger.app.settings import Settings
from ledger.engine.log.nodes import node_id_in
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.embedded.place import find_paths
from ledger.engine.postgres.leadership import Candidate
from ledger.engine.postgres.locks import SEALING
from ledger.engine.postgres.schema.table import Table
from ledger.engine.views.schema import index_statements, table_statements
from ledger.engine.writer.periodic import LeaderSession
from ledger.features.proof.sealing.sealer import Sealer
from ledger.features.proof.sealing.watch import WitnessWatch

GENERATOR = 3
"""The generator's version: raise it with every change of the generated log."""

FOLDER = Path(
    os.environ.get("LEDGER_BENCH_DATA")
    or Path(__file__).resolve().parents[2] / "build" / "bench-data"
)

# Durability is off: after a power failure the data set can be made again.
_CARELESS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "4GB",
    "autovacuum": "off",
}
_SEED = 1
TIMEOUT = 6 * 3600.0  # seconds for a command on ten million events


@dataclass(frozen=True)
class DataSet:
    """A ledger with a number of events on a number of lines, in a folder."""

    events: int
    lines: int
    span: timedelta = SPAN

    @property
    def data_dir(self) -> Path:
        """The data set's folder."""
        return FOLDER / f"{self.events}-events-{self.lines}-lines"

    @property
    def key(self) -> str:
        """An API key with all permissions in the first organization."""
        return (self.data_dir / "bench.key").read_text().strip()

    @property
    def population(self) -> Population:
        """The data set's lines."""
        return Population(self.lines)

    def asker(self, product: Product) -> Asker:
        """Makes requests about the lines, to a product that serves the set or a copy."""
        answer = json.loads(Client(product).get("/v1/execution?limit=1")[1])
        return Asker(self.population, answer["data"][0]["id"])

    @property
    def _settings(self) -> Settings:
        return Settings(data_dir=self.data_dir, database_url=None)

    @property
    def _marker(self) -> Path:
        return self.data_dir / "bench.json"

    def prepare(self) -> None:
        """Make the data set, or its missing parts."""
        found = json.loads(self._marker.read_text()) if self._marker.exists() else {}
        if found.get("log") != _log_version():
            self._discard()
            self._generate()
            found = {}
        if found.get("views") != _views_version():
            self._build_views()
        if not found.get("sealed"):
            self._seal()
        made = {"log": _log_version(), "views": _views_version(), "sealed": True}
        self._marker.write_text(json.dumps(made))

    def copy_to(self, data_dir: Path) -> None:
        """Make a copy that may be changed. No process may use this data set meanwhile."""
        copy_ledger(self.data_dir, data_dir)

    def verify(self) -> None:
        """Compare every view with the log. Raises UnmeasuredError if one differs."""
        self._command("projections", "verify")

    def _discard(self) -> None:
        """Remove the data set, wherever its database is."""
        location = find_paths(self.data_dir)
        for folder in (location.base, self.data_dir):
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def _running(self) -> Iterator[str]:
        """The URL of the running database, which writes to the disk only at the end."""
        postgres = EmbeddedPostgres(self.data_dir, purpose="bench-data", settings=_CARELESS)
        postgres.start()
        try:
            yield postgres.url
        finally:
            postgres.stop()
        os.sync()

    def _generate(self) -> None:
        """Make the log with its decision tables, and a key."""
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        with self._running() as url:
            prepare_database(self._settings, url)
            book = Chronicle(open_vault(self._settings), self.events, _SEED, self.span)
            began = time.perf_counter()
            calm_collector()
            load(url, TABLES, self._parts(book))
            move_sequence(url, book.position)
            elapsed = time.perf_counter() - began
            _say(f"{book.position:,} events in {elapsed:.1f} s, {book.position / elapsed:,.0f}/s")
            self._create_key()

    def _parts(self, book: Chronicle) -> Iterator[dict[str, list[str]]]:
        began = printed = time.perf_counter()
        for _ in Teller(self.population, book, self.events).tell():
            yield book.rows
            if (now := time.perf_counter()) - printed > 10:
                printed = now
                rate = book.position / (now - began)
                _say(f"{book.position:,} of {self.events:,} events, {rate:,.0f}/s")

    def _build_views(self) -> None:
        """Build the views by `ledger projections rebuild`, and the planner's statistics."""
        with self._running() as url:
            began = time.perf_counter()
            self._command("projections", "rebuild")
            _say(f"views built in {time.perf_counter() - began:.1f} s")
            began = time.perf_counter()
            _vacuum(url)
            _say(f"vacuumed in {time.perf_counter() - began:.1f} s")

    def _seal(self) -> None:
        """Seal the log, by the loop that every service runs."""
        with self._running() as url:
            conninfo = prepare_database(self._settings, url)
            node_id = node_id_in(self._settings.data_dir)
            # There is no other node.
            watch = WitnessWatch(node_id, self._settings.witness_folder, timeout=0.0)
            session = LeaderSession(conninfo, "sealer", Candidate({"sealer": SEALING["sealer"]}))
            sealer = Sealer(session, open_vault(self._settings), utc_now, watch)
            began = time.perf_counter()
            sealed = 0
            while count := sealer.run_once():
                sealed += count
            _say(f"{sealed:,} events sealed in {time.perf_counter() - began:.1f} s")
            _vacuum(url, "ledger.tile, ledger.checkpoint")

    def _create_key(self) -> None:
        create = ["keys", "create", "--organization", ORGANIZATION, "--name", "bench"]
        create += ["--permission", "read", "write", "service_lines:manage"]
        create += ["--permission", "webhooks:manage", "audit:read"]
        path = self.data_dir / "bench.key"
        path.touch(0o600)
        path.write_text(self._command(*create))

    def _command(self, *arguments: str) -> str:
        """Run `ledger` on the data set; return its output."""
        output = run_ledger({"LEDGER_DATA_DIR": str(self.data_dir)}, *arguments, seconds=TIMEOUT)
        if arguments[0] == "projections":
            _say(output.rstrip())
        return output


def _vacuum(url: str, tables: str = "") -> None:
    """Make the planner's statistics of some or all tables, and write everything to the disk."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"VACUUM (ANALYZE) {tables}".encode())
        connection.execute("CHECKPOINT")


def _log_version() -> list[Any]:
    """The version of the generated log. Later migrations are applied as to any other ledger."""
    return [GENERATOR]


def _views_version() -> dict[str, list[Any]]:
    """The versions and the tables of the views that are built."""
    return {
        view.name: [
            view.version,
            hashlib.sha256("; ".join(_statements(view.tables)).encode()).hexdigest(),
        ]
        for view in projections()
    }


def _statements(tables: Sequence[Table]) -> Iterator[str]:
    for table in tables:
        yield from table_statements(table, 1)
        yield from index_statements(table, 1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Read the options, make the data set, print its folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--weeks", type=int, default=SPAN.days // 7, help="how long the lines work")
    parser.add_argument("--verify", action="store_true", help="compare the views with the log")
    args = parser.parse_args()
    os.environ.pop("LEDGER_DATABASE_URL", None)  # a data set has its own embedded server
    made = DataSet(args.events, args.lines, timedelta(weeks=args.weeks))
    made.prepare()
    if args.verify:
        made.verify()
    print(made.data_dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
