"""Each view is pinned as (version, digest of its tables and of the rows that its fold makes).

A changed fold over old rows goes unnoticed until an operator verifies the view. A raised version
makes the next start rebuild the view. Only a rebuild creates a changed index, too. For this reason
the tables are also pinned as PostgreSQL stores them.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import chain, count
from typing import NamedTuple

import msgspec
import pytest

from ledger.app.features import projections
from ledger.engine.postgres.schema.table import Table
from ledger.engine.values.recorded import Event, Recorded
from ledger.engine.values.values import EXECUTION_MODELS, MODELS_WITH_RUNS
from ledger.engine.views.contract import Projection, apply
from ledger.engine.views.generation import Generation, Writes
from ledger.engine.views.schema import create_indexes, create_tables, table_of
from ledger.features.lines.model import execution_events as e
from ledger.features.runs.model import run as r
from ledger.features.webhooks.model import endpoint as w
from ledger.records import EVENT_TABLE, EVENTS
from tests.support.transactions import undone
from tests.whole.golden.samples import BODIES, GROWN_BODIES, envelope

PINNED = {
    "execution": (12, "4afa2b459ef6ca92"),
    "run": (9, "96e462191eb1bcda"),
    "event": (10, "c768d91f9bda6c15"),
    "webhook": (4, "b8927b07b2a342f0"),
    "directory": (2, "b608a67a2987d3eb"),
    "search": (2, "5bc92d201158b429"),
    "statement": (1, "10f61e718133d7e4"),
    "watch": (2, "05bc90b4cf4b8f09"),
    "source": (1, "bd81f9c9548fdc01"),
}

STORED = {
    "execution": "76f22726cfdc42e4",
    "run": "eb8e22af087049b9",
    "event": "db0423a7b0aa5649",
    "webhook": "4af8c56cb0e16b45",
    "directory": "a2e609877261ad65",
    "search": "fb096104a281d89f",
    "statement": "69649708fa9095f3",
    "watch": "5b995a5cc788bdf8",
    "source": "36b561f4059ad82b",
}
"""Digests of the tables as PostgreSQL has them."""

# A table's columns, its options, and its indexes in the order of their creation.
_CATALOG = """
SELECT array(SELECT (attname, format_type(atttypid, atttypmod), attnotnull, attstorage)::text
             FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 ORDER BY attnum),
       reloptions,
       array(SELECT pg_get_indexdef(indexrelid)
                    || CASE WHEN indisprimary THEN ' PRIMARY' ELSE '' END
             FROM pg_index WHERE indrelid = c.oid ORDER BY indexrelid)
FROM pg_class AS c WHERE c.oid = %s::regclass
"""

LINES = {f"LIN-26-{n:06d}": model for n, model in enumerate(EXECUTION_MODELS, 1)}
"""A line of each execution model: a fold may treat each model differently."""

REPORTED = {row.event for row in EVENT_TABLE if row.fact is not None}
STREAMS = {
    "webhook": "WHK-26-000002",
    "watch": "WCH-26-000001",
    "alert": "ALR-26-000001",
    "statement": "STM-26-000002",
    "api_key": "KEY-26-000009",
    "write": "REF-KEY-26-000001",
    "run_data": "READ-KEY-26-000001/LIN-26-084729/2026-04-15",
    "directory": "DIR-ORG-26-000001/WS-26-000021",
    "session": "SES-3f9c2a7d1b604e58",
}
"""Streams without a line, by the prefix of their events' topics."""

RUNS: tuple[tuple[type[Event], ...], ...] = (
    (r.RunRequested, r.RunStarted, r.RunCompleted, r.RunUsageCorrected, r.RunErased),
    (r.RunRequested, r.RunStarted, r.RunFailed),
    (r.RunStarted, r.RunFailed, r.RunCompleted),
    (r.RunRequested, r.RunCancelled),
)
OTHER_RUN = (r.RunStarted, *(kind for kind in r.RUN_EVENTS if kind not in chain(*RUNS)))
"""A run that stays open, with the events that are in no other life of a run."""

BEFORE_RUNS = (e.Paused, e.HoldChanged, e.Resumed, e.Blocked, e.CheckedIn)
AT_LAST = (e.ResourceReleased, e.Closed)
MEANWHILE = [
    kind for kind in e.EXECUTION_EVENTS if kind not in (e.Activated, *BEFORE_RUNS, *AT_LAST)
]
"""A line's events after its runs, those of the future too."""


class StoryEvent(NamedTuple):
    """An event of the story, before the story gives it a position."""

    stream: str
    body: Event
    line: str | None = None


def samples(*kinds: type[Event]) -> list[Event]:
    return [body for body in BODIES if type(body) in kinds]


def grown(body: Event) -> Event:
    """The sample of the body's class that sets the fields gained since, if the class has any."""
    return next((other for other in GROWN_BODIES[::-1] if type(other) is type(body)), body)


