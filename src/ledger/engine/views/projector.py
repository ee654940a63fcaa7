"""The projector: follows the log and keeps all views up to date, in one process at a time.

Writers fold their small appends themselves while the views are at the end (``inline.py``). The
projector applies everything else: batches, appends of other processes, whatever writers leave.

Its session leads for all loops of its process. When it dies or freezes, another process takes the
lead (``engine/postgres/leadership.py``). A transaction applies a batch of events to views and moves
their tracking, on condition that the tracking still has the old position. So no event is applied
twice or skipped. If a view fails at an event, only this view stops, with an error in the log and in
``ledger.projection``: the other views and the writers go on.
"""

import logging
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import psycopg
from eventsourcing.persistence import MapperDeserialisationError
from psycopg.rows import tuple_row

from ledger.engine.background import BackgroundLoop
from ledger.engine.log.append import StoredRow
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.event_log import is_full, planned_once, reading
from ledger.engine.postgres.leadership import Candidate
from ledger.engine.postgres.pipeline import Pipeline
from ledger.engine.postgres.session import RoundConnection
from ledger.engine.postgres.timing import POLL_SECONDS
from ledger.engine.values.recorded import Event, Recorded
from ledger.engine.views.contract import Projection, error_line, is_passing
from ledger.engine.views.rounds import TRACKING, Elsewhere, LiveView, announcement, apply_round

_BATCH = 2000
"""The most events of a round: many, so that SQL is set-based; few, so that they soon show."""

_RETRY_SECONDS = 1.0
"""The pause before another attempt to connect."""

_IDLE_SECONDS = 1.0
"""The time after which the log is read without a notification, since one may be lost."""

_GATHER_SECONDS = 0.006
_QUIET_SECONDS = 0.002
"""How long appends are gathered, and how long the next append is waited for.

A round costs about the same whatever its size: a dozen statements and a commit. The appends of
several processes alternate, and without a wait each would have its own round. So the projector
waits for as many appends as the last round took, and as came during it. An append whose clients all
wait for its round comes alone, and is not delayed.
"""

_logger = logging.getLogger(__name__)

# Stop a view at an event on which it fails, unless the view was rebuilt meanwhile.
_STOP = """
UPDATE ledger.projection SET stopped_at = clock_timestamp(), error = %(error)s
WHERE name = %(name)s AND generation = %(generation)s
RETURNING pg_notify('ledger_views', name || ' stopped')
"""

# A stopped view is resumed when a projector takes the lead: the code may be newer.
_RESUME = """
UPDATE ledger.projection SET stopped_at = NULL, error = NULL WHERE name = %s
RETURNING pg_notify('ledger_views', name || ' ' || position)
"""

# A view of another version than the code's: reads get its old rows until it is rebuilt.
_OUTDATED = """
UPDATE ledger.projection
SET stopped_at = clock_timestamp(), error = 'waits to be rebuilt as version ' || %(version)s
WHERE name = %(name)s AND stopped_at IS NULL
RETURNING pg_notify('ledger_views', name || ' stopped')
"""

# A view that only another version of the code has: stop it, so that no write waits for it. When a
# projector of that version takes the lead again, it resumes the view, like any stopped one.
_UNKNOWN = """
UPDATE ledger.projection
SET stopped_at = clock_timestamp(), error = 'is not known to the version that runs'
WHERE name <> ALL(%(known)s) AND stopped_at IS NULL
RETURNING pg_notify('ledger_views', name || ' stopped')
"""


class LostLead(Exception):
    """Another projector or a rebuild has changed a view: lead again, from what is stored."""


class _Unreadable(NamedTuple):
    position: int
    kind: type[Event]
    error: Exception


@dataclass(eq=False)
class _View:
    projection: Projection
    generation: int
    position: int
    is_stopped: bool = False


