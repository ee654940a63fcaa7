"""Checkpoints are signed notes in C2SP's format, and only the log's own notes are accepted."""

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from ledger.features.proof.sealing.note import BadNote, Checkpoint, Signer, Verifier
from tests.support.verifier import verifier

SIGNER = Signer("execution-ledger/00ff", bytes(range(32)))
CHECKPOINT = Checkpoint(1234, bytes(range(100, 132)))
NOTE = SIGNER.sign(CHECKPOINT)

PREFIX_OF_ED25519 = bytes.fromhex("302a300506032b6570032100")
"""The bytes before an Ed25519 public key in DER (RFC 8410)."""


def test_a_checkpoint_has_the_format_of_a_signed_note() -> None:
    lines = NOTE.split("\n")
    assert lines[:4] == [
        "execution-ledger/00ff", "1234", base64.b64encode(CHECKPOINT.root).decode(), "",
    ]  # fmt: skip
    dash, name, signature = lines[4].split(" ")
    assert (dash, name, lines[5:]) == ("—", "execution-ledger/00ff", [""])
    assert len(base64.b64decode(signature)) == 4 + 64


def test_a_verifier_key_equals_the_formats_published_example() -> None:
    # The example of signed-note's first implementation (golang.org/x/mod/sumdb/note).
    secret = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
    vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    assert Signer("PeterNeumann", secret).vkey == vkey


def test_a_signed_note_is_read_by_the_ledger_and_by_an_independent_verifier() -> None:
    assert Verifier(SIGNER.vkey + "\n").open(NOTE) == CHECKPOINT
    assert verifier.open_checkpoint(NOTE, SIGNER.vkey) == CHECKPOINT


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_openssl_verifies_the_signature(tmp_path: Path) -> None:
    text, signature = NOTE.split("\n\n— execution-ledger/00ff ")
    key = base64.b64decode(SIGNER.vkey.split("+", 2)[2])[1:]
    (tmp_path / "text").write_text(text + "\n")
    (tmp_path / "signature").write_bytes(base64.b64decode(signature)[4:])
    (tmp_path / "key").write_bytes(PREFIX_OF_ED25519 + key)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key", "-keyform", "DER"]
    command += ["-rawin", "-in", "text", "-sigfile", "signature"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "Signature Verified Successfully" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("note", "why"),
    [
        ("", "no checkpoint"),
        (NOTE[:-1], "no checkpoint"),
        (NOTE + "\n", "no checkpoint"),
        (NOTE.replace("1234", "01234"), "no checkpoint"),
        (NOTE.replace("1234", "1235"), "does not fit"),
        (NOTE.replace("\nZ", "\na", 1), "does not fit"),
        (NOTE.replace("00ff", "00fe"), "another log"),
        (Signer("execution-ledger/00fe", SIGNER.secret).sign(CHECKPOINT), "another log"),
        (Signer(SIGNER.name, bytes(32)).sign(CHECKPOINT), "another key"),
        (NOTE[:-6] + "A" + NOTE[-5:], "does not fit"),
    ],
)
def test_a_malformed_or_foreign_note_is_refused(note: str, why: str) -> None:
    with pytest.raises(BadNote, match=why):
        Verifier(SIGNER.vkey).open(note)
    with pytest.raises(ValueError):
        verifier.open_checkpoint(note, SIGNER.vkey)


@pytest.mark.parametrize(
    "vkey",
    [
        "", "a+b", "execution-ledger/00ff+00000000+" + SIGNER.vkey[-44:],
        SIGNER.vkey.replace("00ff", "00fe"), SIGNER.vkey[:-4], SIGNER.vkey + "AAAA",
    ],
)  # fmt: skip
def test_a_malformed_verifier_key_is_refused(vkey: str) -> None:
    with pytest.raises(BadNote, match="no key"):
        Verifier(vkey)
    with pytest.raises(ValueError, match="key"):
        verifier.open_checkpoint(NOTE, vkey)


@pytest.mark.parametrize("kind", [b"\1", b"\2"])
def test_an_outsider_gets_no_key_of_another_kind_or_under_another_id(kind: bytes) -> None:
    text, signature = NOTE.rsplit(" ", 1)
    public = kind + base64.b64decode(SIGNER.vkey.split("+", 2)[2])[1:]
    rightly = hashlib.sha256(SIGNER.name.encode() + b"\n" + public).digest()[:4]
    for key_id in (rightly, bytes(4)):
        signed = base64.b64encode(key_id + base64.b64decode(signature)[4:]).decode()
        vkey = f"{SIGNER.name}+{key_id.hex()}+{base64.b64encode(public).decode()}"
        if (kind, key_id) == (b"\1", rightly):
            assert verifier.open_checkpoint(f"{text} {signed}\n", vkey) == CHECKPOINT
        else:
            with pytest.raises(ValueError, match="no Ed25519 key"):
                verifier.open_checkpoint(f"{text} {signed}\n", vkey)


def test_each_log_has_a_name_and_a_key_of_its_own() -> None:
    one, other = Signer.create(), Signer.create()
    assert one.name != other.name
    assert one.secret != other.secret
