"""The leaf of a stored event in the sealed log (contract, Proof).

A leaf is the UTF-8 text of one JSON object without spaces, its keys in this order:

    v               the format of the stored event, 2 (``engine/log/codec.py``)
    position        of the event in the log
    stream          the event's stream: LIN-…, RUN-…, KEY-…, WHK-…, STM-…, REF-…, DIR-…, READ-…,
                    SES-…
    version         1, 2, 3 … in that stream
    type            the event's stored name, such as "execution.paused/1"
    occurred_at     when the event happened, as the text that other answers have
    recorded_at     when the event was recorded
    actor           {"type", "id"}
    reported_by     the credential that reported the event
    stored_sha256   SHA-256 of the stored event, as hexadecimal digits
    nonce           16 random bytes, base64

The stored event is hashed as a whole. It has a run's input, output and error as ciphertext, so an
erasure changes no leaf. The nonce is also stored in the event, and is otherwise secret. So a reader
who sees only a leaf's hash cannot find the leaf's content by guessing.
"""

import hashlib

import msgspec

from ledger.engine.log.codec import StoredArray
from ledger.engine.values.recorded import Actor
from ledger.engine.values.values import format_instant, instant_of


class _Leaf(msgspec.Struct):
    v: int
    position: int
    stream: str
    version: int
    type: str
    occurred_at: str
    recorded_at: str
    actor: Actor
    reported_by: str
    stored_sha256: str
    nonce: bytes


_decode = msgspec.json.Decoder(StoredArray[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class UnreadableEvent(Exception):
    """No leaf can be made of a stored event."""


def leaf_of(stream: str, version: int, type_: str, state: bytes, position: int) -> bytes:
    """The leaf of a stored event, from its columns. Raises UnreadableEvent."""
    return leaf_and_instant(stream, version, type_, state, position)[0]


def leaf_and_instant(
    stream: str, version: int, type_: str, state: bytes, position: int
) -> tuple[bytes, int]:
    """The leaf of a stored event, and its ``recorded_at`` in microseconds since 1970-01-01 UTC.

    Raises UnreadableEvent.
    """
    try:
        stored = _decode(state)
        leaf = _Leaf(
            v=stored.format,
            position=position,
            stream=stream,
            version=version,
            type=type_,
            occurred_at=format_instant(instant_of(stored.occurred_at)),
            recorded_at=format_instant(instant_of(stored.recorded_at)),
            actor=Actor(*stored.actor),
            reported_by=stored.reported_by,
            stored_sha256=hashlib.sha256(state).hexdigest(),
            nonce=stored.nonce,
        )
    except (ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise UnreadableEvent(f"the event at position {position} cannot be read") from error
    return _encode(leaf), stored.recorded_at
