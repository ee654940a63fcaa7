"""A table, described once: its columns are the fields of its row.

    class LineRow(NamedTuple):
        line_id: Text
        blocked_since: Instant | None

    LINE = Table("line", LineRow, key=("line_id",))
    LINE.columns                      # {"line_id": "text", "blocked_since": "timestamptz"}

So a row has named values in the order of the columns, and columns are listed once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_type_hints

Text = Annotated[str, "text"]
Texts = Annotated[Sequence[str], "text[]"]
Octets = Annotated[bytes, "bytea"]
Bool = Annotated[bool, "bool"]
Int = Annotated[int, "int"]
BigInt = Annotated[int, "bigint"]
Date = Annotated[date, "date"]
Uuid = Annotated[bytes, "uuid"]
Instant = Annotated[datetime, "timestamptz"]
"""The types of columns, with PostgreSQL's names for them; ``| None`` where a column may be null."""

LineKey = Annotated[int, "bigint", "LIN"]
RunKey = Annotated[int, "bigint", "RUN"]
"""Ids as numbers (``domain/values.sort_key``), with the prefix of the id."""


@dataclass(frozen=True)
class Index:
    """An index besides the key's."""

    columns: str
    """The columns as SQL lists them."""
    where: str | None = None
    """The condition of a partial index; None if the index has all rows."""
    using: str = "btree"


@dataclass(frozen=True)
class Reading:
    """A database view by which reads see the session tenant's rows of an internal table."""

    name: str
    columns: tuple[str, ...]
    select: str
    """The view's statement; ``{g}`` stands for ``g<number>``, the suffix of a generation's tables.
    The view has its owner's rights, so its statement must filter by tenant."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table and how it is created, filtered and written."""

    name: str
    """The name without the schema, which is ``ledger``."""
    row: type[tuple[Any, ...]]
    """A NamedTuple whose fields are the columns, in their order."""
    key: tuple[str, ...]
    tenant: tuple[str, ...] = ()
    """The columns that name a row's tenant: organization, then workspace. Empty if a row belongs to
    a line, a run or an endpoint, or to no tenant."""
    owner: tuple[str, str] | None = None
    """The table of the same view that owns the rows, and the column that both have. A tenant sees a
    row if it sees such a row there. For tables without ``tenant``."""
    is_internal: bool = False
    """True if no read of the API may see the table, so that only its owner does."""
    hidden: tuple[str, ...] = ("fold",)
    """The columns that no read of the API may see."""
    reading: Reading | None = None
    """How reads nevertheless see rows of an internal table."""
    is_filtered_by_view: bool = False
    """True if the database view filters by tenant itself, instead of the table's policy.

    Under a policy, PostgreSQL uses an index only for conditions that cannot leak a hidden row. For
    PostgreSQL, hashes of columns, arrays and concatenations may leak.
    """
    replaces: bool = False
    """True if a row replaces the earlier row of its key (upsert); otherwise rows are only added."""
    is_keyed_late: bool = False
    """True if the key's index is created with the other indexes, not before the first row."""
    indexes: tuple[Index, ...] = ()
    """The other indexes in the order of creation: PostgreSQL's names for them depend on it."""
    options: str = ""
    """PostgreSQL's storage parameters of the table."""
    uncompressed: tuple[str, ...] = ()
    """Columns that stay uncompressed in the row while it fits (``STORAGE MAIN``)."""

    @cached_property
    def columns(self) -> Mapping[str, str]:
        """The SQL type of each column, in the order of a row's values."""
        hints = get_type_hints(self.row, include_extras=True)
        return MappingProxyType({name: _type_of(hint) for name, hint in hints.items()})

    @property
    def visible(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name not in self.hidden)

    @cached_property
    def nullable(self) -> frozenset[str]:
        hints = get_type_hints(self.row, include_extras=True)
        return frozenset(name for name, hint in hints.items() if type(None) in get_args(hint))

    @cached_property
    def prefixes(self) -> Mapping[str, str]:
        """For columns with ids as numbers: the ids' prefix, by column."""
        hints = get_type_hints(self.row, include_extras=True)
        found = {name: getattr(hint, "__metadata__", ())[1:] for name, hint in hints.items()}
        return {name: more[0] for name, more in found.items() if more}


def _type_of(hint: Any) -> str:
    """The SQL type of a field. Raises TypeError if the field's type is not one of this module's."""
    for inner in (hint, *get_args(hint)):
        metadata = getattr(inner, "__metadata__", ())
        if metadata:
            return str(metadata[0])
    raise TypeError(f"{hint!r} is no type of a column")
