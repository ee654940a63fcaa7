"""The metrics that are collected on request (contract, Health).

The gauges of the database are several statements, sent together: those of the loops of this node
and of the ledger, and those of features. Each has its own time limit, and one that fails is left
out. So a slow count does not make the database look unreachable.

prometheus-client's process collector covers the answering process alone, and is left out if several
processes add up their metrics. Here the answering worker reads the system's figures of its parent,
the supervisor, and of the supervisor's other children.
"""

import asyncio
import logging
import math
import os
import platform
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector

from ledger import __version__
from ledger.engine.http.machinery.headers import Packed
from ledger.engine.log.nodes import stored_node_id
from ledger.engine.postgres.exchange import Rows
from ledger.engine.postgres.pool.scope import Fetch, Planning
from ledger.engine.postgres.timing import LIVING_SECONDS
from ledger.engine.telemetry.lines import for_nobody
from ledger.engine.values.principal import EVERYONE

_logger = logging.getLogger(__name__)

_ANSWERED_SECONDS = 0.7
"""The time limit of a statement: scrapers expect metrics within about a second."""

MOST_COUNTED = 100_000
"""The most rows of a kind that are counted, so that a count takes a fraction of a second."""

_EVERY_SECONDS = 1.0
"""The least time between the starts of two texts."""

_PREFIX = "ledger-"
"""The prefix of the name of each process of the service."""

# How long the first event after a position has waited; 0 if there is none. OFFSET 0: the position
# is found once.
_WAITED = """
coalesce(greatest(0, extract(epoch FROM clock_timestamp() - ledger.recorded_at(
    ledger.position_from(CASE WHEN {position} = 0 THEN '-infinity'::timestamptz
        ELSE ledger.recorded_at({position}) + interval '1 microsecond' END)
)))::float8, 0)
"""

# The server's version, the loops that have a leader, those that this node leads, and the seconds
# that each view is behind. Last, how long the first event has waited that the node's witness does
# not cover. Without a witness, the newest checkpoint of the database counts.
_STATE = f"""
SELECT current_setting('server_version'),
    ARRAY(SELECT loop FROM ledger.leader ORDER BY loop),
    ARRAY(SELECT loop FROM ledger.leader WHERE node_id = %(node)s
          AND beaten_at > clock_timestamp() - {LIVING_SECONDS} * interval '1 second'),
    views.names, views.seconds, {_WAITED.format(position="covered.position")}
FROM (
    SELECT coalesce(array_agg(v.name), ARRAY[]::text[]) AS names,
           coalesce(array_agg(v.seconds), ARRAY[]::float8[]) AS seconds
    FROM (SELECT p.name, {_WAITED.format(position="p.position")} AS seconds
          FROM ledger.projection AS p ORDER BY p.name) AS v
) AS views, (
    SELECT coalesce((
        SELECT c.position FROM ledger.checkpoint AS c
        WHERE c.size <= coalesce((
            SELECT CASE WHEN split_part(n.witness, chr(10), 2) ~ '^[0-9]{{1,18}}$'
                   THEN split_part(n.witness, chr(10), 2)::bigint END
            FROM ledger.node AS n WHERE n.node_id = %(node)s
        ), 9223372036854775807)
        ORDER BY c.size DESC LIMIT 1
    ), 0) AS position
    OFFSET 0
) AS covered
"""


