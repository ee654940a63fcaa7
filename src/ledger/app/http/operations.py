"""Health, readiness, metrics and the OpenAPI document: without tenants' data or credentials."""

import asyncio
import hmac
import json
import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import psycopg
from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector

from ledger.engine.http.gauges import Collected, process_gauges
from ledger.engine.http.machinery.headers import Packed, address_of, token_of
from ledger.engine.http.problems import Unauthorized, refusals
from ledger.engine.http.reading import services_of
from ledger.engine.http.services import ApiServices
from ledger.engine.values.principal import EVERYONE
from ledger.engine.views.statements import LAG
from ledger.features.sign_in.access.authentication import NOT_VALID
from ledger.features.sign_in.access.sessions import Sessions

router = APIRouter(tags=["operations"])

_ANSWERED_SECONDS = 0.5
"""The time limit of the database's reply: a probe may wait for a second (contract, Health), and on
a busy machine the reply itself takes some tenths."""

_FAILING_SECONDS = 10.0
"""Once appends have failed for this time, clients should send facts to another node."""

_Lag = list[tuple[str, int, int, int, int, object, str | None]]
_Sealing = tuple[int, int, bool, int, bool, bool]
"""(sealed position, its lag behind the log, True if sealing has stopped, the number of differences
between stored data and the log in the last verification, True if sealing has stopped for good, True
if it waits for a node with a witness)."""

# OFFSET 0: the log's end is read once, wherever it is used.
_SEALING = """
SELECT sealed.position, greatest(0, sealed.head - sealed.position), s.stopped_at IS NOT NULL,
    (SELECT coalesce(sum(v.differences), 0)::bigint FROM ledger.verification AS v),
    coalesce(s.contradicts, false), s.waits_for IS NOT NULL
FROM (SELECT) AS log LEFT JOIN ledger.signer AS s ON true, LATERAL (
    SELECT COALESCE((SELECT position FROM ledger.checkpoint
                     WHERE size <= s.shown_size ORDER BY size DESC LIMIT 1), 0) AS position,
           COALESCE(ledger.log_end(), 0) AS head
    OFFSET 0
) AS sealed
"""

_CONTRADICTS = "the log is shorter than a signed checkpoint, or has another root, or lost its seals"
_DAMAGED = "the sealed log is damaged, or cannot be read"
_WAITS = "no living node has a witness: start one that has, or adopt the log"

_LEASES = "SELECT count(*) FROM ledger.lease"

_ANY = refusals(400)


_TEXT = {"content": {"text/plain": {"schema": {"type": "string"}}}}
_ALIVE = {200: {"types": (dict[str, str],)}, **_ANY}

_READY: dict[int | str, dict[str, Any]] = {
    200: {"types": (Any,)},
    **_ANY,
    503: {
        "description": "The database does not answer, appends fail, the clock is wrong, the standby"
        " of a read node is late, or no view exists yet",
        "types": (dict[str, Any],),
    },
}


@router.get("/healthz", summary="Is the process alive?", responses=_ALIVE)
async def check_health() -> dict[str, str]:
    """Always 200 while the process can answer."""
    return {"status": "ok"}


