"""An operator adopts a log that contradicts a checkpoint, and a new origin begins."""

import os
from pathlib import Path

import psycopg
import pytest
from psycopg import errors
from psycopg.rows import tuple_row

from ledger.features.proof.sealing import shelf
from ledger.features.proof.sealing.note import Checkpoint, Signer, parse
from ledger.features.proof.sealing.origins import NothingIsWrong
from ledger.features.proof.sealing.watch import Inspection, WitnessWatch
from tests.proof.conftest import report
from tests.proof.test_sealer import checkpoint_outside, go_back_to_501, rewrite_past
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import query
from tests.support.forked import Forked
from tests.support.ledger import Ledger
from tests.support.sealing import (
    VAULT,
    Node,
    adopt_log,
    checked,
    seal,
    sealer_of,
    stop_reason,
    vandalize,
    watch_of,
)
from tests.support.verifier import verifier
from tests.support.views import until


def newest(ledger: Ledger) -> str:
    (row,) = ledger.rows("SELECT note FROM ledger.checkpoint ORDER BY size DESC LIMIT 1")
    return str(row["note"])


def notes(ledger: Ledger) -> list[str]:
    return [row["note"] for row in ledger.rows("SELECT note FROM ledger.checkpoint")]


def keys(ledger: Ledger) -> str:
    rows = ledger.rows(
        "SELECT vkey FROM ledger.signer UNION ALL SELECT vkey FROM ledger.former_origin"
    )
    return "\n".join(row["vkey"] for row in rows)


@pytest.fixture
def restored(full: Ledger, folder: Path) -> Ledger:
    """A ledger whose last 100 sealed events are lost: sealing has stopped."""
    go_back_to_501(full.conninfo)
    assert seal(full.conninfo, folder) == 0
    assert stop_reason(full.conninfo) is not None
    return full


def test_the_first_note_of_a_new_origin_names_the_last_one_known_of_the_old(
    restored: Ledger, folder: Path
) -> None:
    lost = checkpoint_outside(folder).read_text()
    before = newest(restored)
    adopted = adopt_log(restored.conninfo, folder)
    assert adopted.kept_size == 501
    note, (name, size, root, *_) = newest(restored), lost.split("\n")
    assert note.split("\n")[0] == f"{name}/2" == adopted.origin
    assert note.split("\n")[3] == f"after {name} {size} {root}" == adopted.after
    assert verifier.open_checkpoint(note, keys(restored))[0] == 501
    assert verifier.named_before(note) == adopted.after
    assert verifier.open_checkpoint(before, keys(restored))[0] == 501
    restored.line()
    assert seal(restored.conninfo, folder) == 1
    assert parse(newest(restored)).extensions == ""
    assert checked(restored.conninfo, folder)[1] == []


def test_an_adoption_signs_the_first_checkpoint_of_its_key(restored: Ledger, folder: Path) -> None:
    adopt_log(restored.conninfo, folder)
    assert parse(newest(restored)).checkpoint.size == 501
    assert seal(restored.conninfo, folder) == 0
    assert stop_reason(restored.conninfo) is None


def test_an_adopted_log_is_signed_further_by_a_node_that_has_not_seen_its_first_checkpoint(
    restored: Ledger, folder: Path, tmp_path: Path
) -> None:
    """An operator adopted it without any node's data directory."""
    adopt_log(restored.conninfo, tmp_path / "nowhere")
    restored.line()
    assert seal(restored.conninfo, folder) == 1


def test_an_adoption_is_recorded_and_old_checkpoints_stay(restored: Ledger, folder: Path) -> None:
    checkpoints = restored.rows("SELECT size, position, note, number FROM ledger.checkpoint")
    adopt_log(restored.conninfo, folder, "why not")
    (origin,) = restored.rows("SELECT * FROM ledger.former_origin")
    assert (origin["number"], origin["ended_by"], origin["reason"]) == (1, "cli:test", "why not")
    assert (origin["kept_size"], parse(origin["last_note"]).checkpoint.size) == (501, 601)
    moved = restored.rows(
        "SELECT size, position, note, number FROM ledger.former_checkpoint WHERE origin = 1"
    )
    assert moved == checkpoints
    assert restored.rows("SELECT number, size FROM ledger.checkpoint") == [
        {"number": 1, "size": 501}
    ]


