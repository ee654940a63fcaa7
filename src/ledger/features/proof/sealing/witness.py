"""The last checkpoint that this node has seen, in a file of its data directory.

A person who can only change the database cannot reach the file, and the file outlives a database
that loses its last transactions. A database that was restored to an earlier state, or whose past
was rewritten, contradicts this checkpoint. Then nothing is signed any more (``peers.py``).
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ledger.features.proof.sealing.note import number_of, origin_named


class Witness:
    """The file of an origin, by its name: another log has another file."""

    def __init__(self, folder: Path, origin: str) -> None:
        self.path = folder / f"{origin.replace('/', '-')}.checkpoint"

    def read(self) -> str | None:
        """Returns None if there is no checkpoint. Raises OSError."""
        with suppress(FileNotFoundError):
            return self.path.read_text("utf-8", "replace")
        return None

    def keep(self, note: str) -> None:
        """Replace the checkpoint atomically: the file always holds the whole old or new one.

        Raises OSError.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with draft.open("w", encoding="utf-8") as file:
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.path)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # else a crash of the machine could bring the old file back
        finally:
            os.close(folder)


class LineageFile:
    """The file that names the PostgreSQL on which the node has waited for reports."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lineage"

    def read(self) -> str | None:
        with suppress(OSError):
            return self._path.read_text("utf-8", "replace").strip()
        return None

    def keep(self, lineage: str) -> None:
        """If the write fails, the node waits again after its next start."""
        if self.read() != lineage:
            with suppress(OSError):
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._path.write_text(f"{lineage}\n")


def stored_notes(folder: Path) -> Iterator[str]:
    """The checkpoints of every log that the folder has. Raises OSError."""
    for path in folder.glob("*.checkpoint"):
        yield path.read_text("utf-8", "replace")


def latest_origin(folder: Path, origin: str) -> str:
    """The latest origin with a checkpoint in the folder, at least the given one."""
    prefix = f"{origin_named(origin, 1).replace('/', '-')}-"
    numbers = [
        int(number)
        for path in folder.glob(f"{prefix}*.checkpoint")
        if (number := path.stem.removeprefix(prefix)).isdigit()
    ]
    return origin_named(origin, max([number_of(origin), *numbers]))
