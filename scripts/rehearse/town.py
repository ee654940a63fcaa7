"""The machines of the documents' example, with an operator who types the documents' commands."""

import json
import subprocess
import urllib.request
from pathlib import Path

from scripts.rehearse.hosts import make_host, make_network
from scripts.rehearse.load import ClientGroup, Load, activation
from scripts.rehearse.machines import Machine
from scripts.rehearse.nodes import ORGANIZATION, fetch
from scripts.rehearse.pages import PASSWORD, commands
from scripts.rehearse.programs import until

LINE = "LIN-26-000001"
MEMBERS = ("pg1", "pg2", "pg3")
NODES = ("a", "b")
_NUMBERS = {"pg1": 11, "pg2": 12, "pg3": 13, "a": 21, "b": 22, "proxy": 31, "single": 41}
"""The last numbers of the addresses, as in the documents; the single server is separate."""

SETTINGS = commands("runbook.md", "First look").partition("curl")[0]
"""The lines that give an operator's commands the settings of a node."""

_NEW_KEY = f"""{SETTINGS}
ledger keys create --organization {ORGANIZATION} --permission read --permission write \
    --permission webhooks:manage --permission audit:read --permission runs:erase
"""


class Town:
    """Machines that have booted, without anything that an operator would install."""

    def __init__(self, folder: Path) -> None:
        self.center = make_network()
        self._groups = folder / "groups"
        self._groups.mkdir()
        (folder / "backup").mkdir()
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(self._groups)], check=True)
        self.machines = {
            name: Machine(
                make_host(name, number), folder, folder / "backup" if name in MEMBERS else ""
            )
            for name, number in _NUMBERS.items()
        }
        self.token = ""

    def start(self) -> None:
        """Boot all machines."""
        names = "".join(f"{each.host.address} {name}\n" for name, each in self.machines.items())
        for machine in self.machines.values():
            machine.boot(names)

    def stop(self) -> None:
        """End all machines."""
        for machine in self.machines.values():
            machine.stop()
        subprocess.run(["umount", "--lazy", str(self._groups)], capture_output=True)

    def follow(
        self,
        name: str,
        page: str,
        heading: str,
        number: int = 0,
        before: str = "",
        **words: str,
    ) -> str:
        """Type a block of a page on a machine; return the output. Raises RuntimeError.

        The text ``before`` comes first: settings or a key from elsewhere on the page.
        """
        print(f"{name}: {page}, {heading}", flush=True)
        return self.type(name, f"{before}\n{commands(page, heading, number, **words)}")

    def type(self, name: str, script: str) -> str:
        """Type a script on a machine; return the output. Raises RuntimeError if it fails."""
        done = self.machines[name].run(script)
        if done.returncode:
            raise RuntimeError(
                f"{name} says {done.returncode}: {script}\n{done.stdout}{done.stderr}"
            )
        return done.stdout

    def address(self, name: str) -> str:
        """The address of a node, or of the proxy."""
        return f"http://{self.machines[name].host.address}:8000"

    def url(self, name: str) -> str:
        """The URL of the ledger's database on a machine."""
        host = self.machines[name].host.address
        return f"postgresql://ledger:{PASSWORD}@{host}/ledger"

    def await_ready(self, name: str, seconds: float = 90.0) -> None:
        """Wait until a node, or one behind the proxy, is ready. Raises TimeoutError."""
        until(lambda: self._readiness(name) != {}, f"the node {name}", seconds)

    def _readiness(self, name: str) -> dict[str, object]:
        status, answer = fetch(f"{self.address(name)}/readyz", 2.0)
        return json.loads(answer) if status == 200 else {}

    def await_sealed(self, name: str) -> None:
        """Wait until a node reports that all events are sealed. Raises TimeoutError."""

        def is_sealed() -> bool:
            sealing = self._readiness(name).get("sealing")
            return isinstance(sealing, dict) and not sealing["lag"] and not sealing["stopped"]

        until(is_sealed, f"the seals of {name}", 60)

    def await_stopped(self, name: str) -> None:
        """Wait until a node reports that sealing has stopped. Raises TimeoutError."""

        def is_stopped() -> bool:
            sealing = self._readiness(name).get("sealing")
            return isinstance(sealing, dict) and bool(sealing["stopped"])

        until(is_stopped, f"{name} to stop sealing", 60)

    def await_members(self, name: str, leader: str, standbys: int = 2) -> None:
        """Wait until a member leads, and standbys stream from it. Raises TimeoutError."""

        def is_whole() -> bool:
            lines = self.machines[name].run("patronictl list").stdout.splitlines()
            leads = any(f"| {leader} " in line and "Leader" in line for line in lines)
            return leads and sum("streaming" in line for line in lines) == standbys

        until(is_whole, f"{leader} with {standbys} standbys", 400)

    def await_archived(self, name: str, folder: str) -> None:
        """Wait until a server has archived each segment that is complete. Raises TimeoutError."""
        waiting = f"ls {folder}/pg_wal/archive_status"
        until(lambda: ".ready" not in self.type(name, waiting), f"the archive of {name}")

    def make_key(self, name: str) -> None:
        """Make a key for clients by a command on a node, and activate a line for the load."""
        self.token = self.type(name, _NEW_KEY).strip()
        self.send(name, "POST", "/v1/facts", activation(LINE), "application/cloudevents+json")

    def make_run(self, name: str) -> str:
        """Make a run that has ended, with a payload; return its id."""
        kind, line = "application/cloudevents+json", "LIN-26-000002"
        self.send(name, "POST", "/v1/facts", activation(line, "agent_runtime"), kind)
        fact = {"specversion": "1.0", "source": "/rehearsal", "id": "started"}
        data = {"service_line_id": line, "input": {"secret": 1}}
        started = fact | {"type": "run.started", "data": data}
        run = str(self.send(name, "POST", "/v1/facts", started, kind)["subject"])
        ended = fact | {"id": "ended", "type": "run.completed", "subject": run, "data": {}}
        self.send(name, "POST", "/v1/facts", ended, kind)
        return run

    def send(
        self, name: str, method: str, path: str, content: object, kind: str = "application/json"
    ) -> dict[str, object]:
        """Send a request to a node; return the data of its answer. Raises HTTPError."""
        headers = {"authorization": f"Bearer {self.token}", "content-type": kind}
        url, body = f"{self.address(name)}{path}", json.dumps(content).encode()
        request = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=12) as answer:
            data: dict[str, object] = json.load(answer)["data"]
            return data

    def load(self, name: str, address: str) -> Load:
        """Two clients that report facts, and one that reads."""
        return Load(name, self.token, [ClientGroup("front", (self.address(address),))], LINE)
