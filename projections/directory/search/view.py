"""The view of words, by which lines, runs, blockers and directory entries are found.

Check-ins, ends of runs and changes of state are skipped: they change no name. A run has rows only
if it has an external id. Lines and runs by number are found by the keys of their own views. The
directory tells whether lines have a project or resource now, and the names that a search shows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import msgspec

from ledger.engine.postgres.exchange import Rows
from ledger.engine.postgres.schema.table import BigInt, Bool, Index, Int, Table, Text
from ledger.engine.values.recorded import Event, Recorded
from ledger.engine.views.folds import FoldCache, Packing, Remembering
from ledger.engine.views.generation import Generation
from ledger.features.directory.model import DirectoryNamed, id_of, kind_of
from ledger.features.lines.model import execution_events as lines
from ledger.features.runs.model.run import RunRequested, RunStarted
from projections.directory.search.words import LONGEST, folded_name, leading, number_of

WHOLE = ""
"""The workspace of rows that belong to a whole organization."""


class WordRow(NamedTuple):
    """A word by which something is found: from its name, or the number of its id.

    A row belongs to an owner: a line, a run, or an organization's workspace, project or resource.
    An owner's rows are numbered. A row that is no longer needed is emptied and reused first, so an
    owner has only as many rows as it needed at one time. The wide columns come first, so that
    PostgreSQL needs no padding.
    """

    position: BigInt
    slot: Int
    of_workspace: Bool
    """True if only credentials of the workspace find the row: the organization has another."""
    owner: Text
    type: Text
    """``line``, ``run``, ``blocker``, ``workspace``, ``project``, ``resource``, or empty."""
    organization_id: Text
    workspace_id: Text
    """A line's workspace for its rows, blockers and runs; else ``WHOLE`` or a line's workspace.

    A whole organization shares the row of a workspace in which the name is the same.
    """
    word: Text
    """Empty in rows that find nothing."""
    folded: Text
    """The words of the name; without a name those of the id, unless the id has a number."""
    id: Text
    """Empty in rows of a line or run: its id is the owner's."""


_OF_ORGANIZATIONS = "NOT of_workspace AND word <> ''"
_OF_WORKSPACES = f"workspace_id <> '{WHOLE}' AND word <> ''"
_IN_ORDER = 'type, word COLLATE "C", folded COLLATE "C", owner'

# A search is an index scan per type, in the organization or the workspace. The collation "C" puts
# words with the same prefix side by side.
WORD = Table(
    "search_word",
    WordRow,
    key=("owner", "slot"),
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    indexes=(
        Index(f"organization_id, {_IN_ORDER}", where=_OF_ORGANIZATIONS),
        Index(f"workspace_id, {_IN_ORDER}", where=_OF_WORKSPACES),
    ),
)

# The rows of these owners.
_LOAD = f"""
SELECT {", ".join(WordRow._fields)} FROM ledger.search_word_{{g}}
WHERE owner = ANY($1::text[]) ORDER BY owner, slot
"""

_OWN = ""
"""The key of a line's or run's own name; a blocker's key is its id."""

_OF_RUN = "RUN-"


class _Slot(NamedTuple):
    key: str | None
    """The text of the row; None if the row is empty."""
    word: str
    position: int


_EMPTY = None

_BOTH = "="
"""The prefix of a name that an entry has in a workspace and in the whole organization."""


