"""Projectors driven by hand, views that misbehave on purpose, and a fold to compare with."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import psycopg
from psycopg import Cursor
from psycopg.rows import tuple_row

from ledger.application.report import ReportFact
from ledger.application.writer import Writer
from ledger.domain.execution import Execution
from ledger.domain.recorded import Recorded
from ledger.domain.run import RUN_EVENTS, Run
from ledger.intake.principal import COMMAND_LINE
from ledger.intake.request import Receipt
from ledger.log.codec import EnvelopeMapper
from ledger.views.contract import Projection
from ledger.views.generation import Generation
from ledger.views.projector import Projector
from projections import projections
from projections.execution.line import LineFold
from projections.run.view import RunFold, RunView
from tests.support.racers import parsed

_encode = msgspec.msgpack.Encoder().encode

# An event whose bytes nobody can read, as a fault of disk or hand would leave it.
_INSERT_RAW = """
INSERT INTO ledger.ledger_events
    (originator_id, originator_version, topic, state, notification_id, recorded_at)
SELECT %s, 1, %s, %s, nextval('ledger.ledger_events_notification_id_seq'), clock_timestamp()
RETURNING notification_id
"""


class PoisonedRunView(RunView):
    """The view of runs, with a bug that one run brings out."""

    def __init__(self, poison: str) -> None:
        super().__init__()
        self._poison = poison

    def fold(self, generation: Generation, events: Sequence[Recorded]) -> None:
        super().fold(generation, events)
        if any(event.originator_id == self._poison for event in events):
            self.meet_poison(generation._writes.transaction.cursor())

    def meet_poison(self, cursor: Cursor[Any]) -> None:
        raise ValueError("a bug in the view")


class OverlargeRunView(PoisonedRunView):
    """A view whose statement is beyond a limit of PostgreSQL: an OperationalError, for ever."""

    def meet_poison(self, cursor: Cursor[Any]) -> None:
        cursor.execute("CREATE TEMPORARY TABLE large (word text PRIMARY KEY) ON COMMIT DROP")
        cursor.execute(
            "INSERT INTO large SELECT string_agg(md5(n::text), '') FROM generate_series(1, 999) n"
        )


class KilledRunView(RunView):
    """The view of runs, whose connection is killed once, when its rows have been written."""

    def __init__(self, conninfo: str) -> None:
        super().__init__()
        self._conninfo = conninfo
        self.killed = False

    def fold(self, generation: Generation, events: Sequence[Recorded]) -> None:
        super().fold(generation, events)
        if not self.killed:
            self.killed = True
            backend = generation._writes.transaction.cursor().connection.info.backend_pid
            query(self._conninfo, "SELECT pg_terminate_backend(%s, 5000)", backend)


class HandProjector(Projector):
    """A projector without its thread: the test calls ``lead`` and ``catch_up``."""

    def __init__(self, conninfo: str, *views: Projection) -> None:
        super().__init__(conninfo, EnvelopeMapper(), views or projections())

    def catch_up(self) -> None:
        """Every batch there is."""
        while self.run_once():
            pass

    def give_up_lock(self) -> None:
        """As if another had taken the lead without this one's knowledge."""
        self._connect().connection.execute("SELECT pg_advisory_unlock_all()")

    def close(self) -> None:
        """Give the connection, and the lead, back."""
        self._disconnect()


@contextlib.contextmanager
def projecting(conninfo: str, *views: Projection) -> Iterator[HandProjector]:
    """A leading projector, driven by hand."""
    projector = HandProjector(conninfo, *views)
    try:
        # One that was closed just now leads until the database has noticed.
        until(projector.lead, "the lead")
        yield projector
    finally:
        projector.close()


@contextlib.contextmanager
def following(conninfo: str, *views: Projection) -> Iterator[HandProjector]:
    """A projector on its own thread."""
    projector = HandProjector(conninfo, *views)
    projector.start()
    try:
        yield projector
    finally:
        projector.stop()
        projector.close()


def report(writer: Writer, *events: dict[str, Any]) -> list[int]:
    """Record facts, each of which must be accepted; the positions of their last events."""
    commands = [ReportFact(parsed(event), COMMAND_LINE) for event in events]
    positions = []
    for outcome in writer.submit(commands).result(20):
        assert isinstance(outcome, Receipt), outcome
        positions.append(outcome.position)
    return positions


def insert_raw(conninfo: str, topic: str, state: bytes, stream: str = "LIN-26-999999") -> int:
    """Put bytes into the log past every check; their position."""
    return int(query(conninfo, _INSERT_RAW, stream, topic, state)[0][0])


def query(conninfo: str, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """The rows of a statement."""
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        cursor = connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []


def standing(conninfo: str) -> dict[str, tuple[int, bool]]:
    """Where each view stands, and whether it has stopped."""
    rows = query(conninfo, "SELECT name, position, stopped_at IS NOT NULL FROM ledger.projection")
    return {name: (position, stopped) for name, position, stopped in rows}


def head(conninfo: str) -> int:
    """The log's last position."""
    return int(query(conninfo, "SELECT max(notification_id) FROM ledger.ledger_events")[0][0])


def stored(conninfo: str) -> dict[str, bytes]:
    """The state of every row of the live views, by id."""
    rows = query(
        conninfo,
        "SELECT line_id, fold FROM ledger.execution UNION ALL SELECT run_id, fold FROM ledger.run",
    )
    return dict(rows)


def folded(conninfo: str) -> dict[str, bytes]:
    """The same, folded here, one event after the other."""
    codec, rows = EnvelopeMapper(), {}
    statement = """SELECT originator_id, originator_version, topic, state, notification_id
        FROM ledger.ledger_events ORDER BY notification_id"""
    for row in query(conninfo, statement):
        event = codec.decode(*row)
        line = event.service_line_id or event.originator_id
        rows.setdefault(line, LineFold(Execution(line))).evolve(event)
        if isinstance(event.body, RUN_EVENTS):
            run = event.originator_id
            rows.setdefault(run, RunFold(Run(run))).evolve(event)
    return {identifier: _encode(row) for identifier, row in rows.items()}


def until(condition: Callable[[], Any], what: str, seconds: float = 15.0) -> None:
    """Wait for a condition, looking often; fails after so long."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        pause.wait(0.01)
