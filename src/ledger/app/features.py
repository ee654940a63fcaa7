"""The features of the ledger: a row for each, with all that it adds to the processes.

Only ``ledger serve`` loads loops, routes, pages and gauges. The last three are named by their
modules in the feature's folder. Otherwise ``ledger keys list`` would wait for the web framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from ledger.app.settings import Settings
from ledger.engine.views.contract import Projection
from ledger.engine.writer.housekeeper import Chore
from ledger.features.sign_in import loops as sign_in
from ledger.features.traces import tables as traces
from ledger.features.usage.tables import DropUnissued
from projections.directory.search.view import SearchView
from projections.directory.view import DirectoryView
from projections.feed.view import EventView
from projections.lines.view import ExecutionView
from projections.runs.view import RunView
from projections.usage.view import StatementView
from projections.watches.source.view import SourceView
from projections.watches.view import WatchView
from projections.webhooks.view import WebhookView

if TYPE_CHECKING:
    from fastapi import APIRouter

    from ledger.engine.http.gauges import Gauges
    from ledger.engine.writer.periodic import LeaderSession, Periodic
    from ledger.engine.writer.writer import Writer


class LoopDeps(NamedTuple):
    """The parts that a feature's loop needs."""

    settings: Settings
    session: LeaderSession
    writer: Writer
    clock: Callable[[], datetime]


def _sweeper() -> Callable[[LoopDeps], Periodic]:
    from ledger.features.lines.loops import Sweeper

    return lambda deps: Sweeper(
        deps.session,
        deps.writer,
        deps.clock,
        deps.settings.idle_after,
        deps.settings.idle_sweep_seconds,
    )


def _lease_watch() -> Callable[[LoopDeps], Periodic]:
    from ledger.features.runs.loops import LeaseWatch

    return lambda deps: LeaseWatch(deps.session, deps.writer)


def _watch_loop() -> Callable[[LoopDeps], Periodic]:
    from ledger.features.watches.loops.loop import WatchLoop

    return lambda deps: WatchLoop(
        deps.session, deps.writer, deps.clock, deps.settings.watch_seconds
    )


class Feature(NamedTuple):
    """The parts that a feature adds to the processes."""

    name: str
    views: tuple[type[Projection], ...] = ()
    routes: tuple[str, ...] = ()
    """The modules of its routers. The OpenAPI document lists their routes in the same order."""
    further: Mapping[str, str] = {}
    """The modules of routers that are listed before the routes of another feature, by its name."""
    pages: tuple[str, ...] = ()
    gauges: str | None = None
    chore: Callable[[Settings], Chore] | None = None
    """Makes the feature's part of the housekeeper's rounds."""
    loop: Callable[[], Callable[[LoopDeps], Periodic]] | None = None
    """Loads the factory of the feature's loop. Its rounds follow the views while its process leads.
    """


FEATURES = (
    Feature("facts", routes=("routes",)),
    Feature("traces", routes=("routes",), chore=lambda _: traces.drop_old),
    Feature(
        "lines",
        views=(ExecutionView,),
        routes=("routes.executions", "routes.holds"),
        pages=("page.board", "page.views", "page.line", "page.many"),
        loop=_sweeper,
    ),
    Feature("runs", views=(RunView,), routes=("routes",), pages=("page.runs",), loop=_lease_watch),
    Feature(
        "directory",
        views=(DirectoryView, SearchView),
        routes=("routes.directory", "routes.search"),
        pages=("page.pickers", "page.jump", "page.palette"),
    ),
    Feature(
        "usage",
        views=(StatementView,),
        routes=("routes.usage", "routes.compare", "routes.statements"),
        pages=("page.usage", "page.compare", "page.statements"),
        chore=lambda _: DropUnissued(),
    ),
    Feature(
        "watches",
        views=(WatchView, SourceView),
        routes=("routes.watches", "routes.alerts"),
        further={"keys": "routes.sources"},
        pages=("page.alerts", "page.watches", "page.sources"),
        gauges="gauges",
        loop=_watch_loop,
    ),
    Feature(
        "feed",
        views=(EventView,),
        # Else `/v1/events/{event_id}` would match `/v1/events/stream`.
        routes=("routes.streams", "routes.feeds", "routes.event_types"),
        further={"usage": "routes.stories", "proof": "routes.audit"},
        pages=("page.events", "page.audit"),
    ),
    Feature(
        "webhooks",
        views=(WebhookView,),
        routes=("routes.webhooks",),
        # The path of channels has the form of an endpoint's, so it comes first.
        pages=("page.channels", "page.webhooks"),
        gauges="gauges",
    ),
    Feature("keys", routes=("routes.credential", "routes.keys"), pages=("page.start", "page.keys")),
    Feature(
        "sign_in",
        routes=("routes",),
        pages=("page.sign_in", "page.open_id", "page.places", "page.sessions"),
        chore=lambda settings: partial(
            sign_in.drop_old, idle=timedelta(seconds=settings.session_idle_seconds)
        ),
    ),
    Feature("proof", routes=("routes",), pages=("page.integrity",)),
)
"""The order matters: the first route that fits a path handles it."""


def projections() -> tuple[Projection, ...]:
    """New instances of every projection: each projector has its own rows in memory."""
    return tuple(view() for feature in FEATURES for view in feature.views)


def chores(settings: Settings) -> tuple[Chore, ...]:
    return tuple(feature.chore(settings) for feature in FEATURES if feature.chore is not None)


def loops() -> tuple[Callable[[LoopDeps], Periodic], ...]:
    """The factories of the features' loops, which share a session."""
    return tuple(feature.loop() for feature in FEATURES if feature.loop is not None)


def routers() -> Iterator[APIRouter]:
    for feature in FEATURES:
        for other in FEATURES:
            if feature.name in other.further:
                yield _part(other, other.further[feature.name], "router")
        for module in feature.routes:
            yield _part(feature, module, "router")


def page_routers() -> Iterator[APIRouter]:
    for feature in FEATURES:
        for module in feature.pages:
            yield _part(feature, module, "router")


def gauges() -> list[Gauges]:
    return [_part(each, each.gauges, "GAUGES") for each in FEATURES if each.gauges is not None]


def _part(feature: Feature, module: str, name: str) -> Any:
    return getattr(import_module(f"ledger.features.{feature.name}.{module}"), name)
