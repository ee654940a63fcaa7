"""Commands about service lines: pause, resume, and the sweeper's commands."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ledger.engine.values.errors import Invalid, NotFound
from ledger.engine.values.principal import PAUSE_UNTIL, SWEEPER
from ledger.engine.values.recorded import Event
from ledger.engine.writer.command import SubjectCommand, receipt
from ledger.engine.writer.group import Group
from ledger.engine.writer.request import Receipt
from ledger.features.facts.recording import lift_due
from ledger.features.lines.model.execution import Execution

_LONGEST = timedelta(days=400)


@dataclass(eq=False, repr=False)
class Pause(SubjectCommand):
    """Put the operator's hold on a line, or change it (contract, Reading)."""

    action = "execution.pause"
    subject_type = "service_line"

    reason: str | None = field(kw_only=True)
    until: datetime | None = field(default=None, kw_only=True)
    replace: bool = field(default=False, kw_only=True)
    """True to give a hold that is on this reason and this end."""

    def decide(self, group: Group) -> Receipt:
        """Raises NotFound, Invalid or InvalidState."""
        execution = group.memory.get(Execution, self.subject_id, self.principal)
        if self.fault is not None:
            raise self.fault
        require_end(self.until, group.now)
        lift_due(execution, group, group.now)
        body = self._event(execution)
        if body is None:
            return self.unchanged()
        return receipt(group.record(execution, body, group.now, self))

    def _event(self, execution: Execution) -> Event | None:
        decide = execution.pause_anew if self.replace else execution.pause
        return decide("operator", self.reason, self.until)


def require_end(until: datetime | None, now: datetime) -> None:
    """Raise Invalid for an end of a pause that is in the past, or too far ahead."""
    if until is not None and not now < until <= now + _LONGEST:
        raise Invalid.at("/until", "must lie in the future, at most 400 days ahead")


class Resume(Pause):
    """Lift the operator's hold (contract, Reading)."""

    action = "execution.resume"

    def _event(self, execution: Execution) -> Event:
        return execution.resume("operator", self.reason)


class LiftHold(SubjectCommand):
    """Lift the operator's hold, if it has reached its end (contract, State)."""

    def __init__(self, line_id: str) -> None:
        super().__init__(line_id, PAUSE_UNTIL)

    def decide(self, group: Group) -> Receipt:
        """Change nothing if the hold was lifted or extended meanwhile. Raises NotFound."""
        lifted = lift_due(_line(self.subject_id, group), group, group.now)
        return self.unchanged() if lifted is None else receipt(lifted)


class GoIdle(SubjectCommand):
    """Record that a line went idle, if the rule now applies (contract, State)."""

    def __init__(self, line_id: str) -> None:
        super().__init__(line_id, SWEEPER)

    def decide(self, group: Group) -> Receipt:
        """Change nothing if the line is idle, held, closed or busy. Raises NotFound."""
        execution = _line(self.subject_id, group)
        activity = group.memory.activity(self.subject_id)
        idle = execution.go_idle(
            activity.last_activity_at,
            activity.open_runs,
            group.now,
            group.idle_after(execution.execution_model),
        )
        if idle is None:
            return self.unchanged()
        body, at = idle
        return receipt(group.record(execution, body, at, self))


def _line(line_id: str, group: Group) -> Execution:
    execution = group.memory.find(line_id)
    if not isinstance(execution, Execution):
        raise NotFound("No such service line.")
    return execution
