"""A writer over the log."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from ledger.app.composition.database import open_vault
from ledger.app.settings import Settings
from ledger.engine.log.event_log import Log
from ledger.engine.views.inline import InlineViews
from ledger.engine.writer.writer import Observer, Writer

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The present time: the clock, unless a test brings its own."""
    return datetime.now(UTC)


def create_writer(
    settings: Settings,
    log: Log,
    clock: Clock = utc_now,
    *,
    probes: bool = False,
    is_apart: bool = True,
    observer: Observer | None = None,
    create: Callable[..., Writer] = Writer,
    views: InlineViews | None = None,
) -> Writer:
    return create(
        log,
        open_vault(settings),
        clock,
        settings.idle_after,
        probes=probes,
        is_apart=is_apart,
        observer=observer,
        views=views,
    )


@contextmanager
def writing(
    settings: Settings, conninfo: str, clock: Clock = utc_now, *, heeds_beats: bool = True
) -> Iterator[Writer]:
    """A running writer for a short command; ``heeds_beats`` is false for the demo's story."""
    log = Log(conninfo)
    log.heeds_beats = heeds_beats
    with running(create_writer(settings, log, clock)) as writer:
        yield writer


@contextmanager
def running(writer: Writer) -> Iterator[Writer]:
    writer.start()
    try:
        yield writer
    finally:
        writer.stop()
