"""haproxy, in front of PostgreSQL and of the nodes."""

from pathlib import Path

from scripts.rehearse.cluster import Member
from scripts.rehearse.deployed import write
from scripts.rehearse.hosts import Host
from scripts.rehearse.programs import Program

DATABASE_PORT = 5000
PORT = 8000


def make_proxy(host: Host, folder: Path, members: list[Member], nodes: dict[str, str]) -> Program:
    """The proxy, not started yet. ``nodes`` are addresses by name."""
    folder.mkdir()
    databases = [f"    server {m.name} {m.host.address}:5432 check port 8008" for m in members]
    checked = [f"    server {name} {address} check" for name, address in nodes.items()]
    unready = [f"    server {name}-unready {address} backup" for name, address in nodes.items()]
    configuration = write(
        folder,
        "haproxy/haproxy.cfg",
        address=host.address,
        socket=folder / "socket",
        databases="\n".join(databases),
        nodes="\n".join([*checked, *unready]),
    )
    return Program(host, ["haproxy", "-f", str(configuration)], folder / "log")
