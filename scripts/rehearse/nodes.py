"""Nodes of the ledger: ``ledger serve`` on hosts, each with a data directory of its own."""

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from scripts.rehearse.deployed import ROOT
from scripts.rehearse.hosts import Host
from scripts.rehearse.programs import Program, until

MASTER_KEY = "7e" * 32
ORGANIZATION = "ORG-26-000001"


class Node:
    """A node that can be started and ended. ``tree`` is the work tree of its version."""

    def __init__(
        self,
        host: Host,
        folder: Path,
        database: str,
        port: int,
        *,
        tree: Path = ROOT,
        wrapper: tuple[str, ...] = (),
        role: str | None = None,
    ) -> None:
        self.host, self.port, self.database, self.tree = host, port, database, tree
        self.name = folder.name
        self.folder = folder
        self.data = folder / "data"
        self.wrapper, self._role = wrapper, role
        folder.mkdir(mode=0o755, exist_ok=True)
        self.program = self._made()

    def _made(self) -> Program:
        role = [] if self._role is None else ["--role", self._role]
        serve = [
            "serve",
            "--host",
            self.host.address,
            "--port",
            str(self.port),
            "--workers",
            "2",
            *role,
        ]
        command = [*self.wrapper, *ledger_command(), *serve]
        return Program(self.host, command, self.folder / "log", self.environment)

    @property
    def environment(self) -> dict[str, str]:
        """The node's settings. An operator's commands at the node have them too."""
        return {
            "LEDGER_DATABASE_URL": self.database,
            "LEDGER_DATA_DIR": str(self.data),
            "LEDGER_MASTER_KEY": MASTER_KEY,
            "PYTHONPATH": f"{self.tree / 'src'}:{self.tree}",
        }

    @property
    def address(self) -> str:
        """The node's own address, not that of the proxy before it."""
        return f"http://{self.host.address}:{self.port}"

    def change(self, *, database: str | None = None, tree: Path | None = None) -> None:
        """Give the node another database or version. It applies from the next start."""
        self.database = database or self.database
        self.tree = tree or self.tree
        self.program = self._made()

    def start(self, seconds: float = 60.0) -> None:
        """Start the node, and wait until it is ready."""
        self.program.start()
        self.await_ready(seconds)

    def await_ready(self, seconds: float = 60.0) -> None:
        """Wait until the node is ready. Raises TimeoutError with the end of the node's log."""
        try:
            until(lambda: self.readiness()[0] == 200, f"the node {self.name}", seconds)
        except TimeoutError as error:
            text = self.program.log.read_text()[-1500:] if self.program.log.exists() else ""
            raise TimeoutError(f"{error}; it said: {text}") from error

    def forget(self) -> None:
        """Remove the data directory: the node starts as a new one."""
        subprocess.run(["rm", "-rf", str(self.data)], check=True)

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """The status of ``/readyz`` and its document; 0 without an answer within 2 s."""
        status, text = fetch(f"{self.address}/readyz", 2.0)
        with contextlib.suppress(ValueError):
            return status, json.loads(text)
        return status, {}

    def metric(self, name: str) -> float | None:
        """The largest value of a metric; None if the node does not have it."""
        _, text = fetch(f"{self.address}/metrics", 3.0)
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.M)
        return max(map(float, found), default=None)

    def run(self, *arguments: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a ``ledger`` command with the node's settings."""
        return subprocess.run(
            self.host.command([*ledger_command(), *arguments]),
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=120,
            input=stdin,
            cwd="/",
            check=False,
        )

    def make_key(self, *permissions: str) -> str:
        """A new key of the rehearsal's organization. Raises RuntimeError."""
        wanted = [word for name in permissions for word in ("--permission", name)]
        done = self.run("keys", "create", "--organization", ORGANIZATION, *wanted)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()


def ledger_command() -> list[str]:
    """The command ``ledger``, for any work tree that PYTHONPATH names."""
    return [sys.executable, "-m", "ledger"]


def fetch(url: str, seconds: float, token: str | None = None) -> tuple[int, str]:
    """The status and the text of an answer; status 0 if none comes in time."""
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=seconds
        ) as a:
            return a.status, a.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""