class Collected:
    """Collected metrics, for a registry."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = [*metrics]

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class Gauges(NamedTuple):
    """Gauges of a feature: a statement, its values, and the metrics of its rows, at least one."""

    statement: str
    values: Mapping[str, Any]
    metrics_of: Callable[[Rows], Iterable[Metric]]


class DatabaseGauges:
    """Reads the gauges; remembers the server's version for when the database is away."""

    def __init__(self, fetch: Fetch, data_dir: Path, of_features: Sequence[Gauges]) -> None:
        """``data_dir`` keeps the node's id."""
        self._fetch, self._data_dir, self._of_features = fetch, data_dir, of_features
        self._node_id: str | None = None
        self._postgres = "unknown"

    async def read(self) -> list[Metric]:
        """The gauges that could be read in time, and the build."""
        self._node_id = self._node_id or stored_node_id(self._data_dir)
        state, *of_features = await asyncio.gather(
            self._rows(_STATE, {"node": self._node_id}),
            *(self._rows(each.statement, each.values) for each in self._of_features),
        )
        metrics: list[Metric] = []
        for version, loops, led, names, seconds, witness in state:
            self._postgres = version
            metrics += _state_metrics(loops, led, zip(names, seconds, strict=True), witness)
        for gauges, rows in zip(self._of_features, of_features, strict=True):
            if rows:
                metrics += gauges.metrics_of(rows)
        return [*metrics, self._build()]

    async def _rows(self, statement: str, values: Mapping[str, Any]) -> Rows:
        try:
            async with asyncio.timeout(_ANSWERED_SECONDS):
                return await self._fetch(EVERYONE, statement, values, Planning.BY_VALUES)
        except (psycopg.Error, OSError) as error:  # a TimeoutError is an OSError
            _logger.warning("gauges could not be read: %s", error)
            return []

    def _build(self) -> Metric:
        labels = {
            "version": __version__,
            "python": platform.python_version(),
            "postgres": self._postgres,
        }
        build = GaugeMetricFamily("ledger_build_info", "The build, always 1.", labels=[*labels])
        build.add_metric([*labels.values()], 1)
        return build


def _state_metrics(
    loops: Iterable[str], led: Iterable[str], views: Iterable[tuple[str, float]], witness: float
) -> list[Metric]:
    leads = GaugeMetricFamily(
        "ledger_leads", "1 if this node leads the loop, else 0.", labels=["loop"]
    )
    own = set(led)
    for loop in loops:
        leads.add_metric([loop], int(loop in own))
    lag = GaugeMetricFamily(
        "ledger_projection_lag_seconds",
        "Seconds for which the first event that the view lacks has waited.",
        labels=["projection"],
    )
    for name, seconds in views:
        lag.add_metric([name], seconds)
    age = "Seconds for which the first event that the node's witness lacks has waited."
    return [leads, lag, GaugeMetricFamily("ledger_witness_age_seconds", age, value=witness)]


def process_gauges() -> list[Metric]:
    """The metrics of each process by its name; empty if the system has no ``/proc``."""
    merged: dict[str, Metric] = {}
    for name, pid in _processes():
        registry = CollectorRegistry()
        collector = ProcessCollector(pid=lambda pid=pid: pid, registry=registry)  # type: ignore[misc]
        for metric in collector.collect():
            family = merged.setdefault(
                metric.name, Metric(metric.name, metric.documentation, metric.type)
            )
            for sample in metric.samples:
                family.add_sample(sample.name, {"process": name}, sample.value)
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
    """The system cuts names at 15 letters."""
    return "dispatcher" if "dispatcher".startswith(name) else name


class SharedText:
    """The text of the metrics, made at most once in so many seconds, for all requests.

    Anybody may request it, and it is expensive, so its cost must not grow with the requests. No
    text is cached: an early request waits for the next text, so nobody gets old numbers. A client
    that polls in a loop gets one answer a second on each connection.
    """

    def __init__(self, every_seconds: float = _EVERY_SECONDS) -> None:
        self._every_seconds = every_seconds
        self._begun_at = -math.inf
        self._making: asyncio.Task[Packed] | None = None

    async def read(self, make: Callable[[], Awaitable[Packed]]) -> Packed:
        """Return the next text. Raises the error of ``make``."""
        if self._making is None:
            loop = asyncio.get_running_loop()
            self._making = loop.create_task(self._make(make), context=for_nobody())
        # A client that leaves must not cancel the text of the others.
        return await asyncio.shield(self._making)

    async def _make(self, make: Callable[[], Awaitable[Packed]]) -> Packed:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.sleep(self._begun_at + self._every_seconds - loop.time())
            self._begun_at = loop.time()
            return await make()
        finally:
            self._making = None
