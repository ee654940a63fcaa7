"""Checks without a ledger: deliveries of webhooks, proofs, checkpoints and statements.

``webhook`` needs no other package. The others check Ed25519 signatures with the package
``cryptography``: ``pip install 'execution-ledger-client[verify]'``. All raise NotVerified.
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import msgspec

from execution_ledger._requests import event_of
from execution_ledger.errors import NotVerified
from execution_ledger.types import Bundle, Event, Proof

TOLERANCE_SECONDS = 300.0
"""How far the clocks of sender and receiver may differ, including the time of delivery."""

File: TypeAlias = Path | str | bytes | Proof | Bundle
"""A path, the text of a file, or an object that the client has read."""


class ProvedEvent(NamedTuple):
    """An event that is proved to be in the log of the key."""

    leaf: dict[str, Any]
    """The sealed leaf: position, stream, type, times, actor."""
    content: dict[str, Any]
    """The event's own fields."""
    key: str
    """The key that signed the checkpoint."""


class SignedCheckpoint(NamedTuple):
    """The size and the root of a log, signed by its key."""

    origin: str
    size: int
    root: bytes


class ProvedStatement(NamedTuple):
    """A statement that is proved to have been issued, and its document."""

    event: ProvedEvent
    document: dict[str, Any]


def webhook(
    body: bytes | str,
    headers: Mapping[str, str],
    secret: str | Sequence[str],
    *,
    tolerance: float = TOLERANCE_SECONDS,
    now: float | None = None,
) -> Event:
    """The event of a delivery with a valid signature. Raises NotVerified.

    ``body`` is the body as it arrived, to the byte. ``secret`` is the endpoint's ``whsec_…``, or a
    list of several during a rotation. A delivery may come twice: its id is the header
    ``webhook-id``, and the event's own ``id``. ``now`` is in seconds since 1970, by default the
    present time.
    """
    octets = body.encode() if isinstance(body, str) else body
    lowered = {name.lower(): value for name, value in headers.items()}
    try:
        sent_at = int(lowered["webhook-timestamp"])
        signatures = lowered["webhook-signature"].split()
        signed = f"{lowered['webhook-id']}.{sent_at}.".encode() + octets
    except (KeyError, ValueError):
        raise NotVerified("the headers of a signed delivery are missing") from None
    if abs((time.time() if now is None else now) - sent_at) > tolerance:
        raise NotVerified("the delivery was signed too long ago, or in the future")
    expected = [
        b"v1," + base64.b64encode(hmac.digest(_secret(each), signed, hashlib.sha256))
        for each in ([secret] if isinstance(secret, str) else secret)
    ]
    if not any(
        hmac.compare_digest(one, other.encode()) for one in expected for other in signatures
    ):
        raise NotVerified("no signature is by this secret")
    try:
        whole = msgspec.json.decode(octets, type=dict[str, msgspec.Raw])
        return event_of(bytes(whole["data"]) if "specversion" in whole else octets)
    except (msgspec.MsgspecError, KeyError) as error:
        raise NotVerified(f"the body is no event: {error}") from error


def proof(file: File, key: str) -> ProvedEvent:
    """The event of a file from ``ledger.proofs.get``, or from an event's page. Raises NotVerified.

    ``key`` is the text of ``ledger.proofs.key`` that you keep, with a line for each origin of the
    log.
    """
    return ProvedEvent(*_checked(_verifier().open_proof, _text(file), key))


def checkpoint(note: str, key: str) -> SignedCheckpoint:
    """The size and the root of a signed note. Raises NotVerified."""
    size, root = _checked(_verifier().open_checkpoint, note, key)
    return SignedCheckpoint(note.partition("\n")[0], size, root)


def statement(file: File, key: str) -> ProvedStatement:
    """The document of a bundle from ``ledger.statements.bundle``. Raises NotVerified."""
    event, document = _checked(_verifier().open_statement, _text(file), key)
    return ProvedStatement(ProvedEvent(*event), document)


def _verifier() -> ModuleType:
    try:
        from execution_ledger import _verifier
    except ImportError as error:
        message = "Install cryptography: pip install 'execution-ledger-client[verify]'."
        raise ImportError(message) from error
    return _verifier


def _checked(check: Any, *texts: str) -> Any:
    try:
        return check(*texts)
    except ValueError as error:
        raise NotVerified(str(error)) from error


def _text(file: File) -> str:
    if isinstance(file, Proof | Bundle):
        return msgspec.json.encode(file).decode()
    if isinstance(file, bytes):
        return file.decode(errors="replace")
    return file if isinstance(file, str) and file.lstrip()[:1] == "{" else Path(file).read_text()


def _secret(text: str) -> bytes:
    try:
        return base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise NotVerified("a secret is whsec_ and base64") from None
