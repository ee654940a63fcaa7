"""Several nodes on one database: each follows what is signed, one signs, and none contradicts."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

from ledger.app.composition.loops import Sealing
from ledger.app.settings import Settings
from ledger.engine.log import nodes
from ledger.engine.log.nodes import node_id_in
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.embedded.programs import find_programs
from ledger.features.proof.sealing import shelf
from ledger.features.proof.sealing.note import parse
from ledger.features.proof.sealing.peers import NO_WITNESS
from tests.proof.conftest import report
from tests.proof.test_sealer import BACK_TO_501, go_back_to_501, rewrite_past
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import empty
from tests.support.edge import edge_of
from tests.support.ledger import Ledger
from tests.support.sealing import (
    Node,
    adopt_log,
    checked,
    keep_witness,
    seal,
    shown_size,
    stop_reason,
    vandalize,
)
from tests.support.views import until


def size_of(node: Node) -> int:
    """The size of a node's witness; 0 without one."""
    files = list(node.folder.glob("*.checkpoint"))
    return max((parse(file.read_text()).checkpoint.size for file in files), default=0)


def test_a_node_that_has_waited_signs_at_once_and_shows_what_it_signs_while_it_is_alone(
    full: Ledger, a: Node
) -> None:
    full.line()
    a.beat()
    assert a.seal() == 1
    assert shown_size(full) == 602


def test_a_new_node_stores_the_newest_checkpoint_once_a_node_with_a_witness_has_beaten(
    full: Ledger, a: Node, b: Node
) -> None:
    b.beat()
    assert size_of(b) == 0
    a.beat()
    b.join()
    assert size_of(b) == 601


