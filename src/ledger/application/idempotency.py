"""Commands that are safe to send again (contract, Access, ``Idempotency-Key``).

The outcome of a command is stored in the transaction of the command's event, so a client whose
answer was lost gets the same outcome when it sends the request again. A concurrent duplicate
request waits for the append lock, as every write does, and then finds the outcome too.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

import msgspec

from ledger.domain import errors
from ledger.domain.errors import Invalid, Refused
from ledger.intake.request import IdempotencyKey, Outcome, Receipt
from ledger.log.append import Append
from ledger.log.side_tables import KeyColumns
from ledger.log.tables import OutcomeRow
from ledger.log.vault import Vault

KEPT_FOR = timedelta(hours=24)

LASTING: tuple[type[Refused], ...] = (
    errors.Invalid,
    errors.RunsNotSupported,
    errors.InvalidState,
    errors.IdTaken,
    errors.FactConflict,
)
"""Refusals that are replayed, each with its own class: all of 409 and 422. Commands that were
refused with 403 or 404 are decided anew."""

_BY_CODE = {kind.code: kind for kind in LASTING}


class _Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """An outcome as it is stored."""

    receipt: Receipt | None = None
    code: str = ""
    detail: str = ""
    errors: tuple[tuple[str, str], ...] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Kept).decode


class KeptOutcomes:
    """The kept outcomes that one append has read, and the new ones that it will write."""

    def __init__(self, append: Append, vault: Vault) -> None:
        self._append, self._vault = append, vault
        self._rows: dict[KeyColumns, OutcomeRow] = {}
        self._new: dict[KeyColumns, OutcomeRow] = {}

    def load(self, keys: Iterable[IdempotencyKey]) -> None:
        """Read the outcomes kept under these keys, for a whole group at once."""
        wanted = {columns for key in keys if (columns := _columns(key)) not in self._rows}
        if wanted:
            self._rows |= {row[:3]: row for row in self._append.aside.outcomes(wanted)}

    def find(self, key: IdempotencyKey, now: datetime) -> Outcome | None:
        """The outcome of an earlier request, or None. Raises IdempotencyKeyReused."""
        row = self._rows.get(_columns(key))
        if row is None or row.recorded_at + KEPT_FOR <= now:
            return None
        if row.fingerprint != key.fingerprint:
            raise errors.IdempotencyKeyReused
        return _restored(_decode(self._vault.open(_purpose(row), row.outcome)))

    def keep(self, key: IdempotencyKey, outcome: Outcome, now: datetime) -> None:
        """Keep an outcome, if it is a receipt or a refusal that is replayed."""
        if isinstance(outcome, Receipt):
            kept = _Kept(receipt=outcome)
        elif isinstance(outcome, LASTING):
            places = outcome.errors if isinstance(outcome, Invalid) else ()
            kept = _Kept(code=outcome.code, detail=outcome.detail, errors=places)
        else:
            return
        row = OutcomeRow(*_columns(key), key.fingerprint, b"", now)
        row = row._replace(outcome=self._vault.seal(_purpose(row), _encode(kept)))
        self._rows[row[:3]] = self._new[row[:3]] = row

    def write(self) -> None:
        if self._new:
            self._append.aside.keep([*self._new.values()])


def _columns(key: IdempotencyKey) -> KeyColumns:
    return key.credential, key.path, key.key


def _purpose(row: OutcomeRow) -> str:
    return f"outcome|{row.credential}|{row.path}|{row.key}"


def _restored(kept: _Kept) -> Outcome:
    if kept.receipt is not None:
        return msgspec.structs.replace(kept.receipt, replayed=True)
    kind = _BY_CODE[kept.code]
    # The constructors are bypassed: each class has arguments of its own, and the texts are kept.
    refusal = kind.__new__(kind)
    Refused.__init__(refusal, kept.detail)
    if isinstance(refusal, Invalid):
        refusal.errors = kept.errors
    refusal.replayed = True
    return refusal
