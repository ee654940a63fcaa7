"""Verify proofs of the sealed log offline, with ``cryptography`` and nothing of the ledger.

python verifier.py inclusion KEY CHECKPOINT LEAF PROOF
    Is the event of this leaf in the log that the checkpoint speaks of?
python verifier.py consistency KEY OLD_CHECKPOINT NEW_CHECKPOINT PROOF
    Does the log of the new checkpoint begin with the whole log of the old one?
python verifier.py proof FILE [KEY]
    The first question, for a file that has leaf, proof, checkpoint and key in one. Prints the leaf
    and the content of the event, which is proved too.
    The file's key must be KEY, the key that you keep; without KEY, compare the printed key with it.
python verifier.py statement FILE KEY
    Is the document of this bundle the very statement that the log says was issued? Prints the
    statement's id, period and totals.

KEY has a line for each origin of the log: `GET /v1/log/key` answers it. A checkpoint is checked by
the key of its origin. The first checkpoint of a later origin has a line `after ORIGIN SIZE ROOT`,
the last checkpoint that was known of the origin before: this program prints the line. Events that
the log then had lost are in no later proof.

Each argument is a file with the bytes that the ledger answered. Exit code 1 means: not proved.
A leaf is hashed as it is, so leaves of every layout (their ``v``) are checked alike.
The formats: RFC 9162 (the Merkle tree and its proofs), C2SP (signed notes and checkpoints).
"""

import base64
import hashlib
import json
import math
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_NOTE = re.compile(
    r"(?P<text>(?P<origin>[^\s+]+)\n(?P<size>0|[1-9][0-9]{0,18})\n(?P<root>[A-Za-z0-9+/]{43}=)\n"
    r"(?:[^\n]+\n)*)\n— (?P=origin) (?P<signature>[^\s]+)\n"
)

_CONTENT = 12
"""The index of the content in a stored event. A later element is the trace of its fact."""
_ISSUED = "statement.issued/1"
_REPEATED = (
    "organization_id", "workspace_id", "from", "to", "time_zone", "as_of", "position", "note",
    "reference", "replaces",
)  # fmt: skip
"""The members of a statement's document that its event has, too."""


class Proved(NamedTuple):
    """An event that is proved to be in the log of the key."""

    leaf: dict[str, Any]
    content: dict[str, Any]
    """The content of the stored event."""
    key: str


def open_checkpoint(note: str, key: str) -> tuple[int, bytes]:
    """Check the signature of a checkpoint, and return the tree's size and root hash.

    ``key`` has the log's keys, a line each. The key of the checkpoint's origin is used. Raises
    ValueError.
    """
    found = _NOTE.fullmatch(note)
    if found is None:
        raise ValueError("the checkpoint is no signed note")
    name = found["origin"]
    line = next((line for line in key.split() if line.startswith(f"{name}+")), None)
    if line is None:
        raise ValueError("there is no key of the checkpoint's origin")
    key_id, _, text = line.removeprefix(f"{name}+").partition("+")
    public = _octets(text, "key")
    if public[:1] != b"\1" or _hash(f"{name}\n".encode(), public)[:4].hex() != key_id:
        raise ValueError("the key is no Ed25519 key of the checkpoint's origin")
    signature = _octets(found["signature"], "signature")
    if signature[:4].hex() != key_id:
        raise ValueError("another key has signed the checkpoint")
    try:
        verifier = Ed25519PublicKey.from_public_bytes(public[1:])
        verifier.verify(signature[4:], found["text"].encode())
    except InvalidSignature:
        raise ValueError("the key has not signed the checkpoint") from None
    return int(found["size"]), _octets(found["root"], "root")


def named_before(note: str) -> str | None:
    """The last checkpoint of the previous origin, if this one has it: origin, size and root."""
    lines = note.split("\n\n")[0].split("\n")[3:]
    return next((line for line in lines if line.startswith("after ")), None)


def root_with_leaf(leaf: bytes, index: int, size: int, hashes: list[bytes]) -> bytes | None:
    """Return the root of the tree that has the leaf at this index (RFC 9162, 2.1.3.2).

    Returns None if the proof does not fit a tree of this size.
    """
    if not 0 <= index < size:
        return None
    node, last = _hash(b"\0", leaf), size - 1
    for sibling in hashes:
        if last == 0:
            return None
        if index % 2 or index == last:
            node = _hash(b"\1", sibling, node)
            while index and not index % 2:
                index, last = index // 2, last // 2
        else:
            node = _hash(b"\1", node, sibling)
        index, last = index // 2, last // 2
    return node if last == 0 else None


