"""``ledger verify`` finds and names every change of the sealed log."""

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from ledger.app.cli import verify as verify_command
from ledger.app.cli.verify import verify
from ledger.app.settings import Settings
from tests.proof.test_sealer import checkpoint_outside, go_back_to_501
from tests.support.data_dirs import MASTER_KEY
from tests.support.ledger import Ledger
from tests.support.sealing import OBJECTS, checked, keep_witness, seal, vandalize


def position_at(ledger: Ledger, rank: int) -> int:
    rows = ledger.rows(
        "SELECT notification_id AS at FROM ledger.ledger_events ORDER BY 1 OFFSET %s LIMIT 1", rank
    )
    return int(rows[0]["at"])


def altered_event(at: int, columns: str) -> str:
    return (
        f"ledger_events notification_id={at}: not the event that was sealed:"
        f" its column {columns} was altered"
    )


def test_an_event_that_is_not_sealed_yet_is_no_fault(full: Ledger, folder: Path) -> None:
    full.line()
    found, faults = checked(full.conninfo, folder)
    assert (found.events, found.unsealed, faults) == (601, 1, [])


def test_a_log_that_was_never_sealed_has_no_faults(ledger: Ledger, folder: Path) -> None:
    ledger.line()
    found, faults = checked(ledger.conninfo, folder)
    assert (found.events, found.checkpoints, found.unsealed, faults) == (0, 0, 1, [])


def test_changed_events_are_named_by_their_positions(full: Ledger, folder: Path) -> None:
    changes = {
        0: "originator_id = 'LIN-26-000999'",
        255: "originator_version = originator_version + 5000",
        256: "topic = 'execution.paused/1'",
        400: "state = set_byte(state, length(state) / 2, 33)",
        511: "state = ''",
        600: "recorded_at = recorded_at, state = convert_to(replace(convert_from(state, 'UTF8'),"
        " ',17', ',16'), 'UTF8')",
    }
    full.catch_up()
    positions = {position_at(full, rank): change for rank, change in changes.items()}
    vandalize(
        full.conninfo,
        *(
            f"UPDATE ledger.ledger_events SET {change} WHERE notification_id = {at}"
            for at, change in positions.items()
        ),
    )
    faults = checked(full.conninfo, folder)[1]
    altered = ("originator_id", "originator_version", "topic", "originator_id, state")
    named = [*altered, "originator_id, state", "originator_id, state"]
    assert faults == [
        altered_event(at, columns) for at, columns in zip(positions, named, strict=True)
    ]


def test_any_flipped_bit_of_any_event_is_found(full: Ledger, folder: Path) -> None:
    dice = random.Random(7)
    positions = [position_at(full, rank) for rank in sorted(dice.sample(range(601), 40))]
    bits = [f"{dice.randrange(10**6)} % (length(state) * 8)" for _ in positions]
    vandalize(
        full.conninfo,
        *(
            f"UPDATE ledger.ledger_events SET state = set_bit(state, {bit},"
            f" 1 - get_bit(state, {bit})) WHERE notification_id = {at}"
            for at, bit in zip(positions, bits, strict=True)
        ),
    )
    faults = checked(full.conninfo, folder)[1]
    assert faults == [altered_event(at, "originator_id, state") for at in sorted(positions)]


def test_missing_events_are_named_by_their_leaves(full: Ledger, folder: Path) -> None:
    gone = [position_at(full, rank) for rank in (0, 100, 256, 600)]
    for at in gone:
        vandalize(full.conninfo, f"DELETE FROM ledger.ledger_events WHERE notification_id = {at}")
    assert checked(full.conninfo, folder)[1] == [
        f"ledger_events leaf={leaf} after notification_id={at - 1}: the row is missing"
        for leaf, at in zip((0, 100, 256, 600), gone, strict=True)
    ]


def test_events_that_moved_to_other_positions_are_named(full: Ledger, folder: Path) -> None:
    at = position_at(full, 300)
    vandalize(
        full.conninfo,
        "UPDATE ledger.ledger_events SET notification_id = notification_id + 1000"
        f" WHERE notification_id >= {at}",
        "UPDATE ledger.tile SET first_position = first_position + 1000 WHERE number = 2 AND"
        " level = 0",
        "UPDATE ledger.checkpoint SET position = position + 1000 WHERE size > 300",
    )
    faults = checked(full.conninfo, folder)[1]
    assert faults[0] == altered_event(at + 1000, "originator_id, state")
    assert len(faults) == 302, "a leaf holds its event's position"
    assert faults[-1] == "signer is_only=true: its column position says 601, the log 1601"


def test_two_swapped_events_are_named(full: Ledger, folder: Path) -> None:
    one, other = position_at(full, 10), position_at(full, 20)
    vandalize(
        full.conninfo,
        f"UPDATE ledger.ledger_events SET notification_id = -1 WHERE notification_id = {one}",
        f"UPDATE ledger.ledger_events SET notification_id = {one} WHERE notification_id = {other}",
        f"UPDATE ledger.ledger_events SET notification_id = {other} WHERE notification_id = -1",
    )
    assert checked(full.conninfo, folder)[1] == [
        altered_event(at, "originator_id, state") for at in (one, other)
    ]


