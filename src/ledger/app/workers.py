"""The children of ``ledger serve``. The supervisor loads this module once and forks."""

import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial

import uvicorn

# uvicorn loads these two by name later; loaded here, all children share them.
import uvicorn.lifespan.on
import uvicorn.loops.uvloop
from fastapi import FastAPI

from ledger.app import Role, serves
from ledger.app.composition.api import create_api, create_reading_api
from ledger.app.composition.loops import Dispatching, Loops, NodeWriter, Sealing
from ledger.app.features import gauges, loops, page_routers, routers
from ledger.app.http import site
from ledger.app.processes import GRACE_SECONDS, allow_many_connections, calm_collector
from ledger.app.settings import Settings
from ledger.engine.background import Parts
from ledger.engine.http.machinery.access_log import AccessLog
from ledger.engine.http.machinery.connection import Connection
from ledger.engine.telemetry.setup import begin_logging
from ledger.engine.writer.hand_over import Post

__all__ = ["Post"]


def make_ready() -> None:
    """Do the work that each child would otherwise do, once before the fork."""
    for load in (routers, page_routers, gauges, loops):
        list(load())
    site.make_ready()


class _Server(uvicorn.Server):
    """Uvicorn's server: calls ``tell_started`` once it takes requests, and ``tell_ending``.

    It calls ``tell_ended`` after the last response. Code behind ``run`` would be too late: after a
    signal to stop, uvicorn raises the signal again there, and the signal ends the process.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        tell_started: Callable[[], None],
        tell_ending: Callable[[], None],
        tell_ended: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._tell_started, self._tell_ending = tell_started, tell_ending
        self._tell_ended = tell_ended

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the services that requests need, and listen.

        Fails if the database is away; raises OSError if another service listens at the address.
        """
        open_services = self.lifespan.startup

        async def open_and_listen() -> None:
            await open_services()
            if not self.lifespan.should_exit:
                # uvloop listens too, but hangs if that is refused: it has closed the socket then.
                for each in sockets or ():
                    each.listen(self.config.backlog)

        self.lifespan.startup = open_and_listen
        # Uvicorn would log a failure as a traceback, once for each attempt to start the worker.
        logger = logging.getLogger("uvicorn.error")
        logger.disabled = True
        try:
            await super().startup(sockets)
        except OSError:
            await self.lifespan.shutdown()
            raise
        finally:
            logger.disabled = False
        if self.started:
            self._tell_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests; those that have begun may end."""
        self._tell_ending()
        await super().shutdown(sockets)
        self._tell_ended()


def run_api(
    settings: Settings,
    conninfo: str,
    reading: str,
    listener: socket.socket,
    role: Role,
    post: Post | None,
    tell_started: Callable[[], None],
) -> None:
    """Run one API worker; ``post`` leads to the node's writer, unless the worker has its own.

    Raises the error of the services if they cannot be opened.
    """
    begin_logging()
    app = create_api(settings, conninfo, post=post, reading=reading, only_probes=not serves(role))
    _run_app(settings, app, listener, tell_started)


def run_reading_api(
    settings: Settings, reading: str, listener: socket.socket, tell_started: Callable[[], None]
) -> None:
    """Run one API worker of a read node. Raises the error of the services."""
    begin_logging()
    _run_app(settings, create_reading_api(settings, reading), listener, tell_started)


def _run_app(
    settings: Settings, app: FastAPI, listener: socket.socket, tell_started: Callable[[], None]
) -> None:
    services, access_log = app.state.services, None
    if settings.access_log and sys.stderr is not None:
        access_log = AccessLog(app, settings.log_format, sys.stderr.fileno())
        access_log.start()
    write_rest = (lambda: None) if access_log is None else access_log.stop
    config = uvicorn.Config(
        access_log or app,
        loop="uvloop",
        http=Connection,
        ws="none",
        log_config=None,  # its loggers use our handler
        access_log=False,
        log_level="warning",
        use_colors=False,  # otherwise uvicorn asks standard output, which may be closed
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS - 5,
    )
    allow_many_connections()
    calm_collector()
    try:
        _Server(config, tell_started, services.stop_listening, write_rest).run(sockets=[listener])
    finally:
        if services.failure is not None:
            raise services.failure  # in place of uvicorn's exit, which does not say why


def run_writer(
    settings: Settings, conninfo: str, post: Post, tell_started: Callable[[], None]
) -> None:
    _run_until_stopped(partial(NodeWriter, post=post), settings, conninfo, tell_started)


def run_loops(settings: Settings, conninfo: str, tell_started: Callable[[], None]) -> None:
    _run_until_stopped(Loops, settings, conninfo, tell_started)


def run_dispatcher(settings: Settings, conninfo: str, tell_started: Callable[[], None]) -> None:
    allow_many_connections()
    _run_until_stopped(Dispatching, settings, conninfo, tell_started)


def run_sealer(
    role: Role, settings: Settings, conninfo: str, tell_started: Callable[[], None]
) -> None:
    _run_until_stopped(partial(Sealing, role=role), settings, conninfo, tell_started)


def _run_until_stopped(
    create: Callable[[Settings, str], Parts],
    settings: Settings,
    conninfo: str,
    tell_started: Callable[[], None],
) -> None:
    begin_logging()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    running = create(settings, conninfo)
    running.start()
    tell_started()
    calm_collector(stopping)
    running.stop()
