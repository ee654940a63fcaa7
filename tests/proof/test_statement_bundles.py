"""The bundle of a statement, checked by the verifier of docs/proof.md (contract, Proof).

The bundles are composed here from the sealing of the ledger, and so are those of a dishonest log,
which has sealed something else than its document says.
"""

import base64
import codecs
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ledger.engine.log.codec import StoredArray
from ledger.features.proof.sealing.leaf import leaf_of
from ledger.features.proof.sealing.note import Checkpoint, Signer
from ledger.features.proof.sealing.tiles import GrowingTree, root_of
from ledger.features.proof.sealing.tree import hash_leaf, inclusion
from tests.support.verifier import PATH, verifier
from tests.whole.golden.samples import FIRST

ISSUED, STATEMENT = "statement.issued/1", "STM-26-000001"
SIGNER = Signer("execution-ledger/00ff", bytes(range(32)))
FORMER = Signer("execution-ledger/00fe", bytes(32))
KEYS = f"{SIGNER.vkey}\n{FORMER.vkey}\n"

REPEATED: dict[str, Any] = {
    "organization_id": "ORG-26-000001",
    "workspace_id": None,
    "from": "2026-11-01T00:00:00Z",
    "to": "2026-12-01T00:00:00Z",
    "time_zone": "Europe/Berlin",
    "as_of": "2026-12-01T08:00:00.000005Z",
    "position": 1,
    "note": "November – “as agreed”",
    "reference": None,
    "replaces": "STM-26-000000",
}
TOTAL = {"lines": 14, "hours": 1203.25, "runs": {"completed": 7, "failed": 1}, "tokens_used": 184}
DOCUMENT = REPEATED | {"total": TOTAL, "rows": [], "by_resource": None}


def written(value: Any) -> bytes:
    return msgspec.json.encode(value)


