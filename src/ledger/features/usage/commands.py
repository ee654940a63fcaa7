"""Commands that issue and withdraw statements (contract, Statements).

A statement's way: the route computes the document as of the instant at which it began, and stores
it beside the log (``features/usage/tables.py``). Only then does it hand in ``IssueStatement``,
which decides the event with the document's hash, under the append lock. A crash before the commit
leaves a document without an event, which is shown nowhere and is removed within a day; a crash
after it leaves the whole statement. A request that is sent again computes a document of its own,
and is answered with the outcome of the first one.
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
    """A document that was computed and stored: its event, and its sums for the answer."""

    event: StatementIssued
    as_of: datetime
    total: msgspec.Raw


@dataclass(eq=False, repr=False)
class IssueStatement(NewCommand):
    """Issue a statement, of a document that is stored."""

    action = "statement.issue"
    issues = "STM"

    _: KW_ONLY
    replaces: str | None
    """The statement that the request names, also where it has a fault."""
    numbers: StatementNumbers | None
    """None: the request has a fault, or its tenant is another one."""

    def streams(self) -> Sequence[str]:
        return () if self.replaces is None else (self.replaces,)

    def identities(self, tenant_of: TenantOf) -> Sequence[Identity]:
        if self.replaces is None or self.organization_id is None:
            return ()
        return (Identity.of_replacement(self.organization_id, self.replaces),)

    def decide(self, group: Group) -> Receipt:
        """Raises Forbidden, NotFound, Invalid or InvalidState; Unavailable for an early event."""
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
        """Refuse numbers of an instant by which another node, whose clock is behind, recorded more.

        The event is recorded at a later instant, and so is every event from here on: the numbers
        can be asked again for ever.
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
