"""The leaf of a stored event in the sealed log (contract, Proof).

A leaf is the UTF-8 text of one JSON object without spaces, its keys in this order:

    v               the format of the stored event, 1 or 2 (``log/codec.py``)
    position        of the event in the log
    stream          the event's stream: LIN-…, RUN-…, KEY-…, WHK-…, REF-…, DIR-…, READ-…
    version         1, 2, 3 … in that stream
    type            the event's stored name, such as "execution.paused/1"
    occurred_at     when the event happened, as the text that other answers have
    recorded_at     when the event was recorded
    actor           {"type", "id"}
    reported_by     the credential that reported the event; a leaf of ``v`` 1 has no such key
    stored_sha256   SHA-256 of the stored event, as hexadecimal digits
    nonce           16 random bytes, base64

The stored event is hashed as a whole, and has a run's input, output and error as ciphertext: so an
erasure changes no leaf. The nonce is stored in the event, too, and is otherwise secret. A reader
who sees only a leaf's hash therefore cannot find the leaf's content by guessing.

A sealed leaf never changes, so an event that is stored in format 1 keeps its leaf of ``v`` 1.
"""

import hashlib
from collections.abc import Callable
from datetime import datetime
from functools import partial

import msgspec

from ledger.domain.recorded import Actor
from ledger.domain.values import format_instant, instant_of, micros_of
from ledger.log.codec import StoredArray


class _StoredObject(msgspec.Struct):
    """The parts of an event in format 1 that its leaf repeats, as they are stored."""

    occurred_at: msgspec.Raw
    recorded_at: msgspec.Raw
    actor: msgspec.Raw
    nonce: msgspec.Raw


class _Leaf(msgspec.Struct):
    """A leaf. The parts that repeat the stored JSON are encoded, or to be encoded."""

    v: int
    position: int
    stream: str
    version: int
    type: str
    occurred_at: str | msgspec.Raw
    recorded_at: str | msgspec.Raw
    actor: Actor | msgspec.Raw
    reported_by: str | msgspec.UnsetType
    stored_sha256: str
    nonce: bytes | msgspec.Raw


_decode_object = msgspec.json.Decoder(_StoredObject).decode
_decode_array = msgspec.json.Decoder(StoredArray[msgspec.Raw]).decode
_decode_instant = msgspec.json.Decoder(datetime).decode
_encode = msgspec.json.Encoder().encode


class UnreadableEvent(Exception):
    """A stored event that no leaf can be made of."""


def leaf_of(stream: str, version: int, type_: str, state: bytes, position: int) -> bytes:
    """The leaf of a stored event, from its columns. Raises UnreadableEvent."""
    return leaf_and_instant(stream, version, type_, state, position)[0]


def leaf_and_instant(
    stream: str, version: int, type_: str, state: bytes, position: int
) -> tuple[bytes, int | None]:
    """The leaf of a stored event, and its ``recorded_at`` in microseconds since 1970-01-01 UTC.

    The second is None if the stored event has no instant there. Raises UnreadableEvent.
    """
    make = partial(
        _Leaf,
        position=position,
        stream=stream,
        version=version,
        type=type_,
        stored_sha256=hashlib.sha256(state).hexdigest(),
    )
    try:
        leaf, recorded_at = (_from_array if state[:1] == b"[" else _from_object)(state, make)
    except (ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise UnreadableEvent(f"the event at position {position} cannot be read") from error
    return _encode(leaf), recorded_at


def _from_array(state: bytes, make: Callable[..., _Leaf]) -> tuple[_Leaf, int | None]:
    stored = _decode_array(state)
    leaf = make(
        v=2,
        occurred_at=format_instant(instant_of(stored.occurred_at)),
        recorded_at=format_instant(instant_of(stored.recorded_at)),
        actor=Actor(*stored.actor),
        reported_by=stored.reported_by,
        nonce=stored.nonce,
    )
    return leaf, stored.recorded_at


def _from_object(state: bytes, make: Callable[..., _Leaf]) -> tuple[_Leaf, int | None]:
    stored = _decode_object(state)
    leaf = make(
        v=1,
        occurred_at=_time(stored.occurred_at),
        recorded_at=_time(stored.recorded_at),
        actor=stored.actor,
        reported_by=msgspec.UNSET,
        nonce=stored.nonce,
    )
    try:
        return leaf, micros_of(_decode_instant(stored.recorded_at))
    except (ValueError, TypeError, msgspec.MsgspecError):
        return leaf, None


def _time(stored: msgspec.Raw) -> msgspec.Raw:
    """A time without trailing zeros in its decimals: the same text as in other answers."""
    text = bytes(stored)
    return msgspec.Raw(text[:-2].rstrip(b"0") + b'Z"') if b"." in text else stored
