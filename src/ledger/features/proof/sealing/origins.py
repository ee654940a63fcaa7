"""Origins: an operator adopts a log that contradicts a checkpoint, and a new origin begins.

The new origin has the same name with the next number appended, and its own key. The previous
origin's key is deleted, so it can sign nothing contradictory any more. The first note of the new
origin names the last known checkpoint of the previous one.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from ledger.engine.log import nodes
from ledger.engine.log.append import StoredRow
from ledger.engine.log.event_log import is_full, read_log
from ledger.engine.log.vault import CannotOpen, Vault
from ledger.engine.postgres.pipeline import Pipeline
from ledger.features.proof.sealing import shelf
from ledger.features.proof.sealing.growth import AT_ONCE, Contradiction, Growth
from ledger.features.proof.sealing.leaf import UnreadableEvent, leaf_of
from ledger.features.proof.sealing.note import (
    BadNote,
    Checkpoint,
    Signer,
    Verifier,
    after,
    number_of,
    origin_named,
    parse,
)
from ledger.features.proof.sealing.peers import judge
from ledger.features.proof.sealing.shelf import Mark, Sealed, State
from ledger.features.proof.sealing.tiles import GrowingTree
from ledger.features.proof.sealing.tree import hash_leaf
from ledger.features.proof.sealing.watch import CannotSign, WitnessWatch

_FORMER = """
SELECT number, vkey, ended_at, ended_by, reason, last_note, kept_size
FROM ledger.former_origin ORDER BY number DESC
"""

_END = """
INSERT INTO ledger.former_origin (number, vkey, ended_at, ended_by, reason, last_note, kept_size)
SELECT origin, vkey, %(at)s, %(by)s, %(reason)s, %(last_note)s, %(kept)s FROM ledger.signer
"""

# A log that has lost still more has lost checkpoints of earlier origins, too.
_SHORTEN = "UPDATE ledger.former_origin SET kept_size = least(kept_size, %(kept)s)"

_PUT_AWAY = """
WITH gone AS (DELETE FROM ledger.checkpoint RETURNING size, position, note, number)
INSERT INTO ledger.former_checkpoint (origin, size, position, note, number)
SELECT (SELECT origin FROM ledger.signer), size, position, note, number FROM gone
"""

_BEGIN = """
UPDATE ledger.signer SET vkey = %(vkey)s, secret = %(secret)s, origin = %(origin)s,
    after = %(after)s, base_size = %(size)s, base_position = %(position)s, shown_size = 0,
    stopped_at = NULL, error = NULL, contradicts = false, waits_for = NULL
