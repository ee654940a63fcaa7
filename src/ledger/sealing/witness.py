"""The last checkpoint, kept in a file, out of reach of a person who can change the database only.

A database that was restored to an earlier state, or whose past was rewritten, contradicts this
checkpoint. The sealer then signs nothing any more.
"""

import os
from contextlib import suppress
from pathlib import Path


class Witness:
    """The file of one log, by its name: another log has another file."""

    def __init__(self, folder: Path, origin: str) -> None:
        self.path = folder / f"{origin.replace('/', '-')}.checkpoint"

    def read(self) -> str | None:
        """The checkpoint that was kept last; None if there is none. Raises OSError."""
        with suppress(FileNotFoundError):
            return self.path.read_text("utf-8", "replace")
        return None

    def keep(self, note: str) -> None:
        """Replace the kept checkpoint: the file always holds the old or the new one, whole.

        Raises OSError.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        with draft.open("w", encoding="utf-8") as file:
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self.path)
