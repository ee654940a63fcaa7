"""``ledger verify`` finds and names every change of the sealed log."""

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ledger.cli.verify import verify
from ledger.service.composition.sealing import witness_folder
from ledger.settings import Settings
from tests.conftest import MASTER_KEY
from tests.sealing.test_sealer import BACK_TO_501, checkpoint_outside
from tests.support.ledger import Ledger
from tests.support.sealing import checked, seal, vandalize


def position_at(ledger: Ledger, rank: int) -> int:
    rows = ledger.rows(
        "SELECT notification_id AS at FROM ledger.ledger_events ORDER BY 1 OFFSET %s LIMIT 1", rank
    )
    return int(rows[0]["at"])


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
    positions = {position_at(full, rank): change for rank, change in changes.items()}
    vandalize(
        full.conninfo,
        *(
            f"UPDATE ledger.ledger_events SET {change} WHERE notification_id = {at}"
            for at, change in positions.items()
        ),
    )
    faults = checked(full.conninfo, folder)[1]
    assert faults == [f"position {at}: not the event that was sealed" for at in positions]


def test_any_flipped_bit_of_any_event_is_found(full: Ledger, folder: Path) -> None:
    dice = random.Random(7)
    positions = [position_at(full, rank) for rank in sorted(dice.sample(range(601), 40))]
    for at in positions:
        bit = f"{dice.randrange(10**6)} % (length(state) * 8)"
        vandalize(
            full.conninfo,
            f"UPDATE ledger.ledger_events SET state = set_bit(state, {bit},"
            f" 1 - get_bit(state, {bit})) WHERE notification_id = {at}",
        )
    faults = checked(full.conninfo, folder)[1]
    assert faults == [f"position {at}: not the event that was sealed" for at in positions]


