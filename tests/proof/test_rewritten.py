"""The database's superuser rewrites what was sealed, and makes the log look like a new one."""

import shutil
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from psycopg.rows import tuple_row

from ledger.features.proof.sealing import shelf
from ledger.features.proof.sealing.note import Signer
from ledger.features.proof.sealing.sealer import Sealer
from tests.proof.conftest import report
from tests.support.ledger import Ledger
from tests.support.sealing import (
    VAULT,
    adopt_log,
    checked,
    keep_witness,
    seal,
    sealer_of,
    stop_reason,
    vandalize,
)

EMPTIED = "the log has a key, and no checkpoint that was signed by it"
REWRITE = (
    "UPDATE ledger.ledger_events SET state = convert_to(replace(convert_from(state, 'UTF8'),"
    " '\"hours\":1.0', '\"hours\":9.0'), 'UTF8') WHERE notification_id > 300"
)
EMPTY = "TRUNCATE ledger.tile, ledger.checkpoint, ledger.node"
FORGET = (
    "UPDATE ledger.signer SET shown_size = 0, stopped_at = NULL, error = NULL,"
    " contradicts = false, waits_for = NULL"
)
BACK_TO_201 = (
    "DELETE FROM ledger.checkpoint WHERE size > 201",
    "UPDATE ledger.tile SET hashes = substr(hashes, 1, 201 * 32) WHERE (level, number) = (0, 0)",
    "DELETE FROM ledger.tile WHERE (level, number) <> (0, 0)",
)


def signed(ledger: Ledger) -> list[int]:
    """The sizes of all checkpoints."""
    return [row["size"] for row in ledger.rows("SELECT size FROM ledger.checkpoint ORDER BY size")]


def test_a_log_whose_checkpoints_and_witness_were_removed_is_not_signed_anew(
    full: Ledger, folder: Path
) -> None:
    vandalize(full.conninfo, REWRITE, EMPTY, FORGET)
    shutil.rmtree(folder)
    for _ in range(2):
        full.line()
        assert seal(full.conninfo, folder) == 0
        assert stop_reason(full.conninfo) == f"{EMPTIED}: 601 events were sealed"
        vandalize(full.conninfo, FORGET)
    assert signed(full) == []
    assert checked(full.conninfo, folder)[1][:2] == [
        f"signer is_only=true: {EMPTIED}",
        "signer is_only=true: its column secret says 601, the last checkpoint 0",
    ]
    adopted = adopt_log(full.conninfo, folder)
    assert adopted.after is not None
    assert adopted.after.split(" ")[2] == "601", "the mark tells the last checkpoint"


def test_a_log_that_was_put_back_to_an_older_checkpoint_with_its_witness_is_not_signed_anew(
    full: Ledger, folder: Path
) -> None:
    vandalize(full.conninfo, REWRITE, *BACK_TO_201, FORGET)
    shutil.rmtree(folder)
    keep_witness(full.conninfo, folder)
    assert seal(full.conninfo, folder) == 0
    assert stop_reason(full.conninfo) == (
        "the first 601 events are not those sealed (the mark beside the key)"
    )
    assert signed(full) == [201]
    found = checked(full.conninfo, folder)[1]
    assert "signer is_only=true: its column secret says 601, the last checkpoint 201" in found


def test_a_log_that_is_rewritten_while_its_sealer_lives_is_not_signed_anew(
    full: Ledger, folder: Path
) -> None:
    """The sealer has found its witness and the mark to be of this log before."""
    sealer = sealer_of(full.conninfo, folder)
    full.line()
    assert sealer.run_once() == 1
    full.line()
    assert sealer.run_once() == 1
    vandalize(full.conninfo, REWRITE, *BACK_TO_201)
    full.line()
    assert sealer.run_once() == 0
    sealer.disconnect()
    assert stop_reason(full.conninfo) in (
        f"the first 603 events are not those sealed ({folder}/{sealed_file(folder)})",
        "the first 603 events are not those sealed (the mark beside the key)",
    )
    assert signed(full) == [201]


def sealed_file(folder: Path) -> str:
    """The name of the only witness of the folder."""
    (file,) = folder.glob("*.checkpoint")
    return file.name