FLIPPED = "hashes = set_byte(hashes, 5, get_byte(hashes, 5) # 1)"


@pytest.mark.parametrize(
    ("damage", "faults"),
    [
        (
            f"UPDATE ledger.tile SET {FLIPPED} WHERE level = 1",
            ["tile level=1 number=0: its column hashes is not what the leaves make"],
        ),
        (
            "DELETE FROM ledger.tile WHERE level = 1",
            ["tile level=1 number=0: the row is missing"],
        ),
        (
            "INSERT INTO ledger.tile SELECT 2, 0, hashes FROM ledger.tile WHERE level = 1",
            ["tile level=2 number=0: no leaves make such a row"],
        ),
        (
            "INSERT INTO ledger.tile SELECT 0, 99, hashes, 99000 FROM ledger.tile WHERE level = 1",
            ["tile level=0 number=99: no leaves make such a row"],
        ),
        (
            # The whole line: the random origin may hold these digits too.
            r"UPDATE ledger.checkpoint SET note = replace(note, E'\n501\n', E'\n502\n')"
            " WHERE size = 501",
            ["checkpoint size=501: its column note: the signature does not fit"],
        ),
        (
            "UPDATE ledger.checkpoint SET size = 500 WHERE size = 501",
            ["checkpoint size=500: its column size says 500, the note 501"],
        ),
        (
            "UPDATE ledger.checkpoint SET size = 602 WHERE size = 601",
            ["checkpoint size=602: its column size says 602, the note 601"],
        ),
        (
            "UPDATE ledger.checkpoint SET position = position - 1 WHERE size = 501",
            ["checkpoint size=501: its column position says 500, the log 501"],
        ),
        (
            "DELETE FROM ledger.checkpoint WHERE size = 501",
            ["checkpoint size=601: its column number says 3, the checkpoint before it 1"],
        ),
        (
            "DELETE FROM ledger.checkpoint WHERE size = 201",
            ["checkpoint size=501: its column number says 2, the checkpoint before it 0"],
        ),
        (
            "UPDATE ledger.checkpoint SET number = 4 WHERE size = 601",
            ["checkpoint size=601: its column number says 4, the checkpoint before it 2"],
        ),
        (
            f"UPDATE ledger.tile SET {FLIPPED} WHERE (level, number) = (0, 2)",
            ["tile level=0 number=2: its column hashes is not what was signed: the events are"],
        ),
        (
            f"UPDATE ledger.tile SET {FLIPPED} WHERE (level, number) = (0, 0)",
            ["tile level=0 number=0: its column hashes is not what was signed: the events are"],
        ),
        (
            "UPDATE ledger.tile SET hashes = substr(hashes, 33) WHERE (level, number) = (0, 0)",
            ["tile level=0 number=0: its column hashes has not all leaves"],
        ),
        (
            "DELETE FROM ledger.tile WHERE (level, number) = (0, 0)",
            ["tile level=0 number=0: the row is missing"],
        ),
        (
            "DELETE FROM ledger.tile WHERE (level, number) = (0, 1);"
            "UPDATE ledger.ledger_events SET state = '' WHERE notification_id = 10",
            [
                altered_event(10, "originator_id, state"),
                "tile level=0 number=1: the row is missing",
            ],
        ),
        (
            "DELETE FROM ledger.tile WHERE (level, number) = (0, 2);"
            "UPDATE ledger.ledger_events SET state = '' WHERE notification_id = 300",
            [
                altered_event(300, "originator_id, state"),
                "tile level=0 number=2: the row is missing",
            ],
        ),
        (
            "DELETE FROM ledger.tile WHERE (level, number) = (0, 1);"
            "DELETE FROM ledger.ledger_events WHERE notification_id = 300",
            [
                "tile level=0 number=1: the row is missing",
                "tile level=0 number=1: leaves from 256 on cannot be compared without it",
            ],
        ),
        (
            "UPDATE ledger.tile SET first_position = first_position + 5 WHERE number = 1",
            ["tile level=0 number=1: its column first_position says 262, the log 257"],
        ),
        (
            "UPDATE ledger.tile SET first_position = first_position - 300 WHERE number = 2",
            ["tile level=0 number=2: its column first_position says 213, the log 513"],
        ),
        (
            "UPDATE ledger.checkpoint SET position = position - 1 WHERE size = 601",
            ["checkpoint size=601: its column position says 600, the log 601"],
        ),
        (
            "DELETE FROM ledger.checkpoint WHERE size = 601",
            [
                "signer is_only=true: its column secret says 601, the last checkpoint 501",
                "checkpoint size=601: 601 events are sealed, and the last checkpoint covers 501",
            ],
        ),
        (
            "TRUNCATE ledger.checkpoint",
            [
                "signer is_only=true: the log has a key, and no checkpoint that was signed by it",
                "signer is_only=true: its column secret says 601, the last checkpoint 0",
                "checkpoint size=601: 601 events are sealed, and the last checkpoint covers 0",
            ],
        ),
        (
            "UPDATE ledger.ledger_events SET state = ('{\"x\":' || repeat('[', 200000))::bytea"
            " WHERE notification_id = 300",
            [altered_event(300, "originator_id, state")],
        ),
    ],
)
def test_damage_to_sealed_events_tiles_and_checkpoints_is_named(
    full: Ledger, folder: Path, damage: str, faults: list[str]
) -> None:
    vandalize(full.conninfo, damage)
    found = checked(full.conninfo, folder)[1]
    assert [fault[: len(due)] for fault, due in zip(found, faults, strict=True)] == faults


