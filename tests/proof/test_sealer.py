"""The sealer seals each event once and in order, and never contradicts a checkpoint."""

import hashlib
import json
import os
import re
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import tuple_row

from ledger.features.proof.sealing import shelf
from ledger.features.proof.sealing.note import Signer
from ledger.features.proof.sealing.shelf import signer_of
from ledger.features.proof.sealing.witness import Witness
from tests.proof.conftest import report
from tests.support.ledger import Ledger
from tests.support.sealing import (
    VAULT,
    adopt_log,
    checked,
    mark,
    seal,
    sealer_of,
    stop_reason,
    vandalize,
    watch_of,
)
from tests.support.stored import stored_object
from tests.support.verifier import verifier


def signer(ledger: Ledger) -> Signer:
    with psycopg.connect(ledger.conninfo, row_factory=tuple_row) as connection:
        return signer_of(connection, VAULT)


def checkpoint_outside(folder: Path) -> Path:
    (path,) = folder.glob("*.checkpoint")
    return path


def test_every_event_is_sealed_once_in_the_order_of_the_log(full: Ledger, folder: Path) -> None:
    found, faults = checked(full.conninfo, folder)
    assert faults == []
    assert (found.events, found.checkpoints, found.unsealed) == (601, 3, 0)
    sizes = full.rows("SELECT size, position FROM ledger.checkpoint ORDER BY size")
    assert [row["size"] for row in sizes] == [201, 501, 601]
    assert sizes[-1]["position"] == full.head()
    tiles = full.rows("SELECT level, number, length(hashes) n FROM ledger.tile ORDER BY 1, 2")
    assert [tuple(row.values()) for row in tiles] == [
        (0, 0, 8192), (0, 1, 8192), (0, 2, 89 * 32), (1, 0, 64),
    ]  # fmt: skip


def test_the_root_equals_one_computed_from_the_stored_rows_alone(
    full: Ledger, folder: Path
) -> None:
    size, root = verifier.open_checkpoint(checkpoint_outside(folder).read_text(), signer(full).vkey)
    leaves = []
    for event in full.events():
        state = full.rows(
            "SELECT state FROM ledger.ledger_events WHERE notification_id = %s",
            event["notification_id"],
        )[0]["state"]
        stored = stored_object(state)
        leaf = {
            "v": 2,
            "position": event["notification_id"],
            "stream": event["originator_id"],
            "version": event["originator_version"],
            "type": event["topic"],
            "occurred_at": re.sub(r"(\.\d*?)0+Z", r"\1Z", stored["occurred_at"]),
            "recorded_at": re.sub(r"(\.\d*?)0+Z", r"\1Z", stored["recorded_at"]),
            "actor": stored["actor"],
            "reported_by": stored["reported_by"],
            "stored_sha256": hashlib.sha256(state).hexdigest(),
            "nonce": stored["nonce"],
        }
        leaves.append(json.dumps(leaf, separators=(",", ":"), ensure_ascii=False).encode())
    level = [hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]
    assert len(level) == size == 601
    while len(level) > 1:
        # A node without a neighbour moves up unchanged, which makes the same tree.
        pairs = zip(level[::2], level[1::2], strict=False)
        odd = level[-1:] if len(level) % 2 else []
        level = [hashlib.sha256(b"\1" + left + right).digest() for left, right in pairs] + odd
    assert level == [root]


def test_only_new_events_are_sealed_and_no_full_tile_is_written_again(
    full: Ledger, folder: Path
) -> None:
    assert seal(full.conninfo, folder) == 0
    before = full.rows("SELECT xmin::text FROM ledger.tile WHERE (level, number) = (0, 0)")
    full.line()
    assert seal(full.conninfo, folder) == 1
    assert seal(full.conninfo, folder) == 0
    after = full.rows("SELECT xmin::text FROM ledger.tile WHERE (level, number) = (0, 0)")
    assert before == after


def test_a_gap_of_positions_leaves_no_gap_of_leaves(full: Ledger, folder: Path) -> None:
    full.rows("SELECT setval('ledger.ledger_events_notification_id_seq', %s)", full.head() + 50)
    full.line()
    assert seal(full.conninfo, folder) == 1
    found, faults = checked(full.conninfo, folder)
    assert (found.events, faults) == (602, [])


def test_concurrent_sealers_seal_each_event_once(ledger: Ledger, folder: Path) -> None:
    line = ledger.line("capacity")
    sealers = [sealer_of(ledger.conninfo, folder) for _ in range(4)]
    done, sealed = threading.Event(), [0] * len(sealers)

    def work(number: int) -> None:
        while not done.is_set():
            sealed[number] += sealers[number].run_once()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(sealers))]
    for thread in threads:
        thread.start()
    for _ in range(20):
        report(ledger, line, 40)
    done.set()
    for thread, sealer in zip(threads, sealers, strict=True):
        thread.join()
        sealer.disconnect()
    last = seal(ledger.conninfo, folder)
    assert sum(sealed) + last == 801
    found, faults = checked(ledger.conninfo, folder)
    assert (found.events, found.unsealed, faults) == (801, 0, [])


