"""The services of one API process, opened and closed together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING

from ledger.api.access.authentication import Authenticator
from ledger.api.access.key_uses import KeyUses
from ledger.api.machinery.bodies import Pace
from ledger.api.machinery.shares import Shares
from ledger.api.parsing import Parsing
from ledger.api.submissions import Submissions
from ledger.application.read_notes import ReadNotes
from ledger.application.writer import Writer
from ledger.feed.stream import Streams
from ledger.feed.tail import Tail
from ledger.log.event_log import Log
from ledger.log.vault import Vault
from ledger.postgres.door import Door
from ledger.reads.answers import Answers
from ledger.reads.asking import Reads
from ledger.reads.positions import ViewPositions

if TYPE_CHECKING:
    from ledger.api.access.json_web_tokens import TokenVerifier


class ApiServices:
    """The services of one API process, built by the composition root."""

    def __init__(
        self,
        log: Log,
        writer: Writer,
        door: Door,
        positions: ViewPositions,
        vault: Vault,
        clock: Callable[[], datetime],
        key_uses: KeyUses,
        check_target: Callable[[str], Awaitable[None]],
        verifier: TokenVerifier | None = None,
        cors_origins: frozenset[str] = frozenset(),
        root_path: str = "",
    ) -> None:
        self.log = log
        self.writer = writer
        self.door = door
        self.positions = positions
        self.vault = vault
        self.clock = clock
        self.pace = Pace()
        self.check_target = check_target
        """Raises ForbiddenTarget for a URL to which no webhook may be sent."""
        self.cors_origins = cors_origins
        self.root_path = root_path
        """The prefix of every address, for a proxy that serves other things beside us."""
        answers = Answers(door.fetch)
        self.reads = Reads(door.fetch, positions, answers, clock)
        positions.on_moved(answers.heard)
        positions.on_reached(writer.note_shown)
        positions.on_silence(door.renew)
        positions.on_erased(writer.forget_key)
        positions.on_erased(answers.forget)
        self._verifier = verifier
        self.key_uses = key_uses
        self.authenticator = Authenticator(door, clock, key_uses, verifier)
        self.shares = Shares()
        self.parsing = Parsing()
        self.submissions = Submissions(writer, positions)
        self.read_notes = ReadNotes(writer, clock)
        tail = Tail(door.fetch, positions)
        self.streams = Streams(tail, door.fetch, self.authenticator.lapsed)

    async def open(self) -> None:
        """Connect and start. Raises the database's error if it cannot be reached."""
        await self.door.open()
        await self.positions.start()
        if self._verifier is not None:
            self._verifier.keys.start()
        self.parsing.start()
        self.writer.start()
        self.read_notes.start()
        self.key_uses.start()

    async def close(self) -> None:
        """Answer the accepted commands, record who read runs, then release everything."""
        self.read_notes.stop()
        self.parsing.stop()
        self.writer.stop()
        self.authenticator.failures.tell()
        self.key_uses.stop()
        await self.streams.stop()
        if self._verifier is not None:
            await self._verifier.keys.stop()
        await self.positions.stop()
        await self.door.close()
        self.log.close()
