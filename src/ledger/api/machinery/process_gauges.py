"""The standard metrics of processes, for each process of the service (contract, Health).

The metrics of prometheus-client's collector are those of the process that answers, and where
several processes add up their metrics, it is left out. Here the answering worker reads the system's
figures of its parent, the supervisor, and of the supervisor's other children.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.process_collector import ProcessCollector

_PREFIX = "ledger-"


def process_gauges() -> list[Metric]:
    """The metrics of each process by its name; none where the system has no ``/proc``."""
    merged: dict[str, Metric] = {}
    for name, pid in _processes():
        registry = CollectorRegistry()
        collector = ProcessCollector(pid=lambda pid=pid: pid, registry=registry)  # type: ignore[misc]
        for metric in collector.collect():
            kept = merged.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type)
            )
            for sample in metric.samples:
                kept.add_sample(sample.name, {"process": name}, sample.value)
    return [*merged.values()]


def _processes() -> Iterator[tuple[str, int]]:
    """The name and id of the supervisor and each of its children, but for PostgreSQL."""
    parent = os.getppid()
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return
    yield "supervisor", parent
    for pid in map(int, children):
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            continue  # the process has ended
        if name.startswith(_PREFIX):
            yield _whole(name.removeprefix(_PREFIX)), pid


def _whole(name: str) -> str:
    """The system shows the first 15 letters of a name."""
    return "dispatcher" if "dispatcher".startswith(name) else name