class Appends:
    """Waits for appends on a pipeline that listens to ``ledger_events``."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._processed = 0
        """The number of appends in the last wait, which the round processed."""

    def wait(self) -> int:
        """Wait for an append, and for those that belong with it. Return how many came."""
        count = self._pipeline.wait(0)
        together = self._processed + count
        count = count or self._pipeline.wait(_IDLE_SECONDS)
        deadline = time.monotonic() + _GATHER_SECONDS
        while 0 < count < together and time.monotonic() < deadline:
            more = self._pipeline.wait(_QUIET_SECONDS)
            if not more:
                break
            count += more
        self._processed = count
        return count


class Projector(BackgroundLoop):
    """Takes the lead, then calls ``run_once`` repeatedly, on a connection of its own."""

    def __init__(
        self,
        conninfo: str,
        codec: EnvelopeMapper,
        projections: Sequence[Projection],
        candidate: Candidate,
    ) -> None:
        super().__init__("projector")
        self._conninfo, self._codec, self._projections = conninfo, codec, projections
        self._wanted = codec.topics_of(cls for view in projections for cls in view.events)
        self._views: list[_View] = []
        self._generations: set[tuple[str, int, int]] = set()
        """(name, version, generation) of every view when this projector took the lead."""
        self._is_behind = False
        """True if the last round may have left a part of the log unread."""
        self._candidate = candidate
        self._pipeline: Pipeline | None = None
        self._wakers: tuple[socket.socket, ...] = ()
        """Two ends: the thread also waits at the first. So a process that ends releases the lead at
        once."""

    def start(self) -> None:
        self._wakers = socket.socketpair()
        super().start()

    def stop(self) -> None:
        super().stop()
        for end in self._wakers:
            end.close()

    def _interrupt(self) -> None:
        with suppress(OSError):  # stopped before
            self._wakers[1].send(b"\0")

    def lead(self) -> bool:
        """Try to become the leading projector; then load the tracking of every view."""
        connection = self._connect().connection
        if not self._candidate.try_lead(connection):
            return False
        with connection.transaction():
            tracking = self._tracking()
            stored = {row[0]: row for row in tracking}
            connection.execute(_UNKNOWN, {"known": [view.name for view in self._projections]})
            self._views = []
            for projection in self._projections:
                projection.forget()
                name, version, generation, position, stopped_at = stored[projection.name]
                view = _View(projection, generation, position)
                if version != projection.version:
                    view.is_stopped = True
                    outdated = {"name": name, "version": projection.version}
                    connection.execute(_OUTDATED, outdated)
                elif stopped_at is not None:
                    connection.execute(_RESUME, (name,))
                self._views.append(view)
            self._generations = {(row[0], row[1], row[2]) for row in tracking}
        return True

    def run_once(self) -> int:
        """Give each live view one batch. Return the size of the largest batch. Call ``lead`` first.

        Views at the same position share a batch. The views furthest ahead come first: a view that
        starts at the beginning catches up batch by batch, and does not delay the others.
        """
        alive = [view for view in self._views if not view.is_stopped]
        if not alive:
            self._take(self._tracking())
        largest = 0
        try:
            for start in sorted({view.position for view in alive}, reverse=True):
                if views := [view for view in alive if view.position == start]:
                    largest = max(largest, self._apply_batch(views, start))
        except Elsewhere:  # a writer has folded: go on from there
            if not self._take(self._tracking()):
                raise LostLead("a view is not where it was left") from None
            self._is_behind = True
            return max(largest, 1)
        return largest

    def _apply_batch(self, views: Sequence[_View], start: int) -> int:
        rows, tracking = self._connect().run(reading(start, _BATCH), TRACKING)
        if self._take(tracking):
            self._is_behind = True
            return 1
        self._is_behind |= is_full(rows, _BATCH)
        if rows:
            events, end = self._decode(rows), rows[-1][4]
            if not self._advance_together(views, events, end):
                for view in views:
                    self._advance(view, events, end)
        return len(rows)

    def _take(self, tracking: Sequence[Any]) -> bool:
        """Take the stored positions; return True if another process has moved a view on.

        Raises LostLead if a view was rebuilt.
        """
        self._assert_generations(tracking)
        positions = {row[0]: row[3] for row in tracking}
        is_moved = False
        for view in self._views:
            position = positions[view.projection.name]
            if position > view.position and not view.is_stopped:
                view.projection.forget()
                view.position, is_moved = position, True
        return is_moved

    def _advance_together(self, views: Sequence[_View], batch: Sequence[Any], end: int) -> bool:
        """Apply a whole batch to all views in one transaction: one COMMIT instead of one a view.

        The usual case. Returns False, and changes nothing, if any event causes an error: then each
        view goes on separately, as far as it can.
        """
        readable = [event for event in batch if isinstance(event, Recorded)]
        if len(readable) != len(batch):
            return False
        try:
            self._transact(views, readable, end)
        except Exception as error:
            self._forget(views, error)
            return False
        return True

    def _decode(self, rows: Sequence[StoredRow]) -> list[Recorded | _Unreadable]:
        events: list[Recorded | _Unreadable] = []
        for row in rows:
            if row[2] in self._wanted:
                try:
                    events.append(self._codec.decode(*row))
                except MapperDeserialisationError as error:
                    events.append(_Unreadable(row[4], self._wanted[row[2]], error))
        return events

    def _advance(self, view: _View, batch: Sequence[Any], end: int) -> None:
        """Give a view the rest of a batch, up to the first event on which it fails."""
        events: list[Recorded] = []
        for event in batch:
            if event.position <= view.position:
                continue
            if not isinstance(event, _Unreadable):
                events.append(event)
            elif event.kind in view.projection.events:
                self._commit(view, events, event.position - 1)
                self._stop_view(view, event.position, event.error)
                return
        if end > view.position:
            self._commit(view, events, end)

    def _commit(self, view: _View, events: Sequence[Recorded], end: int) -> None:
        """Apply and track in one transaction. After an error, find the event that caused it."""
        try:
            self._transact([view], events, end)
        except Exception as error:
            self._forget([view], error)
            if len(events) <= 1:
                self._stop_view(view, events[0].position if events else end, error)
                return
            for event in events:
                self._commit(view, [event], event.position)
                if view.is_stopped:
                    return
            self._commit(view, [], end)

    def _transact(self, views: Sequence[_View], events: Sequence[Recorded], end: int) -> None:
        """Apply and track in one transaction, for views at the same position.

        Raises Elsewhere, or the error of a view; nothing is changed then.
        """
        live = [LiveView(view.projection, view.generation) for view in views]
        with self._connect().transaction() as transaction:
            apply_round(transaction, live, events, views[0].position, end)
            transaction.defer(announcement([view.projection.name for view in views], end))
        for view in views:
            view.position = end

    def _forget(self, views: Sequence[_View], error: Exception) -> None:
        """Drop the rows of a failed transaction. Raises the error if no event is its cause."""
        for view in views:
            view.projection.forget()
        if isinstance(error, (LostLead, Elsewhere)) or is_passing(error):
            raise error
        # The error may come from the swap: the tables of the old generation may be gone.
        self._assert_generations(self._tracking())

    def _stop_view(self, view: _View, position: int, error: Exception) -> None:
        view.is_stopped = True
        text = f"at position {position}: {error_line(error)}"[:2000]
        _logger.error("projection %s stopped %s", view.projection.name, text)
        names = {"name": view.projection.name, "generation": view.generation}
        self._connect().connection.execute(_STOP, names | {"error": text})

    def _serve(self) -> None:
        while not self._stopping.is_set():
            try:
                self._lead_until_lost()
            except psycopg.Error as error:
                _logger.warning("projector lost the database: %s", error)
                self.disconnect()
                self._stopping.wait(_RETRY_SECONDS)
            except Exception:
                # A bug. Another process may lead now, and this one leads again from what is stored.
                _logger.exception("the projector failed; it starts over")
                self.disconnect()
                self._stopping.wait(_RETRY_SECONDS)
        self.disconnect()

    def _lead_until_lost(self) -> None:
        try:
            if self.lead():
                self._follow()
                self.disconnect()
            else:
                self._stopping.wait(POLL_SECONDS)
        except LostLead:
            _logger.info("a view is not where it was left; starting over")
            if self._is_superseded():
                self._candidate.leave()
            self.disconnect()

    def _follow(self) -> None:
        pipeline = self._connect()
        pipeline.connection.execute("LISTEN ledger_events")
        appends = Appends(pipeline)
        while not (self._stopping.is_set() or self._candidate.is_left):
            # If no batch was full, no events are left, unless a NOTIFY has come meanwhile.
            self._is_behind = False
            self.run_once()
            if not (self._is_behind or appends.wait()) and self._take(self._tracking()):
                # Writers have folded. One that was killed may not have announced it.
                self._announce()

    def _announce(self) -> None:
        """Notify other processes of the positions that the views have."""
        alive = [view for view in self._views if not view.is_stopped]
        for position, views in groupby(alive, key=attrgetter("position")):
            names = (view.projection.name for view in views)
            self._connect().run(announcement(names, position))

    def _tracking(self) -> list[Any]:
        return self._connect().connection.execute(TRACKING.text).fetchall()

    def _assert_generations(self, tracking: Sequence[Any]) -> None:
        """Raise LostLead if a view has another generation."""
        if {(row[0], row[1], row[2]) for row in tracking} != self._generations:
            raise LostLead("a view was rebuilt")

    def _is_superseded(self) -> bool:
        """True if a newer version of the code has rebuilt a view that this projector moved."""
        own = {v.projection.name: v.projection.version for v in self._views if not v.is_stopped}
        return any(version > own.get(name, version) for name, version, *_ in self._tracking())

    def _connect(self) -> Pipeline:
        if self._pipeline is None:
            connection = RoundConnection.connect(
                self._conninfo,
                autocommit=True,
                row_factory=tuple_row,
                application_name="ledger projector",
                options=planned_once(self._conninfo),
            )
            # Views can be derived again, so their commits need not wait for the disk.
            connection.execute("SET synchronous_commit = off")
            connection.execute("SET idle_in_transaction_session_timeout = '60s'")
            self._pipeline = Pipeline(connection, *self._wakers[:1])
        return self._pipeline

    def disconnect(self) -> None:
        """Close the connection, which ends the lead. The next round opens another."""
        self._candidate.leads = False
        if self._pipeline is not None:
            self._pipeline.connection.close()
            self._pipeline = None
