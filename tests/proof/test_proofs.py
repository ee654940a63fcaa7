"""Proofs over HTTP (contract, Proof), checked by an outsider with the verifier of docs/proof.md."""

import base64
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger.engine.values.principal import EVERYONE
from ledger.features.proof import routes as proofs
from tests.support.edge import Edge, assert_problem
from tests.support.facts import fact
from tests.support.reader import become_reader
from tests.support.sealing import seal, vandalize
from tests.support.verifier import verifier

OTHER = "ORG-26-000077"


class Auditor:
    """An outsider with a token, who checks the answers with the verifier alone."""

    def __init__(self, edge: Edge, token: str | None = None) -> None:
        self._edge, self._token = edge, token
        self.key = self.get("key").text

    def get(self, path: str) -> Any:
        answer = self._edge.get(f"/v1/log/{path}", self._token)
        assert answer.status_code == 200, answer.text
        return answer

    def checkpoint(self) -> tuple[int, bytes]:
        opened: tuple[int, bytes] = verifier.open_checkpoint(self.get("checkpoint").text, self.key)
        return opened

    def is_proven(self, position: int, size: int, root: bytes) -> bool:
        leaf = self.get(f"entries/{position}").content
        proof = self.get(f"proof/inclusion?position={position}&size={size}").json()
        assert set(proof) == {"leaf_index", "leaf_hash", "tree_size", "hashes"}
        assert proof["tree_size"] == size
        assert base64.b64decode(proof["leaf_hash"]) == verifier.root_with_leaf(leaf, 0, 1, [])
        hashes = [base64.b64decode(text) for text in proof["hashes"]]
        return bool(verifier.root_with_leaf(leaf, proof["leaf_index"], size, hashes) == root)

    def is_consistent(self, before: tuple[int, bytes], after: tuple[int, bytes]) -> bool:
        proof = self.get(f"proof/consistency?from={before[0]}&to={after[0]}").json()
        assert (proof["from"], proof["to"]) == (before[0], after[0])
        hashes = [base64.b64decode(text) for text in proof["hashes"]]
        return bool(verifier.root_after(*before, after[0], hashes) == after[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("witness")


@pytest.fixture(scope="module")
def line(edge: Edge, folder: Path) -> str:
    """A line with a history, sealed up to its end."""
    line = edge.fresh("capacity")
    for number in range(40):
        edge.accept(fact("execution.checked_in", line, {"hours": number}))
    seal(edge.conninfo, folder)
    return line


@pytest.fixture
def auditor(edge: Edge, line: str) -> Auditor:
    return Auditor(edge)


def test_a_lines_whole_history_is_proven_offline(edge: Edge, line: str, auditor: Auditor) -> None:
    size, root = auditor.checkpoint()
    history = edge.data(f"/v1/execution/{line}/history?limit=100")
    assert len(history) == 41
    for event in history:
        assert auditor.is_proven(event["position"], size, root)
        leaf = auditor.get(f"entries/{event['position']}").json()
        assert (leaf["v"], leaf["position"], leaf["stream"]) == (2, event["position"], line)
        shared = ("occurred_at", "recorded_at", "actor", "reported_by")
        assert [leaf[name] for name in shared] == [event[name] for name in shared]
        assert list(leaf) == [
            "v", "position", "stream", "version", "type", "occurred_at", "recorded_at", "actor",
            "reported_by", "stored_sha256", "nonce",
        ]  # fmt: skip
        assert len(base64.b64decode(leaf["nonce"])) == 16


def test_consistency_proofs_show_that_the_log_only_grew(
    edge: Edge, line: str, folder: Path, auditor: Auditor
) -> None:
    before = auditor.checkpoint()
    for _ in range(3):
        edge.accept(fact("execution.checked_in", line, {"hours": 1}))
        seal(edge.conninfo, folder)
    after = auditor.checkpoint()
    assert after[0] >= before[0] + 3
    assert auditor.is_consistent(before, after)
    assert auditor.is_consistent(after, after)
    assert not auditor.is_consistent((before[0], bytes(32)), after)
    assert auditor.get(f"proof/consistency?from=0&to={after[0]}").json()["hashes"] == []


def test_each_answer_says_how_far_the_log_is_sealed(edge: Edge, line: str) -> None:
    (sealed,) = edge.select("SELECT max(position), max(size) FROM ledger.checkpoint")
    position = edge.data(f"/v1/execution/{line}/history")[0]["position"]
    for path, media in (
        ("checkpoint", "text/plain; charset=utf-8"),
        ("key", "text/plain; charset=utf-8"),
        (f"entries/{position}", "application/octet-stream"),
        (f"proof/inclusion?position={position}", "application/json"),
        ("proof/consistency?from=1&to=2", "application/json"),
    ):
        answer = edge.get(f"/v1/log/{path}")
        assert answer.headers["content-type"] == media
        assert int(answer.headers["ledger-position"]) == sealed[0]


def test_no_leaves_are_counted_for_an_event_that_is_not_sealed(
    edge: Edge, line: str, folder: Path
) -> None:
    """The statement counts leaves only within a sealed tile, however far sealing lags."""
    seal(edge.conninfo, folder)
    for _ in range(3):
        edge.accept(fact("execution.checked_in", line, {"hours": 1}))
    (head,) = edge.select("SELECT max(notification_id) FROM ledger.ledger_events")
    statement = proofs._ENTRY.replace("%(at)s", str(head[0]))
    with psycopg.connect(edge.conninfo, autocommit=True) as connection:
        become_reader(connection, edge.conninfo, EVERYONE)
        query = f"SELECT json_agg(e) FROM ({statement}) AS e"
        ((row,),) = connection.execute(query.encode()).fetchall()
    assert row[0]["leaf_index"] is None
    seal(edge.conninfo, folder)


def test_leaves_and_proofs_beyond_the_sealed_log_are_503_behind(
    edge: Edge, line: str, folder: Path
) -> None:
    (item,) = edge.accept(fact("execution.checked_in", line, {"hours": 1}))
    (sizes,) = edge.select("SELECT max(size) FROM ledger.checkpoint")
    position, size = item["position"], sizes[0]
    for path in (
        f"entries/{position}",
        f"proof/inclusion?position={position}",
        f"proof/inclusion?position=1&size={size + 1}",
        f"proof/consistency?from=1&to={size + 1}",
    ):
        answer = edge.get(f"/v1/log/{path}")
        assert_problem(answer, 503, "behind")
        assert answer.headers["retry-after"]
    waiting = {"Ledger-Min-Position": str(position)}
    assert_problem(edge.get("/v1/log/checkpoint", headers=waiting), 503, "behind")
    seal(edge.conninfo, folder)
    answer = edge.get("/v1/log/checkpoint", headers=waiting)
    assert int(answer.headers["ledger-position"]) >= position
    assert edge.get(f"/v1/log/entries/{position}").status_code == 200


def test_a_credential_that_does_not_see_an_event_gets_neither_its_leaf_nor_its_proof(
    edge: Edge, line: str, folder: Path
) -> None:
    position = edge.data(f"/v1/execution/{line}/history")[0]["position"]
    stranger = edge.token("read", organization_id=OTHER)
    narrow = edge.token("read", workspace_id="WS-26-000099")
    admin = edge.token("admin", organization_id=None)
    seal(edge.conninfo, folder)
    for token in (stranger, narrow):
        for path in (f"entries/{position}", f"proof/inclusion?position={position}"):
            assert_problem(edge.get(f"/v1/log/{path}", token), 404, "not_found")
        for path in ("checkpoint", "key", "proof/consistency?from=1&to=2"):
            assert edge.get(f"/v1/log/{path}", token).status_code == 200
    for token in (admin, edge.token("audit:read"), edge.token("read", workspace_id="WS-26-000001")):
        assert edge.get(f"/v1/log/entries/{position}", token).status_code == 200


def test_leaves_of_unpublished_events_are_for_auditors_only(
    edge: Edge, line: str, folder: Path
) -> None:
    reader = edge.token("read", organization_id=OTHER)
    auditor = edge.token("audit:read", organization_id=OTHER)
    narrow = edge.token("audit:read", organization_id=OTHER, workspace_id="WS-26-000001")
    seal(edge.conninfo, folder)
    # The creation of a key belongs to the organization, and to no workspace.
    own, *_ = edge.select(
        "SELECT notification_id FROM ledger.ledger_events AS e JOIN ledger.api_key AS k"
        f" ON k.key_id = e.originator_id WHERE k.organization_id = '{OTHER}'"
    )
    leaf = edge.get(f"/v1/log/entries/{own[0]}", auditor)
    assert leaf.status_code == 200
    assert leaf.json()["stream"].startswith("KEY-")
    for token in (reader, narrow, edge.token("audit:read")):
        assert_problem(edge.get(f"/v1/log/entries/{own[0]}", token), 404, "not_found")


def test_leaves_and_inclusion_proofs_need_a_permission_to_read(edge: Edge, line: str) -> None:
    token = edge.token("write")
    assert_problem(edge.get("/v1/log/entries/1", token), 403, "forbidden")
    assert_problem(edge.get("/v1/log/proof/inclusion?position=1", token), 403, "forbidden")
    assert edge.get("/v1/log/checkpoint", token).status_code == 200
    assert_problem(edge.get("/v1/log/checkpoint", "nobody"), 401, "unauthorized")


@pytest.mark.parametrize("position", ["0", "01", "-1", "+1", "1.0", "x", "9" * 19, "9" * 5000])
def test_a_malformed_position_is_a_404(edge: Edge, line: str, position: str) -> None:
    assert_problem(edge.get(f"/v1/log/entries/{position}"), 404, "not_found")


@pytest.mark.parametrize(
    "path",
    [
        "proof/inclusion", "proof/inclusion?position=0", "proof/inclusion?position=1.0",
        "proof/inclusion?position=x", "proof/inclusion?position=2&size=1",
        "proof/inclusion?position=1&size=0", "proof/inclusion?position=99999999999999999999",
        "proof/inclusion?position=1&other=1", "proof/consistency", "proof/consistency?from=1",
        "proof/consistency?from=2&to=1", "proof/consistency?from=-1&to=1",
        "proof/consistency?from=1&to=1&to=2", "checkpoint?size=1", "key?x=", "entries/1?x=1",
    ],
)  # fmt: skip
def test_wrong_parameters_are_a_422(edge: Edge, line: str, path: str) -> None:
    admin = edge.token("admin", organization_id=None)
    assert_problem(edge.get(f"/v1/log/{path}", admin), 422, "invalid_request")


def test_before_anything_is_sealed_there_is_a_key_and_no_checkpoint(
    edge: Edge, line: str, folder: Path
) -> None:
    checkpoints = edge.select("SELECT size, position, note, number FROM ledger.checkpoint")
    vandalize(edge.conninfo, "TRUNCATE ledger.checkpoint")
    try:
        assert_problem(edge.get("/v1/log/checkpoint"), 503, "behind")
        assert edge.get("/v1/log/key").status_code == 200
        assert_problem(edge.get("/v1/log/proof/consistency?from=1&to=2"), 503, "behind")
        assert edge.get("/readyz").json()["sealing"]["position"] == 0
    finally:
        for size, position, note, number in checkpoints:
            vandalize(
                edge.conninfo,
                f"INSERT INTO ledger.checkpoint VALUES ({size}, {position}, '{note}', {number})",
            )


def test_readyz_and_metrics_show_how_far_sealing_is_and_whether_it_has_stopped(
    edge: Edge, line: str, folder: Path
) -> None:
    seal(edge.conninfo, folder)
    (last,) = edge.select("SELECT max(position) FROM ledger.checkpoint")
    ready = edge.get("/readyz").json()
    assert ready["status"] == "ok"
    assert ready["sealing"] == {"position": last[0], "lag": 0, "stopped": False}
    assert f"ledger_sealed_position {float(last[0])}" in edge.get("/metrics").text
    metrics = edge.get("/metrics").text
    assert "ledger_sealing_stopped 0.0" in metrics
    assert "ledger_verify_differences 0.0" in metrics
    vandalize(edge.conninfo, "UPDATE ledger.signer SET stopped_at = now(), error = 'forked'")
    edge.accept(fact("execution.checked_in", line, {"hours": 1}))
    try:
        answer = edge.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert answer.json()["sealing"]["stopped"] is True
        assert answer.json()["sealing"]["lag"] > 0
        assert "ledger_sealing_stopped 1.0" in edge.get("/metrics").text
        assert "forked" not in answer.text
    finally:
        seal(edge.conninfo, folder)
    assert edge.get("/readyz").json()["status"] == "ok", "sealing goes on when the log fits again"
