"""What the children of ``ledger serve`` do. The supervisor loads this once and forks."""

import logging
import signal
import socket
import threading
from collections.abc import Callable

import uvicorn

# Chosen by name below; loaded here, so that no child has to.
import uvicorn.lifespan.on
import uvicorn.loops.uvloop

from ledger.api.machinery.connection import Connection
from ledger.sealing.sealer import Sealer
from ledger.service.composition.api import create_api
from ledger.service.composition.dispatching import Dispatching
from ledger.service.composition.loops import Loops
from ledger.service.composition.sealing import create_sealer
from ledger.service.processes import GRACE_SECONDS, allow_many_connections, calm_collector
from ledger.settings import Settings
from ledger.web import pages


def make_ready() -> None:
    """Do once, before there are children, what each would do."""
    pages.make_ready()


class _Server(uvicorn.Server):
    """Uvicorn's, that tells when it takes requests."""

    def __init__(self, config: uvicorn.Config, tell_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell_started = tell_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open what requests need; it fails where the database is away."""
        await super().startup(sockets)
        if self.started:
            self._tell_started()


def run_api(
    settings: Settings, conninfo: str, listener: socket.socket, tell_started: Callable[[], None]
) -> None:
    """One API worker's process."""
    _configure_logging()
    config = uvicorn.Config(
        create_api(settings, conninfo),
        loop="uvloop",
        http=Connection,
        ws="none",
        access_log=False,
        log_level="warning",
        use_colors=False,  # else standard output is asked, which may be closed
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS - 5,
    )
    allow_many_connections()
    calm_collector()
    _Server(config, tell_started).run(sockets=[listener])


def run_loops(settings: Settings, conninfo: str, tell_started: Callable[[], None]) -> None:
    """The loops' process."""
    _run_until_told(Loops, settings, conninfo, tell_started)


def run_dispatcher(settings: Settings, conninfo: str, tell_started: Callable[[], None]) -> None:
    """The dispatcher's process."""
    allow_many_connections()
    _run_until_told(Dispatching, settings, conninfo, tell_started)


def run_sealer(settings: Settings, conninfo: str, tell_started: Callable[[], None]) -> None:
    """The sealer's process."""
    _run_until_told(create_sealer, settings, conninfo, tell_started)


def _run_until_told(
    create: Callable[[Settings, str], Loops | Dispatching | Sealer],
    settings: Settings,
    conninfo: str,
    tell_started: Callable[[], None],
) -> None:
    """Start something, and stop it on a signal."""
    _configure_logging()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    running = create(settings, conninfo)
    running.start()
    tell_started()
    calm_collector()
    stopping.wait()
    running.stop()


def _configure_logging() -> None:
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(processName)s %(message)s"
    )
    for noisy in ("psycopg.pool", "psycopg", "httpx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
