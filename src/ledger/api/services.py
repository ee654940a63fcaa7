"""What one API process works with, opened and closed together."""

from collections.abc import Callable
from datetime import datetime

from ledger.api.authentication import Authenticator
from ledger.api.door import Door
from ledger.api.positions import ViewPositions
from ledger.api.submissions import Submissions
from ledger.application.writer import Writer
from ledger.store.log import Log
from ledger.store.vault import Vault


class ApiServices:
    """Built by the composition root."""

    def __init__(
        self,
        log: Log,
        writer: Writer,
        door: Door,
        positions: ViewPositions,
        vault: Vault,
        clock: Callable[[], datetime],
    ) -> None:
        self.log = log
        self.writer = writer
        self.door = door
        self.positions = positions
        self.vault = vault
        self.clock = clock
        self.authenticator = Authenticator(door)
        self.submissions = Submissions(writer, positions)

    async def open(self) -> None:
        """Connect and start. Raises what the database says when it is away."""
        await self.door.open()
        await self.positions.start()
        self.writer.start()

    async def close(self) -> None:
        """Answer what was accepted, then give everything back."""
        self.writer.stop()
        await self.positions.stop()
        await self.door.close()
        self.log.close()
