"""The sealer: everything once and in order, by one process at a time, and never against itself."""

import hashlib
import json
import os
import re
import threading
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import tuple_row

from ledger.sealing import shelf
from ledger.sealing.note import Signer
from ledger.sealing.shelf import signer_of
from ledger.sealing.witness import Witness
from tests.sealing.conftest import report
from tests.support.ledger import Ledger
from tests.support.sealing import VAULT, checked, seal, sealer_of, stopped, vandalize
from tests.support.verifier import verifier

OTHER_KEY = Signer.create().vkey


def signer(ledger: Ledger) -> Signer:
    with psycopg.connect(ledger.conninfo, row_factory=tuple_row) as connection:
        return signer_of(connection, VAULT)


def checkpoint_outside(folder: Path) -> Path:
    (path,) = folder.iterdir()
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


def test_the_roots_are_those_that_an_outsider_makes_of_the_stored_rows(
    full: Ledger, folder: Path
) -> None:
    size, root = verifier.opened(checkpoint_outside(folder).read_text(), signer(full).vkey)
    leaves = []
    for event in full.events():
        state = full.rows(
            "SELECT state FROM ledger.ledger_events WHERE notification_id = %s",
            event["notification_id"],
        )[0]["state"]
        told = json.loads(state)
        leaf = {
            "v": 1,
            "position": event["notification_id"],
            "stream": event["originator_id"],
            "version": event["originator_version"],
            "type": event["topic"],
            "occurred_at": re.sub(r"(\.\d*?)0+Z", r"\1Z", told["occurred_at"]),
            "recorded_at": re.sub(r"(\.\d*?)0+Z", r"\1Z", told["recorded_at"]),
            "actor": told["actor"],
            "stored_sha256": hashlib.sha256(state).hexdigest(),
            "nonce": told["nonce"],
        }
        leaves.append(json.dumps(leaf, separators=(",", ":"), ensure_ascii=False).encode())
    level = [hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]
    assert len(level) == size == 601
    while len(level) > 1:
        # A node without a neighbour goes up as it is: the same tree.
        pairs = zip(level[::2], level[1::2], strict=False)
        odd = level[-1:] if len(level) % 2 else []
        level = [hashlib.sha256(b"\1" + left + right).digest() for left, right in pairs] + odd
    assert level == [root]


def test_what_is_new_is_sealed_and_nothing_else_written(full: Ledger, folder: Path) -> None:
    assert seal(full.conninfo, folder) == 0
    before = full.rows("SELECT xmin::text FROM ledger.tile WHERE (level, number) = (0, 0)")
    full.line()
    assert seal(full.conninfo, folder) == 1
    assert seal(full.conninfo, folder) == 0
    after = full.rows("SELECT xmin::text FROM ledger.tile WHERE (level, number) = (0, 0)")
    assert before == after


def test_a_gap_of_positions_leaves_none_of_leaves(full: Ledger, folder: Path) -> None:
    full.rows("SELECT setval('ledger.ledger_events_notification_id_seq', %s)", full.head() + 50)
    full.line()
    assert seal(full.conninfo, folder) == 1
    found, faults = checked(full.conninfo, folder)
    assert (found.events, faults) == (602, [])


def test_of_many_sealers_at_once_each_event_is_sealed_by_one(ledger: Ledger, folder: Path) -> None:
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
        sealer._disconnect()
    last = seal(ledger.conninfo, folder)
    assert sum(sealed) + last == 801
    found, faults = checked(ledger.conninfo, folder)
    assert (found.events, found.unsealed, faults) == (801, 0, [])


def test_what_was_signed_is_on_the_disk_whatever_the_server_would_have(
    ledger: Ledger, folder: Path
) -> None:
    assert ledger.rows("SHOW synchronous_commit") == [{"synchronous_commit": "off"}]
    ledger.line()
    sealer = sealer_of(ledger.conninfo, folder)
    assert sealer.run_once() == 1
    assert sealer._connect().execute("SHOW synchronous_commit").fetchone() == ("on",)
    sealer._disconnect()


