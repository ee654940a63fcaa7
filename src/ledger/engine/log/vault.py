"""Encryption of possibly personal data: a run's input, output and error.

Every run has its own data key, wrapped by the master key and stored in ``run_key``. Destroying this
key makes the run's payloads unreadable everywhere, in the log and in every copy of it; hashes over
the ciphertext stay valid.

A sealed value is ``version(8) || nonce(12) || commitment(32) || AES-256-GCM``. The event's stream
version, the run, the organization and the field are bound as associated data: a ciphertext moved to
another run, field or event does not open. GCM alone does not commit to its key; the commitment
does, so no second key opens the same bytes.
"""

import hashlib
import hmac
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = 12
_COMMITMENT = 32
_HEADER = 8
_SALTED = _HEADER + _NONCE
_BEGINS = _SALTED + _COMMITMENT
"""The offsets of the commitment and of the ciphertext."""
_COMMIT_LABEL = b"ledger/key-commit/v1"
_DIGEST_LABEL = b"ledger/fact-digest/v1"
_LOGIN_LABEL = b"ledger/login/v1"


class CannotOpen(Exception):
    """The bytes were sealed under another key or for another place, or were altered."""


class RunKey:
    """The data key of one run: seals its payloads and digests its facts."""

    __slots__ = ("_aead", "_commitment", "_context", "_digest_key", "_key")

    def __init__(self, key: bytes, organization_id: str, run_id: str) -> None:
        self._key = key
        self._aead = AESGCM(key)
        self._commitment = hmac.digest(key, _COMMIT_LABEL, "sha256")
        self._digest_key: bytes | None = None
        """Derived at its first use: opening payloads does not need it."""
        self._context = f"{organization_id}|{run_id}"

    def seal(self, field: str, version: int, plaintext: bytes) -> bytes:
        """Encrypt the JSON text of one field of the event at this stream version."""
        header = version.to_bytes(_HEADER, "big")
        nonce = os.urandom(_NONCE)
        sealed = self._aead.encrypt(nonce, plaintext, self._aad(field, header))
        return header + nonce + self._commitment + sealed

    def open(self, field: str, sealed: bytes) -> bytes:
        """Decrypt. Raises CannotOpen for another key, field or run, or altered bytes."""
        if not hmac.compare_digest(sealed[_SALTED:_BEGINS], self._commitment):
            raise CannotOpen("sealed under another key")
        try:
            return self._aead.decrypt(
                sealed[_HEADER:_SALTED], sealed[_BEGINS:], self._aad(field, sealed[:_HEADER])
            )
        except InvalidTag as error:
            raise CannotOpen("sealed for another place, or altered") from error

    def digest(self, content: bytes) -> bytes:
        """HMAC-SHA256 of a fact's content, which cannot be guessed without the key."""
        if self._digest_key is None:
            self._digest_key = hmac.digest(self._key, _DIGEST_LABEL, "sha256")
        return hmac.digest(self._digest_key, content, "sha256")

    def _aad(self, field: str, header: bytes) -> bytes:
        return f"{self._context}|{field}|".encode() + header + self._commitment


class Vault:
    """Makes, wraps and unwraps run keys under one master key of 32 bytes."""

    def __init__(self, master_key: bytes) -> None:
        if len(master_key) != 32:
            raise ValueError("the master key must have 32 bytes")
        self._aead = AESGCM(master_key)
        self.fingerprint = hmac.digest(master_key, b"ledger/master-key/v1", "sha256").hex()[:32]
        """Identifies the master key without revealing it; stored in the database."""
        self._login_key = hmac.digest(master_key, _LOGIN_LABEL, "sha256")

    def password_of(self, role: str) -> str:
        """The password of one of the ledger's own database roles, the same for each process."""
        return hmac.digest(self._login_key, role.encode(), "sha256").hex()

    def create(self, organization_id: str, run_id: str) -> tuple[RunKey, bytes]:
        """Create a run key. Return it, and its wrapped form for the table ``run_key``."""
        key = os.urandom(32)
        nonce = os.urandom(_NONCE)
        wrapped = nonce + self._aead.encrypt(nonce, key, self._aad(organization_id, run_id))
        return RunKey(key, organization_id, run_id), wrapped

    def unwrap(self, wrapped: bytes, organization_id: str, run_id: str) -> RunKey:
        """Return the run key of a wrapped key. Raises CannotOpen for another master key or run."""
        nonce, sealed = wrapped[:_NONCE], wrapped[_NONCE:]
        try:
            key = self._aead.decrypt(nonce, sealed, self._aad(organization_id, run_id))
        except InvalidTag as error:
            raise CannotOpen("wrapped under another master key, or for another run") from error
        return RunKey(key, organization_id, run_id)

    def seal(self, purpose: str, plaintext: bytes) -> bytes:
        """Encrypt one of the ledger's own secrets, such as a signing key, under the master key.

        The purpose is bound as associated data: the bytes do not open for another purpose.
        """
        nonce = os.urandom(_NONCE)
        return nonce + self._aead.encrypt(nonce, plaintext, _own_aad(purpose))

    def open(self, purpose: str, sealed: bytes) -> bytes:
        """Decrypt. Raises CannotOpen for another master key or purpose, or altered bytes."""
        try:
            return self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], _own_aad(purpose))
        except (InvalidTag, ValueError) as error:  # ValueError: shorter than a nonce
            raise CannotOpen("sealed under another master key, or for another purpose") from error

    @staticmethod
    def _aad(organization_id: str, run_id: str) -> bytes:
        return f"ledger/run-key/v1|{organization_id}|{run_id}".encode()


def _own_aad(purpose: str) -> bytes:
    return f"ledger/sealed/v1|{purpose}".encode()


def content_digest(content: bytes) -> bytes:
    """SHA-256 of a fact's canonical content, for facts that are not about runs."""
    return hashlib.sha256(content).digest()


def load_master_key(path: Path) -> bytes:
    """Return the master key of a file; create the file (mode 0600) at first use, atomically.

    Two processes that start at once get the same key: the complete file appears in one step.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(os.urandom(32).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return parse_master_key(path.read_text())


def parse_master_key(text: str) -> bytes:
    """Parse 64 hexadecimal digits into 32 bytes. Raises ValueError for other texts."""
    key = bytes.fromhex(text.strip())
    if len(key) != 32:
        raise ValueError("the master key must be 64 hexadecimal digits (32 bytes)")
    return key
