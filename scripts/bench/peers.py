"""Comparable systems, measured in the same run: Emmett (npm) and Prefect's server (PyPI).

Each system is installed once, below `build/peers`, in the version of the recorded figures. Each has
its own database, on a server with our settings. If a system cannot be installed (no Node.js, no
package index), its recorded figure is used, and the row says so.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import limits
import loadgen
import psycopg
from measure import Bench
from product import UnmeasuredError

from ledger.engine.postgres.embedded import running

HERE = Path(__file__).resolve().parent
INSTALLED = HERE.parents[1] / "build" / "peers"
INSTALLS_WITHIN = 300  # seconds

EMMETT = "0.42.0"
PREFECT = "3.9.1"
LONG = 3  # longer than other rounds: Prefect answers only some 60 requests per second
WARM_UP = 1.0

Measure = Callable[[], float]


class NotInstalledError(Exception):
    """A peer cannot be installed on this machine; the message says why."""


@dataclass(frozen=True)
class Peer:
    """A system, its recorded writes per second, and the multiple that we must reach."""

    name: str
    recorded: float
    at_least: float
    measuring: Callable[[Bench, str], AbstractContextManager[Measure]]
    """Makes the measure of this system, on the empty database at a URL."""


@contextlib.contextmanager
def measured(bench: Bench, peer: Peer) -> Iterator[Measure]:
    """The measure of a peer, in writes per second. Raises NotInstalledError."""
    folder = bench.folder / "peers"
    with running(folder, purpose="bench", announce=print) as postgres:
        database = peer.measuring.__name__
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {database}".encode())
        with peer.measuring(bench, postgres.url.replace("/ledger?", f"/{database}?")) as measure:
            yield measure


@contextlib.contextmanager
def emmett(bench: Bench, url: str) -> Iterator[Measure]:
    """Appends of one event, each with an inline projection, in Emmett's own process."""
    packages = [f"@event-driven-io/{name}@{EMMETT}" for name in ("emmett", "emmett-postgresql")]
    folder = installed("emmett", ["npm", "install", "--no-audit", "--no-fund", *packages])
    command = ["node", str(HERE / "emmett.mjs"), url, str(bench.seconds), str(bench.clients)]

    def measure() -> float:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise UnmeasuredError(f"Emmett failed: {done.stderr.strip()[-300:]}")
        return float(done.stdout)

    yield measure


@contextlib.contextmanager
def prefect(bench: Bench, url: str) -> Iterator[Measure]:
    """Flow runs created over HTTP. The server is stopped (SIGSTOP) while others are measured."""
    venv = [sys.executable, "-m", "venv", "."]
    package = ["bin/pip", "install", "--quiet", f"prefect=={PREFECT}"]
    folder = installed("prefect", venv, package)
    port = limits.free_port()
    env = {
        "PREFECT_HOME": str(bench.folder / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": url.replace("postgresql:", "postgresql+asyncpg:"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    command = [str(folder / "bin/prefect"), "server", "start", "--port", str(port)]
    log = bench.folder / "prefect.log"
    with limits.serve(command, f"http://127.0.0.1:{port}/api/health", log, env) as server:
        run = {"flow_id": create_flow(port), "state": {"type": "PENDING"}}
        body = json.dumps(run).encode()
        post = loadgen.request("POST", "/api/flow_runs/", body, content_type="application/json")
        requests = [[post]] * bench.clients

        def measure() -> float:
            os.killpg(server.pid, signal.SIGCONT)
            job = loadgen.Job(port, requests, LONG * bench.seconds, WARM_UP, repeat=True)
            result = loadgen.run_load(job)
            os.killpg(server.pid, signal.SIGSTOP)
            if set(result.statuses) != {201}:
                raise UnmeasuredError(f"Prefect answered {result.statuses}: {result.refusal}")
            return result.rate

        os.killpg(server.pid, signal.SIGSTOP)
        try:
            yield measure
        finally:
            os.killpg(server.pid, signal.SIGCONT)


def create_flow(port: int) -> str:
    """Create the flow for the runs; return its id."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/flows/",
        json.dumps({"name": "line"}).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(json.load(answer)["id"])


def installed(name: str, *commands: list[str]) -> Path:
    """Install a system by these commands, only once; return its folder."""
    folder = INSTALLED / name
    done = folder / "installed"
    if done.exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for command in commands:
        try:
            subprocess.run(
                command, cwd=folder, capture_output=True, timeout=INSTALLS_WITHIN, check=True
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise NotInstalledError(f"{command[0]} failed: {type(error).__name__}") from error
    done.touch()
    return folder


# Recorded on the same kind of machine, 32 clients (24 November 2026).
PEERS = (
    Peer("Emmett with an inline projection (raw SQL)", 1_170, 2.5, emmett),
    Peer("Prefect's server on PostgreSQL", 65, 45, prefect),
)
