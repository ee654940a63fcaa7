"""Verify proofs of the sealed log offline, with ``cryptography`` and nothing of the ledger.

python verifier.py inclusion KEY CHECKPOINT LEAF PROOF
    Is the event of this leaf in the log that the checkpoint speaks of?
python verifier.py consistency KEY OLD_CHECKPOINT NEW_CHECKPOINT PROOF
    Does the log of the new checkpoint begin with the whole log of the old one?
python verifier.py proof FILE [KEY]
    The first question, for a file that has leaf, proof, checkpoint and key in one. Prints the leaf.
    The file's key must be KEY, the key that you keep; without KEY, compare the printed key with it.

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
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def open_checkpoint(note: str, key: str) -> tuple[int, bytes]:
    """Check the signature of a checkpoint, and return the tree's size and root hash.

    ``key`` has the log's keys, a line each. The key of the checkpoint's origin is used.
    """
    keys = dict(line.split("+", 1) for line in key.split())
    name = note.split("\n", 1)[0]
    _, public = keys[name].split("+", 1)
    text, signature = note.split(f"\n\n— {name} ")
    verifier = Ed25519PublicKey.from_public_bytes(base64.b64decode(public)[1:])
    verifier.verify(base64.b64decode(signature)[4:], (text + "\n").encode())
    _origin, size, root, *_extensions = text.split("\n")
    return int(size), base64.b64decode(root)


def named_before(note: str) -> str | None:
    """The last checkpoint of the origin before, if this one names it: origin, size and root."""
    lines = note.split("\n\n")[0].split("\n")[3:]
    return next((line for line in lines if line.startswith("after ")), None)


def root_with_leaf(leaf: bytes, index: int, size: int, hashes: list[bytes]) -> bytes | None:
    """Return the root of the tree that has the leaf at this index (RFC 9162, 2.1.3.2).

    None: the proof does not fit a tree of this size.
    """
    if not 0 <= index < size:
        return None
    node, last = _hash(b"\0", leaf), size - 1
    for sibling in hashes:
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

    None: the proof does not show that the old tree is the beginning of a tree of this size.
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
    """Whether the leaf is in the log of the checkpoint."""
    size, root = open_checkpoint(checkpoint, key)
    told = json.loads(proof)
    return root_with_leaf(leaf, told["leaf_index"], size, _decoded(told["hashes"])) == root


def proves_consistency(key: str, old: str, new: str, proof: str) -> bool:
    """Whether the log of the new checkpoint begins with the whole log of the old one."""
    old_size, old_root = open_checkpoint(old, key)
    size, root = open_checkpoint(new, key)
    return root_after(old_size, old_root, size, _decoded(json.loads(proof)["hashes"])) == root


def open_proof(file: str, kept_key: str | None = None) -> tuple[bytes, str]:
    """Check a file that has all in one, and return its leaf and its key.

    Raises ValueError if the file proves nothing, or if its key is not the kept one.
    """
    told = json.loads(file)
    key, leaf = told["key"].strip(), base64.b64decode(told["leaf"], validate=True)
    if kept_key is not None and key not in kept_key.split():
        raise ValueError("the key of the file is not the key that you keep")
    size, root = open_checkpoint(told["checkpoint"], key)
    if size != told["tree_size"]:
        raise ValueError("the checkpoint is not of the size that the file tells")
    if root_with_leaf(leaf, told["leaf_index"], size, _decoded(told["hashes"])) != root:
        raise ValueError("the hashes do not lead to the signed root")
    return leaf, key


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def _decoded(hashes: list[str]) -> list[bytes]:
    return [base64.b64decode(text) for text in hashes]


def main(question: str, *files: str) -> bool:
    """Answer the question of the command line."""
    if question == "proof":
        texts = [Path(file).read_text() for file in files]
        leaf, key = open_proof(*texts)
        # Escaped: a text of the leaf could otherwise write anything to the terminal.
        print(json.dumps(json.loads(leaf)))
        print("key:", json.dumps(key).strip('"'))
        return True
    key, first, second, proof = (Path(file) for file in files)
    if question == "inclusion":
        leaf = second.read_bytes()
        return proves_inclusion(key.read_text(), first.read_text(), leaf, proof.read_text())
    old, new = first.read_text(), second.read_text()
    if (line := named_before(new)) is not None:
        print(json.dumps(line).strip('"'))
    return proves_consistency(key.read_text(), old, new, proof.read_text())


if __name__ == "__main__":
    _usage = {"inclusion": (4,), "consistency": (4,), "proof": (1, 2)}
    if len(sys.argv) < 2 or len(sys.argv) - 2 not in _usage.get(sys.argv[1], ()):
        sys.exit(__doc__)
    try:
        is_proved = main(*sys.argv[1:])
    except (InvalidSignature, ValueError, LookupError, TypeError, AttributeError) as error:
        sys.exit(f"not proved: {type(error).__name__} {error}")
    if not is_proved:
        sys.exit("not proved: the hashes do not lead to the signed root")
    print("proved")
