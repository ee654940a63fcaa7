"""``ledger verify`` compares each row's ``recorded_at`` with the stored event (contract, Proof).

Reads with ``as_of`` and bounds in time use the column; leaves are made of the stored event. With
a changed column such reads gave a wrong past, and every proof still held.
"""

from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from ledger.app.cli.verify import verify
from ledger.app.settings import Settings
from ledger.engine.values.values import format_instant
from tests.proof.test_check import position_at
from tests.support.data_dirs import MASTER_KEY
from tests.support.ledger import Ledger
from tests.support.sealing import OBJECTS, checked, mark, seal, vandalize

UNREADABLE = "ledger_events notification_id={}: its column state: the stored event cannot be read"
_FROM = "UPDATE ledger.ledger_events SET recorded_at = {} WHERE notification_id {}"


def shifted(ledger: Ledger, position: int, **by: float) -> str:
    """The fault of an event whose column was moved ``by`` an interval."""
    (row,) = ledger.rows(
        "SELECT timestamptz 'epoch' + interval '1 microsecond'"
        " * (convert_from(state, 'UTF8')::json ->> 5)::bigint AS at"
        " FROM ledger.ledger_events WHERE notification_id = %s",
        position,
    )
    column = format_instant(row["at"] + timedelta(**by))
    return (
        f"ledger_events notification_id={position}: its column recorded_at says {column},"
        f" the log {format_instant(row['at'])}"
    )


def test_instants_that_were_moved_are_named_by_position(full: Ledger, folder: Path) -> None:
    since = position_at(full, 304)
    vandalize(full.conninfo, _FROM.format("recorded_at + interval '1 hour'", f">= {since}"))
    found, faults = checked(full.conninfo, folder)
    expected = [shifted(full, position_at(full, rank), hours=1) for rank in range(304, 601)]
    assert faults == expected
    assert (found.events, found.faults) == (601, 297)


@pytest.mark.parametrize("by", [{"microseconds": 1}, {"microseconds": -1}, {"days": -365}])
def test_a_microsecond_is_a_difference(full: Ledger, folder: Path, by: dict[str, int]) -> None:
    at = position_at(full, 17)
    interval = " ".join(f"{number} {unit}" for unit, number in by.items())
    # A neighbour may have the new instant already, and the index forbids equal instants.
    vandalize(
        full.conninfo,
        "DROP INDEX ledger.ledger_events_recorded_at_unique",
        _FROM.format(f"recorded_at + interval '{interval}'", f"= {at}"),
    )
    assert checked(full.conninfo, folder)[1] == [shifted(full, at, **by)]


@pytest.mark.parametrize("value", ["infinity", "-infinity", "4000-01-01 BC", "12345-01-01"])
def test_an_instant_outside_pythons_calendar_is_named(
    full: Ledger, folder: Path, value: str
) -> None:
    at = position_at(full, 256)
    vandalize(full.conninfo, _FROM.format(f"timestamptz '{value}'", f"= {at}"))
    (fault,) = checked(full.conninfo, folder)[1]
    assert fault.startswith(f"ledger_events notification_id={at}: its column recorded_at says ")


def test_a_missing_instant_is_named(full: Ledger, folder: Path) -> None:
    at = position_at(full, 600)
    vandalize(
        full.conninfo,
        "ALTER TABLE ledger.ledger_events ALTER COLUMN recorded_at DROP NOT NULL",
        _FROM.format("NULL", f"= {at}"),
    )
    expected = shifted(full, at).partition(" says ")[2].partition(",")[2]
    assert checked(full.conninfo, folder)[1] == [
        f"ledger_events notification_id={at}: its column recorded_at says nothing,{expected}"
    ]


def test_an_event_that_is_not_sealed_yet_is_compared_too(full: Ledger, folder: Path) -> None:
    full.line()
    at = position_at(full, 601)
    vandalize(full.conninfo, _FROM.format("recorded_at - interval '2 days'", f"= {at}"))
    found, faults = checked(full.conninfo, folder)
    assert faults == [shifted(full, at, days=-2)]
    assert (found.events, found.unsealed) == (601, 1)


def test_an_event_that_only_the_checkpoint_outside_covers_is_compared_once(
    full: Ledger, folder: Path
) -> None:
    full.line()
    assert seal(full.conninfo, folder) == 1
    at = position_at(full, 601)
    vandalize(
        full.conninfo,
        "DELETE FROM ledger.checkpoint WHERE size = 602",
        "UPDATE ledger.tile SET hashes = substr(hashes, 1, 89 * 32) WHERE (level, number) = (0, 2)",
        _FROM.format("recorded_at - interval '2 days'", f"= {at}"),
    )
    mark(full.conninfo)
    assert checked(full.conninfo, folder)[1] == [shifted(full, at, days=-2)]


