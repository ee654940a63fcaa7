"""A checkpoint: the tree's size and its root, as a signed note.

The text is C2SP's tlog-checkpoint, the signature is Ed25519 by C2SP's signed-note:

    execution-ledger/5f0c…      the origin: the log's name, and the name of its key
    1234                        the tree's size
    base64(root)
    after …                     perhaps extension lines

    — execution-ledger/5f0c… base64(key id || signature)

A log that an operator adopts gets a new origin, whose name ends in ``/2``, ``/3`` …, with a key of
its own. The first note of the new origin has an extension line with the last known checkpoint of
the previous origin: ``after ORIGIN SIZE ROOT``.
"""

import base64
import hashlib
import os
import re
from typing import NamedTuple, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_ED25519 = b"\1"
_ID = 4
_NOTE = re.compile(
    r"(?P<text>(?P<origin>[^\s+]+)\n(?P<size>0|[1-9][0-9]*)\n(?P<root>[A-Za-z0-9+/]{43}=)\n"
    r"(?P<extensions>(?:[^\n]+\n)*))"
    r"\n— (?P<name>[^\s+]+) (?P<signature>[A-Za-z0-9+/]+=*)\n"
)


class BadNote(Exception):
    """The text is no checkpoint, or no checkpoint that this key has signed."""


class Checkpoint(NamedTuple):
    """The content of a note."""

    size: int
    root: bytes


class UncheckedNote(NamedTuple):
    """A note whose signature nobody has checked."""

    origin: str
    checkpoint: Checkpoint
    extensions: str
    """The lines after the root, each with its newline."""


def parse(note: str) -> UncheckedNote:
    """Raises BadNote if the text is no checkpoint."""
    found = _NOTE.fullmatch(note)
    if found is None:
        raise BadNote("no checkpoint")
    checkpoint = Checkpoint(int(found["size"]), base64.b64decode(found["root"]))
    return UncheckedNote(found["origin"], checkpoint, found["extensions"])


def number_of(origin: str) -> int:
    """The number of an origin among those of its log: 1, 2, 3 …"""
    _, _, number = origin.partition("/")[2].partition("/")
    return int(number) if number.isascii() and number.isdigit() else 1


def origin_named(origin: str, number: int) -> str:
    """The name of the same log's origin with another number."""
    first = "/".join(origin.split("/")[:2])
    return first if number == 1 else f"{first}/{number}"


def after(note: str) -> str:
    """The extension line that names a checkpoint as the last one of its origin."""
    parsed = parse(note)
    return f"after {parsed.origin} {parsed.checkpoint.size} {_text(parsed.checkpoint.root)}"


class Verifier:
    """Verifies that a key signed a checkpoint. ``text`` is the key, as C2SP's vkey."""

    def __init__(self, text: str) -> None:
        """Raises BadNote if the text is no Ed25519 vkey."""
        try:
            self.name, key_id, key = text.rstrip("\n").split("+", 2)
            kind_and_key = base64.b64decode(key, validate=True)
            self._key = Ed25519PublicKey.from_public_bytes(kind_and_key[1:])
        except ValueError as error:
            raise BadNote("no key of an Ed25519 signature") from error
        self._id = _key_id(self.name, kind_and_key)
        if kind_and_key[:1] != _ED25519 or self._id.hex() != key_id:
            raise BadNote("no key of an Ed25519 signature")

    def open(self, note: str) -> Checkpoint:
        """Return the content of a checkpoint that this key signed. Raises BadNote for others."""
        found = _NOTE.fullmatch(note)
        if found is None:
            raise BadNote("no checkpoint")
        if found["origin"] != self.name or found["name"] != self.name:
            raise BadNote("the checkpoint of another log")
        try:
            signature = base64.b64decode(found["signature"], validate=True)
            if signature[:_ID] != self._id:
                raise BadNote("signed by another key")
            self._key.verify(signature[_ID:], found["text"].encode())
        except (ValueError, InvalidSignature) as error:
            raise BadNote("the signature does not fit") from error
        return Checkpoint(int(found["size"]), base64.b64decode(found["root"]))


class Signer:
    """A log's name and its key."""

    def __init__(self, name: str, secret: bytes) -> None:
        self.name = name
        self.secret = secret
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        kind_and_key = _ED25519 + self._key.public_key().public_bytes_raw()
        self._id = _key_id(name, kind_and_key)
        self.vkey = f"{name}+{self._id.hex()}+{_text(kind_and_key)}"
        """The name, the key's id and the public key: enough to verify a checkpoint."""

    @classmethod
    def create(cls, name: str | None = None) -> Self:
        """Create a key, by default for a new log."""
        return cls(name or f"execution-ledger/{os.urandom(8).hex()}", os.urandom(32))

    def sign(self, checkpoint: Checkpoint, extension: str | None = None) -> str:
        text = f"{self.name}\n{checkpoint.size}\n{_text(checkpoint.root)}\n"
        text += f"{extension}\n" if extension else ""
        signature = _text(self._id + self._key.sign(text.encode()))
        return f"{text}\n— {self.name} {signature}\n"


def _key_id(name: str, kind_and_key: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + kind_and_key).digest()[:_ID]


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()
