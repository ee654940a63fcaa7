"""The beat of the log: whatever the clocks of nodes say, no event is recorded before a beat.

A standby therefore knows every event of an instant once it has a later event or beat.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import psycopg
import pytest

from ledger.app.composition.writing import create_writer, running, writing
from ledger.app.settings import Settings
from ledger.engine.log.event_log import Log
from ledger.engine.writer import writer as writer_module
from ledger.engine.writer.writer import Writer
from ledger.features.facts.report import command_of
from tests.support.facts import LINE, activation, fact
from tests.support.racing_writers import parsed, principal
from tests.support.views import query, until

OFFSETS = (0.0, -3.0, 2.5)
"""By how many seconds the clocks of the nodes are off."""

FACTS = 120

_SNAPSHOT = """
SELECT greatest(l.beaten_at, (SELECT max(recorded_at) FROM ledger.ledger_events)),
    l.beaten_at, COALESCE((SELECT max(notification_id) FROM ledger.ledger_events), 0)
FROM ledger.listening AS l
"""

# The first event behind a position that was recorded before an instant.
_EARLIER = """
SELECT notification_id FROM ledger.ledger_events
WHERE notification_id > %s AND recorded_at <= %s LIMIT 1
"""


class Snapshot(NamedTuple):
    """A snapshot: the instant up to which every event is known, the last beat and position."""

    complete_until: datetime
    beaten_at: datetime
    head: int


def clock_with(offset: float) -> Callable[[], datetime]:
    return lambda: datetime.now(UTC) + timedelta(seconds=offset)


@contextmanager
def beating(
    conninfo: str, settings: Settings, offset: float, *, heeds_beats: bool = True
) -> Iterator[Writer]:
    log = Log(conninfo)
    log.heeds_beats = heeds_beats
    with running(create_writer(settings, log, clock_with(offset), probes=True)) as writer:
        yield writer


def race(conninfo: str, settings: Settings, *, heeds_beats: bool = True) -> list[Snapshot]:
    """Let writers whose clocks differ record facts; return what was read meanwhile."""
    snapshots, ended = list[Snapshot](), threading.Event()

    def take_snapshots() -> None:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            while not ended.is_set():
                snapshots.extend(Snapshot(*row) for row in connection.execute(_SNAPSHOT).fetchall())

    def report(offset: float) -> None:
        with beating(conninfo, settings, offset, heeds_beats=heeds_beats) as writer:
            for number in range(FACTS):
                event = parsed(fact("execution.checked_in", LINE, {"note": f"{number}"}))
                writer.execute(command_of(event, principal("KEY-26-000001")))

    with beating(conninfo, settings, 0, heeds_beats=heeds_beats) as writer:
        writer.execute(command_of(parsed(activation()), principal("KEY-26-000001")))
    looker = threading.Thread(target=take_snapshots)
    looker.start()
    with ThreadPoolExecutor(len(OFFSETS)) as pool:
        list(pool.map(report, OFFSETS))
    ended.set()
    looker.join()
    return snapshots


def broken(conninfo: str, snapshots: list[Snapshot]) -> list[Snapshot]:
    """The reads that a later event has contradicted."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return [
            snapshot
            for snapshot in snapshots
            if connection.execute(_EARLIER, (snapshot.head, snapshot.complete_until)).fetchone()
        ]


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every append beat."""
    monkeypatch.setattr(writer_module, "LISTENING_SECONDS", 0.0)


@pytest.mark.usefixtures("always")
def test_every_later_event_is_recorded_after_the_beat_whatever_clocks_say(
    conninfo: str, settings: Settings
) -> None:
    snapshots = race(conninfo, settings)
    beats = [snapshot.beaten_at for snapshot in snapshots]
    assert len(set(beats)) > 20
    assert beats == sorted(beats)
    assert broken(conninfo, snapshots) == []


def test_a_writer_that_ignores_beats_records_an_event_before_one(
    conninfo: str, settings: Settings
) -> None:
    """The guard that the race rests on: without it, a clock that is behind breaks the promise."""
    for heeds_beats in (False, True):
        with beating(conninfo, settings, 0, heeds_beats=heeds_beats) as writer:
            line = f"LIN-26-70000{int(heeds_beats)}"
            writer.execute(command_of(parsed(activation(line)), principal("KEY-26-000001")))
            (recorded,) = query(conninfo, "SELECT max(recorded_at) FROM ledger.ledger_events")
            until(lambda after=recorded: looked(conninfo).beaten_at > after[0], "a later beat")
        snapshot = looked(conninfo)
        with beating(conninfo, settings, -3, heeds_beats=heeds_beats) as writer:
            note = parsed(fact("execution.checked_in", line))
            writer.execute(command_of(note, principal("KEY-26-000001")))
        assert (broken(conninfo, [snapshot]) == []) == heeds_beats


def test_a_node_whose_clock_is_ahead_does_not_move_the_events_of_others(
    conninfo: str, settings: Settings
) -> None:
    with beating(conninfo, settings, 4):
        until(lambda: looked(conninfo).beaten_at.year > 2000, "the beat of the node ahead")
        with beating(conninfo, settings, 0) as writer:
            writer.execute(command_of(parsed(activation()), principal("KEY-26-000001")))
    ((recorded_at,),) = query(conninfo, "SELECT recorded_at FROM ledger.ledger_events")
    assert recorded_at - datetime.now(UTC) < timedelta(seconds=1)


def looked(conninfo: str) -> Snapshot:
    return Snapshot(*query(conninfo, _SNAPSHOT)[0])


def test_an_idle_writer_beats_each_second(conninfo: str, settings: Settings) -> None:
    def beat() -> datetime:
        ((at,),) = query(conninfo, "SELECT beaten_at FROM ledger.listening")
        return at

    with beating(conninfo, settings, 0):
        until(lambda: datetime.now(UTC) - beat() < timedelta(seconds=1), "the first beat")
        first = beat()
        until(lambda: beat() > first, "the next beat")
        assert beat() - first < timedelta(seconds=2)


def test_a_process_that_accepts_no_heartbeats_beats_and_does_not_say_that_it_listens(
    conninfo: str, settings: Settings
) -> None:
    log = Log(conninfo)
    writer = create_writer(settings, log, probes=True)
    writer.stop_listening()
    with running(writer):
        beats = "SELECT beaten_at > '2000-01-01', listened_at > '2000-01-01' FROM ledger.listening"
        until(lambda: query(conninfo, beats)[0][0], "a beat")
        assert query(conninfo, beats) == [(True, False)]


def test_the_demos_story_is_recorded_before_a_beat(conninfo: str, settings: Settings) -> None:
    query(conninfo, "UPDATE ledger.listening SET beaten_at = now()")
    past = datetime(2026, 4, 1, tzinfo=UTC)
    with writing(settings, conninfo, lambda: past, heeds_beats=False) as writer:
        writer.execute(command_of(parsed(activation()), principal("KEY-26-000001")))
    assert query(conninfo, "SELECT recorded_at FROM ledger.ledger_events") == [(past,)]


def test_the_beat_rises_after_a_node_whose_clock_is_ahead_has_vanished(
    conninfo: str, settings: Settings
) -> None:
    with beating(conninfo, settings, 4.5):
        until(lambda: looked(conninfo).beaten_at.year > 2000, "the beat of the node ahead")
    last = looked(conninfo).beaten_at
    with beating(conninfo, settings, 0):
        until(lambda: looked(conninfo).beaten_at > last, "the beat of the other node")
