"""Projectors driven by hand, views that misbehave on purpose, and a fold to compare with."""

import contextlib
import os
import random
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg

from ledger.app.features import projections
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.postgres import locks
from ledger.engine.postgres.leadership import Candidate
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.recorded import Recorded
from ledger.engine.views.contract import Projection
from ledger.engine.views.generation import Generation
from ledger.engine.views.projector import Projector
from ledger.engine.writer.periodic import LeaderSession
from ledger.engine.writer.request import Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts.report import command_of
from ledger.features.lines.model.execution import Execution
from ledger.features.runs.model.run import RUN_EVENTS, Run
from projections.lines.line import LineFold
from projections.runs.view import RUN, RunFold, RunRow, RunView, row_of
from tests.support import embedded
from tests.support.databases import query
from tests.support.racing_writers import parsed
from tests.support.stored import DROP_CHECK

_encode = msgspec.msgpack.Encoder().encode

# An event whose bytes cannot be decoded, as a fault of a disk or of an operator would leave it.
_INSERT_RAW = """
INSERT INTO ledger.ledger_events
    (originator_id, originator_version, topic, state, notification_id, recorded_at)
SELECT %s, 1, %s, %s, nextval('ledger.ledger_events_notification_id_seq'), clock_timestamp()
RETURNING notification_id
"""

_KILL_PROJECTOR = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE application_name = 'ledger projector' AND datname = current_database()
"""


class PoisonedRunView(RunView):
    """The view of runs, with a bug that only one run triggers."""

    def __init__(self, poison: str) -> None:
        super().__init__()
        self._poison = poison

    def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
        super().apply(generation, events)
        if any(event.originator_id == self._poison for event in events):
            self.meet_poison(generation)

    def meet_poison(self, generation: Generation) -> None:
        raise ValueError("a bug in the view")


class OverlargeRunView(PoisonedRunView):
    """A view with a row beyond a limit of PostgreSQL: every try ends in an OperationalError."""

    def meet_poison(self, generation: Generation) -> None:
        key_that_no_index_takes = random.Random(1).randbytes(10_000).hex()
        at = datetime(2026, 4, 15, tzinfo=UTC)
        run = Run("RUN-26-000001", service_line_id="LIN-26-000001", requested_at=at)
        row = row_of(RunFold(run))._replace(run_id=key_that_no_index_takes)
        generation.write(RUN, [row])


class KilledRunView(RunView):
    """The view of runs, whose connection is killed once, after its first fold."""

    def __init__(self, conninfo: str) -> None:
        super().__init__()
        self._conninfo = conninfo
        self.killed = False

    def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
        super().apply(generation, events)
        if not self.killed:
            self.killed = True
            assert query(self._conninfo, _KILL_PROJECTOR) == [(True,)]


def breakable(projection: Projection, is_broken: Callable[[str], bool]) -> Projection:
    """The view, whose fold fails as long as ``is_broken`` is true for its name."""

    class Breakable(type(projection)):  # type: ignore[misc]
        def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
            if is_broken(projection.name):
                raise ValueError("broken by the test")
            super().apply(generation, events)

    projection.__class__ = Breakable
    return projection


class HandProjector(Projector):
    """A projector without its thread: the test calls ``lead`` and ``catch_up``."""

    def __init__(self, conninfo: str, *views: Projection) -> None:
        self.views = views or tuple(projections())
        candidate = Candidate({"projector": locks.FOLLOWING["projector"]})
        super().__init__(conninfo, EnvelopeMapper(), self.views, candidate)

    @property
    def connection(self) -> psycopg.Connection[Any]:
        """The projector's connection."""
        return self._connect().connection

    def forget(self) -> None:
        """Drop every fold from memory, so that the projector goes on from the stored rows."""
        for view in self.views:
            view.forget()

    def catch_up(self) -> None:
        """Project every batch up to the end of the log."""
        while self.run_once():
            pass

    def give_up_lock(self) -> None:
        """Release the lead's lock, as if another projector had taken the lead unnoticed."""
        self.connection.execute("SELECT pg_advisory_unlock_all()")


