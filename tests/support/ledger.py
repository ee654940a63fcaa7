"""The ledger below HTTP: the real writer, projector and sweeper, called in turn, on a set clock.

Facts go in as the bytes that a sender would send; rows come out as the API would answer them. Only
the writer runs in the background, so the views advance exactly when a test asks for them.
"""

import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple

import psycopg
from psycopg.rows import dict_row

from ledger.app.composition.writing import create_writer
from ledger.app.settings import Settings
from ledger.engine.http.problems import status_of
from ledger.engine.log.event_log import Log
from ledger.engine.values.errors import LedgerError
from ledger.engine.values.principal import EVERYONE, Principal
from ledger.engine.values.rendering import json_text
from ledger.engine.values.values import day_of, format_instant, week_of
from ledger.engine.writer.command import Command
from ledger.engine.writer.request import Outcome, Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.facts import envelope
from ledger.features.facts.report import command_of
from ledger.features.lines.commands.lines import Pause, Resume
from ledger.features.lines.loops import Sweeper
from ledger.features.runs.commands import EraseRun, Heartbeat
from ledger.features.runs.loops import LeaseWatch
from ledger.features.watches.commands.watches import CreateWatch
from ledger.features.watches.kinds.base import Condition
from ledger.features.watches.loops.loop import WatchLoop
from ledger.features.watches.model.watch import WatchSettings
from projections.lines import statements
from projections.runs.shown import RunColumns, run_view
from projections.runs.statements import run_read
from tests.support.facts import ORGANIZATION, activation, encode, fact
from tests.support.leases import listen
from tests.support.reader import set_tenant
from tests.support.service import Clock
from tests.support.stored import stored_object
from tests.support.views import HandProjector, led, until

REPORTER = Principal(
    "KEY-26-777777", "api_key", frozenset({"read", "write", "service_lines:manage"}), ORGANIZATION
)
STRANGER = Principal("KEY-26-888888", "api_key", frozenset({"write"}), "ORG-26-000002")
NARROW = Principal("KEY-26-999999", "api_key", frozenset({"write"}), ORGANIZATION, "WS-26-000002")
ADMIN = Principal("KEY-26-666666", "api_key", frozenset({"admin"}))

_numbers = itertools.count(1)


class Item(NamedTuple):
    """The outcome of a fact or command."""

    outcome: str
    subject: str | None = None
    event_ids: tuple[str, ...] = ()
    position: int | None = None
    status: int | None = None
    code: str | None = None

    @property
    def refusal(self) -> tuple[int | None, str | None]:
        return self.status, self.code


def new_id(prefix: str) -> str:
    """An id that no other test of this session uses, far from the ids that the ledger issues."""
    return f"{prefix}-26-{500_000 + next(_numbers):06d}"


