"""A proof in one file, checked by the verifier, by openssl and by RFC 6962 (contract, Proof).

The outsider has the file and, for the tree's definition, all leaves.
"""

import base64
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ledger.features.proof import routes as proofs
from ledger.features.proof.sealing.note import Checkpoint, Signer
from tests.support.edge import Edge, assert_problem
from tests.support.facts import WORKSPACE, fact
from tests.support.sealing import seal
from tests.support.verifier import PATH
from tests.support.visitor import Visitor

EVENTS = 9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("witness")


@pytest.fixture(scope="module")
def line(edge: Edge, folder: Path) -> str:
    line = edge.fresh("capacity")
    for number in range(EVENTS):
        trace = f"00-{number + 1:032x}-{number + 1:016x}-01" if number == 4 else None
        event = fact("execution.checked_in", line, {"hours": number}, traceparent=trace)
        edge.accept(event)
    seal(edge.conninfo, folder)
    return line


@pytest.fixture
def event(edge: Edge, line: str) -> dict[str, Any]:
    """An event from the middle of the line's history."""
    found: dict[str, Any] = edge.data(f"/v1/execution/{line}/history")[4]
    return found


@pytest.fixture
def proof(edge: Edge, event: dict[str, Any]) -> dict[str, Any]:
    answer = edge.get(f"/v1/log/proof?position={event['position']}")
    assert answer.status_code == 200, answer.text
    members: dict[str, Any] = answer.json()
    return members