def root_after(old_size: int, old_root: bytes, size: int, hashes: list[bytes]) -> bytes | None:
    """Return the root of the tree that begins with the old tree (RFC 9162, 2.1.4.2).

    Returns None if the old tree is not proved to be the beginning of a tree of this size.
    """
    if old_size == size or not hashes:
        return old_root if old_size == size and not hashes else None
    if old_size & (old_size - 1) == 0:
        hashes = [old_root, *hashes]
    index, last = old_size - 1, size - 1
    while index % 2:
        index, last = index // 2, last // 2
    old = new = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return None
        if index % 2 or index == last:
            old, new = _hash(b"\1", sibling, old), _hash(b"\1", sibling, new)
            while index and not index % 2:
                index, last = index // 2, last // 2
        else:
            new = _hash(b"\1", new, sibling)
        index, last = index // 2, last // 2
    return new if old == old_root and last == 0 else None


def proves_inclusion(key: str, checkpoint: str, leaf: bytes, proof: str) -> bool:
    """Return True if the leaf is in the log of the checkpoint."""
    size, root = open_checkpoint(checkpoint, key)
    told = _object(proof, "proof")
    return root_with_leaf(leaf, _member(told, "leaf_index", int), size, _hashes(told)) == root


def proves_consistency(key: str, old: str, new: str, proof: str) -> bool:
    """Return True if the log of the new checkpoint begins with the whole log of the old one."""
    old_size, old_root = open_checkpoint(old, key)
    size, root = open_checkpoint(new, key)
    return root_after(old_size, old_root, size, _hashes(_object(proof, "proof"))) == root


def open_proof(file: str, kept_key: str | None = None) -> Proved:
    """Check a file that has leaf, proof, checkpoint and key.

    Raises ValueError if the file proves nothing, or if its key is not the kept one.
    """
    told = _object(file, "file")
    leaf, key = _sealed(told, told, kept_key)
    return Proved(leaf, _content(told, leaf), key)


def open_statement(file: str, kept_key: str) -> tuple[Proved, dict[str, Any]]:
    """Check the bundle of a statement; return the event that issued it, and its document.

    Compares parsed members, and searches no text. Raises ValueError if a member differs.
    """
    told = _object(file, "file")
    leaf, key = _sealed(told, _member(told, "inclusion", dict), kept_key)
    if _member(leaf, "type", str, "leaf") != _ISSUED:
        raise ValueError(f"the leaf is not of an event {_ISSUED}")
    issued = _content(told, leaf)
    document_octets = _octets(_member(told, "document", str), "document")
    if _member(issued, "document_sha256", str, "event") != _hex(document_octets):
        raise ValueError("the document is not the one whose hash was sealed")
    document = _object(document_octets, "document")
    for name in _REPEATED:
        if name not in document:
            raise ValueError(f'the document has no "{name}"')
        # Compare JSON, since in Python 1, 1.0 and True are equal. A stored event leaves out nulls.
        if json.dumps(document[name]) != json.dumps(issued.get(name)):
            raise ValueError(f'the "{name}" of the document is not that of the event')
    _member(document, "total", dict, "document")
    return Proved(leaf, issued, key), document


def _sealed(
    told: dict[str, Any], inclusion: dict[str, Any], kept_key: str | None
) -> tuple[dict[str, Any], str]:
    """Check that the file's leaf is in the tree under its checkpoint; return the leaf and the key.

    ``inclusion`` has the leaf's index and the hashes from there to the root. Raises ValueError.
    """
    leaf = _octets(_member(told, "leaf", str), "leaf")
    key = _member(told, "key", str).removesuffix("\n")
    if key not in (key if kept_key is None else kept_key).split():
        raise ValueError("the key of the file is not the key that you keep")
    size, root = open_checkpoint(_member(told, "checkpoint", str), key)
    if size != _member(inclusion, "tree_size", int):
        raise ValueError("the checkpoint is not of the size that the file tells")
    hash_of_leaf = base64.b64encode(_hash(b"\0", leaf)).decode()
    if inclusion.get("leaf_hash", hash_of_leaf) != hash_of_leaf:
        raise ValueError("the hash of the leaf is another one")
    index = _member(inclusion, "leaf_index", int)
    if root_with_leaf(leaf, index, size, _hashes(inclusion)) != root:
        raise ValueError("the hashes do not lead to the signed root")
    return _object(leaf, "leaf"), key


def _content(told: dict[str, Any], leaf: dict[str, Any]) -> dict[str, Any]:
    """The content of the file's stored event, checked against the leaf. Raises ValueError."""
    stored = _octets(_member(told, "stored", str), "stored")
    if _member(leaf, "stored_sha256", str, "leaf") != _hex(stored):
        raise ValueError("the stored event is not the one whose hash is in the leaf")
    array = _parsed(stored, "stored event")
    content = array[_CONTENT] if isinstance(array, list) and len(array) > _CONTENT else None
    if not isinstance(content, dict):
        raise ValueError("the stored event is no array with an object in the thirteenth place")
    return content