def test_a_restored_older_database_does_not_match_the_checkpoint_file(
    full: Ledger, folder: Path
) -> None:
    go_back_to_501(full.conninfo)
    (fault,) = checked(full.conninfo, folder)[1]
    assert fault == (
        f"checkpoint file={checkpoint_outside(folder)}: covers 601 events, and the log has 501"
    )


def test_events_sealed_during_a_verification_are_no_fault(full: Ledger, folder: Path) -> None:
    path = checkpoint_outside(folder)
    path.unlink()
    os.mkfifo(path)
    keep_witness(full.conninfo, folder.with_name("elsewhere"))

    def seal_more() -> None:
        with path.open("w") as file:  # waits until the verification reads it
            full.line()
            seal(full.conninfo, folder.with_name("elsewhere"))
            file.write(checkpoint_outside(folder.with_name("elsewhere")).read_text())

    with ThreadPoolExecutor() as threads:
        more = threads.submit(seal_more)
        found, faults = checked(full.conninfo, folder)
        more.result()
    assert (found.events, faults) == (602, [])


def test_a_file_that_is_no_checkpoint_is_named(full: Ledger, folder: Path) -> None:
    path = checkpoint_outside(folder)
    path.write_bytes(b"\xff\n")
    assert checked(full.conninfo, folder)[1] == [f"checkpoint file={path}: no checkpoint"]
    path.unlink()
    path.mkdir()
    (fault,) = checked(full.conninfo, folder)[1]
    assert fault.startswith(f"checkpoint file={path}: ")


def test_the_command_prints_the_faults_and_exits_1_if_there_are_any(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(master_key=MASTER_KEY, data_dir=tmp_path)
    ledger.line()
    seal(ledger.conninfo, settings.witness_folder)
    ledger.line()
    assert verify(settings, ledger.conninfo) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1 events in 1 checkpoints, 0 differences; 1 not sealed yet.",
        "7 rows of 13 tables, 0 differences.",
        f"{OBJECTS} objects of the schema, 0 differences.",
    ]
    at = position_at(ledger, 0)
    vandalize(ledger.conninfo, "UPDATE ledger.ledger_events SET topic = 'execution.closed/1'")
    assert verify(settings, ledger.conninfo) == 1
    printed = capsys.readouterr().out.splitlines()
    assert altered_event(at, "topic") in printed
    assert printed[-3] == "1 events in 1 checkpoints, 1 differences; 1 not sealed yet."
    vandalize(ledger.conninfo, "UPDATE ledger.signer SET vkey = 'a+b+c'")
    assert verify(settings, ledger.conninfo) == 1
    # The process that compares tables may have named rows until this ends it.
    named = "signer is_only=true: its column vkey: no key of an Ed25519 signature"
    assert named in capsys.readouterr().out.splitlines()


def test_the_command_prints_a_thousand_differences_of_a_table_and_counts_the_others(
    full: Ledger,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verify_command, "_PRINTED", 10)
    settings = Settings(master_key=MASTER_KEY, data_dir=tmp_path)
    vandalize(
        full.conninfo,
        "DELETE FROM ledger.identity",
        "UPDATE ledger.line_activity SET open_runs = 1",
    )
    assert verify(settings, full.conninfo) == 1
    printed = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("identity digest=") for line in printed) == 10
    assert sum(line.startswith("line_activity line_id=LIN-") for line in printed) == 1
    assert "identity: 591 more differences" in printed
    assert printed[-2].endswith(" rows of 13 tables, 602 differences.")


def test_the_command_fails_with_the_error_of_either_process(
    full: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(master_key=MASTER_KEY, data_dir=tmp_path)
    vandalize(full.conninfo, "ALTER TABLE ledger.identity RENAME TO lost")
    with pytest.raises(psycopg.errors.UndefinedTable):
        verify(settings, full.conninfo)
    printed = capsys.readouterr().out.splitlines()
    assert "column identity.digest: it is missing" in printed
    assert not any(line.endswith(" differences.") for line in printed)
