"""The loop of watches: finds what is due or over, and has it decided (contract, Watches).

    events behind the mark ─▶ lines that changed ─┐
    ledger.watch_due ───────▶ lines that are due ─┼─▶ judge each line by all watches of its tenant
    a new revision ─▶ look through all lines ─────┘     │ opens, reminds, resolves ─▶ writer
                                                        ▼ the next instant ─▶ ledger.watch_due

Organizations are served in rotation, first to judge their lines, then to decide commands. A round
ends after some passes: the rest is put off to the next round, which follows at once. So nobody
waits for all that another organization has due.

A round reads the views in one snapshot. A line has at most one row in ``ledger.watch_due``: the
next instant at which any watch may be due there, or an alert needs a check. So a round costs what
changed and what becomes due, however many lines and watches there are. The mark and the instants
are kept after the commands: after a crash the next leader checks again, and each alert has an
identity.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import partial
from heapq import nsmallest
from itertools import chain
from typing import Protocol

import prometheus_client as metrics
import psycopg
from psycopg.rows import TupleRow

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.writer.command import Command
from ledger.engine.writer.fair_queue import SLOT_FACTS, SLOT_SECONDS, Outcomes
from ledger.engine.writer.periodic import LeaderSession, Periodic, assert_decided, present
from ledger.engine.writer.request import Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.watches.commands import alerts
from ledger.features.watches.kinds.base import AlertSubject
from ledger.features.watches.loops.ends import Histories
from ledger.features.watches.loops.judged import (
    End,
    Judged,
    Queue,
    WatchCommand,
    body_of,
    order_of,
    queues_of,
)
from ledger.features.watches.loops.sources import Sources
from ledger.features.watches.loops.store import FoundLine, LineToCheck, RoundSnapshot, WatchStore
from ledger.features.watches.loops.sums import ends_of_periods, lines_above
from ledger.features.watches.model.alert import Alert, Due, due_for, left_by
from ledger.features.watches.model.watch import MAX_UNRESOLVED, Watch

_AGAIN = timedelta(seconds=1)
"""When a line is judged again for which a command could not be decided yet: in the next round,
which begins some seconds later, but not in a round that follows at once."""

_WAITS = timedelta(seconds=30)
"""When a line is judged again that has an alert which waits for room."""

MOST_WAITING = 10_000
"""For so many lines of a watch the loop knows that alerts wait. Further lines are left out: once
half of these have gone, all lines are scanned again."""

_KNOWS_AGAIN = timedelta(seconds=60)
"""So long after its begin a new leader knows what waits: twice as long as a waiting line rests."""

_MOST_PASSES = 10
"""The passes of a round. In each, an organization has lines judged for ``SLOT_SECONDS`` at most, or
until slightly more than ``SLOT_FACTS`` alerts are to be opened or resolved."""

_JUDGING_SECONDS = 0.5
_DECIDING_SECONDS = 1.0
"""How long further passes may begin after the first."""

_PAGES_AT_ONCE = 2
"""The pages of scans in a round: between them the round opens what the lines before brought."""

_ROUND = metrics.Gauge(
    "ledger_watches_round_timestamp_seconds", "When the loop of watches last ended a round."
)
_OPENED = metrics.Counter("ledger_alerts_opened", "Alerts that watches opened.")


class WatchLoop(Periodic):
    """Opens, repeats and resolves alerts. ``run_once`` returns how many of these it recorded."""

    def __init__(
        self,
        session: LeaderSession,
        writer: Writer,
        clock: Callable[[], datetime],
        every_seconds: float,
    ) -> None:
        super().__init__(session, "watches", every_seconds)
        self._begin, self._clock = partial(Rounds, writer, clock), clock
        self._rounds = self._begin()
        self._connection: psycopg.Connection[TupleRow] | None = None

    def work(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Do one round. There is more to do if it stopped at one of its limits."""
        if connection is not self._connection:
            # Another leader, or another PostgreSQL, may have worked meanwhile.
            self._rounds, self._connection = self._begin(), connection
        with present(connection) as is_now:
            if not is_now:
                return 0, False
            done, has_more = self._rounds.run_round(connection)
        _ROUND.set(self._clock().timestamp())
        return done, has_more


