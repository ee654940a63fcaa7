"""What a node knows about signing: its witness, the newest checkpoint, the other nodes.

The beat and the sealer of a node share one ``WitnessWatch``. Each runs on its own thread and
connection.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from ledger.engine.log import nodes
from ledger.engine.postgres.timing import LIVING_SECONDS
from ledger.features.proof.sealing import shelf
from ledger.features.proof.sealing.note import (
    BadNote,
    Checkpoint,
    Signer,
    Verifier,
    number_of,
    parse,
)
from ledger.features.proof.sealing.peers import Evidence, PeerMonitor, Row, Witnessed
from ledger.features.proof.sealing.shelf import Mark, Sealed, State
from ledger.features.proof.sealing.witness import LineageFile, Witness, latest_origin, stored_notes

_logger = logging.getLogger(__name__)


class CannotSign(Exception):
    """Nothing can be signed until somebody fixes what the message names."""


class Inspection(NamedTuple):
    """The result of one inspection."""

    state: State
    verifier: Verifier
    evidence: Evidence

    def with_mark(self, mark: Mark | None) -> "Inspection":
        """Return a copy with the mark, which only a node that may sign can open with the key.

        Raises BadNote if the key did not sign the mark.
        """
        if mark is None:
            return self
        newest, state = self.evidence.newest, self.state
        checkpoint = self.verifier.open(mark.note)
        witnessed = Witnessed(state.origin, *checkpoint, "the mark beside the key")
        is_first = newest is not None and mark.number == 1 and newest.size == checkpoint.size
        is_unseen = is_first and state.shown_size == 0
        return self._replace(evidence=self.evidence._replace(mark=witnessed, is_unseen=is_unseen))

    @property
    def newest(self) -> Checkpoint | None:
        newest = self.evidence.newest
        return None if newest is None else Checkpoint(newest.size, newest.root)


class WitnessWatch:
    """What one node knows. ``now`` is a steady clock in seconds."""

    def __init__(
        self,
        node_id: str,
        folder: Path,
        now: Callable[[], float] = monotonic,
        timeout: float = LIVING_SECONDS,
    ) -> None:
        """``folder`` stores the witness; ``timeout`` is how many seconds to wait for reports."""
        self.node_id, self.folder = node_id, folder
        self._now = now
        self._monitor = PeerMonitor(node_id, now(), timeout)
        self._lineage = LineageFile(folder)
        self._lock = threading.Lock()
        self.newborn = Signer.create()
        """The name and key that this node would give to a log without a key."""
        self._unkept: tuple[Witnessed, str] | None = None
        """A witness newer than the file, which could not be written."""

    def inspect(self, connection: shelf.Connection, leads: bool) -> Inspection:
        """Inspect the state. Read the log only afterwards: it then has all that this saw.

        Raises CannotSign if the witness or the newest checkpoint cannot be read, and BadNote if the
        log's key is damaged.
        """
        sent_at = self._now()
        with connection.pipeline():  # one transaction
            state = shelf.state(connection, self.newborn.vkey)
            found = nodes.nodes(connection)
        answered = self._now()
        verifier = Verifier(state.vkey)
        if number_of(verifier.name) != state.origin:
            # With another number, a node would ignore its own witness.
            raise BadNote(f"the log is origin {state.origin}, and its key is of {verifier.name}")
        rows = [
            Row(
                node.node_id,
                _reported(node, verifier, state.origin),
                node.silent_seconds,
                node.beaten_at,
                node.lineage,
            )
            for node in found
        ]
        if any(node.silent_seconds > nodes.FORGET_SECONDS for node in found):
            nodes.forget(connection)
        with self._lock:
            self._keep_again()
            remembered = self._lineage.read()
            reports = self._monitor.hear(
                sent_at,
                answered,
                state.lineage,
                rows,
                remembered,
                is_between_beats=not leads,  # otherwise this is the loop that beats
            )
            own, keeps = self._own(verifier), self._unkept is None
        newest = _newest(state, verifier)
        evidence = Evidence(state.origin, state.contradicts, newest, own, reports, leads, keeps)
        if not state.has_signed:
            try:
                stray = self._stray(state, found)
            except OSError as error:
                raise CannotSign(f"{self.folder} cannot be read: {error.strerror}") from error
            evidence = evidence._replace(has_signed=False, stray=stray)
        return Inspection(state, verifier, evidence)

    def _stray(self, state: State, found: Sequence[nodes.Node]) -> Witnessed | None:
        """The largest checkpoint of any log that this node, another node or the database has.

        Raises OSError.
        """
        own = [(note, str(self.folder)) for note in stored_notes(self.folder)]
        theirs = [(node.witness, f"node {node.node_id}") for node in found]
        strays = []
        for text, where in [*own, *theirs, (state.orphan, "the database")]:
            with suppress(BadNote):
                if text is not None:
                    note = parse(text)
                    strays.append(
                        Witnessed(
                            number_of(note.origin), *note.checkpoint, f"{note.origin}, {where}"
                        )
                    )
        return max(strays, key=lambda stray: stray[:2], default=None)

    def follow(self, inspection: Inspection) -> None:
        if inspection.state.sealed.note is not None:
            self.store(inspection.verifier, inspection.state.sealed.note)

    def store(self, verifier: Verifier, note: str) -> None:
        """Make a checkpoint of the present origin the witness, unless the node has a newer one.

        If the file cannot be written, the witness stays in memory; an error is logged once.
        """
        with self._lock:
            own = self._own(verifier)
            checkpoint = verifier.open(note)
            origin = number_of(verifier.name)
            if own is not None and (own.origin, own.size) >= (origin, checkpoint.size):
                return
            file = Witness(self.folder, verifier.name)
            try:
                file.keep(note)
                self._unkept = None
            except OSError as error:
                if self._unkept is None:
                    _logger.error("sealer: no checkpoint can be kept outside: %s", error)
                self._unkept = Witnessed(origin, *checkpoint, str(file.path)), note

    @property
    def keeps(self) -> bool:
        with self._lock:
            return self._unkept is None

    def _keep_again(self) -> None:
        """Write the checkpoint that could not be written before: there may be room now."""
        if self._unkept is not None:
            note = self._unkept[1]
            origin = parse(note).origin
            with suppress(OSError):
                Witness(self.folder, origin).keep(note)
                self._unkept = None

    def beat(
        self,
        connection: shelf.Connection,
        inspection: Inspection | None,
        is_settled: bool,
        version: str,
        role: str,
    ) -> tuple[datetime, str | None]:
        """Report the witness in the data directory; None if it cannot be read.

        ``is_settled`` is True if the node has waited for the others' reports. Returns the arguments
        for ``note_beaten``, to call once the database has acknowledged the beat.
        """
        note, lineage = None, None
        if inspection is not None:
            if inspection.state.has_signed:
                note = self.stored(inspection.verifier.name)
            else:
                note = next(stored_notes(self.folder), None)
            lineage = inspection.state.lineage if is_settled else None
        return nodes.beat(connection, self.node_id, version, role, note, lineage), lineage

    def note_beaten(self, at: datetime, lineage: str | None) -> None:
        """Note a beat that the database has acknowledged, and the PostgreSQL that it reports."""
        with self._lock:
            self._monitor.beaten(at, self._now())
            if lineage is not None:
                self._lineage.keep(lineage)

    def stored(self, origin: str) -> str | None:
        """The witness in the data directory. Raises OSError."""
        return Witness(self.folder, latest_origin(self.folder, origin)).read()

    def _own(self, verifier: Verifier) -> Witnessed | None:
        """The node's witness, from the latest origin that it has seen."""
        name = latest_origin(self.folder, verifier.name)
        file = Witness(self.folder, name)
        try:
            note = file.read()
        except OSError as error:
            raise CannotSign(f"{file.path} cannot be read: {error.strerror}") from error
        stored = None
        if note is not None:
            where = f"the last checkpoint in {file.path}"
            is_present = name == verifier.name
            checkpoint = opened(verifier, note, where) if is_present else parse(note).checkpoint
            stored = Witnessed(number_of(name), *checkpoint, str(file.path))
        unkept = None if self._unkept is None else self._unkept[0]
        found = [witness for witness in (stored, unkept) if witness is not None]
        return max(found, key=lambda witness: witness[:2], default=None)


def opened(verifier: Verifier, note: str, where: str) -> Checkpoint:
    """The content of a checkpoint. Raises CannotSign if this log did not sign it."""
    try:
        return verifier.open(note)
    except BadNote as error:
        raise CannotSign(f"{where}: {error}") from error


def _newest(state: State, verifier: Verifier) -> Witnessed | None:
    sealed: Sealed = state.sealed
    if sealed.note is None:
        return None
    where = "the last checkpoint in the database"
    checkpoint = opened(verifier, sealed.note, where)
    if checkpoint.size != sealed.size:
        raise CannotSign(f"{where} is not of what is sealed")
    return Witnessed(state.origin, *checkpoint, where)


def _reported(node: nodes.Node, verifier: Verifier, origin: int) -> Witnessed | None:
    """A node's witness; None if the text is no note of this log."""
    if node.witness is None:
        return None
    try:
        note = parse(node.witness)
        number = number_of(note.origin)
        if number == origin:
            verifier.open(node.witness)
    except BadNote:
        return None
    if note.origin.split("/")[:2] != verifier.name.split("/")[:2]:
        return None
    return Witnessed(number, *note.checkpoint, f"node {node.node_id}")