class Owner(msgspec.Struct, array_like=True):
    """The texts of an owner, and the rows of their words.

    A line's texts are its name and its open blockers', by ``_OWN`` and by blocker id. A run's text
    is its external id, by ``_OWN``. The texts of a workspace, project or resource are its names by
    workspace, and in the whole organization. The organization shares the rows of a workspace with
    the same name (``_BOTH`` and the workspace).
    """

    id: str
    """The id of a line or run; otherwise type, organization and id (``_owner_of``)."""
    organization_id: str = ""
    workspace_id: str = ""
    texts: dict[str, str] = {}
    slots: list[_Slot] = []
    stored: int = 0
    """Rows are stored up to this position."""

    def put(self, key: str, folded: str, words: Sequence[str], position: int) -> bool:
        """Set a folded text and its words. Return True if that changes a row."""
        if self.texts.get(key) == folded:
            return False
        is_emptied = self.drop([key], position)
        if not words:
            return is_emptied
        self.texts[key] = folded
        free = (n for n, slot in enumerate(self.slots) if slot.key is _EMPTY)
        for word in words:
            slot = _Slot(key, word, position)
            if (index := next(free, None)) is None:
                self.slots.append(slot)
            else:
                self.slots[index] = slot
        return True

    def belong(self, event: Recorded) -> None:
        self.organization_id = event.organization_id or ""
        self.workspace_id = event.workspace_id or ""

    def name(self, name: str, position: int) -> bool:
        """Set the name of a line or run. Return True if that changes a row."""
        folded = folded_name(name)
        return self.put(_OWN, folded, leading(folded), position)

    def drop(self, keys: Iterable[str], position: int) -> bool:
        """Empty the rows of these texts. Return True if there were any."""
        gone = {key for key in keys if self.texts.pop(key, None) is not None}
        if not gone:
            return False
        for index, slot in enumerate(self.slots):
            if slot.key in gone:
                self.slots[index] = _Slot(_EMPTY, "", position)
        return True

    @property
    def scopes(self) -> dict[str, str]:
        """An entry's folded texts by workspace, including the one of the whole organization."""
        found: dict[str, str] = {}
        for key, folded in self.texts.items():
            if key.startswith(_BOTH):
                found[WHOLE] = folded
            found[key.removeprefix(_BOTH)] = folded
        return found

    def settle(self, scopes: Mapping[str, str], identifier: str, position: int) -> bool:
        """Set an entry's texts. Return True if that changes a row."""
        alike = [_BOTH + scope for scope in scopes if scope and scopes[scope] == scopes[WHOLE]]
        both = next((key for key in alike if key in self.texts), min(alike, default=None))
        wanted = dict(scopes)
        if both is not None:
            wanted[both] = wanted.pop(WHOLE)
            del wanted[both.removeprefix(_BOTH)]
        is_changed = self.drop([key for key in self.texts if key not in wanted], position)
        for key, folded in wanted.items():
            words = _words(identifier, folded) or [""]
            is_changed |= self.put(key, folded, words, position)
        return is_changed

    def pop_rows(self) -> Iterator[WordRow]:
        """Yield the rows that are not stored yet, and count them as stored."""
        stored, self.stored = self.stored, max(slot.position for slot in self.slots)
        for number, slot in enumerate(self.slots):
            if slot.position > stored:
                yield self._row(number, slot)

    def _row(self, number: int, slot: _Slot) -> WordRow:
        kind, workspace, identifier, is_narrow = "", WHOLE, "", False
        if slot.key is not _EMPTY and "/" in self.id:
            kind, _, identifier = self.id.split("/", 2)
            workspace = slot.key.removeprefix(_BOTH)
            is_narrow = slot.key not in (WHOLE, _BOTH + workspace)
        elif slot.key is not _EMPTY:
            own = "run" if self.id.startswith(_OF_RUN) else "line"
            kind, workspace = "blocker" if slot.key else own, self.workspace_id
            identifier = slot.key
        return WordRow(
            position=slot.position,
            slot=number,
            of_workspace=is_narrow,
            owner=self.id,
            type=kind,
            organization_id=self.organization_id,
            workspace_id=workspace,
            word=slot.word,
            folded=self.texts[slot.key] if slot.key is not _EMPTY else "",
            id=identifier,
        )


_PACKING = Packing[Owner](msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(Owner).decode)


class SearchView(Remembering):
    """The projection ``search``."""

    name = "search"
    version = 2
    tables: tuple[Table, ...] = (WORD,)
    events: frozenset[type[Event]] = frozenset(
        (
            lines.Activated,
            lines.Updated,
            lines.Blocked,
            lines.Unblocked,
            lines.Closed,
            lines.ResourceAllocated,
            DirectoryNamed,
            RunRequested,
            RunStarted,
        )
    )

    def __init__(self) -> None:
        self._owners: FoldCache[str, Owner] = FoldCache(Owner, _PACKING)
        super().__init__(self._owners)

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        # A run is named once: it had no rows before.
        self._owners.begin(
            e.originator_id
            for e in events
            if type(e.body) is lines.Activated or _run_name(e) is not None
        )
        owners: dict[str, None] = {}
        for event in events:
            if type(event.body) in _OF_LINES or _run_name(event) is not None:
                owners[event.originator_id] = None
            owners |= dict.fromkeys(_owner_of(entry, event) for entry in _entries(event))
        generation.ask(self._owners, owners, _LOAD, _read)

    def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
        for event in events:
            if type(event.body) in _OF_LINES and _apply_to_line(
                self._owners[event.originator_id], event
            ):
                self._owners.change(event.originator_id)
            if (name := _run_name(event)) is not None:
                run = self._owners[event.originator_id]
                run.belong(event)
                if run.name(name, event.position):
                    self._owners.change(event.originator_id)
            for entry in _entries(event):
                owner = _owner_of(entry, event)
                if _apply_to_entry(self._owners[owner], entry, event):
                    self._owners.change(owner)

    def store(self, generation: Generation, most: int | None = None) -> None:
        changed = [owner for owner in self._owners.pop_changed(most) if owner.slots]
        generation.write(WORD, [row for owner in changed for row in owner.pop_rows()])


