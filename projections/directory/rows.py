"""The rows and tables of the view of the directory."""

from typing import NamedTuple

from ledger.engine.postgres.schema.table import BigInt, Index, Int, Octets, Table, Text

WHOLE = ""
"""The workspace of rows that count the lines of a whole organization."""


class DirectoryRow(NamedTuple):
    """A workspace, project or resource, with the number of lines that have it.

    A row counts the lines of one workspace, or of a whole organization. So a page is one index scan
    for any credential. A row that all lines have left stays, with 0.
    """

    type: Text
    """``workspace``, ``project`` or ``resource``."""
    organization_id: Text
    workspace_id: Text
    id: Text
    name: Text | None
    """A resource: the name in the latest allocation that has one. Others: null."""
    lines: Int
    position: BigInt


DIRECTORY = Table(
    "directory",
    DirectoryRow,
    key=("type", "organization_id", "workspace_id", "id"),
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    options="fillfactor = 80",
    # Pages of administrators, who see all organizations.
    indexes=(Index("type, id, organization_id", where=f"workspace_id = '{WHOLE}'"),),
)


class NameRow(NamedTuple):
    """The name that an organization gave to a workspace or a project."""

    id: Text
    organization_id: Text
    name: Text | None
    position: BigInt


# The id comes first: administrators find names without an organization.
NAME = Table(
    "directory_name",
    NameRow,
    key=("id", "organization_id"),
    tenant=("organization_id",),
    replaces=True,
)


class NamingRow(NamedTuple):
    """A name and the position at which an organization gave it: the past of the names."""

    id: Text
    organization_id: Text
    position: BigInt
    name: Text | None


NAMING = Table(
    "directory_naming",
    NamingRow,
    key=("id", "organization_id", "position"),
    tenant=("organization_id",),
)


class LineRow(NamedTuple):
    """A line's fold."""

    line_id: Text
    fold: Octets
    position: BigInt


LINE = Table(
    "directory_line",
    LineRow,
    key=("line_id",),
    is_internal=True,
    replaces=True,
    options="fillfactor = 80",
)