def test_a_node_keeps_its_witness_whatever_the_database_says_of_the_origin(
    full: Ledger, folder: Path
) -> None:
    witness = (folder / sealed_file(folder)).read_text()
    vandalize(full.conninfo, REWRITE, *BACK_TO_201, FORGET, "UPDATE ledger.signer SET origin = 2")
    full.line()
    assert seal(full.conninfo, folder) == 0
    assert (stop_reason(full.conninfo) or "").startswith("the log is origin 2, and its key is of ")
    assert signed(full) == [201]
    vandalize(full.conninfo, "UPDATE ledger.signer SET origin = 1")
    assert seal(full.conninfo, folder) == 0
    assert "601 events are not those sealed" in (stop_reason(full.conninfo) or "")
    assert (folder / sealed_file(folder)).read_text() == witness


def test_a_mark_counts_on_from_the_mark_before_whatever_the_checkpoints_say(
    full: Ledger, folder: Path
) -> None:
    number = "SELECT max(number) AS number FROM ledger.checkpoint"
    ((before,),) = [tuple(row.values()) for row in full.rows(number)]
    vandalize(
        full.conninfo,
        "ALTER TABLE ledger.checkpoint DROP CONSTRAINT checkpoint_number_from_one",
        f"UPDATE ledger.checkpoint SET number = -1 WHERE number = {before}",
    )
    full.line()
    assert seal(full.conninfo, folder) == 1
    with psycopg.connect(full.conninfo, row_factory=tuple_row) as connection:
        state = shelf.state(connection, "")
    assert state.secret is not None
    _, mark = shelf.opened(VAULT, state.vkey, state.secret)
    assert mark is not None
    assert mark.number == before + 1


def test_checkpoints_that_are_missing_at_the_end_of_an_unchanged_log_are_no_contradiction(
    full: Ledger, folder: Path
) -> None:
    vandalize(full.conninfo, *BACK_TO_201)
    assert seal(full.conninfo, folder) == 400
    assert stop_reason(full.conninfo) is None


@pytest.mark.parametrize("secret", ["substr(secret, 1, 60)", "set_byte(secret, 80, 1)"])
def test_a_mark_cannot_be_removed_without_losing_the_key(
    full: Ledger, folder: Path, secret: str
) -> None:
    vandalize(full.conninfo, f"UPDATE ledger.signer SET secret = {secret}")
    full.line()
    assert seal(full.conninfo, folder) == 0
    assert "sealed under another master key" in (stop_reason(full.conninfo) or "")
    assert any("its column secret: " in fault for fault in checked(full.conninfo, folder)[1])


def test_a_log_whose_key_was_removed_gets_no_other_while_a_node_has_seen_a_checkpoint(
    full: Ledger, folder: Path, tmp_path: Path
) -> None:
    vandalize(full.conninfo, REWRITE, EMPTY, "TRUNCATE ledger.signer")
    ((fault, *_), _) = checked(full.conninfo, folder)[1], None
    assert fault.startswith("signer is_only=true: the key is gone, and a checkpoint of ")
    assert seal(full.conninfo, folder) == 0
    assert "601 events were sealed" in (stop_reason(full.conninfo) or "")
    assert signed(full) == []
    adopt_log(full.conninfo, folder)
    full.line()
    assert seal(full.conninfo, folder) == 1


def test_checkpoints_without_a_key_are_not_signed_further(full: Ledger, tmp_path: Path) -> None:
    vandalize(full.conninfo, "TRUNCATE ledger.signer")
    assert seal(full.conninfo, tmp_path / "new") == 0
    assert "the database" in (stop_reason(full.conninfo) or "")


def test_the_database_refuses_a_key_without_a_checkpoint(ledger: Ledger) -> None:
    with psycopg.connect(ledger.conninfo, row_factory=tuple_row) as connection:
        shelf.begin(connection, VAULT, Signer.create())
        with pytest.raises(errors.RaiseException, match="comes with its first checkpoint"):
            connection.commit()


def test_a_sealer_that_died_with_the_first_checkpoint_leaves_a_whole_one_or_none(
    ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill comes before the commit, and at the next start between the commit and the file."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    ledger.line()
    for owner, name, checkpoints in ((shelf, "go_on", 0), (Sealer, "_keep_first", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, die)
            with pytest.raises(KeyboardInterrupt):
                seal(ledger.conninfo, folder)
        counted = ledger.rows(
            "SELECT (SELECT count(*) FROM ledger.signer) AS keys,"
            " (SELECT count(*) FROM ledger.checkpoint) AS checkpoints"
        )
        assert counted == [{"keys": checkpoints, "checkpoints": checkpoints}]
        assert list(folder.glob("*.checkpoint")) == []
    report(ledger, ledger.line("capacity"), 3)
    assert seal(ledger.conninfo, folder) == 4
    assert stop_reason(ledger.conninfo) is None
    assert checked(ledger.conninfo, folder)[1] == []