def stored_as(content: bytes) -> bytes:
    envelope: StoredArray[msgspec.Raw] = StoredArray(
        2, "ORG-26-000001", None, None, 1_780_000_000_000_000, 1_780_000_000_000_005,
        ("user", "USR-26-000044"), "KEY-26-000002", None, "req-1", None, bytes(range(16)),
        msgspec.Raw(content),
    )  # fmt: skip
    return written(envelope)


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def sha(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def sealed(stored: bytes, topic: str = ISSUED, index: int = 4, signer: Signer = SIGNER) -> Any:
    """The members of a bundle that prove a stored event, the fifth leaf of seven."""
    leaf = leaf_of(STATEMENT, 1, topic, stored, 17)
    tree = GrowingTree(0, {})
    for number in range(7):
        tree.add(hash_leaf(leaf if number == index else b"another leaf"))
    tiles = tree.pop_changed()
    hashes = [b64(root_of(span, tiles)) for span in inclusion(index, 7)]
    found = {"leaf_index": index, "leaf_hash": b64(hash_leaf(leaf)), "tree_size": 7}
    return {
        "stored": b64(stored),
        "leaf": b64(leaf),
        "inclusion": found | {"hashes": hashes},
        "checkpoint": signer.sign(Checkpoint(7, tree.root())),
        "key": f"{signer.vkey}\n",
    }


def bundle(
    document: Any = DOCUMENT, content: Any = None, topic: str = ISSUED, **more: Any
) -> dict[str, Any]:
    """The bundle of a log that has sealed this document, or any other bytes, under this content."""
    octets = document if isinstance(document, bytes) else written(document)
    if content is None:
        # As events are stored: without the members that are null.
        content = {name: value for name, value in REPEATED.items() if value is not None}
    if isinstance(content, Mapping):
        content = written({"document_sha256": sha(octets), **content})
    return {"document": b64(octets)} | sealed(stored_as(content), topic, **more)


def opened(parts: Any, key: str = KEYS) -> tuple[Any, Any]:
    proved, document = verifier.open_statement(json.dumps(parts), key)
    return proved, document


def refusal(parts: Any, key: str = KEYS) -> str:
    with pytest.raises(ValueError) as refused:
        opened(parts, key)
    return str(refused.value)


def run(folder: Path, parts: Any, key: str | None = KEYS) -> subprocess.CompletedProcess[str]:
    """Run the verifier as an auditor runs it, in a folder that has nothing but the files."""
    (folder / "bundle.json").write_text(parts if isinstance(parts, str) else json.dumps(parts))
    if key is not None:
        (folder / "log.key").write_text(key)
    return subprocess.run(
        [sys.executable, "-I", PATH, "statement", "bundle.json", "log.key"],
        cwd=folder,
        env={"LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_bundle_is_proved_and_its_statement_is_printed_in_a_few_lines(tmp_path: Path) -> None:
    done = run(tmp_path, bundle())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "statement: STM-26-000001, issued 2026-05-28T20:26:40.000005Z by KEY-26-000002",
        "scope: organization ORG-26-000001, workspace null",
        "period: 2026-11-01T00:00:00Z to 2026-12-01T00:00:00Z, Europe/Berlin",
        "as of: 2026-12-01T08:00:00.000005Z, position 1",
        "note: November \\u2013 \\u201cas agreed\\u201d",
        "reference: null",
        "replaces: STM-26-000000",
        "total lines: 14",
        "total hours: 1203.25",
        'total runs: {"completed": 7, "failed": 1}',
        "total tokens_used: 184",
        f"document: SHA-256 {sha(written(DOCUMENT))}",
        f"key: {SIGNER.vkey}",
        "proved",
    ]


def test_a_bundle_that_is_refused_or_missing_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    done = run(tmp_path, bundle() | {"document": b64(b"{}")})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "not proved: the document is not the one whose hash was sealed\n"
    (tmp_path / "log.key").unlink()
    done = run(tmp_path, bundle(), key=None)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("not proved: ")
    assert done.stderr.count("\n") == 1


def test_members_that_are_null_may_be_stored_or_left_out_and_nothing_else_is_needed() -> None:
    assert opened(bundle(content=REPEATED))[1] == DOCUMENT
    lean = bundle()
    del lean["inclusion"]["leaf_hash"]
    assert opened(lean | {"later": 1}) == opened(bundle())


def test_a_bundle_of_a_former_origin_is_proved_by_the_stored_key_of_that_origin() -> None:
    parts = bundle(signer=FORMER)
    assert opened(parts)[0].key == FORMER.vkey
    for other in (SIGNER.vkey, "", "\n", FORMER.vkey[:-1]):
        assert "not the key that you keep" in refusal(parts, other)


# A bundle that was altered.


@pytest.mark.parametrize("name", bundle())
def test_each_member_is_needed_and_is_of_its_type(name: str) -> None:
    without = {other: value for other, value in bundle().items() if other != name}
    for altered in (without, *(without | {name: value} for value in (None, 1, True, [], {}, ""))):
        assert refusal(altered)


@pytest.mark.parametrize("name", ["leaf_index", "tree_size", "hashes"])
def test_each_member_of_the_inclusion_is_needed_and_is_of_its_type(name: str) -> None:
    parts = bundle()
    for value in (None, True, "4", 4.0, [4], ["", 4], {}):
        parts["inclusion"][name] = value
        assert name in refusal(parts), value
    del parts["inclusion"][name]
    assert name in refusal(parts)


@pytest.mark.parametrize("index", [-1, 3, 5, 7, 8, 2**53 - 1, 10**4000, True])
def test_a_leaf_at_another_index_or_out_of_the_tree_is_refused(index: int) -> None:
    parts = bundle()
    parts["inclusion"]["leaf_index"] = index
    assert refusal(parts)


@pytest.mark.parametrize("one", ["document", "stored", "leaf", "checkpoint", "key"])
@pytest.mark.parametrize("other", ["document", "stored", "leaf", "checkpoint", "key"])
def test_members_that_changed_order_are_refused(one: str, other: str) -> None:
    parts = bundle()
    if one != other:
        assert refusal(parts | {one: parts[other], other: parts[one]})


@pytest.mark.parametrize("name", ["document", "stored", "leaf", "inclusion", "checkpoint"])
def test_a_member_of_another_bundle_is_refused(name: str) -> None:
    other = bundle(DOCUMENT | {"note": "another"}, REPEATED | {"note": "another"}, index=2)
    assert opened(other)
    assert refusal(bundle() | {name: other[name]})


def test_a_checkpoint_of_another_key_is_refused() -> None:
    impostor = Signer(SIGNER.name, bytes(range(1, 33)))
    assert "not the key that you keep" in refusal(bundle(signer=impostor))
    forged = bundle(signer=impostor) | {"key": bundle()["key"]}
    assert refusal(forged) == "another key has signed the checkpoint"
    forged["checkpoint"] = forged["checkpoint"].replace("7\n", "8\n", 1)
    assert refusal(forged | {"key": f"{impostor.vkey}\n"}, impostor.vkey) == (
        "the key has not signed the checkpoint"
    )
    assert "no key of the checkpoint's origin" in refusal(bundle() | {"key": FORMER.vkey})
    public = b64(b"\2" + base64.b64decode(SIGNER.vkey.split("+", 2)[2])[1:])
    for key in (f"{SIGNER.name}+", f"{SIGNER.name}+00000000+{public}", SIGNER.name):
        assert "key" in refusal(bundle() | {"key": key}, key)


VALUES = sorted(bundle().items())


def altered(data: st.DataObject, value: Any) -> Any:
    """The value with one character or one number changed."""
    if isinstance(value, dict):
        name = data.draw(st.sampled_from(sorted(value)))
        return value | {name: altered(data, value[name])}
    if isinstance(value, list):
        index = data.draw(st.integers(0, len(value) - 1))
        return [*value[:index], altered(data, value[index]), *value[index + 1 :]]
    if isinstance(value, int):
        return data.draw(st.integers().filter(lambda number: number != value))
    index = data.draw(st.integers(0, len(value) - 1))
    other = data.draw(st.characters().filter(lambda character: character != value[index]))
    return value[:index] + other + value[index + 1 :]


@given(st.data(), st.sampled_from(VALUES))
def test_no_bundle_with_one_character_changed_in_any_member_is_proved(
    data: st.DataObject, member: tuple[str, Any]
) -> None:
    name, value = member
    assert refusal(bundle() | {name: altered(data, value)})


@given(st.data(), st.sampled_from(["document", "stored", "leaf"]))
def test_no_bundle_with_one_byte_changed_in_what_base64_stands_for_is_proved(
    data: st.DataObject, name: str
) -> None:
    octets = bytearray(base64.b64decode(bundle()[name]))
    index = data.draw(st.integers(0, len(octets) - 1))
    octets[index] ^= data.draw(st.integers(1, 255))
    assert refusal(bundle() | {name: b64(bytes(octets))})


def twin(text: str) -> str:
    """Another text that lenient programs read as the same bytes: with an unused bit set."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = text.rstrip("=")
    other = body[:-1] + digits[digits.index(body[-1]) ^ 1] + text[len(body) :]
    assert base64.b64decode(other) == base64.b64decode(text)
    return other


def with_blanks(count: int) -> dict[str, Any]:
    """A bundle whose JSON texts end with blanks, which JSON allows."""
    document = written(DOCUMENT) + b" " * count
    stored = stored_as(written(REPEATED | {"document_sha256": sha(document)})) + b" " * count
    leaf = leaf_of(STATEMENT, 1, ISSUED, stored, 17) + b" " * count
    return bundle() | {"document": b64(document), "stored": b64(stored)} | alone(leaf)


@pytest.mark.parametrize("name", ["document", "stored", "leaf"])
def test_bytes_have_a_single_text_in_base64(name: str) -> None:
    blanked = next(form for form in map(with_blanks, range(3)) if form[name].endswith("="))
    assert opened(blanked)
    text = blanked[name]
    for other in (twin(text), text.rstrip("="), f"{text}\n", f" {text}", f"{text}ü"):
        assert refusal(blanked | {name: other}) == f'the "{name}" is not base64'


def test_hashes_and_signatures_have_a_single_text_in_base64() -> None:
    parts = bundle()
    hashes, note = parts["inclusion"]["hashes"], parts["checkpoint"]
    signature = note.split(" ")[-1].strip()
    assert "signature" in refusal(parts | {"checkpoint": note.replace(signature, twin(signature))})
    for index in range(3):
        twins = [twin(text) if at == index else text for at, text in enumerate(hashes)]
        assert "hashes" in refusal(parts | {"inclusion": parts["inclusion"] | {"hashes": twins}})


FILE = json.dumps(bundle()).encode()


@given(st.integers(0, len(FILE) - 1), st.integers(1, 255))
@example(FILE.index(b'"leaf_hash"') + 1, 1)
def test_a_file_with_any_byte_changed_proves_nothing_else(index: int, flipped: int) -> None:
    octets = bytearray(FILE)
    octets[index] ^= flipped
    try:
        found = verifier.open_statement(bytes(octets), KEYS)
    except ValueError:
        return
    assert found == opened(bundle())


# A log that has sealed a document that does not fit its event.


def test_an_event_of_another_type_issues_no_statement() -> None:
    for topic in ("statement.withdrawn/1", "execution.checked_in/1", "statement.issued/2"):
        assert refusal(bundle(topic=topic)) == "the leaf is not of an event statement.issued/1"


OTHERS: dict[str, tuple[Any, ...]] = {
    "position": (2, 1.0, True, "1", None),
    "workspace_id": ("WS-26-000021", "", False, []),
    "note": ("November", None, ["November – “as agreed”"]),
}


@pytest.mark.parametrize("name", REPEATED)
def test_each_member_that_the_event_repeats_must_be_the_documents(name: str) -> None:
    different = f'the "{name}" of the document is not that of the event'
    for value in OTHERS.get(name, ("2026-10-01T00:00:00Z", {}, 1)):
        assert refusal(bundle(DOCUMENT | {name: value}, REPEATED)) == different
        assert refusal(bundle(DOCUMENT, REPEATED | {name: value})) == different
    without = {other: value for other, value in DOCUMENT.items() if other != name}
    assert refusal(bundle(without, REPEATED)) == f'the document has no "{name}"'
    if REPEATED[name] is not None:
        content = {other: value for other, value in REPEATED.items() if other != name}
        assert refusal(bundle(DOCUMENT, content)) == different


@pytest.mark.parametrize(
    "digest",
    [sha(written(DOCUMENT)).upper(), b64(hashlib.sha256(written(DOCUMENT)).digest()), "", None, 1],
)
def test_the_documents_hash_is_lower_case_hexadecimal_digits(digest: Any) -> None:
    assert "document" in refusal(bundle(content=REPEATED | {"document_sha256": digest}))


def with_member(value: Any, text: str) -> bytes:
    """The JSON object with one more member, which may be a key that it has."""
    return b"{" + text.encode() + b"," + written(value)[1:]


UNLIKE: dict[str, Callable[[bytes], bytes]] = {
    "a key twice": lambda text: text[:-1] + b',"note":"another"}',
    "a key twice, alike": lambda text: text[:-1] + b',"position":1}',
    "a key twice further in": lambda text: text[:-1] + b',"more":[{"a":1,"\\u0061":1}]}',
    "NaN": lambda text: text[:-1] + b',"more":NaN}',
    "a negative infinity": lambda text: text[:-1] + b',"more":-Infinity}',
    "a number beyond all doubles": lambda text: text[:-1] + b',"more":1e400}',
    "a whole number beyond 2^53": lambda text: text[:-1] + b',"more":-9007199254740992}',
    "a number of 5,000 digits": lambda text: text[:-1] + b',"more":' + b"9" * 5000 + b"}",
    "a comma at the end": lambda text: text[:-1] + b",}",
    "a value behind it": lambda text: text + b"{}",
    "half of it": lambda text: text[: len(text) // 2],
    "nested too deep": lambda text: (
        text[:-1] + b',"more":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    ),
    "a raw control character": lambda text: text[:-1] + b',"more":"\n"}',
}
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "a byte order mark": lambda text: codecs.BOM_UTF8 + text,
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "UTF-32": lambda text: text.decode().encode("utf-32-be"),
    "Latin-1": lambda text: text[:-1] + b',"more":"\xfc"}',
    "no object": lambda text: b"[" + text + b"]",
}


@pytest.mark.parametrize("form", UNLIKE | ENCODINGS)
def test_a_document_that_programs_read_differently_is_refused(form: str) -> None:
    document = (UNLIKE | ENCODINGS)[form](written(DOCUMENT))
    assert refusal(bundle(document)).startswith("the document is no JSON")


@pytest.mark.parametrize("form", UNLIKE)
def test_a_stored_event_that_programs_read_differently_is_refused(form: str) -> None:
    parts = bundle(content=written(REPEATED | {"document_sha256": sha(written(DOCUMENT))}))
    stored = stored_as(b"{}")[:-3] + UNLIKE[form](_content(parts)) + b"]"
    assert refusal(resealed(parts, stored)).startswith("the stored event is no JSON")


def test_numbers_and_names_that_all_programs_read_alike_are_accepted() -> None:
    more = b',"more":[9007199254740991,-9007199254740991,1e308,-0.5,0,{"a":1},{"a":2}]}'
    assert opened(bundle(written(DOCUMENT)[:-1] + more))


def _content(parts: dict[str, Any]) -> bytes:
    return written(json.loads(base64.b64decode(parts["stored"]))[-1])


def resealed(parts: dict[str, Any], stored: bytes) -> dict[str, Any]:
    """The bundle of a log that has sealed these bytes as the event, whatever they are."""
    leaf = json.loads(base64.b64decode(parts["leaf"])) | {"stored_sha256": sha(stored)}
    return parts | {"stored": b64(stored)} | alone(written(leaf))


def alone(leaf: bytes) -> dict[str, Any]:
    """The members that prove a leaf, whatever it is, as the only one of its log."""
    found = {"leaf_index": 0, "tree_size": 1, "hashes": []}
    checkpoint = SIGNER.sign(Checkpoint(1, hash_leaf(leaf)))
    return {"leaf": b64(leaf), "inclusion": found, "checkpoint": checkpoint}


TWELVE = b"2," * 12


@pytest.mark.parametrize(
    "stored",
    [
        *(b"{}", b"[]", b"[2,{}]", b'"x"', b"2"),
        *(b"[%s%s]" % (TWELVE, end) for end in (b"[]", b"null", b"2,{}")),
    ],
)
def test_a_stored_event_is_an_array_with_an_object_as_its_thirteenth_item(stored: bytes) -> None:
    assert "no array with an object in the thirteenth" in refusal(resealed(bundle(), stored))


def test_a_stored_event_may_go_on_behind_its_content() -> None:
    parts = bundle()
    stored = base64.b64decode(parts["stored"])
    opened(resealed(parts, stored[:-1] + b',"00-trace"]'), KEYS)


@pytest.mark.parametrize("total", [None, [], 14, "14"])
def test_a_document_has_totals(total: Any) -> None:
    assert '"total"' in refusal(bundle(DOCUMENT | {"total": total}))


def test_a_leaf_is_an_object_with_type_and_hash(tmp_path: Path) -> None:
    parts = bundle()
    leaf = base64.b64decode(parts["leaf"])
    twice = with_member(json.loads(leaf), '"type":"statement.issued/1"')
    assert "key twice" in refusal(parts | alone(twice))
    assert "no JSON object" in refusal(parts | alone(b"[]"))
    for name in ("type", "stored_sha256"):
        rest = {other: value for other, value in json.loads(leaf).items() if other != name}
        assert f'the leaf has no "{name}"' in refusal(parts | alone(written(rest)))
    for name in ("stream", "recorded_at", "reported_by"):
        rest = json.loads(leaf) | {name: None}
        done = run(tmp_path, parts | alone(written(rest)))
        assert (done.returncode, done.stdout) == (1, "")
        assert f'the leaf has no "{name}"' in done.stderr


def test_a_text_of_the_document_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    wild = {"note": "\x1b[2J\u202e\nproved", "reference": "proved\r"}
    document = DOCUMENT | wild | {"total": {"\x1b[2J\nlines": "\x1b[2J"}}
    done = run(tmp_path, bundle(document, REPEATED | wild))
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert done.stdout.replace("\n", "").isprintable()
    assert done.stdout.splitlines().count("proved") == 1


@pytest.mark.parametrize("file", sorted(FIRST.rglob("*.json")), ids=lambda file: file.stem)
def test_the_content_of_every_event_is_proved(file: Path) -> None:
    """The golden files are events of every type, as they are stored."""
    stored = file.read_bytes()
    parts = sealed(stored, "any/1")
    proved = verifier.open_proof(json.dumps(parts | parts["inclusion"]), KEYS)
    assert proved.content == msgspec.json.decode(stored)[-1]
