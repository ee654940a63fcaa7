"""Prometheus with the rules of ``deploy/``, which watches the nodes during a rehearsal."""

import json
import math
import time
from pathlib import Path
from urllib.parse import quote

from scripts.rehearse.deployed import DEPLOY, write
from scripts.rehearse.hosts import Host
from scripts.rehearse.nodes import fetch
from scripts.rehearse.programs import Program, until

_PORT = 9090
_EXPORTER_PORT = 9100
INTERVAL_SECONDS = 2
"""The seconds between two scrapes. The rules' times are those of production."""


class Prometheus:
    """Prometheus, and the exporter of this machine's own metrics."""

    def __init__(self, host: Host, folder: Path, nodes: list[str], members: list[str]) -> None:
        folder.mkdir()
        self._address = f"http://{host.address}:{_PORT}"
        configuration = write(
            folder,
            "prometheus/prometheus.yml",
            interval=f"{INTERVAL_SECONDS}s",
            rules=DEPLOY / "prometheus/rules.yml",
            nodes=json.dumps(nodes),
            members=json.dumps(members),
            hosts=json.dumps([f"{host.address}:{_EXPORTER_PORT}"]),
        )
        options = [
            f"--config.file={configuration}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={host.address}:{_PORT}",
            "--log.level=warn",
        ]
        self._program = Program(host, ["prometheus", *options], folder / "log")
        collectors = ["--collector.disable-defaults", "--collector.filesystem"]
        listen = f"--web.listen-address={host.address}:{_EXPORTER_PORT}"
        self._exporter = Program(
            host, ["prometheus-node-exporter", *collectors, listen], folder / "exporter.log"
        )

    def start(self) -> None:
        """Start both, and wait until Prometheus answers."""
        self._exporter.start()
        self._program.start()
        until(lambda: fetch(f"{self._address}/-/ready", 1.0)[0] == 200, "Prometheus")

    def stop(self) -> None:
        """End both."""
        self._program.stop()
        self._exporter.stop()

    def fired_since(self, instant: float) -> set[str]:
        """The names of the alerts that have fired since this instant of the monotonic clock."""
        seconds = max(1, math.ceil(time.monotonic() - instant))
        return self._names(f'max_over_time(ALERTS{{alertstate="firing"}}[{seconds}s])')

    def await_fired(self, name: str, seconds: float = 90.0) -> None:
        """Wait until an alert fires. Raises TimeoutError."""
        until(lambda: name in self._names('ALERTS{alertstate="firing"}'), name, seconds)

    def _names(self, expression: str) -> set[str]:
        status, text = fetch(f"{self._address}/api/v1/query?query={quote(expression)}", 5.0)
        if status != 200:
            return set()
        return {one["metric"]["alertname"] for one in json.loads(text)["data"]["result"]}
