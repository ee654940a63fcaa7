"""Commands that pause and resume many lines together (contract, Reading).

A command of the whole request checks it and stores the chosen lines. Then each line has a command
of its own. Both are safe to repeat, so an interrupted request goes on.
"""

from collections.abc import Collection, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime

import msgspec

from ledger.engine.values.errors import Forbidden, Invalid, InvalidState
from ledger.engine.values.principal import Principal
from ledger.engine.values.values import HoldName, State
from ledger.engine.writer.command import OTHER_TENANT, OwnCommand
from ledger.engine.writer.group import Group
from ledger.engine.writer.request import About, IdempotencyKey, Receipt
from ledger.features.lines.commands.lines import Pause, Resume, require_end
from ledger.features.lines.model.execution import Execution, Hold

_encode = msgspec.json.Encoder().encode


class ChosenLines(msgspec.Struct, frozen=True):
    """The lines that a request pauses or resumes, when chosen, and from which position."""

    chosen_at: datetime
    position: int
    lines: Sequence[str]


@dataclass(eq=False, repr=False)
class PauseMany(OwnCommand):
    """Check a request to pause many lines, and store the lines that its filter matched."""

    action = "execution.pause"

    principal: Principal
    request_id: str | None
    _: KW_ONLY
    organization_id: str | None
    lines: Sequence[str]
    position: int
    """The position of the views in which the filter matched the lines."""
    expect: int | None
    until: datetime | None
    is_dry: bool
    """True for outcomes only: nothing is recorded, not even a refusal."""
    fault: Invalid | None
    idempotency: IdempotencyKey | None

    def about(self) -> About | None:
        tenant = self.organization_id and (self.organization_id, self.principal.workspace_id)
        return None if self.is_dry else About(self.action, tenant=tenant or None)

    def decide(self, group: Group) -> Receipt:
        """Raises Forbidden for another tenant, Invalid, or InvalidState for another number."""
        principal, organization_id = self.principal, self.organization_id
        if organization_id and not principal.sees(organization_id, principal.workspace_id):
            raise Forbidden(OTHER_TENANT)
        if self.fault is not None:
            raise self.fault
        require_end(self.until, group.now)
        if self.expect not in (None, len(self.lines)):
            raise InvalidState(f"The filter matches {len(self.lines)} lines.")
        choice = ChosenLines(group.now, self.position, self.lines)
        return Receipt("", (), 0, answer=_encode(choice))


class ResumeMany(PauseMany):
    """Check a request to resume many lines, and store the lines that its filter matched."""

    action = "execution.resume"


class LineOutline(msgspec.Struct, frozen=True):
    """A line's fields in the receipt of a request for many lines."""

    name: str | None
    state: State


@dataclass(eq=False, repr=False)
class PauseOne(Pause):
    """Put the operator's hold on one line of many. A line with the hold stays as it is."""

    is_dry: bool = field(kw_only=True)

    def about(self) -> About | None:
        return None if self.is_dry else super().about()

    def decide(self, group: Group) -> Receipt:
        """Raises NotFound, or InvalidState for a closed line."""
        execution = group.memory.get(Execution, self.subject_id, self.principal)
        try:
            if self.is_dry:
                if execution.lift_due(group.now) is not None:  # the command would lift it first
                    execution = msgspec.structs.replace(execution, holds=_without(execution))
                self._event(execution)
                found = Receipt(self.subject_id, (), 0)
            else:
                found = super().decide(group)
        except InvalidState:
            if execution.state == "closed":
                raise
            # The reads show the line like this once they show what was decided before: its hold may
            # have just been lifted at its end.
            found = msgspec.structs.replace(self.unchanged(), position=group.next_position - 1)
        outline = LineOutline(execution.name, execution.state_with(self._holds(execution)))
        return msgspec.structs.replace(found, answer=_encode(outline))

    def _holds(self, execution: Execution) -> Collection[HoldName]:
        return {*execution.holds, "operator"}


class ResumeOne(PauseOne, Resume):
    """Lift the operator's hold of one line of many. A line without the hold stays as it is."""

    def _holds(self, execution: Execution) -> Collection[HoldName]:
        return _without(execution)


def _without(execution: Execution) -> dict[HoldName, Hold]:
    return {name: hold for name, hold in execution.holds.items() if name != "operator"}
