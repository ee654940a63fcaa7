"""Helpers to rebuild and verify views: a workload, the views' rows in memory, deliberate damage."""

import contextlib
import dataclasses
import functools
import random
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import psycopg
import pytest
from psycopg.rows import tuple_row

from ledger.app.demo import story
from ledger.app.features import projections
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.postgres.schema.table import Table
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.recorded import Recorded
from ledger.engine.values.values import id_of_key
from ledger.engine.views.contract import Projection, apply
from ledger.engine.views.generation import Generation, Writes
from ledger.engine.views.inline import InlineViews
from ledger.engine.views.rebuilding import rebuild as rebuilding
from ledger.engine.views.rebuilding.compare import Difference
from ledger.engine.views.rebuilding.rebuild import Rebuilt, Verified
from ledger.engine.views.rebuilding.rebuilder import Rebuilder
from ledger.engine.views.schema import create_tables, table_of
from ledger.features.facts.report import command_of
from tests.support.racing_writers import Racer, parsed, running_writer
from tests.support.transactions import undone
from tests.support.views import projecting, query
from tests.support.watch_workload import WatchManager
from tests.support.webhook_workload import TENANTS, EndpointManager

NAMES = tuple(projection.name for projection in projections())

Row = tuple[Any, ...]
Rows = dict[tuple[str, str], Row]
"""(table, key as ``key_of`` formats it) → the row's values."""

_EVENTS = """
SELECT originator_id, originator_version, topic, state, notification_id
FROM ledger.ledger_events ORDER BY notification_id
"""

# The tables of all views' generations, but for the live ones.
_LEFT_OVER = """
SELECT c.relname FROM pg_class AS c
WHERE c.relnamespace = 'ledger'::regnamespace AND c.relkind = 'r' AND c.relname ~ '_g[0-9]+$'
  AND NOT EXISTS (SELECT FROM unnest(%s::text[], %s::text[]) AS t (view_name, table_name)
                  JOIN ledger.projection AS p ON p.name = t.view_name
                  WHERE c.relname = t.table_name || '_g' || p.generation)
ORDER BY 1
"""


class PatientRebuilder(Rebuilder):
    """Waits after the first batch of a build until the test lets it go on."""

    may_go_on: ClassVar = threading.Event()
    has_begun: ClassVar = threading.Event()

    def _go_on(self, position: int, end: int) -> None:
        self.has_begun.set()
        while not self._stopping.is_set() and not self.may_go_on.wait(0.01):
            pass
        super()._go_on(position, end)


@contextlib.contextmanager
def patient_rebuilder() -> Iterator[threading.Event]:
    """The event that lets services, which start meanwhile, go on to build views."""
    PatientRebuilder.may_go_on, PatientRebuilder.has_begun = threading.Event(), threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ledger.app.composition.loops.Rebuilder", PatientRebuilder)
        yield PatientRebuilder.may_go_on


def ignore_progress(position: int, end: int) -> None:
    """A progress callback that does nothing."""


def view(name: str) -> Projection:
    """A fresh instance of one of our views."""
    return next(projection for projection in projections() if projection.name == name)


def rebuild(
    conninfo: str, projection: Projection, progress: Callable[[int, int], None] = ignore_progress
) -> Rebuilt:
    """Rebuild a view; return the result."""
    return rebuilding.rebuild(conninfo, EnvelopeMapper(), projection, progress)


def verify(
    conninfo: str, projection: Projection, progress: Callable[[int, int], None] = ignore_progress
) -> tuple[Verified, list[Difference]]:
    """Verify a view; return the result and the rows that were named."""
    named: list[Difference] = []
    verified = rebuilding.verify(conninfo, EnvelopeMapper(), projection, progress, named.append)
    return verified, named


def verify_all(conninfo: str) -> list[Difference]:
    """Verify all views; return the rows that were named."""
    all_named: list[Difference] = []
    for projection in projections():
        verified, named = verify(conninfo, projection)
        assert verified.differing == len(named)
        all_named += named
    return all_named


_STORY_BEGINS_AT = datetime(2026, 11, 26, 12, tzinfo=UTC)
"""On another day of the week the story begins with other facts, which may not fill every table."""


@functools.cache
def _story() -> tuple[dict[str, Any], ...]:
    """The demo's story, whose invention takes longer than the recording of its first facts."""
    return tuple(story(_STORY_BEGINS_AT))