class Deciding(Protocol):
    """Takes commands to be decided: a writer does."""

    def submit(self, commands: Sequence[Command]) -> Future[Outcomes]: ...


class Rounds:
    """The rounds of one leader, who remembers the watches, and which alerts wait for room."""

    def __init__(self, writer: Deciding, clock: Callable[[], datetime]) -> None:
        self._writer, self._clock = writer, clock
        self._mapper = EnvelopeMapper()
        self._watches: dict[str, Watch] = {}
        self._position = 0
        """The position up to which changes of watches are read."""
        self._changed: dict[str, int] = {}
        """The positions of changes of watches behind the mark."""
        self._opened: dict[int, str] = {}
        """The watches of the alerts that the views may not have yet, by the alerts' positions."""
        self._waiting: dict[str, dict[str, list[datetime]]] = {}
        """By watch, the lines with alerts that wait for room, each with their due times."""
        self._beyond: dict[str, datetime] = {}
        """Watches with lines that were left out, and the instant from which they may be sought."""
        self._reported: dict[str, int] | None = None
        """How many wait, by watch, as reported last; None before the first round."""
        self._looked: dict[str, int] = {}
        """The revisions up to which all lines of an organization were scanned."""
        self._paged: dict[str, int] = {}
        """When a scan of an organization had its last page, as a number that rises."""
        self._sources = Sources()

    def run_round(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Do one round by the clock; return how much was recorded, and True if there is more."""
        store, now = WatchStore(connection), self._clock()
        if self._reported is None:
            self._reported, again = store.waiting(), now + _KNOWS_AGAIN
            self._beyond = {w: again for w, n in self._reported.items() if n >= MOST_WAITING}
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            snapshot = store.snapshot()
            if snapshot is None:
                return 0, False
            learned = self._learn(store, snapshot)
            changed, upto = store.changed(snapshot, self._organizations(), now)
            due, behind = store.due(now)
            queues = queues_of(
                (*due, *store.lines_of(learned), *self._with_room(store, snapshot), *changed)
            )
            histories = Histories(connection, self._mapper)
            judged, gone = self._judge(store, histories, queues, snapshot, now)
            of_sources = self._sources.judge(
                connection, self._watches, store.generations["watch"], snapshot, now
            )
        done, undecided = self._carry_out(judged, of_sources, now)
        rows = [(line.id, line.organization_id, line.next_at) for line in judged]
        rows += [(line, "", None) for line in gone]
        put_off = [line for queue in queues.values() for line in queue.values()]
        if not store.write(snapshot, upto, rows, put_off):
            return done, False
        behind |= {*undecided, *(line.organization_id for line in put_off)}
        has_more = self._go_on(store, snapshot, now, behind)
        self._tell_waiting(store)
        return done, has_more or upto < snapshot.position or bool(behind)

    def _organizations(self) -> dict[str, list[Watch]]:
        """The enabled watches of each organization that has any."""
        found = dict[str, list[Watch]]()
        for watch in self._watches.values():
            if watch.disabled_at is None:
                found.setdefault(watch.organization_id or "", []).append(watch)
        return found

    def _learn(self, store: WatchStore, snapshot: RoundSnapshot) -> list[str]:
        """Return the changed watches: a change counts until the mark has passed it."""
        for watch, position in store.watches(self._position):
            self._position = max(self._position, position)
            self._watches[watch.id], self._changed[watch.id] = watch, position
            self._waiting.pop(watch.id, None)
            if watch.revision > snapshot.mark:
                self._beyond.pop(watch.id, None)
        if not snapshot.is_first:
            self._changed = {w: at for w, at in self._changed.items() if at > snapshot.mark}
        return [*self._changed]

    def _unresolved(
        self, store: WatchStore, watches: Collection[str], snapshot: RoundSnapshot
    ) -> Mapping[str, int]:
        """How many alerts of each of these watches are open, those of the last rounds included."""
        self._opened = {at: w for at, w in self._opened.items() if at > snapshot.position}
        return Counter(self._opened.values()) + Counter(store.unresolved(watches))

    # Judging.

    def _judge(
        self,
        store: WatchStore,
        histories: Histories,
        queues: Mapping[str, Queue],
        snapshot: RoundSnapshot,
        now: datetime,
    ) -> tuple[list[Judged], list[str]]:
        """Judge lines from the queues. Return them, and those that do not exist."""
        judged, gone = list[Judged](), list[str]()
        watches, end = self._organizations(), time.monotonic() + _JUDGING_SECONDS
        reading = {
            name: self._read(store, [*queue], watches, now) for name, queue in queues.items()
        }
        for index in range(_MOST_PASSES):
            for name, queue in queues.items():
                if index and time.monotonic() >= end:
                    break
                number, until = 0, time.monotonic() + SLOT_SECONDS
                for line_id, found in reading[name]:
                    del queue[line_id]
                    if found is None:
                        gone.append(line_id)
                    else:
                        line = self._judge_line(found, watches, histories, snapshot, now)
                        number += len(line.commands) + len(line.dues)
                        judged.append(line)
                    if number >= SLOT_FACTS or time.monotonic() >= until:
                        break
        self._open(store, judged, snapshot, now)
        return judged, gone

    def _read(
        self,
        store: WatchStore,
        ids: Sequence[str],
        watches: Mapping[str, Sequence[Watch]],
        now: datetime,
    ) -> Iterator[tuple[str, FoundLine | None]]:
        """Each of these lines as the round's snapshot has it, or None if it does not exist."""
        about = {watch.config.condition.about for some in watches.values() for watch in some}
        for start in range(0, len(ids), SLOT_FACTS):
            some = ids[start : start + SLOT_FACTS]
            lines = {found.id: found for found in store.lines(some, "open_runs" in about)}
            executions = [found.line.execution for found in lines.values()]
            above = lines_above(store.connection, executions, watches, now)
            for line_id in some:
                found = lines.get(line_id)
                if found is not None:
                    line = found.line._replace(over=above.get(line_id, {}))
                    found = found._replace(line=line)
                yield line_id, found

    def _open(
        self, store: WatchStore, judged: Sequence[Judged], snapshot: RoundSnapshot, now: datetime
    ) -> None:
        """Add the commands that open alerts, as far as their watches have room."""
        dues = sorted(
            ((due, line) for line in judged for due in line.dues), key=lambda each: each[0].at
        )
        if not dues:
            return
        open_alerts = {**self._unresolved(store, {due.watch.id for due, _ in dues}, snapshot)}
        positions = {due.episode.position for due, _ in dues if due.episode.position is not None}
        recorded = store.recorded_at(positions)
        for due, line in dues:
            unresolved = open_alerts.get(due.watch.id, 0)
            if unresolved >= MAX_UNRESOLVED:
                line.check_by(self._wait(due, line.id, now))
                continue
            open_alerts[due.watch.id] = unresolved + 1
            body = body_of(due, line.current, recorded)
            line.commands.append(
                alerts.OpenAlert(due.watch, line.current, snapshot.position, due.episode, body)
            )

    def _judge_line(
        self,
        found: FoundLine,
        watches: Mapping[str, Sequence[Watch]],
        histories: Histories,
        snapshot: RoundSnapshot,
        now: datetime,
    ) -> Judged:
        current, line = found.line, Judged(found.line)
        own = watches.get(line.organization_id, ())
        for watch in own:
            self._waiting.get(watch.id, {}).pop(line.id, None)
        alerted = set[tuple[str, AlertSubject]]()
        for alert, opened in found.alerts:
            of = self._watches.get(alert.body.watch_id)
            if of is None:
                continue
            end = self._end_of(alert, of, opened, line, histories)
            if end is None or (end.reason == "recovered" and end.at > now):
                alerted.add((of.id, alert.body.subject))
                line.check_by(None if end is None else end.at)
                self._remind(alert, of, line, now)
                continue
            before = end.at if end.reason == "recovered" and of.config.keep_seconds else None
            over = alerts.ResolveAlert(
                alert, end.reason, end.at, current, snapshot.position, before
            )
            line.commands.append(over)
        for at in ends_of_periods(current.over, now):
            line.check_by(at)
        for due in due_for(own, current):
            if due.at > now:
                line.check_by(due.at)
            elif (due.watch.id, due.episode.subject) not in alerted:
                line.dues.append(due)
        return line

    @staticmethod
    def _end_of(
        alert: Alert, watch: Watch, opened: int, judged: Judged, histories: Histories
    ) -> End | None:
        """When and why an alert is resolved, which may be later; None: its condition holds."""
        body, line = alert.body, judged.current.execution
        if watch.revision != body.revision or watch.disabled_at is not None:
            return End(*left_by(watch))
        ended: datetime | None = None
        if not judged.has(body):
            keep = timedelta(seconds=watch.config.keep_seconds)
            ended = histories.end_of(line, body, opened, keep)
        other: End | None = None
        if line.closed_at is not None:
            other = End("line_closed", line.closed_at)
        elif not watch.covers(line):
            left = histories.left_at(line.id, opened, watch.config.lines)
            other = End("changed", left or body.due)
        if ended is None or (other is not None and ended >= other.at):
            return other
        return End("recovered", ended)

    @staticmethod
    def _remind(alert: Alert, watch: Watch, line: Judged, now: datetime) -> None:
        every = watch.config.remind_seconds
        at = alert.next_reminder(every, now)
        if at is not None and at <= now:
            line.commands.append(alerts.RemindOfAlert(alert.id, every))
            at = now + timedelta(seconds=every)
        line.check_by(at)

    # Alerts that wait for room.

    def _wait(self, due: Due, line_id: str, now: datetime) -> datetime | None:
        """Let an alert wait for room; return when its line is judged again, if it is by then."""
        waiting = self._waiting.setdefault(due.watch.id, {})
        if len(waiting) >= MOST_WAITING and line_id not in waiting:
            self._beyond.setdefault(due.watch.id, now)
            return None
        waiting.setdefault(line_id, []).append(due.at)
        return now + _WAITS

    def _seek(self, store: WatchStore, now: datetime) -> None:
        """Scan all lines again for watches that have room for lines that were left out."""
        for watch_id, at in [*self._beyond.items()]:
            watch = self._watches.get(watch_id)
            if watch is None or watch.disabled_at is not None:
                del self._beyond[watch_id]
            elif at <= now and len(self._waiting.get(watch_id, ())) <= MOST_WAITING // 2:
                store.begin_anew(watch)
                self._looked.pop(watch.organization_id or "", None)
                del self._beyond[watch_id]

    def _with_room(self, store: WatchStore, snapshot: RoundSnapshot) -> list[LineToCheck]:
        """The lines that wait, the longest due first, of each watch as many as have room."""
        waiting = {watch: lines for watch, lines in self._waiting.items() if lines}
        if not waiting:
            return []
        unresolved = self._unresolved(store, waiting, snapshot)
        return [
            LineToCheck(line, self._watches[watch].organization_id or "", min(lines[line]))
            for watch, lines in waiting.items()
            if (room := MAX_UNRESOLVED - unresolved[watch]) > 0
            for line in nsmallest(room, lines, key=lambda each: min(lines[each]))
        ]

    def _tell_waiting(self, store: WatchStore) -> None:
        counts = {
            watch: min(sum(map(len, lines.values())), MOST_WAITING)
            for watch, lines in self._waiting.items()
            if lines
        } | dict.fromkeys(self._beyond, MOST_WAITING)
        if counts != self._reported:
            store.tell_waiting(
                [(w, self._watches[w].organization_id or "", n) for w, n in counts.items()]
            )
            self._reported = counts

    # Deciding.

    def _carry_out(
        self,
        judged: Sequence[Judged],
        of_sources: Sequence[tuple[str, WatchCommand]],
        now: datetime,
    ) -> tuple[int, Collection[str]]:
        """Decide in rotation, by due times. Return the number, and the organizations left."""
        by_command = {command: line for line in judged for command in line.commands}
        waiting = dict[str, list[WatchCommand]]()
        for command, line in by_command.items():
            waiting.setdefault(line.organization_id, []).append(command)
        for name, command in of_sources:
            waiting.setdefault(name, []).append(command)
        for commands in waiting.values():
            commands.sort(key=order_of)
        done, passes, end = 0, 0, time.monotonic() + _DECIDING_SECONDS
        while waiting and (not passes or time.monotonic() < end):
            for name, commands in [*waiting.items()]:
                done += self._decide(commands[:SLOT_FACTS], by_command, now)
                waiting[name] = commands[SLOT_FACTS:]
                if not waiting[name]:
                    del waiting[name]
            passes += 1
        for command in chain.from_iterable(waiting.values()):
            if command in by_command:
                by_command[command].check_by(min(order_of(command)[1], now))
        return done, waiting

    def _decide(
        self,
        commands: Sequence[WatchCommand],
        by_command: Mapping[WatchCommand, Judged],
        now: datetime,
    ) -> int:
        done = 0
        outcomes = self._writer.submit(commands).result()
        assert_decided(outcomes)
        for command, outcome in zip(commands, outcomes, strict=True):
            if not isinstance(outcome, Receipt) or command.is_undecided:
                # The database could not be reached, or nobody can tell yet.
                if command in by_command:
                    by_command[command].check_by(now + _AGAIN)
            elif not outcome.duplicate:
                done += 1
                if isinstance(command, alerts.OpenAlert | alerts.OpenSourceAlert):
                    _OPENED.inc()
                    self._opened[outcome.position] = command.body.watch_id
        return done

    # Scans of all lines, for new revisions.

    def _go_on(
        self, store: WatchStore, snapshot: RoundSnapshot, now: datetime, behind: Collection[str]
    ) -> bool:
        """Go on with the scans that new revisions need; return True if there is more to do.

        A scan is complete after a round that judged all that was due of its organization, and so
        all lines of the scan. It is also complete once each of its watches has as many waiting
        alerts as are counted.
        """
        self._seek(store, now)
        waiting = {
            name: some
            for name, some in self._organizations().items()
            if max(watch.revision for watch in some) > self._looked.get(name, 0)
        }
        begun = store.scans(waiting) if waiting else {}
        for name, run_round in begun.items():
            ids = [
                w.id for w in waiting[name] if run_round.position < w.revision <= run_round.begun
            ]
            if run_round.is_put and (name not in behind or self._beyond.keys() >= {*ids}):
                store.complete(run_round)
            self._looked[name] = run_round.position
        # The organization that had no page for the longest time has the next one.
        needed = [
            run_round
            for name, run_round in sorted(
                begun.items(), key=lambda each: self._paged.get(each[0], 0)
            )
            if not run_round.is_put and any(w.revision > run_round.position for w in waiting[name])
        ]
        pages = 0
        while needed and pages < _PAGES_AT_ONCE:
            run_round, pages = needed.pop(0), pages + 1
            store.go_on(run_round, waiting[run_round.organization_id], snapshot.position, now)
            self._paged[run_round.organization_id] = max(self._paged.values(), default=0) + 1
            needed += [] if run_round.is_put else [run_round]
        return pages > 0
