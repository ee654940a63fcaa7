"""Everything around a stage: hosts, the cluster, single servers, the proxy and Prometheus."""

from pathlib import Path

from scripts.rehearse.alerts import Prometheus
from scripts.rehearse.cluster import LEDGER_PASSWORD, Cluster
from scripts.rehearse.hosts import CENTER, Host, make_host, make_network
from scripts.rehearse.proxy import DATABASE_PORT, PORT, make_proxy
from scripts.rehearse.servers import Server
from scripts.rehearse.stage import Stage

_NODE_PORT = 8000
_SERVER_PORT = 5600


class World:
    """All hosts, and the programs on them except the nodes. The nodes are on two hosts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.center: Host = make_network()
        self.cluster = Cluster(folder)
        self._hosts = [make_host(f"node-{name}", 20 + n) for n, name in enumerate("ab", 1)]
        nodes = {host.name: f"{host.address}:{_NODE_PORT}" for host in self._hosts}
        self.proxy = make_proxy(self.center, folder / "haproxy", self.cluster.members, nodes)
        self.prometheus = Prometheus(
            self.center,
            folder / "prometheus",
            list(nodes.values()),
            [f"{member.host.address}:8008" for member in self.cluster.members],
        )
        self._servers: list[Server] = []

    def start(self) -> None:
        """Start the proxy and Prometheus."""
        self.proxy.start()
        self.prometheus.start()

    def stop(self) -> None:
        """End everything."""
        for server in self._servers:
            server.stop()
        self.prometheus.stop()
        self.proxy.stop()
        self.cluster.stop()

    def stage_on_cluster(self, tree: Path | None = None) -> Stage:
        """Nodes on the cluster: one uses haproxy, the other has the list of the members."""
        login = f"postgresql://ledger:{LEDGER_PASSWORD}"
        proxied = f"{login}@{CENTER}:{DATABASE_PORT}/ledger?connect_timeout=2"
        hosts = ",".join(f"{member.host.address}:5432" for member in self.cluster.members)
        listed = f"{login}@{hosts}/ledger?target_session_attrs=primary&connect_timeout=2"
        return self._stage("cluster", [proxied, listed], tree)

    def stage_on_server(self) -> Stage:
        """Nodes on the newest single server."""
        return self._stage("server", [self.server.url()] * 2)

    def _stage(self, name: str, databases: list[str], tree: Path | None = None) -> Stage:
        addresses = [(host, _NODE_PORT) for host in self._hosts]
        front = f"http://{CENTER}:{PORT}"
        return Stage(self.folder / name, addresses, databases, front, tree)

    @property
    def server(self) -> Server:
        """The newest single server."""
        return self._servers[-1]

    def new_server(self, programs: Path | None = None) -> Server:
        """Another single server, which has no data yet."""
        number = len(self._servers)
        folder = self.folder / f"server-{number}"
        self._servers.append(Server(self.center, folder, _SERVER_PORT + number, programs))
        return self.server