def test_missing_events_are_named_by_their_leaves(full: Ledger, folder: Path) -> None:
    gone = [position_at(full, rank) for rank in (0, 100, 256, 600)]
    firsts = [position_at(full, rank) for rank in (0, 256, 512)]
    for at in gone:
        vandalize(full.conninfo, f"DELETE FROM ledger.ledger_events WHERE notification_id = {at}")
    assert checked(full.conninfo, folder)[1] == [
        f"from position {first} on: the events of the leaves {leaves} are missing"
        for first, leaves in zip(firsts, ("0, 100", "256", "600"), strict=True)
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
    assert faults[0] == f"position {at + 1000}: not the event that was sealed"
    assert len(faults) == 301, "a leaf holds its event's position"


def test_two_swapped_events_are_named(full: Ledger, folder: Path) -> None:
    one, other = position_at(full, 10), position_at(full, 20)
    vandalize(
        full.conninfo,
        f"UPDATE ledger.ledger_events SET notification_id = -1 WHERE notification_id = {one}",
        f"UPDATE ledger.ledger_events SET notification_id = {one} WHERE notification_id = {other}",
        f"UPDATE ledger.ledger_events SET notification_id = {other} WHERE notification_id = -1",
    )
    assert checked(full.conninfo, folder)[1] == [
        f"position {at}: not the event that was sealed" for at in (one, other)
    ]


FLIPPED = "hashes = set_byte(hashes, 5, get_byte(hashes, 5) # 1)"


@pytest.mark.parametrize(
    ("damage", "faults"),
    [
        (
            f"UPDATE ledger.tile SET {FLIPPED} WHERE level = 1",
            ["tile 0 of level 1: does not match the leaves"],
        ),
        (
            "DELETE FROM ledger.tile WHERE level = 1",
            ["tile 0 of level 1: does not match the leaves"],
        ),
        (
            "INSERT INTO ledger.tile SELECT 2, 0, hashes FROM ledger.tile WHERE level = 1",
            ["tile 0 of level 2: does not match the leaves"],
        ),
        (
            # The whole line: the random origin may hold these digits too.
            r"UPDATE ledger.checkpoint SET note = replace(note, E'\n501\n', E'\n502\n')"
            " WHERE size = 501",
            ["checkpoint 501: the signature does not fit"],
        ),
        (
            "UPDATE ledger.checkpoint SET size = 500 WHERE size = 501",
            ["checkpoint 500: does not match the sealed tree"],
        ),
        (
            "UPDATE ledger.checkpoint SET position = position - 1 WHERE size = 501",
            ["checkpoint 501: its last event is not at position"],
        ),
        (
            f"UPDATE ledger.tile SET {FLIPPED} WHERE (level, number) = (0, 2)",
            ["position ", "checkpoint 601: does not match the sealed tree", "the checkpoint in "],
        ),
        (
            "DELETE FROM ledger.tile WHERE (level, number) = (0, 0)",
            [
                "the tile of leaf 0 is missing",
                "tile 0 of level 1: does not match the leaves",
                *(f"checkpoint {size} covers" for size in (201, 501, 601)),
                "the checkpoint in ",
            ],
        ),
        (
            "DELETE FROM ledger.tile WHERE (level, number) = (0, 1);"
            "UPDATE ledger.ledger_events SET state = '' WHERE notification_id = 10",
            [
                "position 10: not the event that was sealed",
                "the tile of leaf 256 is missing",
                "tile 0 of level 1: does not match the leaves",
                *(f"checkpoint {size} covers {size} events, and 256 are" for size in (501, 601)),
                "the checkpoint in ",
            ],
        ),
        (
            "DELETE FROM ledger.tile WHERE (level, number) = (0, 2);"
            "UPDATE ledger.ledger_events SET state = '' WHERE notification_id = 300",
            [
                "position 300: not the event that was sealed",
                "the tile of leaf 512 is missing",
                "checkpoint 601 covers",
                "the checkpoint in ",
            ],
        ),
        (
            "UPDATE ledger.tile SET first_position = first_position + 5 WHERE number = 1",
            ["tile 1 of level 0: its first event is not at position 262"],
        ),
        (
            "UPDATE ledger.tile SET first_position = first_position - 300 WHERE number = 2",
            ["tile 2 of level 0: its first event is not at position 213"],
        ),
        (
            "UPDATE ledger.checkpoint SET position = position - 1 WHERE size = 601",
            ["checkpoint 601: its last event is not at position 600"],
        ),
        (
            "DELETE FROM ledger.checkpoint WHERE size = 601",
            ["601 events are sealed, and the last checkpoint covers 501"],
        ),
        ("TRUNCATE ledger.checkpoint", ["601 events are sealed, and the last checkpoint covers 0"]),
        (
            "UPDATE ledger.ledger_events SET state = ('{\"x\":' || repeat('[', 200000))::bytea"
            " WHERE notification_id = 300",
            ["position 300: not the event that was sealed"],
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
    vandalize(full.conninfo, *BACK_TO_501)
    (fault,) = checked(full.conninfo, folder)[1]
    assert fault == (
        f"the checkpoint in {checkpoint_outside(folder)} covers 601 events, and the log has 501"
    )


def test_events_sealed_during_a_verification_are_no_fault(full: Ledger, folder: Path) -> None:
    path = checkpoint_outside(folder)
    path.unlink()
    os.mkfifo(path)

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
    assert checked(full.conninfo, folder)[1] == [f"the checkpoint in {path}: no checkpoint"]
    path.unlink()
    path.mkdir()
    (fault,) = checked(full.conninfo, folder)[1]
    assert fault.startswith(f"the checkpoint in {path}: ")


def test_the_command_prints_the_faults_and_exits_1_if_there_are_any(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(master_key=MASTER_KEY, data_dir=tmp_path)
    ledger.line()
    seal(ledger.conninfo, witness_folder(settings))
    ledger.line()
    assert verify(settings, ledger.conninfo) == 0
    assert capsys.readouterr().out.splitlines() == [
        "1 events in 1 checkpoints, 0 differences; 1 not sealed yet.",
        "7 rows of 9 decision tables, 0 differences.",
    ]
    at = position_at(ledger, 0)
    vandalize(ledger.conninfo, "UPDATE ledger.ledger_events SET topic = 'execution.closed/1'")
    assert verify(settings, ledger.conninfo) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"position {at}: not the event that was sealed"
    assert printed[-2] == "1 events in 1 checkpoints, 1 differences; 1 not sealed yet."
    vandalize(ledger.conninfo, "UPDATE ledger.signer SET vkey = 'a+b+c'")
    assert verify(settings, ledger.conninfo) == 1
    assert capsys.readouterr().out == "the log's key: no key of an Ed25519 signature\n"
