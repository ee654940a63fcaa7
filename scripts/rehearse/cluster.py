"""PostgreSQL made highly available: three members with Patroni, and etcd on three other hosts."""

import contextlib
import json
import shutil
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from scripts.rehearse.deployed import filled, write
from scripts.rehearse.hosts import NETWORK, Host, make_host
from scripts.rehearse.packages import postgres_programs
from scripts.rehearse.programs import Program, descendants, send, until
from scripts.rehearse.sql import run_psql

_PASSWORDS = {
    "superuser_password": "rehearsed-superuser",
    "replication_password": "rehearsed-replication",
    "rewind_password": "rehearsed-rewind",
}
LEDGER_PASSWORD = "rehearsed-ledger"
NUMBER = 3
TTL = 20
"""Seconds, as in ``deploy/patroni/patroni.yml``."""


class Member:
    """A host with PostgreSQL and Patroni."""

    def __init__(self, number: int, folder: Path) -> None:
        self.host: Host = make_host(f"pg{number}", 10 + number)
        self.name = self.host.name
        self.folder = folder / self.name
        self.folder.mkdir(mode=0o755)
        (self.folder / "sockets").mkdir(mode=0o700)
        self.data = self.folder / "data"
        shutil.chown(self.folder, "postgres", "postgres")
        shutil.chown(self.folder / "sockets", "postgres", "postgres")
        self.patroni: Program

    def configure(self, etcd_hosts: list[str]) -> None:
        """Write the member's configuration, with the addresses of etcd."""
        address = self.host.address
        patroni = write(
            self.folder,
            "patroni/patroni.yml",
            name=self.name,
            address=address,
            network=NETWORK,
            etcd_hosts=json.dumps([f"{each}:2379" for each in etcd_hosts]),
            data_dir=self.data,
            bin_dir=postgres_programs(),
            socket_dir=self.folder / "sockets",
            pgpass=self.folder / "pgpass",
            **_PASSWORDS,
        )
        log = self.folder / "log"
        self.patroni = Program(self.host, ["patroni", str(patroni)], log, user="postgres")

    def start(self) -> None:
        """Start Patroni, which starts PostgreSQL."""
        self.patroni.start()

    @property
    def postmaster(self) -> int | None:
        """PostgreSQL's first process; None if it does not run."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.data / "postmaster.pid").read_text().split()[0])
            if Path(f"/proc/{pid}").exists():
                return pid
        return None

    def processes(self) -> list[int]:
        """Every process of the host."""
        postmaster = self.postmaster
        postgres = [] if postmaster is None else [postmaster, *descendants(postmaster)]
        return [*self.patroni.family(), *postgres]

    def kill_postgres(self) -> None:
        """Kill PostgreSQL's first process; the others then end."""
        send(signal.SIGKILL, [pid for pid in [self.postmaster] if pid is not None])

    def kill(self) -> None:
        """Kill PostgreSQL and Patroni, as when a machine loses its power."""
        send(signal.SIGKILL, self.processes())

    def senders(self) -> list[int]:
        """The processes that send the log to standbys."""
        postmaster = self.postmaster
        found = [] if postmaster is None else list(descendants(postmaster))
        return [p for p in found if b"walsender" in Path(f"/proc/{p}/cmdline").read_bytes()]

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """The URL of this member's PostgreSQL."""
        password = LEDGER_PASSWORD if user == "ledger" else _PASSWORDS["superuser_password"]
        return f"postgresql://{user}:{password}@{self.host.address}:5432/{database}"

    def ask(self, path: str) -> tuple[int, Any]:
        """Patroni's answer: its status and its JSON; status 0 without an answer."""
        try:
            with urllib.request.urlopen(self._api(path), timeout=1.5) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, None
        except (OSError, ValueError):
            return 0, None

    def tell(self, path: str, body: dict[str, Any], method: str = "POST") -> str:
        """Send a request to Patroni; return its answer. Raises OSError."""
        request = urllib.request.Request(
            self._api(path),
            json.dumps(body).encode(),
            {"content-type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())

    def _api(self, path: str) -> str:
        return f"http://{self.host.address}:8008{path}"


def _make_etcd(host: Host, folder: Path, hosts: list[Host]) -> Program:
    """A member of etcd, on one of these hosts."""
    folder = folder / host.name
    folder.mkdir(mode=0o700)
    configuration = write(
        folder,
        "etcd/etcd.yml",
        name=host.name,
        address=host.address,
        data_dir=folder / "data",
        peers=",".join(f"{each.name}=http://{each.address}:2380" for each in hosts),
    )
    return Program(host, ["etcd", "--config-file", str(configuration)], folder / "log")


class Cluster:
    """The members. ``start`` builds the cluster with an empty database for the ledger."""

    def __init__(self, folder: Path) -> None:
        numbers = range(1, NUMBER + 1)
        hosts = [make_host(f"etcd{number}", 30 + number) for number in numbers]
        self._etcds = [_make_etcd(host, folder, hosts) for host in hosts]
        self.members = [Member(number, folder) for number in numbers]
        for member in self.members:
            member.configure([host.address for host in hosts])

    def start(self) -> None:
        """Start all members, and make the ledger's user and database."""
        for etcd in self._etcds:
            etcd.start()
        for member in self.members:
            member.start()
        until(lambda: self.leader() is not None, "a primary", 90)
        self.await_whole()
        script = filled("patroni/ledger.sql", ledger_password=LEDGER_PASSWORD)
        run_psql(self.primary().url(), script)

    def stop(self) -> None:
        """End all members."""
        for member in self.members:
            send(signal.SIGCONT, member.processes())
            member.patroni.stop()
        for etcd in self._etcds:
            etcd.stop()

    def leader(self) -> Member | None:
        """The member that takes writes; None if there is none now."""
        for member in self.members:
            if member.ask("/primary")[0] == 200:
                return member
        return None

    def primary(self) -> Member:
        """The member that takes writes. Raises TimeoutError if there is none for a minute."""
        until(self.leader, "a primary")
        found = self.leader()
        assert found is not None
        return found

    def standbys(self) -> list[Member]:
        """The other members, the synchronous one first."""
        others = [member for member in self.members if member is not self.leader()]
        return sorted(others, key=lambda member: member.ask("/synchronous")[0] != 200)

    def await_whole(self, seconds: float = 120.0) -> None:
        """Wait until all members follow one primary, at least one of them synchronously."""
        until(self._is_whole, "three members, one of them synchronous", seconds)

    def _is_whole(self) -> bool:
        leader = self.leader()
        if leader is None:
            return False
        others = [member for member in self.members if member is not leader]
        follow = all(
            status == 200 and answer.get("replication_state") == "streaming"
            for status, answer in (member.ask("/replica") for member in others)
        )
        return follow and (
            not self.is_synchronous() or any(m.ask("/synchronous")[0] == 200 for m in others)
        )

    def is_synchronous(self) -> bool:
        """Return True if commits wait for a standby."""
        for member in self.members:
            status, answer = member.ask("/config")
            if status == 200:
                return bool(answer["synchronous_mode"])
        return False

    def set_synchronous(self, wanted: bool) -> None:
        """Set if commits wait for a standby."""
        self.primary().tell("/config", {"synchronous_mode": wanted}, "PATCH")
        self.await_whole()

    def switch_over(self) -> None:
        """Make the synchronous standby the primary, as before maintenance."""
        leader, candidate = self.primary(), self.standbys()[0]
        leader.tell("/switchover", {"leader": leader.name, "candidate": candidate.name})
