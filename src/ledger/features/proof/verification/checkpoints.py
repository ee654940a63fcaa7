"""The checkpoints to compare: those in the database, and the one outside of it."""

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ledger.engine.log.vault import CannotOpen, Vault
from ledger.features.proof.sealing import shelf
from ledger.features.proof.sealing.note import BadNote, Checkpoint, Verifier
from ledger.features.proof.sealing.origins import former_origins
from ledger.features.proof.sealing.witness import Witness
from ledger.features.proof.tables import Difference, Report

_PAGE = 500

_CHECKPOINTS = f"""
SELECT size, position, note, number FROM ledger.checkpoint
WHERE size > %s ORDER BY size LIMIT {_PAGE}
"""

_KEY = "is_only=true"
"""The key of the one row of ``signer``."""

_SIGNER = b"SELECT vkey, secret FROM ledger.signer"

# Those of an earlier origin that belong to the present log.
_FORMER = f"""
SELECT c.size, c.position, c.note, c.number
FROM ledger.former_checkpoint AS c JOIN ledger.former_origin AS o ON o.number = c.origin
WHERE c.size > %s AND c.origin = %s AND c.size <= o.kept_size ORDER BY c.size LIMIT {_PAGE}
"""


class Signed(NamedTuple):
    """A checkpoint to compare."""

    size: int
    position: int | None
    """The position of its last event. None for the checkpoint outside of the database, which may
    have more events than the newest one within."""
    note: str
    key: str
    """Its key in a difference."""
    verifier: Verifier
    table: str = "checkpoint"
    column: str = "note"


class Checkpoints:
    """Reads checkpoints, and reports faults in their rows and notes."""

    def __init__(self, connection: shelf.Connection, report: Report) -> None:
        """Raises BadNote if the log's key is damaged."""
        self._connection, self._report = connection, report
        self._verifier = shelf.verifier_of(connection)
        self._former: list[tuple[int, Verifier]] = []
        for origin in former_origins(connection):
            try:
                self._former.append((origin.number, Verifier(origin.vkey)))
            except BadNote as error:
                says = f"its column vkey: {error}"
                report(Difference("former_origin", f"number={origin.number}", "vkey", says))
        self._outside: Signed | None = None
        self._mark: Signed | None = None
        """The last checkpoint, as it is stored with the key."""
        self.opened = 0
        """The number of notes of the database that were opened."""

    def read_outside(self, folder: Path) -> None:
        witness = Witness(folder, self._verifier.name)
        key = f"file={witness.path}"
        try:
            if (note := witness.read()) is not None:
                size = self._verifier.open(note).size
                self._outside = Signed(size, None, note, key, self._verifier)
        except (BadNote, OSError) as error:
            self._report(Difference("checkpoint", key, "note", str(error)))

    def read_mark(self, vault: Vault) -> None:
        try:
            row = self._connection.execute(_SIGNER).fetchone() or ("", b"")
            mark = shelf.opened(vault, *row)[1]
            if mark is not None:
                size = self._verifier.open(mark.note).size
                self._mark = Signed(
                    size, mark.position, mark.note, _KEY, self._verifier, "signer", "secret"
                )
        except (BadNote, CannotOpen) as error:
            self._report(Difference("signer", _KEY, "secret", f"its column secret: {error}"))

    def compare_mark(self, newest: int) -> None:
        """Compare the mark with the size of the newest checkpoint, which was read later."""
        mark = self._mark
        if not newest:
            says = "the log has a key, and no checkpoint that was signed by it"
            self._report(Difference("signer", _KEY, None, says))
        if mark is not None and mark.size > newest:
            says = f"its column secret says {mark.size}, the last checkpoint {newest}"
            self._report(Difference("signer", _KEY, "secret", says))
            self._mark = None

    def size_of(self, note: str) -> int | None:
        """The size that a note signs; None if it is no note of this log."""
        try:
            return self._verifier.open(note).size
        except BadNote:
            return None

    def open(self, signed: Signed) -> Checkpoint | None:
        """The content of a checkpoint's note; reported and None if it cannot be trusted."""
        self.opened += signed.position is not None and signed.table != "signer"
        try:
            checkpoint = signed.verifier.open(signed.note)
        except BadNote as error:
            says = f"its column {signed.column}: {error}"
            self._report(Difference(signed.table, signed.key, signed.column, says))
            return None
        if checkpoint.size != signed.size:
            says = f"its column size says {signed.size}, the note {checkpoint.size}"
            self._report(Difference(signed.table, signed.key, "size", says))
            return None
        return checkpoint

    def up_to(self, leaves: int, position: int, is_counted: bool) -> Iterator[Signed]:
        """All checkpoints by size, except those that were signed meanwhile, after the end.

        ``leaves`` and ``position`` are the end; ``is_counted`` reports gaps in their numbers.
        """
        outside = [[one] for one in (self._outside, self._mark) if one is not None]
        present = self._present(leaves, position, is_counted)
        former = [self._former_notes(*origin, is_counted) for origin in self._former]
        yield from heapq.merge(*former, present, *outside, key=lambda signed: signed.size)

    def _present(self, leaves: int, position: int, is_counted: bool) -> Iterator[Signed]:
        for size, at, note, number, before in self._pages(_CHECKPOINTS):
            if size > leaves and (at or 0) > position:
                return
            # Without its constraints, the table may have NULL in any column.
            signed = Signed(size, at or 0, note or "", f"size={size}", self._verifier)
            self._count(signed, number, before, is_counted)
            yield signed

    def _former_notes(self, origin: int, verifier: Verifier, is_counted: bool) -> Iterator[Signed]:
        for size, at, note, number, before in self._pages(_FORMER, origin):
            key = f"origin={origin} size={size}"
            signed = Signed(size, at, note, key, verifier, "former_checkpoint")
            self._count(signed, number, before, is_counted)
            yield signed

    def _pages(self, statement: str, *values: int) -> Iterator[tuple[Any, ...]]:
        """The rows, each with the previous row's number."""
        last, before, is_full = 0, 0, True
        while is_full:
            page = self._connection.execute(statement.encode(), (last, *values)).fetchall()
            is_full = len(page) == _PAGE
            for row in page:
                yield (*row, before)
                last, before = row[0], row[3] or before + 1

    def _count(self, signed: Signed, number: int | None, before: int, is_counted: bool) -> None:
        if number != before + 1 and is_counted:
            says = f"its column number says {number}, the checkpoint before it {before}"
            self._report(Difference(signed.table, signed.key, "number", says))