_OF_LINES = frozenset(
    (lines.Activated, lines.Updated, lines.Blocked, lines.Unblocked, lines.Closed)
)


class _Entry(NamedTuple):
    type: str
    id: str
    name: str | None = None


def _entries(event: Recorded) -> Iterator[_Entry]:
    body = event.body
    if isinstance(body, DirectoryNamed):
        identifier = id_of(event.originator_id)
        yield _Entry(kind_of(identifier), identifier, body.name)
    if isinstance(body, lines.Activated):
        yield _Entry("workspace", event.workspace_id or "")
    if isinstance(body, lines.Activated | lines.Updated):
        yield from (_Entry("project", tag) for tag in body.project_tags)
    if isinstance(body, lines.Activated):
        yield from (_Entry("resource", each.id, each.name or None) for each in body.resources)
    if isinstance(body, lines.ResourceAllocated):
        yield _Entry("resource", body.resource.id, body.resource.name or None)


def _run_name(event: Recorded) -> str | None:
    match event.body:
        case RunRequested(external_id=name):
            return name
        case RunStarted(external_id=name, gives_external_id=gives):
            return name if gives or event.originator_version == 1 else None
        case _:
            return None


def _owner_of(entry: _Entry, event: Recorded) -> str:
    """The owner of an entry's rows; ``_row`` reads it."""
    return f"{entry.type}/{event.organization_id}/{entry.id}"


def _apply_to_line(line: Owner, event: Recorded) -> bool:
    """Apply an event about a line's name or blockers. Return True if it changes a row."""
    line.belong(event)
    position, body = event.position, event.body
    match body:
        case lines.Activated() | lines.Updated():
            return line.name(body.name or "", position)
        case lines.Blocked():
            folded = _text(body.blocker_id, (body.reason or "")[:LONGEST])
            return line.put(body.blocker_id, folded, _words(body.blocker_id, folded), position)
        case lines.Unblocked():
            return line.drop([body.blocker_id], position)
        case _:
            return line.drop([key for key in line.texts if key != _OWN], position)


def _apply_to_entry(owner: Owner, entry: _Entry, event: Recorded) -> bool:
    """Apply a name, or a line's new entry. Return True if that changes a row."""
    owner.organization_id = event.organization_id or ""
    folded, scopes = _text(entry.id, entry.name or ""), owner.scopes
    reached: tuple[str, ...] = (WHOLE, event.workspace_id or WHOLE)
    if isinstance(event.body, DirectoryNamed):
        reached = (WHOLE, *scopes)
    elif entry.name is None:
        # Lines give no name to workspaces and projects: the organization's name stays.
        reached = tuple(scope for scope in reached if scope not in scopes)
        if entry.type != "resource":
            folded = scopes.get(WHOLE, folded)
    if all(scopes.get(scope) == folded for scope in reached):
        return False
    return owner.settle(scopes | dict.fromkeys(reached, folded), entry.id, event.position)


def _text(identifier: str, name: str) -> str:
    """The folded name, or without a name the folded id unless that has a number."""
    folded = folded_name(name)
    return folded or ("" if number_of(identifier) else folded_name(identifier))


def _words(identifier: str, folded: str) -> list[str]:
    """The words that find an id: its number, and words of its text."""
    number = number_of(identifier)
    return [*([number] if number else ()), *leading(folded)]


def _read(rows: Rows) -> Iterator[tuple[str, Owner]]:
    for owner_id, stored in groupby(map(WordRow._make, rows), lambda row: row.owner):
        owner = Owner(owner_id)
        for row in stored:
            owner.organization_id = row.organization_id
            key = _key_of(row)
            if key is not _EMPTY:
                owner.texts[key] = row.folded
                owner.workspace_id = row.workspace_id
            owner.slots.append(_Slot(key, row.word, row.position))
            owner.stored = max(owner.stored, row.position)
        yield owner_id, owner


def _key_of(row: WordRow) -> str | None:
    match row.type:
        case "":
            return _EMPTY
        case "line" | "run":
            return _OWN
        case "blocker":
            return row.id
        case _:
            is_of_both = row.workspace_id != WHOLE and not row.of_workspace
            return f"{_BOTH if is_of_both else ''}{row.workspace_id}"