def check(folder: Path, proof: Any, key: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the verifier as an auditor runs it, in a folder that has nothing but the files."""
    (folder / "proof.json").write_text(proof if isinstance(proof, str) else json.dumps(proof))
    files = ["proof.json"]
    if key is not None:
        (folder / "log.key").write_text(key)
        files.append("log.key")
    return subprocess.run(
        [sys.executable, "-I", PATH, "proof", *files],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_one_file_proves_an_event_offline_by_one_command(
    edge: Edge, event: dict[str, Any], proof: dict[str, Any], tmp_path: Path
) -> None:
    assert list(proof) == [
        "leaf", "stored", "leaf_index", "tree_size", "hashes", "checkpoint", "key",
    ]  # fmt: skip
    key = edge.get("/v1/log/key").text
    done = check(tmp_path, proof, key)
    assert (done.returncode, done.stderr) == (0, "")
    leaf, content, printed_key, verdict = done.stdout.splitlines()
    assert verdict == "proved"
    assert printed_key == f"key: {key.strip()}"
    assert json.loads(leaf)["position"] == event["position"]
    assert json.loads(leaf)["stream"] == event["service_line_id"]
    assert content == f'content: {{"hours": {event["payload"]["hours"]:.1f}}}'
    assert check(tmp_path, proof).stdout == done.stdout, "without a kept key it is printed alone"


def test_the_page_downloads_the_same_file(
    edge: Edge, event: dict[str, Any], proof: dict[str, Any], tmp_path: Path
) -> None:
    guest = Visitor(edge, edge.token("read"))
    page = guest.get(f"/ui/events/{event['id']}")
    (link,) = [a for a in page.all("#seal a") if a.get_text() == "Download proof"]
    answer = guest.get(str(link["href"])).answer
    assert answer.status_code == 200
    assert answer.json() == proof
    name = f"{event['id']}.proof.json"
    assert link["download"] == name
    assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert page.words("#seal h2") == ["Sealed"]
    texts = page.words("#seal dd")
    size, index = proof["tree_size"], proof["leaf_index"]
    assert texts[0] == f"{index} of the leaves 0 to {size - 1}"
    assert texts[1] == f"{size} events"
    assert page.all("#seal pre")[0].get_text() == proof["checkpoint"]
    (command,) = [code.get_text() for code in page.all("#seal code") if "proof" in code.get_text()]
    assert command == f"python verifier.py proof {name}"
    assert check(tmp_path, answer.text).returncode == 0


def test_the_content_of_a_traced_event_is_proved(edge: Edge, line: str, tmp_path: Path) -> None:
    history = edge.data(f"/v1/execution/{line}/history")
    (traced,) = (event for event in history if event["trace_id"] is not None)
    done = check(tmp_path, edge.get(f"/v1/log/proof?position={traced['position']}").text)
    assert (done.returncode, done.stderr) == (0, "")
    assert '"hours":4' in done.stdout.replace(" ", "")
    assert done.stdout.splitlines()[-1] == "proved"


def test_the_content_cannot_write_to_the_terminal(proof: dict[str, Any], tmp_path: Path) -> None:
    stored = b'[%s{"reason":"\\u001b[2J\xe2\x80\xae"}]' % (b"2," * 12)
    checkpoint, key, leaf = _signed(stored)
    members = proof | {"leaf": leaf, "stored": _b64(stored)}
    members |= {"leaf_index": 0, "tree_size": 1, "hashes": [], "checkpoint": checkpoint, "key": key}
    done = check(tmp_path, members)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert done.stdout.replace("\n", "").isprintable()


FORGED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "another leaf": lambda p: p | {"leaf": _b64(_leaf(p).replace(b'"v":2', b'"v":1'))},
    "another place": lambda p: p | {"leaf_index": p["leaf_index"] + 1},
    "another size": lambda p: p | {"tree_size": p["tree_size"] - 1},
    "a lost hash": lambda p: p | {"hashes": p["hashes"][1:]},
    "one hash more": lambda p: p | {"hashes": [*p["hashes"], p["hashes"][0]]},
    "another root": lambda p: p | {"checkpoint": _with_root(p["checkpoint"], bytes(32))},
    "no checkpoint": lambda p: {name: p[name] for name in p if name != "checkpoint"},
    "no place": lambda p: p | {"leaf_index": "4"},
    "a negative place": lambda p: p | {"leaf_index": -1},
    "a place with decimals": lambda p: p | {"leaf_index": float(p["leaf_index"])},
    "a size that is a bool": lambda p: p | {"tree_size": True},
    "a place of 4,001 digits": lambda p: p | {"leaf_index": 10**4000},
    "another content": lambda p: p | {"stored": _b64(_stored(p).replace(b"hours", b"Hours"))},
    "no content": lambda p: {name: p[name] for name in p if name != "stored"},
    "no content in its place": lambda p: p | {"stored": ""},
    "a null in the content's place": lambda p: p | {"stored": None},
    "other base64 of the same content": lambda p: p | {"stored": p["stored"] + "\n"},
    "two keys": lambda p: p | {"key": p["key"] * 2},
    "another key's id": lambda p: p | {"key": p["key"].replace(p["key"].split("+")[1], "0" * 8)},
    "another signature's key": lambda p: p | {"checkpoint": _signed_by(p["checkpoint"], bytes(4))},
    "two signatures": lambda p: p | {"checkpoint": p["checkpoint"] + _signature(p["checkpoint"])},
}


def _leaf(proof: dict[str, Any]) -> bytes:
    return base64.b64decode(proof["leaf"])


def _stored(proof: dict[str, Any]) -> bytes:
    return base64.b64decode(proof["stored"])


def _signature(note: str) -> str:
    return note.splitlines(keepends=True)[-1]


def _signed_by(note: str, key_id: bytes) -> str:
    """The note with its signature under another key's id."""
    *words, signature = _signature(note).split(" ")
    other = _b64(key_id + base64.b64decode(signature)[4:])
    return note.replace(_signature(note), " ".join([*words, f"{other}\n"]))


def _signed(stored: bytes) -> tuple[str, str, str]:
    """A log of one event that is stored as these bytes: its checkpoint, its key and the leaf."""
    leaf = json.dumps({"stored_sha256": hashlib.sha256(stored).hexdigest()}).encode()
    signer = Signer.create()
    checkpoint = signer.sign(Checkpoint(1, hashlib.sha256(b"\0" + leaf).digest()))
    return checkpoint, signer.vkey, _b64(leaf)


def _b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _with_root(note: str, root: bytes) -> str:
    lines = note.split("\n")
    return "\n".join([*lines[:2], _b64(root), *lines[3:]])


@pytest.mark.parametrize("forgery", FORGED)
def test_a_forged_file_is_not_proved(proof: dict[str, Any], forgery: str, tmp_path: Path) -> None:
    done = check(tmp_path, FORGED[forgery](proof))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("not proved: ")
    assert done.stderr.count("\n") == 1


def test_a_file_of_another_log_is_not_proved_with_the_stored_key(
    edge: Edge, proof: dict[str, Any], tmp_path: Path
) -> None:
    key = edge.get("/v1/log/key").text
    name, number, public = key.strip().split("+", 2)
    other = f"{name}+{number}+{_b64(base64.b64decode(public)[:-1] + bytes(1))}"
    done = check(tmp_path, proof, other)
    assert done.returncode == 1
    assert "is not the key that you keep" in done.stderr


def test_a_key_that_stands_twice_in_a_file_is_refused(
    proof: dict[str, Any], tmp_path: Path
) -> None:
    text = json.dumps(proof)
    for first in ("stored", "leaf_index", "anything"):
        done = check(tmp_path, f'{{"{first}":"","{first}":"",{text[1:]}')
        assert "an object has a key twice" in done.stderr
    assert check(tmp_path, f'{{"anything":"",{text[1:]}').returncode == 0


TEXTS = ["", "[]", "null", "{}", '{"key": 1}', "not json", '{"key": NaN}', "[" * 100_000]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_a_file_that_is_no_proof_is_not_proved(text: str, tmp_path: Path) -> None:
    done = check(tmp_path, text)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("not proved: ")


# Without the verifier, and without any code of the ledger.


def tree_hash(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, 2.1: the Merkle tree hash, by its definition."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    left, right = tree_hash(leaves[:half]), tree_hash(leaves[half:])
    return hashlib.sha256(b"\1" + left + right).digest()


def audit_path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1: the audit path, by its definition."""
    if len(leaves) == 1:
        return []
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    if index < half:
        return [*audit_path(index, leaves[:half]), tree_hash(leaves[half:])]
    return [*audit_path(index - half, leaves[half:]), tree_hash(leaves[:half])]


def test_the_file_is_what_rfc_6962_and_openssl_say(
    edge: Edge, proof: dict[str, Any], tmp_path: Path
) -> None:
    admin = edge.token("admin", organization_id=None)
    rows = edge.select("SELECT notification_id FROM ledger.ledger_events ORDER BY notification_id")
    sealed = [position for (position,) in rows][: proof["tree_size"]]
    leaves = [edge.get(f"/v1/log/entries/{position}", admin).content for position in sealed]
    assert leaves[proof["leaf_index"]] == _leaf(proof)
    path = audit_path(proof["leaf_index"], leaves)
    assert [base64.b64decode(text) for text in proof["hashes"]] == path
    text, _, signature = proof["checkpoint"].partition("\n\n")
    assert text.split("\n")[1:] == [str(len(leaves)), _b64(tree_hash(leaves))]
    # The signature: openssl checks it by the public key in the format of RFC 8410.
    public = base64.b64decode(proof["key"].strip().split("+", 2)[2])
    der = bytes.fromhex("302a300506032b6570032100") + public[1:]
    (tmp_path / "key.der").write_bytes(der)
    (tmp_path / "text").write_text(text + "\n")
    (tmp_path / "signature").write_bytes(base64.b64decode(signature.split(" ")[2])[4:])
    openssl = shutil.which("openssl")
    assert openssl is not None
    verify = [
        openssl, "pkeyutl", "-verify", "-pubin", "-inkey", "key.der", "-keyform", "DER",
        "-rawin", "-in", "text", "-sigfile", "signature",
    ]  # fmt: skip
    done = subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "Signature Verified Successfully")
    (tmp_path / "text").write_text(text + " \n")
    done = subprocess.run(verify, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0


# The content, as it is stored.


def stored_at(edge: Edge, position: int) -> bytes:
    statement = f"SELECT state FROM ledger.ledger_events WHERE notification_id = {position}"
    ((state,),) = edge.select(statement)
    return bytes(state)


def test_a_proof_has_the_very_bytes_that_are_stored(
    edge: Edge, event: dict[str, Any], proof: dict[str, Any]
) -> None:
    stored = base64.b64decode(proof["stored"])
    assert stored == stored_at(edge, event["position"])
    assert json.loads(_leaf(proof))["stored_sha256"] == hashlib.sha256(stored).hexdigest()
    array = json.loads(stored)
    assert array[:3] == [2, event["organization_id"], event["workspace_id"]]
    assert array[-1] == {"hours": event["payload"]["hours"]}


def test_an_erased_runs_payloads_stay_ciphertext_in_the_proof_of_its_events(
    edge: Edge, folder: Path, tmp_path: Path
) -> None:
    begun = {"service_line_id": edge.fresh(), "input": {"said": "CANARY"}}
    (item,) = edge.accept(fact("run.started", None, begun))
    run, path = item["subject"], f"/v1/log/proof?position={item['position']}"
    edge.accept(fact("run.completed", run, {"output": "CANARY"}))
    seal(edge.conninfo, folder)
    before = edge.get(path).json()
    assert edge.post(f"/v1/runs/{run}/erase", json={"reason": "asked"}).status_code == 200
    seal(edge.conninfo, folder)
    after = edge.get(path).json()
    assert (after["stored"], after["leaf"]) == (before["stored"], before["leaf"])
    assert after["tree_size"] > before["tree_size"]
    content = json.loads(_stored(after))[-1]
    sealed = base64.b64decode(content["input"])
    assert b"CANARY" not in sealed + _stored(after)
    page = Visitor(edge, edge.token("read")).get(f"/ui/events/{item['event_ids'][0]}")
    assert "input, output and error stay encrypted in it" in page.one("#seal").get_text()
    assert check(tmp_path, after).returncode == 0


# The readers of a proof, and the time from which there is one.


def test_a_proof_is_answered_only_to_those_who_see_the_event(
    edge: Edge, event: dict[str, Any]
) -> None:
    path = f"/v1/log/proof?position={event['position']}"
    other = edge.token("read", organization_id="ORG-26-000077")
    assert_problem(edge.get(path, other), 404, "not_found")
    assert_problem(edge.get(path, edge.token("write")), 403, "forbidden")
    assert_problem(
        edge.get(path, edge.token("read", workspace_id="WS-26-000099")), 404, "not_found"
    )
    own = edge.get(path, edge.token("read", workspace_id=WORKSPACE)).json()
    assert own["stored"] == edge.get(path, edge.token("audit:read")).json()["stored"]
    page = Visitor(edge, other).get(f"/ui/events/{event['id']}/proof")
    assert page.status == 404
    wrong_year = "EVT-25" + event["id"][6:]
    assert Visitor(edge, edge.token("read")).get(f"/ui/events/{wrong_year}/proof").status == 404


def test_events_that_only_the_audit_log_tells_of_are_proven_to_auditors(
    edge: Edge, line: str
) -> None:
    """A key's creation is the first event of the log."""
    ((position,),) = edge.select(
        "SELECT min(notification_id) FROM ledger.ledger_events WHERE originator_id LIKE 'KEY-%'"
    )
    path = f"/v1/log/proof?position={position}"
    body = edge.get(path, edge.token("audit:read")).json()
    assert body["leaf_index"] == 0
    assert _stored(body) == stored_at(edge, position)
    assert_problem(edge.get(path, edge.token("read")), 404, "not_found")


@pytest.mark.parametrize("query", ["", "position=0", "position=x", "position=1&size=1"])
def test_a_wrong_question_is_a_422(edge: Edge, line: str, query: str) -> None:
    assert_problem(edge.get(f"/v1/log/proof?{query}"), 422, "invalid_request")


def test_an_event_that_is_not_sealed_yet_has_no_proof_and_its_page_says_so(
    edge: Edge, line: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proofs, "WAIT_SECONDS", 0.0)
    (item,) = edge.accept(fact("execution.checked_in", line, {"hours": 1}))
    assert_problem(edge.get(f"/v1/log/proof?position={item['position']}"), 503, "behind")
    guest = Visitor(edge, edge.token("read"))
    path = f"/ui/events/{item['event_ids'][0]}"
    card = guest.get(path).one("#seal")
    assert "Not sealed yet" in card.get_text()
    assert card["hx-get"] == path, "the card looks again by itself"
    assert guest.get(f"{path}/proof").status == 503
    seal(edge.conninfo, folder)
    card = guest.get(path).one("#seal")
    assert "hx-get" not in card.attrs
    assert guest.get(f"{path}/proof").status == 200
