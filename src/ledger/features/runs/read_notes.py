"""Notes of reads of runs' data, which become entries of the audit log (contract, Feeds).

An answer with the input, output or error of runs is noted while it is given: a look-up in a set,
and at most once a day an addition to a list. A thread submits the new notes to the writer every few
seconds. A read waits for this only if notes arrive faster than they can be recorded.

The log has one event per credential, line and UTC day (``features/runs/model/reads.py``), even if
several workers noted the read, or if a worker has forgotten its note.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime, time, timedelta

from ledger.engine.background import BackgroundLoop
from ledger.engine.http.replies import DisclosedLine
from ledger.engine.values.errors import LedgerError, NotCarriedOut, Unavailable
from ledger.engine.values.principal import Principal
from ledger.engine.values.values import EARLIEST, day_of
from ledger.engine.writer.command import OwnCommand, receipt
from ledger.engine.writer.group import Group
from ledger.engine.writer.hand_over import RemoteWriter
from ledger.engine.writer.request import Receipt
from ledger.engine.writer.writer import Writer
from ledger.features.runs.model.reads import READ_ACTION, RunDataRead, RunDataReads, stream_of

_EVERY_SECONDS = 3.0
"""The time between two rounds. An entry appears at most 10 s after the answer."""

_REMEMBERED = 50_000
"""The most notes of today in a process's memory: some 10 MB."""

_WAITING = 20_000
"""The most waiting notes; a further answer waits until notes are recorded."""

_AT_ONCE = 200
"""The most notes in one append: other commands wait for no more than these."""

_logger = logging.getLogger(__name__)


class NoteRead(OwnCommand):
    """Record that a credential saw data of a line's runs, once per UTC day."""

    action = READ_ACTION
    needs_key = False
    """The credential saw the data, whatever happened to its key since."""

    def __init__(
        self, principal: Principal, request_id: str | None, line: DisclosedLine, read_at: datetime
    ) -> None:
        super().__init__(principal, request_id)
        self._line, self._read_at = line, read_at
        self._stream = stream_of(principal.credential, line.line_id, day_of(read_at))

    def streams(self) -> Iterable[str]:
        return (self._stream,)

    def decide(self, group: Group) -> Receipt:
        """Record the read, unless the stream has its event. Never refused."""
        if self._stream in group.touched or group.memory.find(self._stream) is not None:
            return Receipt(self._stream, (), 0, duplicate=True)
        recorded = group.record(
            RunDataReads(self._stream),
            RunDataRead(service_line_id=self._line.line_id),
            self._read_at,
            self,
            tenant=(self._line.organization_id, self._line.workspace_id, None),
            # No further decision needs it: the writer's memory is for lines and runs.
            is_loaded=False,
        )
        return receipt(recorded)


class ReadNotes(BackgroundLoop):
    """The notes of one process. Start the writer before the notes, and stop it after them."""

    def __init__(self, writer: Writer | RemoteWriter, clock: Callable[[], datetime]) -> None:
        super().__init__("read-notes")
        self._writer, self._clock = writer, clock
        self._day = (EARLIEST, EARLIEST)
        self._noted: set[tuple[str, str]] = set()
        self._waiting: list[NoteRead] = []
        self._lock = threading.Lock()
        self._due = threading.Event()
        """Set if the next round should begin at once."""

    @property
    def has_room(self) -> bool:
        """True if few enough notes wait for an answer to add some."""
        return len(self._waiting) < _WAITING

    def note(
        self, principal: Principal, request_id: str | None, lines: Collection[DisclosedLine]
    ) -> None:
        """Note that a credential receives data of runs of these lines."""
        read_at = self._clock()
        if not self._day[0] <= read_at < self._day[1] or len(self._noted) > _REMEMBERED:
            # A forgotten read may be noted again: the log has it already.
            begin = datetime.combine(day_of(read_at), time(), UTC)
            self._day, self._noted = (begin, begin + timedelta(days=1)), set()
        credential = principal.credential
        new = [line for line in lines if (credential, line.line_id) not in self._noted]
        if not new:
            return
        self._noted.update((credential, line.line_id) for line in new)
        with self._lock:
            self._waiting += [NoteRead(principal, request_id, line, read_at) for line in new]
        if not self.has_room:
            self._due.set()

    def run_once(self) -> int:
        """Record waiting notes; return how many. The others wait for the next round."""
        with self._lock:
            notes, self._waiting = self._waiting, []
        for begin in range(0, len(notes), _AT_ONCE):
            some = notes[begin : begin + _AT_ONCE]
            lost = self._record(some)
            if lost:
                with self._lock:
                    self._waiting = [*lost, *notes[begin + len(some) :], *self._waiting]
                return begin + len(some) - len(lost)
        return len(notes)

    def _record(self, notes: list[NoteRead]) -> list[NoteRead]:
        try:
            outcomes = self._writer.submit(notes).result()
        except LedgerError as error:
            _logger.warning("reads of runs are not recorded yet: %s", error)
            return notes
        return [
            note
            for note, outcome in zip(notes, outcomes, strict=True)
            # The writer has logged a bug; the note would meet it again.
            if isinstance(outcome, Unavailable) and not isinstance(outcome, NotCarriedOut)
        ]

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._due.wait(_EVERY_SECONDS)
            self._due.clear()
            self.run_once()
        self.run_once()
        if self._waiting:
            _logger.error("%d reads of runs could not be recorded", len(self._waiting))

    def _interrupt(self) -> None:
        self._due.set()
