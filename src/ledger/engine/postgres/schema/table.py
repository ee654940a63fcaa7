"""A table, described once: its columns are the fields of its row.

    class LineRow(NamedTuple):
        line_id: Text
        blocked_since: Instant | None

    LINE = Table("line", LineRow, key=("line_id",))
    LINE.columns                      # {"line_id": "text", "blocked_since": "timestamptz"}

So a row has named values in the order of the columns, and each list of columns is written once.
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
    """An index beside that of the key."""

    columns: str
    """The columns as SQL lists them."""
    where: str | None = None
    """The condition of a partial index; None: the index has all rows."""
    using: str = "btree"


@dataclass(frozen=True)
class Reading:
    """A database view by which reads see rows of an internal table, of the session's tenant."""

    name: str
    columns: tuple[str, ...]
    select: str
    """The view's statement; ``{g}`` stands for ``g<number>``, the suffix of a generation's tables.
    The view has its owner's rights, so its statement names the tenant's rows."""


@dataclass(frozen=True, eq=False)
class Table:
    """The description of a table."""

    name: str
    """The name without the schema, which is ``ledger``."""
    row: type[tuple[Any, ...]]
    """A NamedTuple whose fields are the columns, in their order."""
    key: tuple[str, ...]
    tenant: tuple[str, ...] = ()
    """The columns that name a row's tenant: organization, then workspace. Empty: a row belongs to
    a line, a run or an endpoint, or to no tenant."""
    owner: tuple[str, str] | None = None
    """The table of the same view to whose rows the rows belong, and the column that both have: a
    tenant sees a row if it sees such a row there. For tables without ``tenant``."""
    is_internal: bool = False
    """Whether no read of the API may see the table, so that only its owner does."""
    hidden: tuple[str, ...] = ("fold",)
    """The columns that no read of the API may see."""
    reading: Reading | None = None
    """How reads see rows of an internal table nevertheless."""
    is_filtered_by_view: bool = False
    """Whether the database view filters by tenant itself, instead of the table's policy.

    Below a policy PostgreSQL uses an index only by conditions that cannot leak a row that the
    policy hides. Hashes of columns, arrays and concatenations may leak, as PostgreSQL sees it."""
    replaces: bool = False
    """Whether a row replaces the earlier row of its key (upsert); else rows are only added."""
    is_keyed_late: bool = False
    """Whether the key's index is created with the other indexes; else before any row is written."""
    indexes: tuple[Index, ...] = ()
    """The other indexes in the order of creation, on which PostgreSQL's names for them depend."""
    options: str = ""
    """PostgreSQL's storage parameters of the table."""
    uncompressed: tuple[str, ...] = ()
    """Columns that stay in the row, as they are, as long as the row fits (``STORAGE MAIN``)."""

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
        """The prefix of the ids that a column has as numbers, by column."""
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