def test_a_sealer_commits_synchronously_whatever_the_servers_default(
    ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ledger.rows("SHOW synchronous_commit") == [{"synchronous_commit": "off"}]
    commits, go_on = [], shelf.go_on

    def read_setting(connection: psycopg.Connection[Any]) -> None:
        commits.append(connection.execute("SHOW synchronous_commit").fetchone())
        go_on(connection)

    monkeypatch.setattr(shelf, "go_on", read_setting)
    ledger.line()
    assert seal(ledger.conninfo, folder) == 1
    assert commits == [("on",)]


@pytest.fixture
def ahead(full: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """A ledger whose sealer died before its commit: the file is one event ahead."""

    def die(_: object) -> None:
        raise KeyboardInterrupt

    full.line()
    with monkeypatch.context() as patch:
        patch.setattr(shelf, "go_on", die)
        with pytest.raises(KeyboardInterrupt):
            seal(full.conninfo, folder)
    assert (
        verifier.open_checkpoint(checkpoint_outside(folder).read_text(), signer(full).vkey)[0]
        == 602
    )
    assert full.rows("SELECT max(size) AS size FROM ledger.checkpoint") == [{"size": 601}]
    return full


def test_a_sealer_that_died_before_its_commit_continues_from_the_file(
    ahead: Ledger, folder: Path
) -> None:
    found, faults = checked(ahead.conninfo, folder)
    assert (found.events, found.unsealed, faults) == (601, 1, [])
    ahead.line()
    assert seal(ahead.conninfo, folder) == 2
    assert stop_reason(ahead.conninfo) is None
    assert checked(ahead.conninfo, folder)[1] == []


def test_no_other_events_are_signed_instead_of_lost_ones(ahead: Ledger, folder: Path) -> None:
    path, head = checkpoint_outside(folder), ahead.head()
    unreadable = "its column state: the stored event cannot be read"
    for loss, named in (
        (
            "UPDATE ledger.ledger_events SET state = ''",
            [f"ledger_events notification_id={head}: {unreadable}"],
        ),
        ("DELETE FROM ledger.ledger_events", []),
    ):
        vandalize(ahead.conninfo, f"{loss} WHERE notification_id = {head}")
        assert checked(ahead.conninfo, folder)[1] == [
            *named,
            f"checkpoint file={path}: covers 602 events, and the log has 601",
        ]
    for error in (
        f"the first 602 events are not those sealed ({path})",
        f"the first 602 events are not those sealed ({path})",
    ):
        ahead.line()
        assert seal(ahead.conninfo, folder) == 0
        assert stop_reason(ahead.conninfo) == error
    assert checked(ahead.conninfo, folder)[1] == [
        f"checkpoint file={path}: its column note signs another tree than the sealed leaves make"
    ]


def test_sealing_continues_when_the_file_is_behind_the_database(full: Ledger, folder: Path) -> None:
    note = checkpoint_outside(folder).read_text()
    full.line()
    assert seal(full.conninfo, folder) == 1
    checkpoint_outside(folder).write_text(note)
    full.line()
    assert seal(full.conninfo, folder) == 1
    assert stop_reason(full.conninfo) is None
    assert (
        verifier.open_checkpoint(checkpoint_outside(folder).read_text(), signer(full).vkey)[0]
        == 603
    )


def test_sealing_continues_and_logs_one_error_when_the_file_cannot_be_written(
    ledger: Ledger, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watch = watch_of(folder)
    path = Witness(folder, watch.newborn.name).path
    in_the_way = path.with_name(f"{path.name}.{os.getpid()}")
    in_the_way.mkdir(parents=True)
    sealer = sealer_of(ledger.conninfo, folder, watch=watch)
    for _ in range(3):
        ledger.line()
        assert sealer.run_once() == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    in_the_way.rmdir()
    ledger.line()
    assert sealer.run_once() == 1
    sealer.disconnect()
    assert path.is_file()
    assert checked(ledger.conninfo, folder)[1] == []


def test_nothing_is_signed_when_the_file_cannot_be_read(full: Ledger, folder: Path) -> None:
    path = checkpoint_outside(folder)
    path.unlink()
    path.mkdir()
    full.line()
    assert seal(full.conninfo, folder) == 0
    assert stop_reason(full.conninfo) == f"{path} cannot be read: Is a directory"


def test_sealing_that_stopped_goes_on_once_the_cause_is_mended_without_a_new_event(
    full: Ledger, folder: Path
) -> None:
    path = checkpoint_outside(folder)
    note = path.read_text()
    path.unlink()
    path.mkdir()
    assert seal(full.conninfo, folder) == 0
    assert stop_reason(full.conninfo) == f"{path} cannot be read: Is a directory"
    path.rmdir()
    path.write_text(note)
    ((secret,),) = [row.values() for row in full.rows("SELECT secret FROM ledger.signer")]
    vandalize(full.conninfo, "UPDATE ledger.signer SET secret = decode('00', 'hex')")
    assert seal(full.conninfo, folder) == 0
    assert stop_reason(full.conninfo) is not None, "the key cannot be opened"
    vandalize(
        full.conninfo, f"UPDATE ledger.signer SET secret = decode('{bytes(secret).hex()}', 'hex')"
    )
    assert seal(full.conninfo, folder) == 0
    assert stop_reason(full.conninfo) is None


CUT = "DELETE FROM ledger.{} WHERE {}"
BACK_TO_501 = [
    CUT.format("checkpoint", "size > 501"),
    CUT.format("ledger_events", "notification_id > (SELECT max(position) FROM ledger.checkpoint)"),
    "UPDATE ledger.tile SET hashes = substr(hashes, 1, 245 * 32) WHERE (level, number) = (0, 1)",
    "UPDATE ledger.tile SET hashes = substr(hashes, 1, 32) WHERE level = 1",
    CUT.format("tile", "(level, number) = (0, 2)"),
]
"""Statements that remove what a dump made after the second part was sealed does not have."""


def go_back_to_501(conninfo: str) -> None:
    """Restore the state of that dump."""
    vandalize(conninfo, *BACK_TO_501)
    mark(conninfo)


def test_a_restored_older_database_is_not_signed_until_an_operator_adopts_it(
    full: Ledger, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    go_back_to_501(full.conninfo)
    assert seal(full.conninfo, folder) == 0
    vandalize(
        full.conninfo,
        "INSERT INTO ledger.ledger_events (originator_id, originator_version, topic, state,"
        " notification_id, recorded_at) SELECT 'LIN-26-000777', 1, topic, state,"
        " notification_id + 100000, recorded_at + interval '1 day' FROM ledger.ledger_events"
        " ORDER BY notification_id LIMIT 1",
    )
    for _ in range(3):
        assert seal(full.conninfo, folder) == 0
    error = stop_reason(full.conninfo)
    assert error is not None
    assert "601 events were sealed" in error
    assert "501 are left" in error
    assert len(caplog.records) == 1, "the error is logged once"
    checkpoint_outside(folder).unlink()
    assert seal(full.conninfo, folder) == 0, "no file decides"
    adopt_log(full.conninfo, folder)
    assert full.rows("SELECT size FROM ledger.checkpoint") == [{"size": 502}]
    full.line()
    assert seal(full.conninfo, folder) == 1
    assert stop_reason(full.conninfo) is None


@pytest.mark.parametrize("more", [0, 1])
def test_a_log_that_has_lost_sealed_events_is_not_signed_further(
    full: Ledger, folder: Path, more: int
) -> None:
    end = full.head()
    vandalize(full.conninfo, f"DELETE FROM ledger.ledger_events WHERE notification_id > {end - 3}")
    for _ in range(more):
        full.line()
    assert seal(full.conninfo, folder) == 0
    assert stop_reason(full.conninfo) == f"the last event that was sealed is not at position {end}"


def test_a_new_database_that_replaces_an_old_one_is_signed_once_an_operator_adopts_it(
    full: Ledger, folder: Path
) -> None:
    """A database whose key was removed looks the same: the node knows of a log that was sealed."""
    name = signer(full).name
    vandalize(full.conninfo, "TRUNCATE ledger.tile, ledger.checkpoint, ledger.signer")
    assert seal(full.conninfo, folder) == 0
    assert f"601 events were sealed ({name}, {folder})" in (stop_reason(full.conninfo) or "")
    assert adopt_log(full.conninfo, folder).after is None
    full.line()
    assert seal(full.conninfo, folder) == 1
    assert checked(full.conninfo, folder)[1] == []


def rewrite_past(full: Ledger, folder: Path) -> None:
    """Rewrite the past and seal it anew with the same key, as a holder of the master key can."""
    vandalize(
        full.conninfo,
        "UPDATE ledger.ledger_events SET state = convert_to(replace(convert_from(state, 'UTF8'),"
        " '\"hours\":1.0', '\"hours\":9.0'), 'UTF8')",
        "TRUNCATE ledger.tile, ledger.checkpoint",
    )
    watch = watch_of(checkpoint_outside(folder).parent.with_name("elsewhere"))
    watch.newborn = signer(full)
    vandalize(full.conninfo, "TRUNCATE ledger.signer")
    sealer = sealer_of(full.conninfo, watch.folder, watch=watch)
    assert sealer.run_once() == 601
    sealer.disconnect()


def test_a_rewritten_and_resealed_past_is_not_signed_further(full: Ledger, folder: Path) -> None:
    rewrite_past(full, folder)
    full.line()
    assert seal(full.conninfo, folder) == 0
    assert "the first 601 events are not those sealed" in (stop_reason(full.conninfo) or "")