def test_checkpoints_of_earlier_origins_are_compared_with_the_present_log(
    restored: Ledger, folder: Path
) -> None:
    adopt_log(restored.conninfo, folder)
    seal(restored.conninfo, folder)
    found, faults = checked(restored.conninfo, folder)
    assert (found.checkpoints, faults) == (3, [])
    for damage, named in (
        ("UPDATE ledger.former_checkpoint SET position = position - 1 WHERE size = 201",
         "former_checkpoint origin=1 size=201: its column position says 200, the log 201"),
        ("UPDATE ledger.former_checkpoint SET position = position + 1, number = 7 WHERE size = 201",
         "former_checkpoint origin=1 size=201: its column number says 7, the checkpoint before"),
        ("UPDATE ledger.former_checkpoint SET note = note || 'x' WHERE size = 501",
         "former_checkpoint origin=1 size=501: its column note: no checkpoint"),
    ):  # fmt: skip
        vandalize(restored.conninfo, damage)
        assert any(fault.startswith(named) for fault in checked(restored.conninfo, folder)[1])


def test_a_log_whose_tiles_do_not_fit_is_sealed_anew(full: Ledger, folder: Path) -> None:
    """The last events are gone, and their leaves are not: what is left is counted."""
    vandalize(full.conninfo, "DELETE FROM ledger.ledger_events WHERE notification_id > 550")
    assert seal(full.conninfo, folder) == 0
    assert adopt_log(full.conninfo, folder).kept_size == 0
    (origin,) = full.rows("SELECT kept_size FROM ledger.former_origin")
    assert origin["kept_size"] == 501
    assert full.rows("SELECT size FROM ledger.checkpoint") == [{"size": len(full.events())}]
    assert checked(full.conninfo, folder)[1] == []


def test_a_rewritten_past_that_is_adopted_keeps_no_old_checkpoint_that_it_contradicts(
    full: Ledger, folder: Path
) -> None:
    rewrite_past(full, folder)
    full.line()
    assert seal(full.conninfo, folder) == 0
    adopted = adopt_log(full.conninfo, folder)
    assert adopted.after is not None
    assert adopted.after.split(" ")[2] == "601"
    full.line()
    assert seal(full.conninfo, folder) == 1
    assert stop_reason(full.conninfo) is None


def test_where_nothing_is_wrong_there_is_nothing_to_adopt(full: Ledger, folder: Path) -> None:
    with pytest.raises(NothingIsWrong):
        adopt_log(full.conninfo, folder)
    assert full.rows("SELECT origin FROM ledger.signer") == [{"origin": 1}]


def test_an_adoption_elsewhere_where_nothing_is_wrong_any_more_changes_nothing(
    restored: Ledger, folder: Path, tmp_path: Path
) -> None:
    """No node has the witness yet: the one that leads takes it by itself."""
    adopt_log(restored.conninfo, folder)
    signed = newest(restored)
    with pytest.raises(NothingIsWrong):
        adopt_log(restored.conninfo, tmp_path / "elsewhere")
    assert newest(restored) == signed
    assert len(restored.rows("SELECT number FROM ledger.former_origin")) == 1