@router.get("/readyz", summary="Can the process serve?", responses=_READY)
async def check_readiness(request: Request) -> Response:
    """Answer 200 once the database answers, the views exist and facts are accepted.

    The answer takes at most a second. A stopped view, stopped sealing, or stored data that differ
    from the log make the status `degraded`, not 503: facts must still be accepted, and a load
    balancer would remove every node.
    """
    services = services_of(request)
    try:
        async with asyncio.timeout(_ANSWERED_SECONDS):
            rows = await _lag(services)
            sealed, lag, sealing_stopped, differences, contradicts, waits = await _sealing(services)
    except (psycopg.Error, OSError):  # a TimeoutError is an OSError
        return _document({"status": "unavailable", "database": "unreachable"}, 503)
    if services.failing_seconds() >= _FAILING_SECONDS:
        return _document({"status": "unavailable", "database": "ok", "appends": "failing"}, 503)
    clock = {"clock": "skewed"} if services.is_skewed else {}
    positions = services.positions
    if (why_late := positions.why_late) is not None:
        behind = {"status": "behind", "database": "ok", **clock, "why": why_late}
        return _document(behind, 503)
    if clock:
        return _document({"status": "unavailable", "database": "ok", **clock}, 503)
    if positions.versions.are_outdated:
        return _document({"status": "outdated", "database": "ok"}, 503)
    if not rows:
        return _document({"status": "starting", "database": "ok", "projections": []}, 503)
    views = [
        {
            "name": name,
            "version": version,
            "position": position,
            "lag": max(0, head - position),
            "stopped": stopped_at is not None,
        }
        for name, version, _, position, head, stopped_at, _ in rows
    ]
    is_sealing = not sealing_stopped and not waits
    grants = services.of(Sessions).rules.grants
    grants.check()
    sign_in: dict[str, Any] = {}
    if grants.why_broken is not None:
        sign_in["grants"] = {"broken": True}
    if services.of(Sessions).refresher.is_refused:
        sign_in["refreshes"] = {"refused": True}
    is_stopped = not is_sealing or any(view["stopped"] for view in views)
    is_degraded = is_stopped or differences or sign_in
    why = _CONTRADICTS if contradicts else _DAMAGED if sealing_stopped else _WAITS
    sealing: dict[str, Any] = {"position": sealed, "lag": lag, "stopped": sealing_stopped}
    if not is_sealing:
        sealing |= {"waits": not sealing_stopped, "why": why}
    document = {
        "status": "degraded" if is_degraded else "ok",
        "database": "ok",
        "projections": views,
        "sealing": sealing,
        "log": {"differs": differences > 0},
        **sign_in,
    }
    return _document(document, 200)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses={200: _TEXT, **refusals(400, 401)},
)
async def show_metrics(request: Request) -> Response:
    """Counters of all workers, and the lag of the views. No label names a tenant.

    A worker makes the text at most once a second, so an answer may take a second. If the operator
    has set `LEDGER_METRICS_TOKEN`, the request needs it as its bearer token.
    """
    services = services_of(request)
    if services.metrics_token is not None:
        _require_token(request, services.metrics_token)
    return (await services.metrics.read(partial(_metrics, services))).answer(request.scope)


def _require_token(request: Request, token: str) -> None:
    """Raise Unauthorized unless the request's bearer token is this one."""
    if not hmac.compare_digest(token_of(request).encode(), token.encode()):
        services_of(request).authenticator.failures.note(address_of(request))
        raise Unauthorized(NOT_VALID)


async def _metrics(services: ApiServices) -> Packed:
    gauges = asyncio.create_task(services.gauges.read())
    collected: list[Any] = []
    try:
        async with asyncio.timeout(_ANSWERED_SECONDS):
            collected.append(_Views(await _lag(services)))
            collected.append(_Sealer(await _sealing(services)))
            collected.append(_Leases(await _leases(services)))
        up = 1
    except (psycopg.Error, OSError):
        up = 0
    collected.append(Collected(await gauges))
    collected.append(_Beat(services.positions.beat_seconds))
    collected.append(_Up(up, services.failing_seconds(), services.clock_skew))
    # In a thread, so that requests go on meanwhile.
    return await asyncio.to_thread(_text_of, collected)


def _text_of(collected: Sequence[Any]) -> Packed:
    """The metrics of all processes, or of a process that runs alone, with the given gauges."""
    registry = CollectorRegistry()
    for collector in collected:
        registry.register(collector)
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        counted = CollectorRegistry()
        MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
        registry.register(Collected(process_gauges()))
    else:
        counted = REGISTRY
    return Packed(generate_latest(counted) + generate_latest(registry), CONTENT_TYPE_LATEST)


@router.get("/openapi.json", include_in_schema=False)
async def show_document(request: Request) -> Response:
    """The OpenAPI document, which is the same for all who ask."""
    document: Packed = request.app.document
    return document.answer(request.scope)


