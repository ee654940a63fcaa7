"""The directory: the name that an organization gives to a workspace or a project.

Each name has its own stream, whose id includes the organization: two organizations may each have a
``WS-26-000021``. The file has, in this order: event, state with its decision, fold.
"""

from typing import ClassVar

from ledger.engine.values.event_table import PASSES, SAME, EventRow
from ledger.engine.values.recorded import Event, Folded, Recorded

STREAM_PREFIX = "DIR-"


class DirectoryNamed(Event, frozen=True, kw_only=True):
    """A workspace or a project got a name, another name, or no name any more."""

    TOPIC = "directory.named/1"
    name: str | None = None


# Columns: event, published type, published payload, fact, command, note.
DIRECTORY_TABLE: tuple[EventRow, ...] = (
    EventRow(DirectoryNamed, "directory.named", SAME, "directory.named", None, PASSES),
)


def stream_of(organization_id: str, identifier: str) -> str:
    return f"{STREAM_PREFIX}{organization_id}/{identifier}"


def id_of(stream: str) -> str:
    """The workspace or project id of such a stream; any other stream's id is returned unchanged."""
    return stream.rpartition("/")[2] if stream.startswith(STREAM_PREFIX) else stream


def kind_of(identifier: str) -> str:
    return "workspace" if identifier.startswith("WS-") else "project"


def workspace_of(identifier: str) -> str | None:
    return identifier if kind_of(identifier) == "workspace" else None


class DirectoryEntry(Folded):
    """The name of one workspace or project of an organization, folded from its stream."""

    organization_id: str | None = None
    workspace_id: str | None = None
    """The workspace itself; None for a project, since workspaces may share one."""
    name: str | None = None

    def give(self, name: str | None) -> DirectoryNamed:
        """Give a name, or remove it (None). The same name may be given again."""
        return DirectoryNamed(name=name)

    def _named(self, body: DirectoryNamed, recorded: Recorded) -> None:
        self.organization_id = recorded.organization_id
        self.workspace_id = recorded.workspace_id
        self.name = body.name

    _APPLY: ClassVar = {DirectoryNamed: _named}