@pytest.fixture
def ahead(full: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """The file has the checkpoint of one event more: the sealer died before its commit."""

    def die(_: object) -> None:
        raise KeyboardInterrupt

    full.line()
    with monkeypatch.context() as patch:
        patch.setattr(shelf, "go_on", die)
        with pytest.raises(KeyboardInterrupt):
            seal(full.conninfo, folder)
    assert verifier.opened(checkpoint_outside(folder).read_text(), signer(full).vkey)[0] == 602
    assert full.rows("SELECT max(size) AS size FROM ledger.checkpoint") == [{"size": 601}]
    return full


def test_a_sealer_that_dies_before_the_commit_goes_on_from_the_file(
    ahead: Ledger, folder: Path
) -> None:
    found, faults = checked(ahead.conninfo, folder)
    assert (found.events, found.unsealed, faults) == (601, 1, [])
    ahead.line()
    assert seal(ahead.conninfo, folder) == 2
    assert stopped(ahead.conninfo) is None
    assert checked(ahead.conninfo, folder)[1] == []


def test_where_the_last_transactions_were_lost_no_others_are_signed_in_their_place(
    ahead: Ledger, folder: Path
) -> None:
    path, head = checkpoint_outside(folder), ahead.head()
    for loss, named in (
        ("UPDATE ledger.ledger_events SET state = ''",
         [f"position {head}: the stored event cannot be read"]),
        ("DELETE FROM ledger.ledger_events", []),
    ):  # fmt: skip
        vandalize(ahead.conninfo, f"{loss} WHERE notification_id = {head}")
        assert checked(ahead.conninfo, folder)[1] == [
            *named,
            f"the checkpoint in {path} is of 602 events, and 601 are there",
        ]
    for error in (
        f"the first 602 events are not those sealed ({path})",
        f"the first 602 events are not those sealed ({path})",
    ):
        ahead.line()
        assert seal(ahead.conninfo, folder) == 0
        assert stopped(ahead.conninfo) == error
    assert checked(ahead.conninfo, folder)[1] == [
        f"the checkpoint in {path}: not of what is sealed"
    ]


def test_where_the_file_is_behind_the_database_sealing_goes_on(full: Ledger, folder: Path) -> None:
    kept = checkpoint_outside(folder).read_text()
    full.line()
    assert seal(full.conninfo, folder) == 1
    checkpoint_outside(folder).write_text(kept)
    full.line()
    assert seal(full.conninfo, folder) == 1
    assert stopped(full.conninfo) is None
    assert verifier.opened(checkpoint_outside(folder).read_text(), signer(full).vkey)[0] == 603


def test_where_the_file_cannot_be_written_sealing_goes_on_and_says_so_once(
    ledger: Ledger, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Witness(folder, signer(ledger).name).path
    in_the_way = path.with_name(f"{path.name}.{os.getpid()}")
    in_the_way.mkdir(parents=True)
    sealer = sealer_of(ledger.conninfo, folder)
    for _ in range(3):
        ledger.line()
        assert sealer.run_once() == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    in_the_way.rmdir()
    ledger.line()
    assert sealer.run_once() == 1
    sealer._disconnect()
    assert path.is_file()
    assert checked(ledger.conninfo, folder)[1] == []


def test_where_the_file_cannot_be_read_nothing_is_signed(full: Ledger, folder: Path) -> None:
    path = checkpoint_outside(folder)
    path.unlink()
    path.mkdir()
    full.line()
    assert seal(full.conninfo, folder) == 0
    assert stopped(full.conninfo) == f"{path} cannot be read: Is a directory"


CUT = "DELETE FROM ledger.{} WHERE {}"
BACK_TO_501 = [
    CUT.format("checkpoint", "size > 501"),
    CUT.format("ledger_events", "notification_id > (SELECT max(position) FROM ledger.checkpoint)"),
    "UPDATE ledger.tile SET hashes = substr(hashes, 1, 245 * 32) WHERE (level, number) = (0, 1)",
    "UPDATE ledger.tile SET hashes = substr(hashes, 1, 32) WHERE level = 1",
    CUT.format("tile", "(level, number) = (0, 2)"),
]
"""As a dump that was made after the second part would have it."""


def test_a_database_put_back_is_not_signed_until_the_file_is_gone(
    full: Ledger, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    vandalize(full.conninfo, *BACK_TO_501)
    assert seal(full.conninfo, folder) == 0, "there is nothing to sign, and nothing to say"
    vandalize(
        full.conninfo,
        "INSERT INTO ledger.ledger_events (originator_id, originator_version, topic, state,"
        " notification_id, recorded_at) SELECT 'LIN-26-000777', 1, topic, state,"
        " notification_id + 100000, recorded_at + interval '1 day' FROM ledger.ledger_events"
        " ORDER BY notification_id LIMIT 1",
    )
    for _ in range(3):
        assert seal(full.conninfo, folder) == 0
    error = stopped(full.conninfo)
    assert error is not None
    assert "601 events were sealed" in error
    assert "502 are left" in error
    assert len(caplog.records) == 1, "said once"
    checkpoint_outside(folder).unlink()
    assert seal(full.conninfo, folder) == 1
    assert stopped(full.conninfo) is None


@pytest.mark.parametrize("more", [0, 1])
def test_a_log_that_has_lost_what_was_sealed_is_not_signed_on(
    full: Ledger, folder: Path, more: int
) -> None:
    end = full.head()
    vandalize(full.conninfo, f"DELETE FROM ledger.ledger_events WHERE notification_id > {end - 3}")
    for _ in range(more):
        full.line()
    assert seal(full.conninfo, folder) == 0
    assert stopped(full.conninfo) == f"the last event that was sealed is not at position {end}"


def test_a_database_in_anothers_place_is_signed_by_its_own_key(full: Ledger, folder: Path) -> None:
    sealer = sealer_of(full.conninfo, folder)
    full.line()
    assert sealer.run_once() == 1
    with psycopg.connect(full.conninfo, autocommit=True) as connection:
        connection.execute("TRUNCATE ledger.tile, ledger.checkpoint, ledger.signer")
        shelf.begin(connection, VAULT)
    assert sealer.run_once() == 602
    sealer._disconnect()
    assert checked(full.conninfo, folder)[1] == []


def rewritten(full: Ledger, folder: Path) -> None:
    """Another past, sealed anew with the very key: by somebody who has the master key too."""
    vandalize(
        full.conninfo,
        "UPDATE ledger.ledger_events SET state = convert_to(replace(convert_from(state, 'UTF8'),"
        " '\"hours\":1.0', '\"hours\":9.0'), 'UTF8')",
        "TRUNCATE ledger.tile, ledger.checkpoint",
    )
    kept = checkpoint_outside(folder)
    assert seal(full.conninfo, kept.parent.with_name("elsewhere")) == 601


def test_a_past_that_was_rewritten_and_sealed_anew_is_not_signed_on(
    full: Ledger, folder: Path
) -> None:
    rewritten(full, folder)
    full.line()
    assert seal(full.conninfo, folder) == 0
    assert "the first 601 events are not those sealed" in (stopped(full.conninfo) or "")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (
            "UPDATE ledger.tile SET hashes = hashes || hashes WHERE number = 2",
            "not those of a tree",
        ),
        ("DELETE FROM ledger.tile WHERE level = 1", "not those of a tree"),
        (
            "UPDATE ledger.tile SET hashes = set_byte(hashes, 5, get_byte(hashes, 5) # 1)"
            " WHERE number = 2",
            "not of what is sealed",
        ),
        ("UPDATE ledger.checkpoint SET note = replace(note, '601', '602')", "does not fit"),
        (
            "UPDATE ledger.checkpoint SET position = position - 1 WHERE size = 601",
            "is not the last that was sealed",
        ),
        (
            "UPDATE ledger.ledger_events SET state = convert_to(replace(convert_from(state,"
            " 'UTF8'), '\"hours\":1.0', '\"hours\":9.0'), 'UTF8')"
            " WHERE notification_id = (SELECT max(position) FROM ledger.checkpoint)",
            "is not the last that was sealed",
        ),
        ("UPDATE ledger.signer SET vkey = 'a+b+c'", "no key of an Ed25519 signature"),
        (f"UPDATE ledger.signer SET vkey = '{OTHER_KEY}'", "not the key that others were told"),
        ("UPDATE ledger.signer SET secret = '\\x00'", "sealed under another master key"),
        (
            "UPDATE ledger.checkpoint SET note = (SELECT note FROM ledger.checkpoint"
            " WHERE size = 501) WHERE size = 601",
            "not of what is sealed",
        ),
    ],
)
def test_what_was_sealed_and_damaged_is_not_signed_on(
    full: Ledger, folder: Path, damage: str, why: str
) -> None:
    vandalize(full.conninfo, damage)
    full.line()
    size = full.rows("SELECT max(size) AS size FROM ledger.checkpoint")
    assert seal(full.conninfo, folder) == 0
    assert full.rows("SELECT max(size) AS size FROM ledger.checkpoint") == size
    assert why in (stopped(full.conninfo) or "")


@pytest.mark.parametrize("state", ["'{}'", r"'\xff'", "('{\"x\":' || repeat('[', 200000))::bytea"])
def test_an_event_that_cannot_be_read_stops_sealing(full: Ledger, folder: Path, state: str) -> None:
    full.line()
    vandalize(
        full.conninfo,
        f"UPDATE ledger.ledger_events SET state = {state}"
        " WHERE notification_id = (SELECT max(notification_id) FROM ledger.ledger_events)",
    )
    assert seal(full.conninfo, folder) == 0
    assert stopped(full.conninfo) == f"the event at position {full.head()} cannot be read"