async def _lag(services: ApiServices) -> _Lag:
    rows: _Lag = await services.pool.fetch(EVERYONE, LAG, {})
    return rows


async def _sealing(services: ApiServices) -> _Sealing:
    rows: list[_Sealing] = await services.pool.fetch(EVERYONE, _SEALING, {})
    return rows[0]


async def _leases(services: ApiServices) -> int:
    ((number,),) = await services.pool.fetch(EVERYONE, _LEASES, {})
    return int(number)


def _document(document: object, status: int) -> Response:
    return Response(json.dumps(document), status_code=status, media_type="application/json")


class _Views:
    """The gauges of the log's position and of each view."""

    def __init__(self, rows: _Lag) -> None:
        self._rows = rows

    def collect(self) -> Iterable[Metric]:
        position = GaugeMetricFamily("ledger_log_position", "The log's last position.")
        position.add_metric([], self._rows[0][4] if self._rows else 0)
        lag = GaugeMetricFamily(
            "ledger_projection_lag", "Positions a view is behind.", labels=["projection"]
        )
        stopped = GaugeMetricFamily(
            "ledger_projection_stopped", "1 if the view has stopped.", labels=["projection"]
        )
        for name, _, _, at, head, stopped_at, _ in self._rows:
            lag.add_metric([name], max(0, head - at))
            stopped.add_metric([name], 0 if stopped_at is None else 1)
        return [position, lag, stopped]


class _Sealer:
    """The gauges of sealing, and of the comparisons with the log."""

    def __init__(self, sealing: _Sealing) -> None:
        self._sealing = sealing

    def collect(self) -> Iterable[Metric]:
        position, behind, has_stopped, differences, _, _ = self._sealing
        sealed = GaugeMetricFamily("ledger_sealed_position", "The last position that is sealed.")
        sealed.add_metric([], position)
        lag = GaugeMetricFamily("ledger_sealing_lag", "Positions that sealing is behind.")
        lag.add_metric([], behind)
        stopped = GaugeMetricFamily("ledger_sealing_stopped", "1 while sealing is stopped.")
        stopped.add_metric([], int(has_stopped))
        differing = GaugeMetricFamily(
            "ledger_verify_differences", "Stored rows and columns that were found to differ."
        )
        differing.add_metric([], differences)
        return [sealed, lag, stopped, differing]


class _Leases:
    """The gauge of leases."""

    def __init__(self, number: int) -> None:
        self._number = number

    def collect(self) -> Iterable[Metric]:
        leases = GaugeMetricFamily("ledger_leases", "Open runs with a lease.")
        leases.add_metric([], self._number)
        return [leases]


class _Beat:
    """The gauge of the last beat. Only read nodes read it."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds

    def collect(self) -> Iterable[Metric]:
        if self._seconds is None:
            return []
        age = GaugeMetricFamily("ledger_beat_age_seconds", "The age of the log's last beat.")
        age.add_metric([], self._seconds)
        return [age]


class _Up:
    """The gauges of the database: if it answers, if this worker's appends fail, and how far apart
    the clocks are."""

    def __init__(self, up: int, failing_seconds: float, clock_skew: float) -> None:
        self._up, self._failing_seconds, self._clock_skew = up, failing_seconds, clock_skew

    def collect(self) -> Iterable[Metric]:
        gauge = GaugeMetricFamily("ledger_database_up", "1 while the database answers.")
        gauge.add_metric([], self._up)
        failing = GaugeMetricFamily(
            "ledger_appends_failing_seconds",
            "Seconds since the answering worker's appends began to fail; 0 while they succeed.",
        )
        failing.add_metric([], self._failing_seconds)
        skew = GaugeMetricFamily(
            "ledger_clock_skew_seconds",
            "By how many seconds the node's clock is ahead of the database's, at the least.",
        )
        skew.add_metric([], self._clock_skew)
        return [gauge, failing, skew]
