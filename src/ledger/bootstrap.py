"""The composition root: the one place that knows how the parts fit together.

Factories only: nothing connects before it is asked to.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial

import psycopg
from fastapi import FastAPI
from psycopg.rows import tuple_row

from ledger.api.app import create_app
from ledger.api.door import Door
from ledger.api.positions import ViewPositions
from ledger.api.services import ApiServices
from ledger.application.housekeeper import Housekeeper
from ledger.application.sweeper import Sweeper
from ledger.application.webhooks import open_secret
from ledger.application.writer import Writer
from ledger.feed.dispatcher import Dispatcher
from ledger.feed.roster import MOST_IN_FLIGHT
from ledger.feed.schedule import Schedule
from ledger.feed.sender import DEADLINE_SECONDS, Sender
from ledger.feed.target import check
from ledger.processes import connections_allowed
from ledger.projection.contract import Projection
from ledger.projection.projector import Projector, register
from ledger.projection.rebuilder import Rebuilder
from ledger.settings import Settings
from ledger.store.codec import EnvelopeMapper
from ledger.store.log import Log
from ledger.store.migrate import migrate
from ledger.store.vault import Vault, load_master_key, parse_master_key
from ledger.web.site import add_pages
from projections import projections

Clock = Callable[[], datetime]

# The first process writes its master key's fingerprint; every other compares.
_FINGERPRINT = """
INSERT INTO ledger.setting (name, value) VALUES ('master_key', %s) ON CONFLICT DO NOTHING
"""


class ConfigurationError(Exception):
    """The service cannot start like this; the message says why in one line."""


def utc_now() -> datetime:
    """The clock, unless a test brings its own."""
    return datetime.now(UTC)


def prepare_database(settings: Settings, conninfo: str) -> None:
    """Schema, views' tables and master key, once, before any worker starts.

    Raises ConfigurationError, SchemaError, or psycopg.OperationalError when it is unreachable.
    """
    vault = open_vault(settings)
    migrate(conninfo)
    register(conninfo, projections())
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        connection.execute(_FINGERPRINT, (vault.fingerprint,))
        row = connection.execute(
            "SELECT value FROM ledger.setting WHERE name = 'master_key'"
        ).fetchone()
    if row != (vault.fingerprint,):
        raise ConfigurationError(
            "The master key is not the one this database was made with: set LEDGER_MASTER_KEY."
        )


def open_vault(settings: Settings) -> Vault:
    """The vault under the configured master key. Raises ConfigurationError for an unusable one."""
    try:
        if settings.master_key is not None:
            return Vault(parse_master_key(settings.master_key))
        return Vault(load_master_key(settings.data_dir / "master.key"))
    except ValueError as error:
        raise ConfigurationError(
            "The master key must be 64 hexadecimal digits (32 bytes)."
        ) from error


def create_writer(settings: Settings, log: Log, clock: Clock = utc_now) -> Writer:
    """A writer; start it before use."""
    return Writer(log, open_vault(settings), clock, settings.idle_after)


@contextmanager
def writing(settings: Settings, conninfo: str, clock: Clock = utc_now) -> Iterator[Writer]:
    """A running writer for a short command."""
    log = Log(conninfo)
    writer = create_writer(settings, log, clock)
    writer.start()
    try:
        yield writer
    finally:
        writer.stop()
        log.close()


def create_api(settings: Settings, conninfo: str, clock: Clock = utc_now) -> FastAPI:
    """The HTTP application of one process."""
    log = Log(conninfo)
    services = ApiServices(
        log=log,
        writer=create_writer(settings, log, clock),
        door=Door(conninfo),
        positions=ViewPositions(conninfo),
        vault=open_vault(settings),
        clock=clock,
        check_target=partial(check, allow_private=settings.webhook_allow_private),
    )
    app = create_app(services)
    add_pages(app)
    return app


def create_projector(conninfo: str) -> Projector:
    """The projector over all our views."""
    return Projector(conninfo, EnvelopeMapper(), projections())


def views_named(names: Sequence[str]) -> list[Projection]:
    """These of our views, in our order; all of them where none is named."""
    return [view for view in projections() if not names or view.name in names]


class Loops:
    """Everything that works behind the log, in one process beside the API workers."""

    def __init__(self, settings: Settings, conninfo: str, clock: Clock = utc_now) -> None:
        self._log = Log(conninfo)
        self._writer = create_writer(settings, self._log, clock)
        self.projector = create_projector(conninfo)
        self.rebuilder = Rebuilder(conninfo, EnvelopeMapper(), projections())
        self.sweeper = Sweeper(
            conninfo, self._writer, clock, settings.idle_after, settings.idle_sweep_seconds
        )
        self.housekeeper = Housekeeper(conninfo, self._writer, clock)

    def start(self) -> None:
        """Start all loops."""
        self._writer.start()
        self.projector.start()
        self.rebuilder.start()
        self.sweeper.start()
        self.housekeeper.start()

    def stop(self) -> None:
        """End all loops, each after the work in hand."""
        self.housekeeper.stop()
        self.sweeper.stop()
        self.rebuilder.stop()
        self.projector.stop()
        self._writer.stop()
        self._log.close()


class Dispatching:
    """What sends webhooks, in a process of its own: it would fight the loops for the interpreter.

    ``deadline`` is how long a receiver may take.
    """

    def __init__(
        self,
        settings: Settings,
        conninfo: str,
        clock: Clock = utc_now,
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        self._log = Log(conninfo)
        self._writer = create_writer(settings, self._log, clock)
        self.dispatcher = Dispatcher(
            conninfo,
            self._writer.submit,
            partial(open_secret, open_vault(settings)),
            partial(Sender, settings.webhook_allow_private, clock, deadline),
            Schedule(settings.webhook_delays),
            clock,
            min(MOST_IN_FLIGHT, connections_allowed()),
        )

    def start(self) -> None:
        """Start sending."""
        self._writer.start()
        self.dispatcher.start()

    def stop(self) -> None:
        """End, once the requests in flight are answered and recorded."""
        self.dispatcher.stop()
        self._writer.stop()
        self._log.close()
