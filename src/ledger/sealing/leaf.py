"""The leaf of a stored event in the sealed log (contract, Proof).

A leaf is the UTF-8 text of one JSON object without spaces, its keys in this order:

    v               1
    position        of the event in the log
    stream          the event's stream: LIN-…, RUN-…, KEY-…, WHK-…, REF-…
    version         1, 2, 3 … in that stream
    type            the event's stored name, such as "execution.paused/1"
    occurred_at     when the event happened, as the text that other answers have
    recorded_at     when the event was recorded
    actor           {"type", "id"}
    stored_sha256   SHA-256 of the stored event, as hexadecimal digits
    nonce           16 random bytes, base64

The stored event is hashed as a whole, and has a run's input, output and error as ciphertext: so an
erasure changes no leaf. The nonce is stored in the event, too, and is otherwise secret. A reader
who sees only a leaf's hash therefore cannot find the leaf's content by guessing.
"""

import hashlib

import msgspec


class _Stored(msgspec.Struct):
    """The parts of the stored JSON that a leaf repeats."""

    occurred_at: msgspec.Raw
    recorded_at: msgspec.Raw
    actor: msgspec.Raw
    nonce: msgspec.Raw


class _Leaf(msgspec.Struct):
    v: int
    position: int
    stream: str
    version: int
    type: str
    occurred_at: msgspec.Raw
    recorded_at: msgspec.Raw
    actor: msgspec.Raw
    stored_sha256: str
    nonce: msgspec.Raw


_decode = msgspec.json.Decoder(_Stored).decode
_encode = msgspec.json.Encoder().encode


class UnreadableEvent(Exception):
    """A stored event that no leaf can be made of."""


def leaf_of(stream: str, version: int, type_: str, state: bytes, position: int) -> bytes:
    """The leaf of a stored event, from its columns. Raises UnreadableEvent."""
    return leaf_and_instant(stream, version, type_, state, position)[0]


def leaf_and_instant(
    stream: str, version: int, type_: str, state: bytes, position: int
) -> tuple[bytes, bytes]:
    """The leaf of a stored event, and its ``recorded_at`` as the leaf has it (JSON).

    Raises UnreadableEvent.
    """
    try:
        stored = _decode(state)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise UnreadableEvent(f"the event at position {position} cannot be read") from error
    recorded_at = _time(stored.recorded_at)
    leaf = _encode(
        _Leaf(
            v=1,
            position=position,
            stream=stream,
            version=version,
            type=type_,
            occurred_at=_time(stored.occurred_at),
            recorded_at=recorded_at,
            actor=stored.actor,
            stored_sha256=hashlib.sha256(state).hexdigest(),
            nonce=stored.nonce,
        )
    )
    return leaf, bytes(recorded_at)


def _time(stored: msgspec.Raw) -> msgspec.Raw:
    """A time without trailing zeros in its decimals: the same text as in other answers."""
    text = bytes(stored)
    return msgspec.Raw(text[:-2].rstrip(b"0") + b'Z"') if b"." in text else stored