def test_a_leader_that_cannot_read_its_own_witness_leaves_signing_to_another_node(
    full: Ledger, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "b" / "sealed"
    with Node(full.conninfo, folder, 0.0) as a, Node(full.conninfo, other, 0.0) as b:
        for node in (b, a, b):
            node.beat()
        assert a.seal() == 0
        (file,) = a.folder.glob("*.checkpoint")
        file.unlink()
        file.mkdir()
        full.line()
        assert a.seal() == 0
        assert b.seal() == 1
        assert stop_reason(full.conninfo) is None


def test_a_report_from_before_a_new_nodes_start_does_not_count(
    full: Ledger, a: Node, tmp_path: Path
) -> None:
    a.beat()
    with Node(full.conninfo, tmp_path / "late" / "sealed") as late:
        late.beat()
        assert size_of(late) == 0
        a.beat()
        late.beat()
        assert size_of(late) == 601


def test_a_witness_is_never_replaced_by_an_older_checkpoint(
    full: Ledger, a: Node, folder: Path
) -> None:
    """The database was put back, and lost nothing but its newest checkpoint."""
    older = full.rows("SELECT note FROM ledger.checkpoint WHERE size = 501")[0]["note"]
    with psycopg.connect(full.conninfo, row_factory=tuple_row) as connection:
        verifier = shelf.verifier_of(connection)
    a.watch.store(verifier, older)
    assert size_of(a) == 601


def test_a_checkpoint_is_shown_once_a_second_node_has_reported_it(
    full: Ledger, a: Node, b: Node
) -> None:
    a.beat()
    b.join()
    full.line()
    assert a.seal() == 1
    assert shown_size(full) == 601
    assert a.seal() == 0
    assert shown_size(full) == 601, "nobody else has seen the newest one"
    b.beat()
    assert a.seal() == 0
    assert shown_size(full) == 602


def test_a_node_whose_data_directory_was_copied_does_not_take_itself_for_alone(
    full: Ledger, a: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both processes beat as one node, so nobody knows which of them has seen a checkpoint."""
    copy = tmp_path / "copy"
    shutil.copytree(a.folder, copy)
    with Node(full.conninfo, copy, node_id=a.watch.node_id) as twin:
        for _ in range(4):
            a.beat()
            twin.beat()
        full.line()
        assert a.seal() == 1
        assert shown_size(full) == 601
    assert caplog.text.count("another process beats as this node") == 2, "each of them says so"


def test_a_beat_whose_acknowledgement_was_lost_is_no_other_process(full: Ledger, a: Node) -> None:
    a.beat()
    full.rows("UPDATE ledger.node SET beaten_at = clock_timestamp() RETURNING 1")
    a.beat()
    full.line()
    assert a.seal() == 1
    assert shown_size(full) == 602


def test_no_answer_tells_a_checkpoint_that_is_not_shown_yet(full: Ledger, a: Node, b: Node) -> None:
    a.beat()
    b.join()
    full.line()
    a.seal()
    with edge_of(Settings(master_key=MASTER_KEY), full.conninfo) as edge:
        assert parse(edge.get("/v1/log/checkpoint").text).checkpoint.size == 601
        sealing = edge.get("/readyz").json()["sealing"]
        assert sealing["position"] == 601
        assert sealing["lag"] >= 1
        assert edge.get("/v1/log/proof/consistency?from=1&to=602").json()["code"] == "behind"


def test_a_node_without_a_witness_waits_for_one_that_has(
    full: Ledger, a: Node, b: Node, tmp_path: Path
) -> None:
    with Node(full.conninfo, tmp_path / "c" / "sealed", timeout=0.0) as c:
        full.line()
        c.beat()
        assert c.seal() == 0
        (row,) = full.rows("SELECT stopped_at, waits_for FROM ledger.signer")
        assert row == {"stopped_at": None, "waits_for": NO_WITNESS}
        with edge_of(Settings(master_key=MASTER_KEY), full.conninfo) as edge:
            ready = edge.get("/readyz").json()
            assert (ready["status"], ready["sealing"]["stopped"]) == ("degraded", False)
            assert (ready["sealing"]["waits"], ready["sealing"]["why"][:9]) == (True, "no living")
            assert "ledger_sealing_stopped 0.0" in edge.get("/metrics").text
        a.beat()
        assert c.seal() > 0, "the witness comes first, then the new events"
        assert full.rows("SELECT waits_for FROM ledger.signer") == [{"waits_for": None}]


def test_an_operator_ends_the_wait_for_a_witness(
    full: Ledger, folder: Path, tmp_path: Path
) -> None:
    lone = tmp_path / "lone" / "sealed"
    assert seal(full.conninfo, lone) == 0
    adopted = adopt_log(full.conninfo, lone)
    assert adopted.kept_size == 601
    full.line()
    assert seal(full.conninfo, lone) == 1
    assert checked(full.conninfo, lone)[1] == []


def test_a_report_of_a_living_node_stops_a_leader_that_has_not_seen_the_loss(
    full: Ledger, a: Node, b: Node, tmp_path: Path
) -> None:
    go_back_to_501(full.conninfo)
    old = tmp_path / "old" / "sealed"
    keep_witness(full.conninfo, old)
    with Node(full.conninfo, old) as c:
        a.beat()
        report(full, full.line("capacity"), 200)
        c.beat()
        assert c.seal() == 0
    assert f"events are not those sealed (node {a.watch.node_id})" in (
        stop_reason(full.conninfo) or ""
    )
    assert full.rows("SELECT max(size) AS size FROM ledger.checkpoint") == [{"size": 501}]


def test_a_witness_far_ahead_is_compared_with_as_many_events_as_it_covers(
    full: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.features.proof.sealing.growth.AT_ONCE", 7)
    vandalize(
        full.conninfo,
        *(statement for statement in BACK_TO_501 if "ledger_events" not in statement),
    )
    assert seal(full.conninfo, folder) >= 100
    assert stop_reason(full.conninfo) is None
    assert checked(full.conninfo, folder)[1] == []


def test_a_follower_refuses_a_newer_checkpoint_that_does_not_continue_its_own(
    full: Ledger, folder: Path, a: Node
) -> None:
    witness = size_of(a)
    rewrite_past(full, folder)
    full.line()
    elsewhere = folder.with_name("elsewhere")
    assert seal(full.conninfo, elsewhere) == 1
    assert stop_reason(full.conninfo) is None
    a.beat()
    assert size_of(a) == witness
    assert "begins with other events than were sealed" in (stop_reason(full.conninfo) or "")
    full.line()
    assert seal(full.conninfo, elsewhere) == 0


def test_a_damaged_tile_is_no_contradiction_to_a_follower(full: Ledger, a: Node) -> None:
    a.beat()
    full.line()
    a.seal()
    vandalize(full.conninfo, "UPDATE ledger.tile SET hashes = set_byte(hashes, 5, 1)")
    (file,) = a.folder.glob("*.checkpoint")
    file.write_text(full.rows("SELECT note FROM ledger.checkpoint WHERE size = 501")[0]["note"])
    a.beat()
    assert size_of(a) == 501
    assert stop_reason(full.conninfo) is None


def test_a_stop_holds_for_all_nodes_although_the_log_fits_again(
    full: Ledger, a: Node, folder: Path
) -> None:
    removed = full.rows("SELECT * FROM ledger.ledger_events ORDER BY notification_id DESC LIMIT 1")
    vandalize(full.conninfo, "DELETE FROM ledger.ledger_events WHERE notification_id = 601")
    a.beat()
    assert a.seal() == 0
    assert stop_reason(full.conninfo) is not None
    with psycopg.connect(full.conninfo, autocommit=True) as connection:
        names = ", ".join(removed[0])
        values = ", ".join(f"%({name})s" for name in removed[0])
        connection.execute(
            f"INSERT INTO ledger.ledger_events ({names}) VALUES ({values})".encode(), removed[0]
        )
    full.line()
    assert a.seal() == 0
    assert stop_reason(full.conninfo) is not None


def test_a_beat_reports_also_while_sealing_is_stopped(full: Ledger, a: Node) -> None:
    vandalize(
        full.conninfo,
        "UPDATE ledger.signer SET contradicts = true, stopped_at = now(), error = 'x'",
    )
    a.beat()
    (row,) = full.rows("SELECT node_id, role, witness FROM ledger.node")
    assert (row["node_id"], row["role"]) == (a.watch.node_id, "all")
    assert parse(row["witness"]).checkpoint.size == 601


def test_a_witness_that_cannot_be_read_is_not_reported_and_the_node_still_beats(
    full: Ledger, a: Node
) -> None:
    (file,) = a.folder.glob("*.checkpoint")
    file.unlink()
    file.mkdir()
    a.beat()
    assert full.rows("SELECT witness FROM ledger.node") == [{"witness": None}]


def test_a_beat_does_not_wait_for_a_standby(
    full: Ledger, a: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that lives must not fall silent while a synchronous standby is away."""
    found, beat = list[object](), nodes.beat

    def inspect(connection: psycopg.Connection[tuple[object, ...]], *arguments: Any) -> Any:
        found.append(connection.execute("SHOW synchronous_commit").fetchone())
        return beat(connection, *arguments)

    monkeypatch.setattr(nodes, "beat", inspect)
    a.beat()
    assert found == [("local",)]


def test_a_node_that_has_not_beaten_for_a_week_is_forgotten(full: Ledger, a: Node, b: Node) -> None:
    b.beat()
    a.beat()
    vandalize(
        full.conninfo,
        f"UPDATE ledger.node SET beaten_at = beaten_at - interval '169 hours'"
        f" WHERE node_id = '{b.watch.node_id}'",
    )
    a.beat()
    assert full.rows("SELECT node_id FROM ledger.node") == [{"node_id": a.watch.node_id}]


def test_a_node_whose_acknowledged_beat_is_gone_waits_for_reports(
    full: Ledger, a: Node, tmp_path: Path
) -> None:
    """A backup was restored into the same server: neither timeline nor cluster shows it."""
    a.beat()
    before = full.rows("SELECT beaten_at FROM ledger.node")[0]["beaten_at"]
    a.beat()
    full.line()
    vandalize(full.conninfo, f"UPDATE ledger.node SET beaten_at = '{before.isoformat()}'")
    assert a.seal() == 0
    assert full.rows("SELECT max(size) AS size FROM ledger.checkpoint") == [{"size": 601}]


def test_a_node_that_starts_on_a_restored_dump_waits_for_reports(
    full: Ledger, a: Node, folder: Path, tmp_path: Path, server: EmbeddedPostgres
) -> None:
    """All nodes were stopped meanwhile, so no node misses a beat of its own."""
    a.beat()
    full.line()
    programs, file = find_programs(None) / "bin", str(tmp_path / "dump")
    subprocess.run([programs / "pg_dump", "-Fc", "-f", file, full.conninfo], check=True)
    with Node(full.conninfo, folder) as again:
        assert again.seal() == 1, "the same database as before"
    with empty(server.url, f"restored_{conninfo_to_dict(full.conninfo)['dbname']}") as restored:
        into = f"--dbname={restored}"
        subprocess.run([programs / "pg_restore", "--exit-on-error", into, file], check=True)
        with Node(restored, folder) as node:
            assert node.seal() == 0


@pytest.mark.parametrize(("role", "sealed"), [("api", 0), ("loops", 1), ("all", 1)])
def test_a_node_of_each_role_beats_and_one_of_role_api_never_leads(
    ledger: Ledger, tmp_path: Path, role: str, sealed: int
) -> None:
    ledger.line()
    settings = Settings(master_key=MASTER_KEY, data_dir=tmp_path / "own", verify_at="")
    sealing = Sealing(settings, ledger.conninfo, role=role)
    sealing.start()
    try:
        beats = "SELECT beaten_at FROM ledger.node WHERE role = %s"
        until(lambda: ledger.rows(beats, role), "a beat")
        first = ledger.rows(beats, role)
        until(lambda: ledger.rows(beats, role) != first, "another beat")
        count = "SELECT count(*) AS count FROM ledger.checkpoint"
        until(lambda: ledger.rows(count) == [{"count": sealed}], "a checkpoint, or none")
    finally:
        sealing.stop()
    assert ledger.rows(count) == [{"count": sealed}]


def test_the_id_of_a_node_is_made_once(tmp_path: Path) -> None:
    first = node_id_in(tmp_path / "data")
    assert node_id_in(tmp_path / "data") == first
    assert node_id_in(tmp_path / "other") != first
