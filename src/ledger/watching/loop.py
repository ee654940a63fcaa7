"""The loop of watches: finds what is due or over, and has it decided (contract, Watches).

    events behind the mark ─▶ lines that changed ─┐
    ledger.watch_due ───────▶ lines that are due ─┼─▶ judge each line by all watches of its tenant
    a new revision ─▶ look through all lines ─────┘     │ opens, reminds, resolves ─▶ writer
                                                        ▼ the next instant ─▶ ledger.watch_due

A round reads the views in one snapshot. A line has at most one row in ``ledger.watch_due``: the
next instant at which any watch may be due there, or an alert needs a look. So a round costs what
changed and what becomes due, however many lines and watches there are. The mark and the instants
are kept after the commands: after a crash the next leader looks again, and each alert has an
identity.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import partial
from heapq import nsmallest
from typing import NamedTuple, Protocol

import prometheus_client as metrics
import psycopg
from psycopg.rows import TupleRow

from ledger.application.command import Command
from ledger.application.commands.alerts import (
    OpenAlert,
    OpenSourceAlert,
    RemindOfAlert,
    ResolveAlert,
)
from ledger.application.periodic import LedSession, Periodic, assert_decided, present
from ledger.application.turns import Outcomes
from ledger.application.writer import Writer
from ledger.domain.alert import Alert, AlertOpened, AlertSubject, ResolvedReason, left_by
from ledger.domain.stretch import Due, LineNow, due_for, sentence, stretches
from ledger.domain.values import LATEST, format_id
from ledger.domain.watch import MAX_UNRESOLVED, Condition, RunOpen, Watch, first_instant, kinds_of
from ledger.intake.request import Receipt
from ledger.log.codec import EnvelopeMapper
from ledger.watching.ends import Histories
from ledger.watching.looks import MOST_DUE, FoundLine, Looks, RoundStart
from ledger.watching.sources import Sources
from ledger.watching.sums import lines_above

_AGAIN = timedelta(seconds=1)
"""When a line is looked at again for which a command could not be decided yet: in the next round,
which begins some seconds later, but not in a round that follows at once."""

_WAITS = timedelta(seconds=30)
"""When a line is looked at again that has an alert which waits for room."""

MOST_WAITING = 10_000
"""For so many lines of a watch the loop knows that alerts wait. Further lines are left out: once
half of these have gone, all lines are looked through again."""

_KNOWS_AGAIN = timedelta(seconds=60)
"""So long after its begin a new leader knows what waits: twice as long as a waiting line rests."""

_AT_ONCE = 500
"""The commands that the writer takes together."""

_PAGES_AT_ONCE = 2
"""The pages of looks in a round: between them the round opens what the lines before brought."""

_ROUND = metrics.Gauge(
    "ledger_watches_round_timestamp_seconds", "When the loop of watches last ended a round."
)
_OPENED = metrics.Counter("ledger_alerts_opened", "Alerts that watches opened.")

_Command = OpenAlert | OpenSourceAlert | ResolveAlert | RemindOfAlert


class _End(NamedTuple):
    """The end of an alert."""

    reason: ResolvedReason
    at: datetime


class _Judged:
    """A line that a round has looked at, and what follows."""

    def __init__(self, known: LineNow) -> None:
        self.known = known
        self.id, self.organization_id = known.execution.id, known.execution.organization_id
        self.dues: list[Due] = []
        """Stretches that are due, and have no alert yet."""
        self.commands: list[_Command] = []
        self.next_at: datetime | None = None
        """When the line is looked at next; None: once it changes."""
        self._present: dict[Condition, set[tuple[AlertSubject, str]]] = {}

    def has(self, alert: AlertOpened) -> bool:
        """Whether the stretch of an alert lasts: a line may have a thousand alerts."""
        condition = alert.condition
        if condition not in self._present:
            found = stretches(condition, self.known)
            self._present[condition] = {(each.subject, each.began_by) for each in found}
        return (alert.subject, alert.began_by) in self._present[condition]

    def look_again(self, at: datetime | None) -> None:
        if at is not None and at < LATEST:
            self.next_at = at if self.next_at is None else min(at, self.next_at)


class WatchLoop(Periodic):
    """Opens, repeats and resolves alerts. ``run_once`` returns how many of these it recorded."""

    def __init__(
        self,
        session: LedSession,
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
            done, has_more = self._rounds.look(connection)
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
        self._seen = 0
        """The position up to which changes of watches are known."""
        self._news: dict[str, int] = {}
        """The positions of changes of watches behind the mark."""
        self._opened: dict[int, str] = {}
        """The watches of the alerts that the views may not have yet, by the alerts' positions."""
        self._waiting: dict[str, dict[str, list[datetime]]] = {}
        """By watch, the lines with alerts that wait for room, each with their due times."""
        self._beyond: dict[str, datetime] = {}
        """Watches of which lines were left out, with the instant from which they may be sought."""
        self._told: dict[str, int] | None = None
        """How many wait, by watch, as it was told last; None before the first round."""
        self._looked: dict[str, int] = {}
        """The revisions up to which all lines of an organization were looked at."""
        self._sources = Sources()

    def look(self, connection: psycopg.Connection[TupleRow]) -> tuple[int, bool]:
        """Do one round by the clock; return how much was recorded, and whether there is more."""
        looks, now = Looks(connection), self._clock()
        if self._told is None:
            self._told, again = looks.waiting(), now + _KNOWS_AGAIN
            self._beyond = {w: again for w, n in self._told.items() if n >= MOST_WAITING}
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            standing = looks.standing()
            if standing is None:
                return 0, False
            learned = self._learn(looks, standing)
            changed, upto = looks.changed(standing, self._organizations())
            due = looks.due(now)
            lines = dict.fromkeys(
                (*due, *changed, *self._with_room(looks, standing), *looks.lines_of(learned))
            )
            histories = Histories(connection, self._mapper)
            judged = self._judge(looks, histories, list(lines), standing, now)
            of_sources = self._sources.judge(
                connection, self._watches, looks.generations["watch"], standing, now
            )
        done = self._carry_out(judged, of_sources, now)
        rows = [(line.id, line.organization_id, line.next_at) for line in judged]
        rows += [(line, "", None) for line in lines.keys() - {line.id for line in judged}]
        if not looks.write(standing, upto, rows):
            return done, False
        has_due = len(due) == MOST_DUE
        has_more = self._go_on(looks, standing, now, has_due)
        self._tell_waiting(looks)
        return done, has_more or upto < standing.position or has_due

    def _organizations(self) -> dict[str, list[Watch]]:
        """The enabled watches of each organization that has any."""
        found = dict[str, list[Watch]]()
        for watch in self._watches.values():
            if watch.disabled_at is None:
                found.setdefault(watch.organization_id or "", []).append(watch)
        return found

    def _learn(self, looks: Looks, standing: RoundStart) -> list[str]:
        """Take in the watches that changed; return those whose alerts are to be looked at.

        A change is looked at until the mark has passed it: a round may fail in its middle.
        """
        for watch, position in looks.watches(self._seen):
            self._seen = max(self._seen, position)
            self._watches[watch.id], self._news[watch.id] = watch, position
            self._waiting.pop(watch.id, None)
            if watch.revision > standing.mark:
                self._beyond.pop(watch.id, None)
        if not standing.is_first:
            self._news = {w: at for w, at in self._news.items() if at > standing.mark}
        return [*self._news]

    def _unresolved(
        self, looks: Looks, watches: Collection[str], standing: RoundStart
    ) -> Mapping[str, int]:
        """How many alerts of each of these watches are open, those of the last rounds included."""
        self._opened = {at: w for at, w in self._opened.items() if at > standing.position}
        return Counter(self._opened.values()) + Counter(looks.unresolved(watches))

    # Judging.

    def _judge(
        self,
        looks: Looks,
        histories: Histories,
        ids: Sequence[str],
        standing: RoundStart,
        now: datetime,
    ) -> list[_Judged]:
        """Judge each of these lines: the commands about it, and when it is looked at next."""
        watches = self._organizations()
        with_runs = RunOpen in kinds_of([w for some in watches.values() for w in some])
        lines = looks.lines(ids, with_runs)
        above = lines_above(looks.connection, [f.known.execution for f in lines], watches, now)
        judged = [
            self._judge_line(
                found._replace(known=found.known._replace(over=above.get(found.id, {}))),
                watches,
                histories,
                standing,
                now,
            )
            for found in lines
        ]
        dues = sorted(
            ((due, line) for line in judged for due in line.dues), key=lambda each: each[0].at
        )
        if not dues:
            return judged
        open_alerts = {**self._unresolved(looks, {due.watch.id for due, _ in dues}, standing)}
        positions = {due.stretch.position for due, _ in dues if due.stretch.position is not None}
        recorded = looks.recorded_at(positions)
        for due, line in dues:
            unresolved = open_alerts.get(due.watch.id, 0)
            if unresolved >= MAX_UNRESOLVED:
                line.look_again(self._wait(due, line.id, now))
                continue
            open_alerts[due.watch.id] = unresolved + 1
            body = _body(due, line.known, recorded)
            line.commands.append(
                OpenAlert(due.watch, line.known, standing.position, due.stretch, body)
            )
        return judged

    def _judge_line(
        self,
        found: FoundLine,
        watches: Mapping[str, Sequence[Watch]],
        histories: Histories,
        standing: RoundStart,
        now: datetime,
    ) -> _Judged:
        known, line = found.known, _Judged(found.known)
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
                line.look_again(None if end is None else end.at)
                self._remind(alert, of, line, now)
                continue
            keeps = end.reason == "recovered" and of.given.keep_seconds
            line.commands.append(
                ResolveAlert(
                    alert, end.reason, end.at, known, standing.position, end.at if keeps else None
                )
            )
        for condition in known.over:
            line.look_again(first_instant(condition.period_of(now)[1]))
        for due in due_for(own, known):
            if due.at > now:
                line.look_again(due.at)
            elif (due.watch.id, due.stretch.subject) not in alerted:
                line.dues.append(due)
        return line

    @staticmethod
    def _end_of(
        alert: Alert, watch: Watch, opened: int, judged: _Judged, histories: Histories
    ) -> _End | None:
        """When and why an alert is resolved, which may be later; None: its condition holds."""
        body, line = alert.body, judged.known.execution
        if watch.revision != body.revision or watch.disabled_at is not None:
            return _End(*left_by(watch))
        ended: datetime | None = None
        if not judged.has(body):
            keep = timedelta(seconds=watch.given.keep_seconds)
            ended = histories.end_of(line, body, opened, keep)
        other: _End | None = None
        if line.closed_at is not None:
            other = _End("line_closed", line.closed_at)
        elif not watch.covers(line):
            left = histories.left_at(line.id, opened, watch.given.lines)
            other = _End("changed", left or body.due)
        if ended is None or (other is not None and ended >= other.at):
            return other
        return _End("recovered", ended)

    @staticmethod
    def _remind(alert: Alert, watch: Watch, line: _Judged, now: datetime) -> None:
        every = watch.given.remind_seconds
        at = alert.next_reminder(every, now)
        if at is not None and at <= now:
            line.commands.append(RemindOfAlert(alert.id, every))
            at = now + timedelta(seconds=every)
        line.look_again(at)

    # Alerts that wait for room.

    def _wait(self, due: Due, line_id: str, now: datetime) -> datetime | None:
        """Let an alert wait for room; return when its line is looked at again, if it is by then."""
        waiting = self._waiting.setdefault(due.watch.id, {})
        if len(waiting) >= MOST_WAITING and line_id not in waiting:
            self._beyond.setdefault(due.watch.id, now)
            return None
        waiting.setdefault(line_id, []).append(due.at)
        return now + _WAITS

    def _seek(self, looks: Looks, now: datetime) -> None:
        """Look through all lines again for watches that have room for lines that were left out."""
        for watch_id, at in [*self._beyond.items()]:
            watch = self._watches.get(watch_id)
            if watch is None or watch.disabled_at is not None:
                del self._beyond[watch_id]
            elif at <= now and len(self._waiting.get(watch_id, ())) <= MOST_WAITING // 2:
                looks.begin_anew(watch)
                self._looked.pop(watch.organization_id or "", None)
                del self._beyond[watch_id]

    def _with_room(self, looks: Looks, standing: RoundStart) -> list[str]:
        """The lines that wait, the longest due first, of each watch as many as have room."""
        waiting = {watch: lines for watch, lines in self._waiting.items() if lines}
        if not waiting:
            return []
        unresolved = self._unresolved(looks, waiting, standing)
        return [
            line
            for watch, lines in waiting.items()
            if (room := MAX_UNRESOLVED - unresolved[watch]) > 0
            for line in nsmallest(room, lines, key=lambda each: min(lines[each]))
        ]

    def _tell_waiting(self, looks: Looks) -> None:
        told = {
            watch: min(sum(map(len, lines.values())), MOST_WAITING)
            for watch, lines in self._waiting.items()
            if lines
        } | dict.fromkeys(self._beyond, MOST_WAITING)
        if told != self._told:
            looks.tell_waiting(
                [(w, self._watches[w].organization_id or "", n) for w, n in told.items()]
            )
            self._told = told

    # Deciding.

    def _carry_out(
        self, judged: Sequence[_Judged], of_sources: Sequence[_Command], now: datetime
    ) -> int:
        """Have the writer decide, in the order of due times; return how much was recorded."""
        by_command = {command: line for line in judged for command in line.commands}
        commands = sorted([*by_command, *of_sources], key=_order)
        done = 0
        for start in range(0, len(commands), _AT_ONCE):
            some = commands[start : start + _AT_ONCE]
            outcomes = self._writer.submit(some).result()
            assert_decided(outcomes)
            for command, outcome in zip(some, outcomes, strict=True):
                if not isinstance(outcome, Receipt) or command.is_undecided:
                    # The database could not be reached, or nobody can tell yet.
                    if command in by_command:
                        by_command[command].look_again(now + _AGAIN)
                elif not outcome.duplicate:
                    done += 1
                    if isinstance(command, OpenAlert | OpenSourceAlert):
                        _OPENED.inc()
                        self._opened[outcome.position] = command.body.watch_id
        return done

    # Looks through all lines, for new revisions.

    def _go_on(self, looks: Looks, standing: RoundStart, now: datetime, has_due: bool) -> bool:
        """Go on with the looks that new revisions need; return whether there is more to do.

        A look is complete after a round that judged all that was due, and so all lines of the look;
        or once each of its watches has as many alerts that wait for room as are counted.
        """
        self._seek(looks, now)
        waiting = {
            name: some
            for name, some in self._organizations().items()
            if max(watch.revision for watch in some) > self._looked.get(name, 0)
        }
        begun = looks.looks(waiting) if waiting else {}
        pages = 0
        for name, look in begun.items():
            asked = [w.id for w in waiting[name] if look.position < w.revision <= look.begun]
            if look.is_put and (not has_due or self._beyond.keys() >= {*asked}):
                looks.complete(look)
            is_needed = any(w.revision > look.position for w in waiting[name])
            while pages < _PAGES_AT_ONCE and is_needed and not look.is_put:
                looks.go_on(look, waiting[name], standing.position, now)
                pages += 1
            self._looked[name] = look.position
        return pages > 0


def _order(command: _Command) -> tuple[int, datetime]:
    """Ends before openings, of these the oldest due first."""
    if isinstance(command, OpenAlert | OpenSourceAlert):
        return 1, command.body.due
    return 0, command.at


def _body(due: Due, known: LineNow, recorded: Mapping[int, datetime]) -> AlertOpened:
    stretch = due.stretch
    evidence: tuple[str, ...] = ()
    if stretch.position is not None and stretch.position in recorded:
        evidence = (format_id("EVT", recorded[stretch.position].year, stretch.position),)
    return due.opening(sentence(due.watch.given, stretch, known), evidence)