def test_an_event_that_is_not_sealed_yet_and_cannot_be_read_is_named(
    full: Ledger, folder: Path
) -> None:
    full.line()
    at = position_at(full, 601)
    vandalize(
        full.conninfo, f"UPDATE ledger.ledger_events SET state = '' WHERE notification_id = {at}"
    )
    assert checked(full.conninfo, folder)[1] == [UNREADABLE.format(at)]


def test_instants_are_compared_though_a_tile_is_missing(full: Ledger, folder: Path) -> None:
    at = position_at(full, 590)
    vandalize(
        full.conninfo,
        "DELETE FROM ledger.tile WHERE (level, number) = (0, 2)",
        _FROM.format("recorded_at - interval '2 days'", f"= {at}"),
    )
    assert shifted(full, at, days=-2) in checked(full.conninfo, folder)[1]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (
            "UPDATE ledger.ledger_events SET state = ''",
            "ledger_events notification_id={}: not the event that was",
        ),
        (
            "DELETE FROM ledger.ledger_events",
            "ledger_events leaf=310 after notification_id=310: the row is missing",
        ),
    ],
)
def test_instants_are_compared_despite_other_damage(
    full: Ledger, folder: Path, damage: str, named: str
) -> None:
    moved, damaged = position_at(full, 300), position_at(full, 310)
    vandalize(
        full.conninfo,
        _FROM.format("recorded_at - interval '2 days'", f"= {moved}"),
        f"{damage} WHERE notification_id = {damaged}",
    )
    first, second = checked(full.conninfo, folder)[1]
    assert first == shifted(full, moved, days=-2)
    assert second.startswith(named.format(damaged))


OBJECT = (
    '{"occurred_at":"2026-04-15T12:00:00Z","recorded_at":"noon","actor":{"type":"user","id":"u"},'
    '"reported_by":"u","nonce":"AAECAwQFBgcICQoLDA0ODw==","body":{}}'
)
ARRAY = (
    '[2,null,null,null,1776254400000000,{},["user","u"],"u",null,null,null,'
    '"AAECAwQFBgcICQoLDA0ODw==",{{}}]'
)


@pytest.mark.parametrize(
    "state",
    [OBJECT]
    + [
        ARRAY.format(text)
        for text in ("null", '"noon"', '"\\u0000"', "1776254400.5", "1776254400000000000")
    ],
)
def test_an_unsealed_event_with_an_unreadable_instant_is_named_without_quoting_it(
    full: Ledger, folder: Path, state: str
) -> None:
    full.line()
    at = position_at(full, 601)
    vandalize(
        full.conninfo,
        f"UPDATE ledger.ledger_events SET state = convert_to('{state}', 'UTF8')"
        f" WHERE notification_id = {at}",
    )
    assert checked(full.conninfo, folder)[1] == [UNREADABLE.format(at)]


def test_a_sessions_time_zone_and_date_style_make_no_difference(full: Ledger, folder: Path) -> None:
    with psycopg.connect(full.conninfo, autocommit=True) as connection:
        name = connection.info.dbname
        for setting in ("TimeZone = 'Asia/Kathmandu'", "DateStyle = 'German, DMY'"):
            connection.execute(f'ALTER DATABASE "{name}" SET {setting}'.encode())
    assert checked(full.conninfo, folder)[1] == []


def test_the_command_names_moved_instants_and_exits_1(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(master_key=MASTER_KEY, data_dir=tmp_path)
    ledger.line()
    seal(ledger.conninfo, settings.witness_folder)
    assert verify(settings, ledger.conninfo) == 0
    sound = "1 events in 1 checkpoints, 0 differences; 0 not sealed yet."
    assert capsys.readouterr().out.splitlines()[0] == sound
    at = position_at(ledger, 0)
    vandalize(ledger.conninfo, _FROM.format("recorded_at + interval '1 hour'", f"= {at}"))
    assert verify(settings, ledger.conninfo) == 1
    assert capsys.readouterr().out.splitlines() == [
        shifted(ledger, at, hours=1),
        "1 events in 1 checkpoints, 1 differences; 0 not sealed yet.",
        "4 rows of 13 tables, 0 differences.",
        f"{OBJECTS} objects of the schema, 0 differences.",
    ]
