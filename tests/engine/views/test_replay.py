"""A replay of the log into other tables gives the live rows, byte for byte, in any batches."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import psycopg
import pytest

from ledger.app.demo import story
from ledger.app.features import projections
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.postgres.schema.table import Table
from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.values.recorded import Recorded
from ledger.engine.views import folds
from ledger.engine.views.contract import Projection, apply
from ledger.engine.views.generation import Generation, Writes
from ledger.engine.views.schema import create_tables, table_of
from ledger.engine.writer.request import Receipt
from ledger.features.facts.report import command_of
from tests.support.racing_writers import Racer, parsed, running_writer
from tests.support.soak import repeated
from tests.support.transactions import undone
from tests.support.views import HandProjector, query, until
from tests.support.watch_workload import WatchManager
from tests.support.webhook_workload import TENANTS, EndpointManager

# The time of the story's end: its first facts depend on the hour of the day.
STORY_ENDS = datetime(2026, 4, 15, 12, tzinfo=UTC)


def work(conninfo: str, facts: int) -> int:
    """Run a random workload, which views follow in batches of any size; count its facts."""
    dice = random.Random(7)
    racer, managers = Racer(0), (EndpointManager(0, TENANTS), WatchManager(0))
    story_facts = islice(story(STORY_ENDS), facts)
    projector = HandProjector(conninfo)
    assert projector.lead()
    recorded = 0
    with running_writer(conninfo, idle_after=timedelta(hours=1)) as writer:
        for manager in managers:
            manager.set_up(writer, 30)
        for number in range(facts // 40):
            for manager in managers:
                manager.act(writer, 3)
            reports = [command_of(parsed(one), COMMAND_LINE) for one in islice(story_facts, 40)]
            commands = [*reports, *racer.next_commands(number)]
            while commands:
                size = dice.randint(1, 60)
                outcomes = writer.submit(commands[:size]).result(20)
                recorded += sum(isinstance(o, Receipt) and not o.duplicate for o in outcomes)
                del commands[:size]
                projector.run_once()
            if number % 10 == 0:
                # Another projector goes on from the stored rows alone.
                projector.disconnect()
                until(projector.lead, "the lead")
    projector.catch_up()
    projector.disconnect()
    return recorded


def events_of(conninfo: str) -> list[Recorded]:
    codec = EnvelopeMapper()
    statement = """SELECT originator_id, originator_version, topic, state, notification_id
        FROM ledger.ledger_events ORDER BY notification_id"""
    return [codec.decode(*row) for row in query(conninfo, statement)]


def replay(
    writes: Writes, number: int, view: Projection, events: Sequence[Recorded], size: int
) -> None:
    generation = Generation(writes, number)
    for start in range(0, len(events), size):
        batch = [e for e in events[start : start + size] if type(e.body) in view.events]
        if batch:
            apply(view, generation, batch)
            if size != 7:  # as a rebuild does, which stores seldom
                view.store(generation)
            writes.flush()
    while view.waiting:
        view.store(generation, 40)
        writes.flush()


@pytest.mark.parametrize(
    ("memory", "facts"),
    repeated([("small", 360), ("none", 360), ("small", 1600), ("none", 1600), ("whole", 1600)]),
)
def test_replayed_rows_equal_the_live_ones_in_every_column(
    conninfo: str, monkeypatch: pytest.MonkeyPatch, memory: str, facts: int
) -> None:
    forgetful = memory == "none"
    if memory == "small":
        for name, few in {"_CACHED": 3, "_UNPACKED": 2, "_PACKED": 9}.items():
            monkeypatch.setattr(folds, name, few)
    assert work(conninfo, facts) > facts
    events = events_of(conninfo)
    with undone(conninfo) as transaction:
        connection = transaction.cursor().connection
        for number, size in enumerate((7,) if forgetful else (1, 7, 2000), start=2):
            for view in projections():
                create_tables(connection, view.tables, number)
                for part in range(0, len(events), 500 if forgetful else len(events)):
                    if forgetful:
                        view.forget()
                    some = events[part : part + 500] if forgetful else events
                    replay(Writes(transaction), number, view, some, size)
                transaction.cursor()  # this writes the rows that are due
                for table in view.tables:
                    assert_same_rows(connection, table, number, min(facts // 100, 10))


def assert_same_rows(
    connection: psycopg.Connection[Any], table: Table, number: int, few: int
) -> None:
    live, other = table_of(table, 1), table_of(table, number)
    differing = f"(TABLE {live} EXCEPT TABLE {other}) UNION ALL (TABLE {other} EXCEPT TABLE {live})"
    assert connection.execute(differing.encode()).fetchall() == []
    counts = f"SELECT (SELECT count(*) FROM {live}), (SELECT count(*) FROM {other})"
    (row,) = connection.execute(counts.encode()).fetchall()
    assert row[0] == row[1]
    assert row[0] > few, f"few rows in {live}: extend the demo's story, Racer or a manager"
