"""The definitions of the schema's objects, compared with those that this version makes.

``definitions.txt`` has what the code makes: functions, triggers, policies, views, tables with their
columns, constraints and indexes. A test compares it with a new database, and its docstring says how
to write the file. Rights follow from their descriptions (``engine/log/schema/walls.py``,
``schema.py``). In the file ``_g#`` stands for the suffix of a generation's tables.

The live generation of a view is compared if this version made it. Other generations belong to a
rebuild, or to a node of another version.

Code alone can be made again at any time: ``mend`` does so. Columns, constraints, indexes and owners
are only reported, since data may contradict them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import psycopg
from psycopg import Connection

from ledger.engine.log.nodes import runs_other_version
from ledger.engine.log.schema import walls
from ledger.engine.postgres.schema import catalog
from ledger.engine.postgres.schema.catalog import Item, Right
from ledger.engine.postgres.schema.walls import POWERS_OF, reader_of
from ledger.engine.views.contract import Projection
from ledger.engine.views.schema import readable

_TRACKING = "SELECT name, version, generation FROM ledger.projection ORDER BY name"

_OWNER = "SELECT relowner::regrole::text FROM pg_class WHERE oid = 'ledger.ledger_events'::regclass"

# The database's user, who may differ from the owner, and the roles to which the owner gives rights
# on all future objects (docs/operating.md).
_ADMITTED = """
SELECT current_user::text
UNION SELECT r.rolname FROM pg_default_acl AS d, aclexplode(d.defaclacl) AS g
JOIN pg_roles AS r ON r.oid = g.grantee
WHERE d.defaclnamespace = 'ledger'::regnamespace AND d.defaclrole::regrole::text = %s
"""

_TRIES = 5
"""The most comparisons, while rebuilds swap generations and other nodes start."""

_PASSING = (psycopg.errors.UndefinedTable, psycopg.errors.InternalError_)
"""The errors of reading the definition of an object that is being dropped."""

_GENERATION = re.compile(r"(?<![a-z_])([a-z][a-z_]*?)_g([0-9]+)")
_PLACEHOLDER = re.compile(r"(?<![a-z_])([a-z][a-z_]*?)_g#")
_NUMBERED = re.compile(r"_g[0-9]+$")

MISSING = "it is missing"
TRACKING = "projection"
"""The kind of a difference in a view's tracking. Its version excludes the view from comparison."""
_EXTRA = "this version of the ledger makes no such object"


Object = tuple[str, str]


class Differing(NamedTuple):
    """An object or a right that is not as the code makes it."""

    kind: str
    name: str
    says: str
    made: str | None
    """The definition by the code; None if the code makes no such object, or its owner differs."""
    found: str | None
    """The definition in the database; None if the object is missing, or its owner differs."""
    right: Right | None = None
    """A right that a role has, or lacks."""

    @property
    def printable(self) -> tuple[str, str, str]:
        """Kind, name and difference, without characters that a terminal would obey."""
        return _plain(self.kind), _plain(self.name), _plain(self.says)

    def __str__(self) -> str:
        kind, name, says = self.printable
        return f"{kind} {name}: {says}"


class Definitions(NamedTuple):
    """The result of a comparison."""

    objects: int
    """The objects and rights that were compared."""
    differing: Sequence[Differing]
    elsewhere: Sequence[str]
    """The views of other versions, which were not compared."""
    admitted: Sequence[str]
    """The other roles with rights, from the owner's default privileges."""


class Views(NamedTuple):
    """The tables of views, as the comparison sees them."""

    live: Mapping[str, int]
    """The generation of each table that is compared."""
    elsewhere: frozenset[str]
    """The relations of this version's views that are not compared."""
    others: Sequence[str]
    """The views of other versions."""
    newer: Sequence[str]
    """Those of them that a newer version of their code seems to have made."""

    def normalized(self, text: str) -> str:
        """Replace the live generations in a text by ``_g#``."""
        return _GENERATION.sub(self._normalize, text)

    def _normalize(self, found: re.Match[str]) -> str:
        name, number = found.groups()
        return f"{name}_g#" if self.live.get(name) == int(number) else found[0]

    def filled(self, text: str) -> str:
        """Replace ``_g#`` in a text of the file by the live generations."""
        return _PLACEHOLDER.sub(lambda found: f"{found[1]}_g{self.live.get(found[1], '#')}", text)

    def has(self, item: Item) -> bool:
        relation = item.name.partition(".")[0]
        if self.others and item.kind == "view" and (item.kind, item.name) not in _made():
            return False
        return relation not in self.elsewhere and _NUMBERED.search(relation) is None


def compare(connection: Connection[Any], projections: Sequence[Projection]) -> Definitions:
    """Compare all definitions and rights. Nothing is written."""
    found = before = None
    for _ in range(_TRIES):
        tracking = connection.execute(_TRACKING).fetchall()
        try:
            found = _compare(connection, projections, views_of(projections, tracking))
        except _PASSING:
            continue
        is_still = connection.execute(_TRACKING).fetchall() == tracking
        if is_still and (not found.differing or found == before):
            break
        before = found
    if found is None:
        raise psycopg.OperationalError("The schema changes all the time.")
    return found


