"""The view of the directory: the workspaces, projects and resources of lines, with names.

``directory`` has the number of lines of each, per organization and per workspace.
``directory_name`` has the names of workspaces and projects, which may be given before any line has
the id; ``directory_naming`` has each name ever given. ``directory_line`` has the fold of each line:
its present projects and resources. Check-ins, runs and changes of state are skipped.
"""

from collections.abc import Iterator, Sequence
from sys import intern
from typing import NamedTuple

import msgspec

from ledger.engine.postgres.schema.table import Table
from ledger.engine.values.recorded import Event, Recorded
from ledger.engine.views.folds import FoldCache, Packing, Remembering
from ledger.engine.views.generation import Generation
from ledger.features.directory.model import DirectoryNamed, id_of
from ledger.features.lines.model import execution_events as lines
from projections.directory import rows


class Key(NamedTuple):
    """The key of an entry."""

    type: str
    organization_id: str
    workspace_id: str
    id: str


class _Entry:
    __slots__ = ("key", "lines", "name", "position")

    def __init__(
        self, key: Key, name: str | None = None, lines: int = 0, position: int = 0
    ) -> None:
        self.key, self.name, self.lines, self.position = key, name, lines, position


class _Change(NamedTuple):
    """A change of an entry by a line: added (1), removed (-1) or as before (0)."""

    type: str
    id: str
    lines: int
    name: str | None = None


class LineFold(msgspec.Struct, array_like=True):
    """The projects and resources of a line."""

    line_id: str
    position: int = 0
    organization_id: str = ""
    workspace_id: str = ""
    projects: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()

    def apply(self, recorded: Recorded) -> Sequence[_Change]:
        self.position, body = recorded.position, recorded.body
        if isinstance(body, lines.Activated):
            self.organization_id = recorded.organization_id or ""
            self.workspace_id = recorded.workspace_id or ""
            begun = [_Change("workspace", self.workspace_id, 1)]
            allocated = (change for each in body.resources for change in self._allocate(each))
            return [*begun, *self._retag(body.project_tags), *allocated]
        if isinstance(body, lines.Updated):
            return self._retag(body.project_tags)
        if isinstance(body, lines.ResourceAllocated):
            return self._allocate(body.resource)
        assert isinstance(body, lines.ResourceReleased)
        self.resources = tuple(each for each in self.resources if each != body.id)
        return [_Change("resource", body.id, -1)]

    def _retag(self, tags: Sequence[str]) -> Sequence[_Change]:
        before, self.projects = self.projects, tuple(dict.fromkeys(tags))
        left = (tag for tag in before if tag not in self.projects)
        entered = (tag for tag in self.projects if tag not in before)
        return [
            *(_Change("project", tag, -1) for tag in left),
            *(_Change("project", tag, 1) for tag in entered),
        ]

    def _allocate(self, resource: lines.Resource) -> Sequence[_Change]:
        is_new = resource.id not in self.resources
        if is_new:
            self.resources = (*self.resources, resource.id)
        return [_Change("resource", resource.id, int(is_new), resource.name or None)]


_PACKING = Packing[LineFold](
    msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(LineFold).decode
)


class DirectoryView(Remembering):
    """The projection ``directory``."""

    name = "directory"
    version = 2
    tables: tuple[Table, ...] = (rows.DIRECTORY, rows.NAME, rows.NAMING, rows.LINE)
    events: frozenset[type[Event]] = frozenset(
        (
            lines.Activated,
            lines.Updated,
            lines.ResourceAllocated,
            lines.ResourceReleased,
            DirectoryNamed,
        )
    )

    def __init__(self) -> None:
        self._lines: FoldCache[str, LineFold] = FoldCache(LineFold, _PACKING)
        self._entries: FoldCache[Key, _Entry] = FoldCache(_Entry)
        super().__init__(self._lines, self._entries)

    def prepare(self, generation: Generation, events: Sequence[Recorded]) -> None:
        own = [event for event in events if type(event.body) is not DirectoryNamed]
        self._lines.begin(e.originator_id for e in own if type(e.body) is lines.Activated)
        ids = {event.originator_id: None for event in own}
        generation.find(self._lines, ids, rows.LINE)

    def apply(self, generation: Generation, events: Sequence[Recorded]) -> None:
        names: dict[str, rows.NameRow] = {}
        namings: list[rows.NamingRow] = []
        changes: list[tuple[Key, _Change, int]] = []
        for event in events:
            if isinstance(event.body, DirectoryNamed):
                named = id_of(event.originator_id), event.organization_id or ""
                names[event.originator_id] = rows.NameRow(*named, event.body.name, event.position)
                namings.append(rows.NamingRow(*named, event.position, event.body.name))
                continue
            line = self._lines[event.originator_id]
            for change in line.apply(event):
                changes += ((key, change, event.position) for key in _keys(line, change))
            self._lines.change(event.originator_id)
        generation.write(rows.NAME, names.values())
        generation.write(rows.NAMING, namings)
        keys = {key: None for key, _, _ in changes}
        generation.find(self._entries, keys, rows.DIRECTORY, _entry)
        generation.load()
        for key, change, position in changes:
            entry = self._entries[key]
            entry.lines += change.lines
            entry.name = change.name or entry.name
            entry.position = position
            self._entries.change(key)

    def store(self, generation: Generation, most: int | None = None) -> None:
        changed = self._lines.pop_changed(most)
        generation.write(
            rows.LINE, [rows.LineRow(f.line_id, _PACKING.pack(f), f.position) for f in changed]
        )
        entries = self._entries.pop_changed(most)
        generation.write(
            rows.DIRECTORY,
            [rows.DirectoryRow(*e.key, e.name, e.lines, e.position) for e in entries],
        )


def _keys(line: LineFold, change: _Change) -> Iterator[Key]:
    for workspace_id in (rows.WHOLE, line.workspace_id):
        yield Key(intern(change.type), line.organization_id, workspace_id, change.id)


def _entry(row: rows.DirectoryRow) -> tuple[Key, _Entry]:
    key = Key._make(row[: len(Key._fields)])
    return key, _Entry(key, row.name, row.lines, row.position)