def _parsed(text: str | bytes, name: str) -> Any:
    """The value of a JSON text in UTF-8. Raises ValueError, also if its meaning is ambiguous.

    If a key stands twice in an object, some programs take the first value, others the last.
    """
    try:
        return json.loads(
            text if isinstance(text, str) else text.decode(),
            object_pairs_hook=_without_twins,
            parse_constant=_refused,
            parse_float=_number,
            parse_int=_number,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the {name} is no JSON that all programs read alike: {error}") from None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(made := dict(pairs)) < len(pairs):
        raise ValueError("an object has a key twice")
    return made


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _number(text: str) -> float:
    number = float(text)
    is_whole = text.removeprefix("-").isdecimal()
    if abs(number) >= (2**53 if is_whole else math.inf):
        raise ValueError("a number is too large")
    return int(text) if is_whole else number


def _object(text: str | bytes, name: str) -> dict[str, Any]:
    value = _parsed(text, name)
    if not isinstance(value, dict):
        raise ValueError(f"the {name} is no JSON object")
    return value


def _member(told: dict[str, Any], name: str, kind: type, of: str = "file") -> Any:
    """The member of an object, which must have a type; a bool is no int. Raises ValueError."""
    value = told.get(name)
    if type(value) is not kind:
        raise ValueError(f'the {of} has no "{name}", or one of another type')
    return value


def _octets(text: str, name: str) -> bytes:
    """Decode base64. Raises ValueError, also if the bytes have another base64 text."""
    try:
        octets = base64.b64decode(text, validate=True)
    except ValueError:
        octets = b""
    if base64.b64encode(octets).decode() != text:
        raise ValueError(f'the "{name}" is not base64')
    return octets


def _hashes(told: dict[str, Any]) -> list[bytes]:
    hashes = _member(told, "hashes", list)
    if not all(isinstance(text, str) for text in hashes):
        raise ValueError('the "hashes" are not all texts')
    return [_octets(text, "hashes") for text in hashes]


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _hex(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def _plain(value: Any) -> str:
    """A value on one line, escaped: a text could otherwise control the terminal."""
    text = json.dumps(value)
    return text[1:-1] if isinstance(value, str) else text


def _say_proof(file: str, kept_key: str | None = None) -> None:
    leaf, content, key = open_proof(file, kept_key)
    print(json.dumps(leaf))
    print("content:", json.dumps(content))
    print("key:", _plain(key))


def _say_statement(file: str, kept_key: str) -> None:
    (leaf, issued, key), document = open_statement(file, kept_key)
    stream, at, reporter = (
        _plain(_member(leaf, name, str, "leaf"))
        for name in ("stream", "recorded_at", "reported_by")
    )
    said = {name: _plain(document[name]) for name in _REPEATED}
    print(f"statement: {stream}, issued {at} by {reporter}")
    print(f"scope: organization {said['organization_id']}, workspace {said['workspace_id']}")
    print(f"period: {said['from']} to {said['to']}, {said['time_zone']}")
    print(f"as of: {said['as_of']}, position {said['position']}")
    for name in ("note", "reference", "replaces"):
        print(f"{name}: {said[name]}")
    for name, value in document["total"].items():
        print(f"total {_plain(name)}: {_plain(value)}")
    print("document: SHA-256", issued["document_sha256"])
    print("key:", _plain(key))


def main(question: str, *files: str) -> bool:
    """Answer the question of the command line."""
    octets = [Path(file).read_bytes() for file in files]
    if question == "inclusion":
        key, checkpoint, leaf, proof = octets
        return proves_inclusion(key.decode(), checkpoint.decode(), leaf, proof.decode())
    texts = [each.decode() for each in octets]
    if question == "consistency":
        if (line := named_before(texts[2])) is not None:
            print(_plain(line))
        return proves_consistency(*texts)
    (_say_proof if question == "proof" else _say_statement)(*texts)
    return True


if __name__ == "__main__":
    _usage = {"inclusion": (4,), "consistency": (4,), "proof": (1, 2), "statement": (2,)}
    if len(sys.argv) < 2 or len(sys.argv) - 2 not in _usage.get(sys.argv[1], ()):
        sys.exit(__doc__)
    try:
        is_proved = main(*sys.argv[1:])
    except (OSError, ValueError) as error:
        sys.exit(f"not proved: {error}")
    if not is_proved:
        sys.exit("not proved: the hashes do not lead to the signed root")
    print("proved")