"""

_NOTES = """
SELECT size, note FROM ledger.checkpoint
UNION ALL SELECT size, note FROM ledger.former_checkpoint
ORDER BY size
"""


class NothingIsWrong(Exception):
    """Nothing keeps the ledger from signing, so there is nothing to adopt."""


class FormerOrigin(NamedTuple):
    """An origin before the present one."""

    number: int
    vkey: str
    ended_at: datetime
    ended_by: str
    reason: str
    last_note: str | None
    """Its last known checkpoint."""
    kept_size: int
    """The present log has its checkpoints up to this size."""

    @property
    def name(self) -> str:
        return self.vkey.split("+", 1)[0]

    @property
    def last_size(self) -> int:
        return parse(self.last_note).checkpoint.size if self.last_note else 0


class Adopted(NamedTuple):
    """The result of an adoption."""

    origin: str
    after: str | None
    """The last known checkpoint of the previous origin, as the first note names it."""
    kept_size: int
    """The number of sealed events that the new origin begins with."""


def former_origins(connection: shelf.Connection) -> Sequence[FormerOrigin]:
    return [FormerOrigin(*row) for row in connection.execute(_FORMER).fetchall()]


def adopt(
    connection: shelf.Connection,
    vault: Vault,
    watch: WitnessWatch,
    *,
    reason: str,
    by: str,
    clock: Callable[[], datetime],
) -> Adopted:
    """Adopt the log as it is now and begin a new origin. Running services notice by themselves.

    The new key signs its first checkpoint at once. It covers what was sealed before and is still in
    the log, and some events after that.

    Raises NothingIsWrong if nothing keeps the ledger from signing, BadNote if its key is damaged,
    and UnreadableEvent for an event that no origin could seal.
    """
    pipeline = Pipeline(connection)
    with connection.transaction():
        shelf.lock(connection)
        state = shelf.state(connection, watch.newborn.vkey)
        if state.secret is None:
            raise BadNote("The log has no key: start the service, which says why or makes one.")
        mark = _mark(vault, state)
        _require_fault(connection, pipeline, state, watch, mark)
        base = _base(connection, pipeline, state)
        last = _last_seen_note(connection, state, watch, mark)
        present = state.vkey.split("+", 1)[0]
        number = 1 + max([state.origin, *([] if last is None else [number_of(parse(last).origin)])])
        signer = Signer.create(origin_named(present, number))
        line = None if last is None else after(last)
        values = {"at": clock(), "by": by, "reason": reason, "last_note": last}
        # Count the checkpoints of the present log before the tiles are gone.
        intact = base.size or _intact_size(connection, pipeline)
        connection.execute(_SHORTEN, {"kept": intact})
        connection.execute(_END, values | {"kept": intact})
        connection.execute(_PUT_AWAY)
        if not base.size:
            connection.execute("DELETE FROM ledger.tile")
        growth = Growth(connection, pipeline, base._replace(note=None), None, set())
        growth.grow()
        if growth.last is None:
            raise BadNote("The log has no event: create a key first, which is one.")
        note = signer.sign(Checkpoint(growth.tree.size, growth.tree.root()), line)
        sealed = Sealed(growth.tree.size, growth.last[4], note)
        first = Mark(1, sealed.position, note)
        connection.execute(
            _BEGIN,
            {
                "vkey": signer.vkey,
                "secret": shelf.sealed_secret(vault, signer, first),
                "origin": number,
                "after": line,
                "size": base.size,
                "position": base.position,
            },
        )
        shelf.keep(connection, growth.tree.pop_changed(), growth.first_positions, sealed)
    watch.store(Verifier(signer.vkey), note)
    return Adopted(signer.name, line, base.size)


def _mark(vault: Vault, state: State) -> Mark | None:
    """Returns None if the mark of the present key cannot be read."""
    try:
        return shelf.opened(vault, state.vkey, state.secret or b"")[1]
    except (BadNote, CannotOpen, ValueError):
        return None


def _require_fault(
    connection: shelf.Connection,
    pipeline: Pipeline,
    state: State,
    watch: WitnessWatch,
    mark: Mark | None,
) -> None:
    """Raise NothingIsWrong if the ledger can sign, as far as this node knows."""
    if state.contradicts or state.error is not None or state.waits_for is not None:
        return
    try:
        inspection = watch.inspect(connection, leads=True).with_mark(mark)
        growth = Growth(connection, pipeline, state.sealed, inspection.newest, set())
        verdict = judge(inspection.evidence, growth.compare)
    except (BadNote, CannotSign, Contradiction, UnreadableEvent):
        return
    evidence = inspection.evidence
    is_witnessed = evidence.own is not None or any(
        other.lives and other.witness is not None for other in evidence.reports.others
    )
    # Whoever leads takes a key's first checkpoint, not shown yet: nobody has to adopt.
    continues = is_witnessed or evidence.is_unseen or evidence.newest is None
    if verdict.contradicted is None and continues:
        raise NothingIsWrong("Nothing is wrong: the log continues every checkpoint that is known.")


def _base(connection: shelf.Connection, pipeline: Pipeline, state: State) -> Sealed:
    """The sealed events to continue; none if they are not of the present log."""
    sealed = state.sealed
    try:
        newest = None if sealed.note is None else Verifier(state.vkey).open(sealed.note)
        Growth(connection, pipeline, sealed, newest, set()).require_tree()
    except (BadNote, CannotSign, Contradiction, UnreadableEvent):
        return Sealed(0, 0, None)
    return sealed


def _last_seen_note(
    connection: shelf.Connection, state: State, watch: WitnessWatch, mark: Mark | None
) -> str | None:
    """The last checkpoint that the database or any node has seen."""
    present = state.vkey.split("+", 1)[0]
    notes = [state.sealed.note, watch.stored(present), None if mark is None else mark.note]
    notes += [node.witness for node in nodes.nodes(connection)]
    of_log = origin_named(present, 1)
    found = []
    for note in notes:
        try:
            parsed = None if note is None else parse(note)
        except BadNote:
            continue
        if note is not None and parsed is not None and origin_named(parsed.origin, 1) == of_log:
            found.append((number_of(parsed.origin), parsed.checkpoint.size, note))
    return max(found)[2] if found else None


def _intact_size(connection: shelf.Connection, pipeline: Pipeline) -> int:
    """The size of the largest checkpoint whose events the log still has. Reads the whole log."""
    tree, intact = GrowingTree(0, {}), 0
    events = _events(pipeline)
    try:
        with connection.cursor("notes") as notes:
            for size, note in notes.execute(_NOTES):
                while tree.size < size:
                    tree.add(hash_leaf(leaf_of(*next(events))))
                tree.pop_changed()
                if parse(note).checkpoint == (size, tree.root()):
                    intact = size
    except (BadNote, StopIteration, UnreadableEvent):
        pass
    return intact


def _events(pipeline: Pipeline) -> Iterator[StoredRow]:
    position, more = 0, True
    while more:
        rows = read_log(pipeline, position, AT_ONCE)
        yield from rows
        position, more = rows[-1][4] if rows else position, is_full(rows, AT_ONCE)
