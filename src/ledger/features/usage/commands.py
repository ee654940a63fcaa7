"""Commands that issue and withdraw statements (contract, Statements).

The route computes the document as of the request's instant, and stores it in its own table
(``features/usage/tables.py``). Then it submits ``IssueStatement``, which decides, under the append
lock, the event with the document's hash.

A crash before the commit leaves a document without an event. No answer has that document, and it is
removed within a day. A crash after the commit leaves the whole statement. A repeated request
computes a document of its own, and returns the first request's outcome.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime, timedelta

import msgspec

from ledger.engine.values.errors import Invalid, InvalidState, Unavailable
from ledger.engine.values.recorded import Identity
from ledger.engine.writer.command import ManagedCommand, NewCommand, receipt
from ledger.engine.writer.group import Group
from ledger.engine.writer.request import Receipt, TenantOf
from ledger.features.usage.model.statement import (
    StatementIssued,
    StatementWithdrawn,
    UsageStatement,
)

_encode = msgspec.json.Encoder().encode


class StatementNumbers(msgspec.Struct, frozen=True):
    """A computed and stored document: its event, and its sums for the answer."""

    event: StatementIssued
    as_of: datetime
    total: msgspec.Raw


@dataclass(eq=False, repr=False)
class IssueStatement(NewCommand):
    """Issue a statement from a stored document."""

    action = "statement.issue"
    issues = "STM"

    _: KW_ONLY
    replaces: str | None
    """The id of the statement that the request replaces, even if the request has a fault."""
    numbers: StatementNumbers | None
    """None if the request has a fault, or its tenant is another one."""

    def streams(self) -> Sequence[str]:
        return () if self.replaces is None else (self.replaces,)

    def identities(self, tenant_of: TenantOf) -> Sequence[Identity]:
        if self.replaces is None or self.organization_id is None:
            return ()
        return (Identity.of_replacement(self.organization_id, self.replaces),)

    def decide(self, group: Group) -> Receipt:
        """Raises Forbidden, NotFound, Invalid or InvalidState; Unavailable if clocks differ."""
        self.require_visible()
        replaced = None
        if self.replaces is not None:
            replaced = group.memory.get(UsageStatement, self.replaces, self.principal)
        organization_id = self.require_tenant()
        if replaced is not None:
            self._require_replaceable(replaced, group)
        assert self.numbers is not None
        event = self.numbers.event
        self._require_final(group, self.numbers.as_of, event.position)
        statement = UsageStatement(group.issue("STM"))
        tenant = (organization_id, self.workspace_id, None)
        recorded = group.record(statement, event, group.now, self, tenant=tenant)
        answer = {
            "id": statement.id,
            "document_sha256": event.document_sha256,
            "position": event.position,
            "as_of": event.as_of,
            "total": self.numbers.total,
        }
        return receipt(recorded, _encode({"data": answer}))

    def _require_replaceable(self, replaced: UsageStatement, group: Group) -> None:
        scope = self.organization_id, self.workspace_id
        if (replaced.organization_id, replaced.workspace_id) != scope:
            raise Invalid.at("/replaces", "is a statement of another organization or workspace")
        replaced.require_replaceable()
        if group.memory.first(Identity.of_replacement(scope[0] or "", replaced.id)) is not None:
            raise InvalidState("The statement was already replaced by another one.")

    @staticmethod
    def _require_final(group: Group, as_of: datetime, position: int) -> None:
        """Raise Unavailable if another node, whose clock is behind, recorded more by that instant.

        The new event and all later ones are recorded after the instant. So the same numbers can be
        computed again at any time.
        """
        if group.append.position_by(as_of) != position:
            raise Unavailable("The clocks of nodes differ: send the request again.")
        if group.now <= as_of:
            group.begin(as_of + timedelta(microseconds=1))


@dataclass(eq=False, repr=False)
class WithdrawStatement(ManagedCommand):
    """Withdraw a statement, whose document stays readable."""

    action = "statement.withdraw"
    subject_type = "statement"

    reason: str = field(kw_only=True)

    def _event(self, statement: UsageStatement, group: Group) -> StatementWithdrawn:
        return statement.withdraw(self.reason)