def views_of(projections: Sequence[Projection], tracking: Sequence[Any]) -> Views:
    """The views to compare, by rows of their tracking."""
    tracked = {name: (version, generation) for name, version, generation in tracking}
    own = {view.name: view.version for view in projections}
    live: dict[str, int] = {}
    elsewhere: set[str] = set()
    for view in projections:
        version, generation = tracked.get(view.name, (0, 0))
        for table in view.tables:
            if version == view.version:
                live[table.name] = generation
            else:
                elsewhere |= {table.name, f"{table.name}_g#"}
                elsewhere |= {table.reading.name} if table.reading else set()
    others = [name for name, (version, _) in tracked.items() if own.get(name) != version]
    newer = [name for name in others if tracked[name][0] > own.get(name, tracked[name][0])]
    return Views(live, frozenset(elsewhere), others, newer)


def load(text: str) -> dict[Object, Item]:
    found = {}
    for block in text.removesuffix("\n").split("\n--- ")[1:]:
        head, _, definition = block.partition("\n")
        kind, _, name = head.partition(" ")
        found[kind, name] = Item(kind, name, definition, None)
    return found


def objects_of(connection: Connection[Any], views: Views) -> dict[Object, Item]:
    """The objects of a database to compare, as the file names them."""
    found = (_normalized(item, views) for item in catalog.items(connection))
    return {(item.kind, item.name): item for item in found if views.has(item)}


def _normalized(item: Item, views: Views) -> Item:
    """An object as the file names it: PostgreSQL chose the name of a view's index."""
    name, definition = views.normalized(item.name), views.normalized(item.definition.strip())
    if item.kind == "index" and "_g#." in name:
        head, _, columns = definition.partition(" USING ")
        name = f"{name.partition('.')[0]}.{columns}"
        definition = "UNIQUE" if head.startswith("CREATE UNIQUE") else ""
    return item._replace(name=name, definition=definition)


@cache
def _made() -> Mapping[Object, Item]:
    return load((files("ledger.engine.views") / "definitions.txt").read_text())


def _compare(
    connection: Connection[Any], projections: Sequence[Projection], views: Views
) -> Definitions:
    ((owner,),) = connection.execute(_OWNER).fetchall()
    admitted = {name for (name,) in connection.execute(_ADMITTED, (owner,))}
    made = {key: item for key, item in _made().items() if views.has(item)}
    found = objects_of(connection, views)
    differing: list[Differing] = []
    for key in sorted(made.keys() | found.keys()):
        differing += _differing(made.get(key), found.get(key), owner, views)
    if views.newer and not runs_other_version(connection):
        says = "its column version says a newer one than the code, and no other version runs"
        for name in views.newer:
            differing.append(Differing(TRACKING, f"name={name}", says, None, None))
    held: set[Right] = set()
    if (role := reader_of(connection)) is not None:  # else no service has started yet
        held = {right for right in _rights(connection, views) if right.role not in admitted}
        due = set(_due(connection, projections, views, role))
        for right in sorted(held ^ due, key=str):
            differing.append(_of_right(right, is_granted=right in held))
        for (fault,) in connection.execute(POWERS_OF, (role,)):
            differing += [Differing("role", role, f"it {fault}", None, None)] if fault else []
    return Definitions(len(found) + len(held), differing, views.others, sorted(admitted - {owner}))


def _differing(
    made: Item | None, found: Item | None, owner: str, views: Views
) -> Iterator[Differing]:
    item = found or made
    assert item is not None
    code, database = (None if i is None else views.filled(i.definition) for i in (made, found))
    kind, name = item.kind, views.filled(item.name)
    if made is None or found is None:
        yield Differing(kind, name, _EXTRA if made is None else MISSING, code, database)
    elif made.definition != found.definition:
        says = f"it says {database or 'nothing'}, the code {code or 'nothing'}"
        if "\n" in says:
            says = "it is not as the code makes it"
        yield Differing(kind, name, says, code, database)
    if found is not None and found.owner not in (None, owner) and kind != "schema":
        yield Differing(kind, name, f"its owner is {found.owner}, not {owner}", None, None)


def _rights(connection: Connection[Any], views: Views) -> Iterator[Right]:
    for right in catalog.rights(connection):
        if right.kind != "table" or views.has(Item("", views.normalized(right.name), "", None)):
            yield right


def _due(
    connection: Connection[Any], projections: Sequence[Projection], views: Views, role: str
) -> Iterator[Right]:
    """The rights of the role of reads."""
    yield Right("schema", "ledger", None, role, "USAGE")
    for function in catalog.signatures(connection, [f"ledger.{f}" for f in walls.FUNCTIONS]):
        yield Right("function", function, None, role, "EXECUTE")
    selected: list[tuple[str, Sequence[str] | None]] = list(walls.granted().items())
    for view in projections:
        if view.tables[0].name in views.live:
            selected += readable(view.tables, views.live[view.tables[0].name])
    for name, columns in selected:
        for column in [None] if columns is None else columns:
            yield Right("table", name, column, role, "SELECT")


def _of_right(right: Right, *, is_granted: bool) -> Differing:
    part = f".{right.part}" if right.part else ""
    name = f"{right.privilege} on {right.kind} {right.name}{part} to {right.role}"
    says = "the code gives no such right" if is_granted else MISSING
    return Differing("grant", name, says, None, None, right)


def _plain(text: str) -> str:
    return text if text.isprintable() else ascii(text)
