"""Compares the snapshots of long streams with the folds of these streams.

A process starts from the snapshot of a long stream, so decisions rest on it. The snapshots are read
before the log is folded. Streams with a snapshot are then folded as well. To save memory, only a
digest of each snapshot is kept, and a fold only until its stream reaches the snapshot.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import msgspec

from ledger.engine.log.snapshots import VERSION, encode
from ledger.engine.log.tables import SNAPSHOT
from ledger.engine.values.recorded import Folded, Recorded
from ledger.features.proof.sealing.shelf import Connection
from ledger.features.proof.tables import Difference, Report
from ledger.features.proof.verification.differing import differs, extra, key_text
from ledger.records import AGGREGATES

_PAGE = 2000

_SNAPSHOTS = f"""
SELECT stream, version, fold, state FROM ledger.snapshot
WHERE stream > %s ORDER BY stream LIMIT {_PAGE}
"""


class _Head(msgspec.Struct, array_like=True):
    """The first fields of every aggregate."""

    id: str
    version: int


class _Named(msgspec.Struct):
    """The same of an aggregate that is stored with names."""

    id: str
    version: int = 0


_decode_head: Callable[[bytes], _Head] = msgspec.json.Decoder(_Head).decode
_decode_named: Callable[[bytes], _Named] = msgspec.json.Decoder(_Named).decode


class _Due(NamedTuple):
    """A snapshot that was read."""

    version: int
    """The version in the state itself, if it can be read; otherwise the row's."""
    digest: bytes


class Snapshots:
    """The comparison of snapshots."""

    def __init__(self, connection: Connection, report: Report) -> None:
        self._connection, self._report = connection, report
        self._due: dict[str, _Due] = {}
        self._aggregates: dict[str, Folded] = {}
        self.rows = 0

    def read(self) -> None:
        last, is_full = "", True
        while is_full:
            found = self._connection.execute(_SNAPSHOTS.encode(), (last,), binary=True).fetchall()
            is_full = len(found) == _PAGE
            for stream, version, number, state in found:
                last = stream
                self.rows += 1
                self._add(stream, version, number, state or b"")

    def _add(self, stream: str, version: int, number: int, state: bytes) -> None:
        if number != VERSION:
            self._report(differs(SNAPSHOT, (stream,), "fold", number, VERSION))
        head = _head_of(state)
        if head is not None and head.version != version:
            self._report(differs(SNAPSHOT, (stream,), "version", version, head.version))
            version = head.version
        if stream[:3] in AGGREGATES:
            self._due[stream] = _Due(version, hashlib.sha256(state).digest())
        else:
            self._report(extra(SNAPSHOT, (stream,)))

    def note(self, recorded: Recorded) -> None:
        stream = recorded.originator_id
        due = self._due.get(stream)
        if due is None:
            return
        if (aggregate := self._aggregates.get(stream)) is None:
            aggregate = self._aggregates[stream] = AGGREGATES[stream[:3]](stream)
        with suppress(Exception):  # an altered event may fail in any way: the snapshot differs
            aggregate.apply(recorded)
        if recorded.originator_version == due.version:
            if hashlib.sha256(encode(aggregate)).digest() != due.digest:
                says = f"its column state is not what version {due.version} of the stream makes"
                key = key_text(SNAPSHOT, (stream,))
                self._report(Difference(SNAPSHOT.name, key, "state", says))
            del self._due[stream], self._aggregates[stream]

    def finish(self) -> None:
        for stream in self._due:
            self._report(extra(SNAPSHOT, (stream,)))


def _head_of(state: bytes) -> _Head | _Named | None:
    for decode in (_decode_head, _decode_named):
        with suppress(ValueError, RecursionError, msgspec.MsgspecError):
            return decode(state)
    return None