def test_of_two_adoptions_at_once_on_two_machines_one_begins_an_origin(
    restored: Ledger, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "b").mkdir()
    own = {"LEDGER_DATABASE_URL": restored.conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    with psycopg.connect(restored.conninfo) as connection:
        shelf.lock(connection)
        commands = [
            Forked(
                ["seal", "adopt", "--reason", "a standby was behind"],
                os.environ | own | {"LEDGER_DATA_DIR": str(data_dir)},
                data_dir / "output",
                data_dir / "errors",
            )
            for data_dir in (folder.parent, tmp_path / "b")
        ]
        waiting = (
            "SELECT FROM pg_stat_activity"
            " WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        until(lambda: len(query(restored.conninfo, waiting)) == 2, "both to wait for the lock")
    assert sorted(command.wait(60) for command in commands) == [0, 1]
    errors = sorted(path.read_text() for path in tmp_path.rglob("errors"))
    assert [line.partition(":")[0] for line in errors] == ["", "ledger"]
    assert "Nothing is wrong" in errors[1]
    assert [row["number"] for row in restored.rows("SELECT number FROM ledger.former_origin")] == [
        1
    ]


def test_a_loss_that_no_service_has_seen_yet_can_be_adopted(full: Ledger, folder: Path) -> None:
    go_back_to_501(full.conninfo)
    assert adopt_log(full.conninfo, folder).kept_size == 501


def test_a_database_that_has_lost_an_adoption_is_not_signed(restored: Ledger, folder: Path) -> None:
    """The present origin is forgotten, and a node has seen a checkpoint of it."""
    signer = restored.rows("SELECT vkey, secret FROM ledger.signer")[0]
    checkpoints = restored.rows("SELECT size, position, note, number FROM ledger.checkpoint")
    adopt_log(restored.conninfo, folder)
    vandalize(
        restored.conninfo,
        "TRUNCATE ledger.checkpoint, ledger.former_origin, ledger.former_checkpoint",
    )
    with psycopg.connect(restored.conninfo) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(
            "UPDATE ledger.signer SET origin = 1, vkey = %(vkey)s, secret = %(secret)s", signer
        )
        for row in checkpoints:
            connection.execute(
                "INSERT INTO ledger.checkpoint VALUES (%(size)s, %(position)s, %(note)s,"
                " %(number)s)",
                row,
            )
    assert seal(restored.conninfo, folder) == 0
    assert "origin 2 was begun" in (stop_reason(restored.conninfo) or "")
    assert adopt_log(restored.conninfo, folder).origin.endswith("/3")


def test_the_database_refuses_a_checkpoint_that_could_contradict_another(
    full: Ledger, folder: Path
) -> None:
    """Such as one that a process of the previous version has not finished."""
    old = newest(full)
    insert = "INSERT INTO ledger.checkpoint VALUES (%s, %s, %s, %s)"
    with psycopg.connect(full.conninfo, autocommit=True) as connection:
        with pytest.raises(errors.RaiseException, match="of a greater one"):
            connection.execute(insert, (600, 600, old, 4))
        with pytest.raises(errors.RaiseException, match="not of the present origin"):
            connection.execute(insert, (700, 700, old.replace("\n", "/2\n", 1), 4))
        vandalize(
            full.conninfo,
            "UPDATE ledger.signer SET contradicts = true, stopped_at = now(), error = 'x'",
        )
        with pytest.raises(errors.RaiseException, match="contradicts"):
            connection.execute(insert, (700, 700, old, 4))


class Thawing(WitnessWatch):
    """A node that is frozen after its check, while something happens."""

    def happen(self) -> None:
        raise NotImplementedError

    def inspect(self, connection: shelf.Connection, leads: bool) -> Inspection:
        inspection = super().inspect(connection, leads)
        self.happen()
        return inspection


def test_a_frozen_sealer_that_thaws_inserts_nothing_over_a_newer_origin(
    full: Ledger, folder: Path
) -> None:
    class Adopting(Thawing):
        def happen(self) -> None:
            vandalize(full.conninfo, "UPDATE ledger.signer SET waits_for = 'a node'")
            adopt_log(full.conninfo, folder)

    full.line()
    node = watch_of(folder)
    sealer = sealer_of(full.conninfo, folder, watch=Adopting(node.node_id, folder, timeout=0.0))
    assert sealer.run_once() == 0
    sealer.disconnect()
    assert [note.split("\n")[0][-2:] for note in notes(full)] == ["/2"]
    full.line()
    assert seal(full.conninfo, folder) == 1
    assert checked(full.conninfo, folder)[1] == []


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM ledger.ledger_events WHERE notification_id = (SELECT max(notification_id)"
        " FROM ledger.ledger_events)",
        "UPDATE ledger.signer SET contradicts = true, stopped_at = now(), error = 'x'",
    ],
)
def test_a_frozen_sealer_that_thaws_signs_nothing_over_a_changed_log(
    full: Ledger, folder: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full.line()
    sealer = sealer_of(full.conninfo, folder)
    sign, before = Signer.sign, checkpoint_outside(folder).read_text()

    def freeze(signer: Signer, checkpoint: Checkpoint) -> str:
        vandalize(full.conninfo, change)
        return sign(signer, checkpoint)

    monkeypatch.setattr(Signer, "sign", freeze)
    assert sealer.run_once() == 0
    sealer.disconnect()
    assert checkpoint_outside(folder).read_text() == before
    assert full.rows("SELECT max(size) AS size FROM ledger.checkpoint") == [{"size": 601}]


def test_services_notice_an_adoption_by_themselves(restored: Ledger, folder: Path) -> None:
    with Node(restored.conninfo, folder, timeout=0.0) as node:
        restored.line()
        assert node.seal() == 0
        adopt_log(restored.conninfo, folder)
        assert node.seal() == 0
        report(restored, restored.line("capacity"), 3)
        assert node.seal() == 4


def test_the_old_key_is_forgotten(restored: Ledger, folder: Path) -> None:
    with psycopg.connect(restored.conninfo, row_factory=tuple_row) as connection:
        old = shelf.signer_of(connection, VAULT)
    adopt_log(restored.conninfo, folder)
    with psycopg.connect(restored.conninfo, row_factory=tuple_row) as connection:
        new = shelf.signer_of(connection, VAULT)
    assert new.name == f"{old.name}/2"
    assert new.secret != old.secret
    note = new.sign(Checkpoint(1, bytes(32)), "after x")
    assert verifier.named_before(note) == "after x"
