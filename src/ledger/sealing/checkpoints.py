"""The checkpoints to be compared: those in the database, and the one outside of it."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ledger.log.verifications import Difference, Report
from ledger.sealing import shelf
from ledger.sealing.note import BadNote, Checkpoint
from ledger.sealing.witness import Witness

_PAGE = 500

_CHECKPOINTS = f"""
SELECT size, position, note, number FROM ledger.checkpoint
WHERE size > %s ORDER BY size LIMIT {_PAGE}
"""


class Signed(NamedTuple):
    """A checkpoint to be compared."""

    size: int
    position: int | None
    """The position of its last event; None for the checkpoint outside of the database."""
    note: str
    key: str
    """Its key in a difference."""


class Checkpoints:
    """Reads checkpoints, and names what is wrong with their rows and notes alone."""

    def __init__(self, connection: shelf.Connection, report: Report) -> None:
        """Raises BadNote if the log's key is damaged."""
        self._connection, self._report = connection, report
        self._verifier = shelf.verifier_of(connection)
        self._outside: Signed | None = None
        self.opened = 0
        """The number of notes of the database that were opened."""

    def read_outside(self, folder: Path) -> None:
        """Read the last checkpoint outside of the database."""
        witness = Witness(folder, self._verifier.name)
        key = f"file={witness.path}"
        try:
            if (note := witness.read()) is not None:
                self._outside = Signed(self._verifier.open(note).size, None, note, key)
        except (BadNote, OSError) as error:
            self._report(Difference("checkpoint", key, "note", str(error)))

    def size_of(self, note: str) -> int | None:
        """The size that a note signs; None if it is no note of this log."""
        try:
            return self._verifier.open(note).size
        except BadNote:
            return None

    def open(self, signed: Signed) -> Checkpoint | None:
        """The content of a checkpoint's note; None, and named, if it cannot be trusted."""
        self.opened += signed.position is not None
        try:
            checkpoint = self._verifier.open(signed.note)
        except BadNote as error:
            self._report(Difference("checkpoint", signed.key, "note", f"its column note: {error}"))
            return None
        if checkpoint.size != signed.size:
            says = f"its column size says {signed.size}, the note {checkpoint.size}"
            self._report(Difference("checkpoint", signed.key, "size", says))
            return None
        return checkpoint

    def up_to(self, leaves: int, position: int, is_counted: bool) -> Iterator[Signed]:
        """All checkpoints by size, but for those that were signed meanwhile, behind the end.

        ``leaves`` and ``position`` are the end. ``is_counted`` has gaps in their numbers named.
        """
        outside = self._outside
        for signed in self._kept(leaves, position, is_counted):
            if outside is not None and outside.size < signed.size:
                yield outside
                outside = None
            yield signed
        if outside is not None:
            yield outside

    def _kept(self, leaves: int, position: int, is_counted: bool) -> Iterator[Signed]:
        last, before, is_full = 0, 0, True
        while is_full:
            page = self._connection.execute(_CHECKPOINTS.encode(), (last,)).fetchall()
            is_full = len(page) == _PAGE
            for size, at, note, number in page:
                if size > leaves and (at or 0) > position:
                    return
                key = f"size={size}"
                if number != before + 1 and is_counted:
                    says = f"its column number says {number}, the checkpoint before it {before}"
                    self._report(Difference("checkpoint", key, "number", says))
                last, before = size, number or before + 1
                # Without its constraints, the table may have NULL in any column.
                yield Signed(size, at or 0, note or "", key)
