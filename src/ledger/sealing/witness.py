"""The last checkpoint, kept where whoever can change the database cannot: in a file.

A database that was put back to an earlier state, or whose past was rewritten, is one that no longer
fits it. Then nothing is signed any more.
"""

import os
from contextlib import suppress
from pathlib import Path


class Witness:
    """The file of one log, by its name: another log has another file."""

    def __init__(self, folder: Path, origin: str) -> None:
        self.path = folder / f"{origin.replace('/', '-')}.checkpoint"

    def read(self) -> str | None:
        """The checkpoint that was kept last; None where there is none. Raises OSError."""
        with suppress(FileNotFoundError):
            return self.path.read_text("utf-8", "replace")
        return None

    def keep(self, note: str) -> None:
        """Keep a checkpoint in place of the one before: the file holds either, never a part.

        Raises OSError.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with draft.open("w", encoding="utf-8") as file:
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.path)