class AwaitedSession(LeaderSession):
    """A session whose end is awaited: whoever comes next leads at the first try.

    PostgreSQL gives the lead back when it notices the end, on a busy machine some rounds later.
    """

    def close(self) -> None:
        if self._connection is None or self._connection.closed:
            super().close()
            return
        with socket.socket(fileno=os.dup(self._connection.fileno())) as own:
            super().close()
            own.settimeout(15.0)
            with contextlib.suppress(ConnectionError):
                while own.recv(4096):
                    pass  # a server that ends a session may say so


def led(conninfo: str, loop: str) -> AwaitedSession:
    """A session by which a loop leads alone."""
    candidate = Candidate({loop: (locks.FOLLOWING | locks.SEALING)[loop]})
    return AwaitedSession(conninfo, loop, candidate)


@contextlib.contextmanager
def projecting(conninfo: str, *views: Projection) -> Iterator[HandProjector]:
    """A leading projector, driven by hand."""
    projector = HandProjector(conninfo, *views)
    try:
        # A projector that was closed just now has the lead until PostgreSQL notices the close.
        until(projector.lead, "the lead")
        yield projector
    finally:
        projector.disconnect()


@contextlib.contextmanager
def following(conninfo: str, *views: Projection) -> Iterator[HandProjector]:
    """A projector on its own thread."""
    projector = HandProjector(conninfo, *views)
    projector.start()
    try:
        yield projector
    finally:
        projector.stop()
        projector.disconnect()


def report(writer: Writer, *events: dict[str, Any]) -> list[int]:
    """Record facts. Each must be accepted. Return the positions of their last events."""
    commands = [command_of(parsed(event), COMMAND_LINE) for event in events]
    positions = []
    for outcome in writer.submit(commands).result(20):
        assert isinstance(outcome, Receipt), outcome
        positions.append(outcome.position)
    return positions


def insert_raw(conninfo: str, topic: str, state: bytes, stream: str = "LIN-26-999999") -> int:
    """Insert bytes into the log without any check; return their position."""
    query(conninfo, DROP_CHECK.decode())
    return int(query(conninfo, _INSERT_RAW, stream, topic, state)[0][0])


def view_positions(conninfo: str) -> dict[str, tuple[int, bool]]:
    """By name of a view, its position, and True if it has stopped."""
    rows = query(conninfo, "SELECT name, position, stopped_at IS NOT NULL FROM ledger.projection")
    return {name: (position, stopped) for name, position, stopped in rows}


def head(conninfo: str) -> int:
    """The log's last position."""
    return int(query(conninfo, "SELECT max(notification_id) FROM ledger.ledger_events")[0][0])


def stored(conninfo: str) -> dict[str, Any]:
    """The stored fold of every line, and the row of every run, in the live views, by id."""
    ((live,),) = query(
        conninfo, "SELECT generation FROM ledger.projection WHERE name = 'execution'"
    )
    folds = query(conninfo, f"SELECT line_id, fold FROM ledger.execution_activity_g{live}")
    rows: dict[str, Any] = dict(folds)
    columns = ", ".join(RunRow._fields)
    runs = map(RunRow._make, query(conninfo, f"SELECT {columns} FROM ledger.run"))
    return rows | {row.run_id: row for row in runs}


def folded(conninfo: str) -> dict[str, Any]:
    """The same folds and rows, computed here from the log, event by event."""
    codec, lines, runs = EnvelopeMapper(), dict[str, LineFold](), dict[str, RunFold]()
    statement = """SELECT originator_id, originator_version, topic, state, notification_id
        FROM ledger.ledger_events ORDER BY notification_id"""
    for row in query(conninfo, statement):
        event = codec.decode(*row)
        line = event.service_line_id or event.originator_id
        lines.setdefault(line, LineFold(Execution(line))).apply(event)
        if isinstance(event.body, RUN_EVENTS):
            run = event.originator_id
            runs.setdefault(run, RunFold(Run(run))).apply(event)
    stored_lines = {line: _encode(fold) for line, fold in lines.items()}
    return stored_lines | {run: row_of(fold) for run, fold in runs.items()}


def until(condition: Callable[[], Any], awaited: str, seconds: float = 15.0) -> None:
    """Wait until a condition holds, checking often at first; fail after ``seconds``."""
    embedded.until(condition, awaited, seconds)
