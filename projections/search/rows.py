"""The rows and the table of the view of words."""

from typing import NamedTuple

from ledger.postgres.table import BigInt, Bool, Index, Int, Table, Text

WHOLE = ""
"""The workspace of rows that are found in a whole organization."""


class WordRow(NamedTuple):
    """A word by which something is found: of its name, or the number of its id.

    A row belongs to an owner: to a line or a run, or to a workspace, project or resource of an
    organization.
    The rows of an owner are numbered. A row that is not needed any more is empty, and is the first
    to be used again, so an owner has only as many rows as it once needed at a time.
    The wide columns come first, so that PostgreSQL needs no padding.
    """

    position: BigInt
    slot: Int
    of_workspace: Bool
    """Whether only credentials of the workspace find the row: the organization has another row."""
    owner: Text
    type: Text
    """``line``, ``run``, ``blocker`` or an entry of the directory (``workspace``, ``project``,
    ``resource``); empty in empty rows."""
    organization_id: Text
    workspace_id: Text
    """Of a line, its blockers and runs: the line's; of others ``WHOLE`` or the workspace of a line.

    A whole organization shares the row of a workspace in which the name is the same.
    """
    word: Text
    """Empty in rows by which nothing is found."""
    folded: Text
    """The words of the name; without a name those of the id, unless the id has a number."""
    id: Text
    """Empty in rows of a line or run: the id is the owner's."""


_OF_ORGANIZATIONS = "NOT of_workspace AND word <> ''"
_OF_WORKSPACES = f"workspace_id <> '{WHOLE}' AND word <> ''"
_IN_ORDER = 'type, word COLLATE "C", folded COLLATE "C", owner'

# A search is a walk along an index for each type, in the organization or in the workspace. The
# collation "C" makes the words with a prefix neighbours.
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
