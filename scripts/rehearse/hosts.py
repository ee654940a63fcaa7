"""Hosts: network namespaces on one bridge. Each has an address, and can vanish or be slow."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

NETWORK = "10.0.0.0/24"
_PREFIX = "10.0.0."
CENTER = f"{_PREFIX}1"
"""The address of the rehearsal itself: the clients, haproxy and Prometheus."""

_CENTER_NAME = "center"
_BRIDGE = "rehearsal"


@dataclass(frozen=True)
class Host:
    """A host with an address of its own; the center is the host of the rehearsal itself."""

    name: str
    address: str

    @property
    def is_center(self) -> bool:
        """True if the rehearsal runs on this host."""
        return self.name == _CENTER_NAME

    @classmethod
    def this(cls) -> "Host":
        """This machine, whose loopback is enough for a rehearsal without other hosts."""
        return cls(_CENTER_NAME, "127.0.0.1")

    def command(self, arguments: list[str]) -> list[str]:
        """The command that runs another one on this host."""
        if self.is_center:
            return arguments
        return ["nsenter", f"--net=/run/netns/{self.name}", "--", *arguments]

    def vanish(self) -> None:
        """Take the host off the network: it neither receives nor answers anything."""
        _ip("link", "set", f"{self.name}-up", "down")

    def come_back(self) -> None:
        """Connect the host to the network again."""
        _ip("link", "set", f"{self.name}-up", "up")

    def delay(self, milliseconds: int) -> bool:
        """Delay all that is sent to the host; return False if the kernel has no netem."""
        queue = ["tc", "qdisc", "replace", "dev", f"{self.name}-up", "root"]
        command = [*queue, "netem", "delay", f"{milliseconds}ms"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def make_network() -> Host:
    """Make the bridge in this network namespace; return the host at its center."""
    folder = Path("/run/netns")
    folder.mkdir(exist_ok=True)
    # The names of the namespaces must not be seen outside of this mount namespace.
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
    _ip("link", "set", "lo", "up")
    _ip("link", "add", _BRIDGE, "type", "bridge")
    _ip("addr", "add", f"{CENTER}/24", "dev", _BRIDGE)
    _ip("link", "set", _BRIDGE, "up")
    return Host(_CENTER_NAME, CENTER)


def make_host(name: str, number: int) -> Host:
    """Make a host whose address ends with a number."""
    host = Host(name, f"{_PREFIX}{number}")
    _ip("netns", "add", name)
    _ip("link", "add", f"{name}-up", "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("link", "set", f"{name}-up", "master", _BRIDGE, "up")
    for inside in (
        ["addr", "add", f"{host.address}/24", "dev", "eth0"],
        ["link", "set", "eth0", "up"],
        ["link", "set", "lo", "up"],
    ):
        _ip("-n", name, *inside)
    return host


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, stdout=subprocess.DEVNULL)