def story_events() -> Iterator[StoryEvent]:
    """Every event at least once: on lines, on their runs, and on streams without a line."""
    run_numbers = count(1)
    for body in samples(w.WebhookCreated):
        yield StoryEvent("WHK-26-000001", msgspec.structs.replace(body, event_types=("*",)))
        yield StoryEvent("WHK-26-000002", body)
    for line, model in LINES.items():
        (begun,) = samples(e.Activated)
        execution_id = f"RUN-26-1{line[-5:]}"
        yield StoryEvent(
            line,
            msgspec.structs.replace(grown(begun), execution_model=model, execution_id=execution_id),
            line,
        )
        for body in samples(*BEFORE_RUNS):
            yield StoryEvent(line, grown(body), line)
        if model in MODELS_WITH_RUNS:
            for kinds, run in zip((*RUNS, OTHER_RUN), run_numbers, strict=False):
                for body in chain(*map(samples, kinds)):
                    yield StoryEvent(f"RUN-26-{run:06d}", body, line)
                    yield StoryEvent(f"RUN-26-{run + 100:06d}", grown(body), line)
        for body in samples(*MEANWHILE):
            if grown(body) is not body:
                yield StoryEvent(line, grown(body), line)
            yield StoryEvent(line, body, line)
        for body in samples(*AT_LAST)[: 1 if model == "capacity" else 2]:
            yield StoryEvent(line, body, line)
    for body in BODIES:
        prefix = type(body).TOPIC.partition(".")[0]
        if prefix in STREAMS and not isinstance(body, w.WebhookCreated):
            yield StoryEvent(STREAMS[prefix], body)


def story(kinds: Collection[type[Event]]) -> Iterator[Recorded]:
    """The story as a view has it that folds these events.

    Other events take no version, no position and no time: their samples move no pin of the view.
    """
    version: Counter[str] = Counter()
    for position, (stream, body, line) in enumerate(
        (each for each in story_events() if type(each.body) in kinds), 1
    ):
        version[stream] += 1
        sample = envelope(body)
        later = timedelta(hours=7 * position)
        is_fact = type(body) in REPORTED and not isinstance(body, e.Paused)
        yield msgspec.structs.replace(
            sample,
            originator_id=stream,
            originator_version=version[stream],
            position=position,
            occurred_at=sample.occurred_at + later - timedelta(minutes=position % 3),
            recorded_at=sample.recorded_at + later,
            service_line_id=line,
            fact=sample.fact if is_fact else None,
        )


def digest_of(projection: Projection, conninfo: str) -> str:
    projection.forget()
    digest = hashlib.sha256()
    for table in projection.tables:
        about = (table.name, table.key, dict(table.columns), table.replaces)
        digest.update(repr(about).encode())
    with undone(conninfo) as transaction:
        connection = transaction.cursor().connection
        create_tables(connection, projection.tables, 999)
        writes = Writes(transaction)
        generation = Generation(writes, 999)
        for event in story(projection.events):
            apply(projection, generation, [event])
            projection.store(generation)
            writes.flush()
        transaction.flush()
        for table in projection.tables:
            columns = ", ".join(f"{name}::text" for name in table.columns)
            order = ", ".join(str(n + 1) for n in range(len(table.columns)))
            statement = f"SELECT {columns} FROM {table_of(table, 999)} ORDER BY {order}"
            rows = transaction.cursor().execute(statement.encode()).fetchall()
            assert rows, f"the story puts nothing into {table.name}"
            digest.update(repr(rows).encode())
    return digest.hexdigest()[:16]


def test_the_story_contains_every_event_class_and_execution_model() -> None:
    bodies = [body for _, body, _ in story_events()]
    assert set(EVENTS) & set(map(type, BODIES)) - set(map(type, bodies)) == set(), (
        "The story lacks the event: name the stream of its aggregate in STREAMS."
    )
    begun = [body for body in bodies if isinstance(body, e.Activated)]
    assert {body.execution_model for body in begun} == set(EXECUTION_MODELS)


@pytest.mark.parametrize("projection", projections(), ids=lambda view: view.name)
def test_a_changed_fold_or_table_needs_a_new_version_of_its_view(
    projection: Projection, conninfo: str
) -> None:
    found = projection.version, digest_of(projection, conninfo)
    assert found == PINNED.get(projection.name), (
        f"The view {projection.name} is new, or its fold or its tables changed, or the sample of an"
        " event that it folds. Is it the sample alone, of a new event? Then pin the digest under"
        " the old version. Otherwise rows of the old fold would pass for rows of the new fold:"
        f" raise the view's version by one. Pin {found} here."
    )


@pytest.mark.parametrize("projection", projections(), ids=lambda view: view.name)
def test_changed_storage_or_indexes_need_a_new_version_of_the_view(
    projection: Projection, conninfo: str
) -> None:
    with undone(conninfo) as transaction:
        connection = transaction.cursor().connection
        create_tables(connection, projection.tables, 999)
        create_indexes(connection, projection.tables, 999)
        names = [table_of(table, 999) for table in projection.tables]
        catalog = [connection.execute(_CATALOG, (name,)).fetchone() for name in names]
    found = hashlib.sha256(repr(catalog).encode()).hexdigest()[:16]
    assert found == STORED.get(projection.name), (
        f"The view {projection.name} is new, or its storage or its indexes changed, which existing"
        " ledgers get by a rebuild alone: raise the version of the view by one. The digest to pin"
        f" is {found!r}. The tables are now {catalog}"
    )


def test_the_digest_of_a_view_depends_on_the_keys_of_its_tables(conninfo: str) -> None:
    (view,) = (view for view in projections() if view.name == "run")
    before = digest_of(view, conninfo)

    class Changed:
        def __getattr__(self, name: str) -> object:
            return getattr(view, name)

        @property
        def tables(self) -> tuple[Table, ...]:
            present, former, payloads, days = view.tables
            return (present, former, replace(payloads, key=payloads.key[::-1]), days)

    assert digest_of(Changed(), conninfo) != before