class Ledger:
    """A database with a writer, a projector and loops. Each begins when it is used."""

    def __init__(self, conninfo: str, settings: Settings, clock: Clock) -> None:
        self.conninfo, self.settings, self.clock = conninfo, settings, clock
        self._begun = ExitStack()

    @cached_property
    def log(self) -> Log:
        log = Log(self.conninfo)
        self._begun.callback(log.close)
        return log

    @cached_property
    def writer(self) -> Writer:
        writer = create_writer(self.settings, self.log, self.clock)
        writer.start()
        self._begun.callback(writer.stop)
        return writer

    @cached_property
    def projector(self) -> HandProjector:
        projector = HandProjector(self.conninfo)
        self._begun.callback(projector.disconnect)
        until(projector.lead, "the lead")  # of a projector that was closed just now
        return projector

    @cached_property
    def sweeper(self) -> Sweeper:
        idle_after = self.settings.idle_after
        sweeper = Sweeper(led(self.conninfo, "sweeper"), self.writer, self.clock, idle_after, 3600)
        self._begun.callback(sweeper.disconnect)
        return sweeper

    @cached_property
    def lease_watch(self) -> LeaseWatch:
        lease_watch = LeaseWatch(led(self.conninfo, "leases"), self.writer)
        self._begun.callback(lease_watch.disconnect)
        return lease_watch

    @cached_property
    def watch_loop(self) -> WatchLoop:
        loop = WatchLoop(led(self.conninfo, "watches"), self.writer, self.clock, 3600)
        self._begun.callback(loop.disconnect)
        return loop

    @cached_property
    def reader(self) -> psycopg.Connection[dict[str, Any]]:
        reader = psycopg.connect(self.conninfo, autocommit=True, row_factory=dict_row)
        self._begun.callback(reader.close)
        set_tenant(reader, EVERYONE)
        return reader

    def close(self) -> None:
        self._begun.close()

    # Facts and commands in.

    def report(
        self, *events: dict[str, Any], by: Principal = REPORTER, request_id: str | None = None
    ) -> list[Item]:
        """Report a batch, whose facts are decided together, in one append."""
        parsed = [envelope.from_structured(encode(event)) for event in events]
        commands = [command_of(reported, by, request_id) for reported in parsed]
        return [_item(outcome) for outcome in self.writer.submit(commands).result()]

    def accept(self, *events: dict[str, Any], by: Principal = REPORTER) -> list[Item]:
        """Report facts, each in an append of its own; all must be recorded."""
        items = [self.report(event, by=by)[0] for event in events]
        assert [item for item in items if item.outcome != "recorded"] == []
        return items

    def refusal(
        self, event: dict[str, Any], by: Principal = REPORTER
    ) -> tuple[int | None, str | None]:
        """(status, code) of a fact that must be refused, and that leaves all lines as they were."""
        before = self.head()
        (item,) = self.report(event, by=by)
        assert item.outcome == "refused"
        assert self.head() == before
        return item.refusal

    def refused(self, event: dict[str, Any], by: Principal = REPORTER) -> Outcome:
        """The outcome of one fact, as the writer gives it."""
        parsed = envelope.from_structured(encode(event))
        return self.writer.execute(command_of(parsed, by))

    def execute(self, command: Command) -> Item:
        return _item(self.writer.execute(command))

    def pause(self, line: str, by: Principal = REPORTER, **more: Any) -> Item:
        return self.execute(Pause(line, by, reason="because", **more))

    def resume(self, line: str, by: Principal = REPORTER) -> Item:
        return self.execute(Resume(line, by, reason=None))

    def erase(self, run: str, by: Principal = REPORTER, reason: str = "asked for") -> Item:
        return self.execute(EraseRun(run, by, reason=reason))

    def beat(self, run: str, by: Principal = REPORTER) -> Item:
        return self.execute(Heartbeat(run, by))

    def line(self, model: str = "agent_runtime", **more: Any) -> str:
        """A new line, activated an hour ago unless ``time`` is given."""
        line = more.pop("line", None) or new_id("LIN")
        by = more.pop("by", REPORTER)
        self.accept(activation(line, model, **{"time": self.ago(hours=1)} | more), by=by)
        return line

    def run(self, line: str, *, started: bool = True, **attributes: Any) -> str:
        type = "run.started" if started else "run.requested"
        (item,) = self.accept(fact(type, new_id("RUN"), {"service_line_id": line}, **attributes))
        assert item.subject is not None
        return item.subject

    def watch(self, condition: Condition, for_seconds: int = 0, **more: Any) -> str:
        """A new watch of the reporter's organization, or of ``organization``."""
        tenant = more.pop("organization", ORGANIZATION), more.pop("workspace", None)
        settings = WatchSettings(
            **{"name": "A watch"} | more, condition=condition, for_seconds=for_seconds
        )
        command = CreateWatch(
            ADMIN, None, organization_id=tenant[0], workspace_id=tenant[1], settings=settings
        )
        item = self.execute(command)
        assert item.outcome == "recorded", item
        assert item.subject is not None
        return item.subject

    def run_watches(self) -> int:
        """Let the loop of watches do rounds until there is nothing to do; return what it did."""
        done = 0
        while True:
            self.catch_up()
            more, has_more = self.watch_loop._round()
            done += more
            if not more and not has_more:
                return done

    # The clock.

    def at(self, **duration: float) -> str:
        return format_instant(self.clock.now + timedelta(**duration))

    def ago(self, **duration: float) -> str:
        return format_instant(self.clock.now - timedelta(**duration))

    def listen(self, seconds: float = 0.0) -> None:
        """Let time pass, while the service notes each second that it takes heartbeats."""
        listen(self.log, self.clock, seconds)

    # Stored events and shown views.

    def rows(self, statement: str, *parameters: Any) -> list[dict[str, Any]]:
        return self.reader.execute(statement.encode(), parameters or None).fetchall()

    def head(self) -> int:
        """The log's last position, without the records of refusals."""
        (row,) = self.rows(
            "SELECT coalesce(max(notification_id), 0) h FROM ledger.ledger_events"
            " WHERE originator_id !~ '^REF-'"
        )
        return int(row["h"])

    def events(self, *streams: str, after: int = 0) -> list[dict[str, Any]]:
        """Stored events of all or some streams in log order, their state by ``stored_object``."""
        rows = self.rows(
            "SELECT notification_id, originator_id, originator_version, topic, recorded_at, "
            "convert_from(state, 'UTF8') AS state FROM ledger.ledger_events "
            "WHERE notification_id > %s AND (%s::text[] = '{}' OR originator_id = ANY(%s)) "
            "ORDER BY notification_id",
            after,
            list(streams),
            list(streams),
        )
        return [row | {"state": stored_object(row["state"])} for row in rows]

    def topics(self, *streams: str, after: int = 0) -> list[str]:
        return [e["topic"].split("/")[0] for e in self.events(*streams, after=after)]

    def catch_up(self) -> None:
        """Bring the views to the end of the log; no view may have stopped."""
        self.projector.catch_up()
        assert self.rows("SELECT name, error FROM ledger.projection WHERE error IS NOT NULL") == []

    def detail(self, line: str) -> dict[str, Any]:
        """The line as GET shows it at the clock's instant."""
        self.catch_up()
        now = self.clock.now
        values = {"line_id": line, "today": day_of(now), "week": week_of(now)}
        statement = statements.detail_read(frozenset()).sql.encode()
        (row,) = self.reader.execute(statement, values).fetchall()
        assert row["item"] is not None
        item: dict[str, Any] = json.loads(row["item"])
        return item

    def metrics(self, line: str) -> dict[str, Any]:
        metrics: dict[str, Any] = self.detail(line)["metrics"]
        return metrics

    def run_view(self, run: str) -> dict[str, Any]:
        """The run as GET shows it, without its payloads."""
        self.catch_up()
        statement = run_read(frozenset()).sql.encode()
        row = self.reader.execute(statement, {"run_id": run}).fetchall()[0]
        columns = RunColumns(*(row[name] for name in RunColumns._fields))
        item: dict[str, Any] = json.loads(json_text(run_view(columns)))
        return item

    def sweep(self) -> int:
        self.catch_up()
        return self.sweeper.run_once()


def _item(outcome: Outcome | LedgerError) -> Item:
    if isinstance(outcome, Receipt):
        kind = "duplicate" if outcome.duplicate else "recorded"
        return Item(kind, outcome.subject, outcome.event_ids, outcome.position)
    return Item("refused", status=status_of(outcome), code=outcome.code)


def instant(text: str) -> datetime:
    """A shown time as an instant."""
    return datetime.fromisoformat(text)


@contextmanager
def working(conninfo: str, settings: Settings, clock: Clock | None = None) -> Iterator[Ledger]:
    """A ledger, closed at the end."""
    ledger = Ledger(conninfo, settings, clock or Clock())
    try:
        yield ledger
    finally:
        ledger.close()