def work(conninfo: str, facts: int = 240, views: InlineViews | None = None) -> None:
    """A random workload that every view has folded: the demo's story, and random commands.

    Small appends move ``views``, and the projector does the rest.
    """
    racer, managers = Racer(0), (EndpointManager(0, TENANTS), WatchManager(0))
    story_facts = iter(_story()[:facts])
    with (
        running_writer(conninfo, idle_after=timedelta(hours=1), views=views) as writer,
        projecting(conninfo) as projector,
    ):
        for manager in managers:
            manager.set_up(writer, 5)
        for number in range(12):
            for manager in managers:
                manager.act(writer, 3)
            events = islice(story_facts, facts // 12)
            reports = [command_of(parsed(event), COMMAND_LINE) for event in events]
            writer.submit([*reports, *racer.next_commands(number)]).result(20)
            projector.catch_up()


def key_of(table: Table, row: Sequence[Any]) -> str:
    """A row's key in the form of ``Difference.key``."""
    values = dict(zip(table.columns, row, strict=True))
    for name, prefix in (("line_key", "LIN"), ("run_key", "RUN")):
        if name in values:
            values[name] = id_of_key(prefix, values[name])
    return " ".join(str(values[name]) for name in table.key)


def rows_of(conninfo: str) -> Rows:
    """Every row of every live view."""
    with psycopg.connect(conninfo, row_factory=tuple_row) as connection:
        live = dict(connection.execute("SELECT name, generation FROM ledger.projection").fetchall())
        return _read(connection, lambda view, table: table_of(table, live[view.name]))


def rows_from_log(conninfo: str) -> Rows:
    """Every row that the log gives, folded here into tables that are never committed."""
    codec = EnvelopeMapper()
    with undone(conninfo) as transaction:
        cursor = transaction.cursor()
        events = [codec.decode(*row) for row in cursor.execute(_EVENTS).fetchall()]
        views = projections()
        # First of all: psycopg drops every prepared statement after an ALTER, the pipeline's too.
        for projection in views:
            create_tables(cursor.connection, projection.tables, 999)
        for projection in views:
            writes = Writes(transaction)
            generation = Generation(writes, 999)
            for event in events:
                if type(event.body) in projection.events:
                    apply(projection, generation, [event])
                    projection.store(generation)
                    writes.flush()
        return _read(transaction.cursor().connection, lambda _, table: table_of(table, 999))


def _read(connection: psycopg.Connection[Any], source: Callable[[Projection, Table], str]) -> Rows:
    rows: Rows = {}
    for projection in projections():
        for table in projection.tables:
            columns = ", ".join(table.columns)
            statement = f"SELECT {columns} FROM {source(projection, table)}"
            for row in connection.execute(statement.encode()):
                rows[table.name, key_of(table, row)] = row
    return rows


class Damage(NamedTuple):
    """A wrong row, as a verification must name it."""

    table: str
    key: str
    kind: str
    columns: frozenset[str]
    position: int


def damage(now: Rows, right: Rows) -> set[Damage]:
    """The differences between the present rows and the right rows."""
    tables = {table.name: table for projection in projections() for table in projection.tables}
    found = set()
    for name, key in now.keys() | right.keys():
        ours, other = now.get((name, key)), right.get((name, key))
        columns = list(tables[name].columns)
        index = columns.index("position")
        if ours is None or other is None:
            kind, row = ("missing", other) if ours is None else ("extra", ours)
            assert row is not None
            found.add(Damage(name, key, kind, frozenset(), row[index]))
        elif ours != other:
            differing = frozenset(c for c, a, b in zip(columns, ours, other, strict=True) if a != b)
            found.add(Damage(name, key, "differs", differing, other[index]))
    return found


def as_named(differences: Sequence[Difference]) -> set[Damage]:
    """Differences as ``Damage``; asserts that no row is named twice."""
    named = {
        Damage(d.table, d.key, d.kind, frozenset(d.columns), int(d.event_id.split("-")[2]))
        for d in differences
    }
    assert len(named) == len(differences)
    return named


def leftover_tables(conninfo: str) -> list[str]:
    """The tables of generations that serve no read."""
    tables = [(view.name, table.name) for view in projections() for table in view.tables]
    names = [list(each) for each in zip(*tables, strict=True)]
    return [name for (name,) in query(conninfo, _LEFT_OVER, *names)]


def tracking(conninfo: str) -> Mapping[str, tuple[int, int, int, bool]]:
    """(version, generation, position, stopped) of each view."""
    rows = query(
        conninfo,
        "SELECT name, version, generation, position, stopped_at IS NOT NULL FROM ledger.projection",
    )
    return {
        name: (version, number, position, stopped)
        for name, version, number, position, stopped in rows
    }


@dataclasses.dataclass
class Notifications:
    """The notifications about views."""

    payloads: list[str]

    @property
    def stops(self) -> list[str]:
        return [payload for payload in self.payloads if payload.endswith(" stopped")]

    def announced(self, name: str, position: int) -> bool:
        """True if a notification announced that a view reached a position."""
        pairs = (payload.split(" ") for payload in self.payloads)
        return any(name in names.split(",") and at == str(position) for names, at in pairs)


@contextlib.contextmanager
def listening(conninfo: str) -> Iterator[Notifications]:
    """Collect every notification about views until the block ends."""
    notifications, ending = Notifications([]), threading.Event()
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("LISTEN ledger_views")

        def listen() -> None:
            while not ending.is_set():
                notifications.payloads += [n.payload for n in connection.notifies(timeout=0.05)]

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield notifications
        finally:
            ending.set()
            thread.join(10)


def _live_table(conninfo: str, projection: Projection, table: Table) -> str:
    statement = "SELECT generation FROM ledger.projection WHERE name = %s"
    ((generation,),) = query(conninfo, statement, projection.name)
    return table_of(table, generation)


class Vandal:
    """Random damage to live rows, which no check of the database prevents."""

    def __init__(self, conninfo: str, seed: int) -> None:
        self._conninfo, self._dice = conninfo, random.Random(seed)

    def spoil_cell(self, projection: Projection, table: Table, column: str) -> bool:
        """Change one column of one row; False if constraints forbid this in all rows tried."""
        where = " AND ".join(f"{part} = %s" for part in table.key)
        name = _live_table(self._conninfo, projection, table)
        for _ in range(20):
            statement = f"UPDATE {name} SET {column} = {self._other(table, column)}"
            with contextlib.suppress(psycopg.errors.IntegrityError):
                query(self._conninfo, f"{statement} WHERE {where}", *self._pick(table, name))
                return True
        return False

    def remove(self, projection: Projection, table: Table) -> None:
        """Delete one row."""
        where = " AND ".join(f"{part} = %s" for part in table.key)
        name = _live_table(self._conninfo, projection, table)
        query(self._conninfo, f"DELETE FROM {name} WHERE {where}", *self._pick(table, name))

    def add(self, projection: Projection, table: Table) -> None:
        """Insert a copy of a row under another key."""
        key = table.key[0]
        other = {"text": f"{key} || '-twin'", "bigint": f"{key} + 1000000"}[table.columns[key]]
        # ``record_key`` is unique, too.
        values = {"record_key": "-record_key", key: other}
        where = " AND ".join(f"{part} = %s" for part in table.key)
        name = _live_table(self._conninfo, projection, table)
        statement = (
            f"INSERT INTO {name} ({', '.join(table.columns)})"
            f" SELECT {', '.join(values.get(c, c) for c in table.columns)}"
            f" FROM {name} WHERE {where}"
        )
        query(self._conninfo, statement, *self._pick(table, name))

    def _pick(self, table: Table, name: str) -> Row:
        key = ", ".join(table.key)
        rows = query(self._conninfo, f"SELECT {key} FROM {name} ORDER BY {key}")
        assert rows, f"nothing fills {name}: neither the demo's story, a Racer nor a manager"
        return self._dice.choice(rows)

    def _other(self, table: Table, column: str) -> str:
        """An expression whose value is never the column's own."""
        if column == "position":
            return self._dice.choice(["position # 5", "position # 1048576"])
        swapped = f"CASE WHEN {column} IS NULL THEN {{}} END"
        choices = {
            "text": [f"COALESCE({column}, '') || ' '", swapped.format("''"), "'{\"a\": 1}'"],
            "bigint": [f"COALESCE({column}, 0) # 5", f"-COALESCE({column}, 0) - 1"],
            "int": [f"COALESCE({column}, 0) + 1 + 100000 * (random() < 0.5)::int"],
            "bool": [f"NOT {column}"],
            "date": [f"COALESCE({column}, '2026-01-01') + 1", swapped.format("date '1999-12-31'")],
            "timestamptz": [f"COALESCE({column}, '2026-01-01Z') + interval '1 microsecond'"],
            "bytea": [f"COALESCE({column}, '') || '\\x00'::bytea", swapped.format("'\\x'::bytea")],
            "text[]": [f"{column} || 'x'::text", f"array_prepend('', {column})"],
        }
        return self._dice.choice(choices[table.columns[column]])


def skipping(projection: Projection, positions: Collection[int]) -> Projection:
    """The view with a bug: these events are not folded."""

    class Skipping(type(projection)):  # type: ignore[misc]
        def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
            super().apply(generation, [e for e in events if e.position not in positions])

    projection.__class__ = Skipping
    return projection
