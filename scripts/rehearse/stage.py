"""The stage of a rehearsal: nodes of a ledger on one database, under load."""

import json
import urllib.request
from pathlib import Path

from scripts.rehearse.deployed import ROOT
from scripts.rehearse.hosts import Host
from scripts.rehearse.load import ClientGroup, Load, activation
from scripts.rehearse.nodes import Node
from scripts.rehearse.notes import Notes
from scripts.rehearse.programs import until
from scripts.rehearse.sql import query

LINE = "LIN-26-000001"
"""The line of the load."""

_PERMISSIONS = ("read", "write", "audit:read", "runs:erase")
_LEADER = "SELECT node_id FROM ledger.leader WHERE loop = 'projector'"


class Stage:
    """Two nodes, each with a URL of the database. ``front`` is the address of the proxy.

    Without a proxy, clients have both nodes' addresses, and switch after a failure.
    """

    def __init__(
        self,
        folder: Path,
        addresses: list[tuple[Host, int]],
        databases: list[str],
        front: str | None = None,
        tree: Path | None = None,
        wrapper: tuple[str, ...] = (),
    ) -> None:
        self.database = databases[0]
        """The URL by which the rehearsal itself asks the database."""
        self.nodes: list[Node] = []
        for (host, port), letter, database in zip(addresses, "ab", databases, strict=True):
            path = folder.with_name(f"{folder.name}-{letter}")
            node = Node(host, path, database, port, tree=tree or ROOT, wrapper=wrapper)
            self.nodes.append(node)
        self._front = (front,) if front else tuple(node.address for node in self.nodes)
        self._load_number = 0
        self.token = ""
        self.notes: Notes | None = None

    def start(self) -> None:
        """Start the nodes, and activate a line for the load."""
        for node in self.nodes:
            node.start()
        self.token = self.nodes[0].make_key(*_PERMISSIONS)
        self.post("/v1/facts", activation(LINE), "application/cloudevents+json")
        self.notes = Notes(self.nodes, self.token)
        self.notes.start()

    def stop(self) -> None:
        """End the nodes, and stop reading their checkpoints."""
        if self.notes is not None:
            self.notes.stop()
            self.notes = None
        for node in self.nodes:
            node.program.thaw()
            node.program.stop()

    def post(
        self, path: str, body: dict[str, object], kind: str = "application/json"
    ) -> dict[str, object]:
        """Send a fact or a command to a node; return the data of its answer. Raises HTTPError."""
        headers = {"authorization": f"Bearer {self.token}", "content-type": kind}
        url = f"{self.nodes[0].address}{path}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=12) as answer:
            data: dict[str, object] = json.load(answer)["data"]
            return data

    def load(self, name: str) -> Load:
        """Clients of the proxy, and of each node itself."""
        self._load_number += 1
        groups = [ClientGroup("front", self._front, writers=3, readers=2)]
        groups += [ClientGroup(n.name[-1], (n.address,), writers=1, readers=1) for n in self.nodes]
        return Load(f"{name}-{self._load_number}", self.token, groups, LINE)

    def leading_node(self) -> Node:
        """The node that runs the projector; the first node if the database names none."""
        rows = query(self.database, _LEADER)
        for node in self.nodes:
            path = node.data / "node"
            if path.exists() and rows == [(path.read_text().strip(),)]:
                return node
        return self.nodes[0]

    def other_than(self, node: Node) -> Node:
        return next(each for each in self.nodes if each is not node)

    def use(self, database: str) -> None:
        """Give the stopped nodes another database."""
        self.database = database
        for node in self.nodes:
            node.change(database=database)

    def stop_nodes(self) -> None:
        for node in self.nodes:
            node.program.stop()

    def start_nodes(self) -> None:
        for node in self.nodes:
            node.program.start()
        for node in self.nodes:
            node.await_ready()

    def await_whole(self, seconds: float = 60.0) -> None:
        """Wait until both nodes are ready, and all facts are sealed or sealing has stopped."""
        for node in self.nodes:
            node.await_ready(seconds)
        until(self._is_sealed, "the seals", seconds)

    def _is_sealed(self) -> bool:
        sealing = self.nodes[0].readiness()[1].get("sealing", {"lag": 1, "stopped": False})
        return bool(sealing["stopped"]) or sealing["lag"] == 0
