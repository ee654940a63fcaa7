"""Statement: the signed usage of a scope and period (contract, Statements).

The log has the event with the document's hash; the document is stored in its own table. The file
has, in this order: events, state, decisions, changes of state, the API's form.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from ledger.engine.values.errors import InvalidState
from ledger.engine.values.event_table import PASSES, SAME, DecisionEffect, EventRow
from ledger.engine.values.recorded import Actor, Event, Folded, Identity, Recorded, outside
from ledger.engine.values.rendering import ViewInstant, doc
from ledger.engine.values.values import STATEMENT_ID, InstantText


class StatementIssued(Event, frozen=True, kw_only=True, rename=outside):
    """A statement was issued, whose document has this hash; it may replace an earlier one."""

    TOPIC = "statement.issued/1"
    organization_id: str
    workspace_id: str | None = None
    """None for a statement of the whole organization."""
    from_: InstantText
    to: InstantText
    time_zone: str
    as_of: InstantText
    """The instant as of which the document has its numbers, and the position known by then."""
    position: int
    document_sha256: str
    """In lower-case hexadecimal digits."""
    note: str | None = None
    reference: str | None = None
    replaces: str | None = None
    """The id of the statement in whose place this one stands."""

    def identities(self, recorded: Recorded) -> Iterator[Identity]:
        yield Identity.of_document(self.organization_id, self.document_sha256)
        if self.replaces is not None:
            yield Identity.of_replacement(self.organization_id, self.replaces)


class StatementWithdrawn(Event, frozen=True, kw_only=True):
    """A statement was withdrawn; its document stays readable."""

    TOPIC = "statement.withdrawn/1"
    reason: str


# Columns: event, published type, published payload, fact, command, note.
STATEMENT_TABLE: tuple[EventRow, ...] = (
    EventRow(
        StatementIssued, "statement.issued", SAME, None, "statement.issue", DecisionEffect.ISSUED
    ),
    EventRow(StatementWithdrawn, "statement.withdrawn", SAME, None, "statement.withdraw", PASSES),
)

STATEMENT_EVENTS: tuple[type[Event], ...] = tuple(row.event for row in STATEMENT_TABLE)


class UsageStatement(Folded):
    """The state of one statement, folded from its stream.

    A replacement is no event of the replaced statement's stream. It is found by an identity
    (``Identity.of_replacement``).
    """

    organization_id: str | None = None
    workspace_id: str | None = None
    withdrawn: bool = False

    # Decisions.

    def require_replaceable(self) -> None:
        if self.withdrawn:
            raise InvalidState("The statement was withdrawn, and cannot be replaced.")

    def withdraw(self, reason: str) -> StatementWithdrawn:
        """Withdraw the statement, replaced or not. Refused if it is already withdrawn."""
        if self.withdrawn:
            raise InvalidState("The statement is already withdrawn.")
        return StatementWithdrawn(reason=reason)

    # The fold.

    def _issued(self, body: StatementIssued, recorded: Recorded) -> None:
        self.organization_id = recorded.organization_id
        self.workspace_id = recorded.workspace_id

    def _withdrawn(self, body: StatementWithdrawn, recorded: Recorded) -> None:
        self.withdrawn = True

    _APPLY: ClassVar = {StatementIssued: _issued, StatementWithdrawn: _withdrawn}


class StatementAsIssued(msgspec.Struct, kw_only=True):
    """A statement as it was issued, without the sums of its document."""

    id: Annotated[str, Meta(pattern=STATEMENT_ID)]
    organization_id: str
    workspace_id: Annotated[str | None, doc("Null: the statement is of the whole organization.")]
    from_: ViewInstant = msgspec.field(name="from")
    to: ViewInstant
    time_zone: str
    as_of: Annotated[ViewInstant, doc("The numbers are those known at this instant.")]
    note: str | None
    reference: str | None
    issued_at: ViewInstant
    issued_by: Actor
    position: Annotated[int, doc("The log's position at the instant `as_of`.")]
    document_sha256: str
    replaces: str | None
