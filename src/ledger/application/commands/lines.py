"""Commands about service lines: pause, resume, and the sweeper's command to go idle."""

from dataclasses import dataclass, field

from ledger.application.command import SubjectCommand, receipt
from ledger.application.group import Group
from ledger.domain.errors import NotFound
from ledger.domain.execution import Execution
from ledger.domain.recorded import Event
from ledger.intake.principal import SWEEPER
from ledger.intake.request import Receipt


@dataclass(eq=False, repr=False)
class Pause(SubjectCommand):
    """Put the operator's hold on a line (contract, Reading)."""

    action = "execution.pause"
    subject_type = "service_line"

    reason: str | None = field(kw_only=True)

    def decide(self, group: Group) -> Receipt:
        """Raises NotFound, Invalid or InvalidState."""
        execution = group.memory.execution(self.subject_id, self.principal)
        if self.fault is not None:
            raise self.fault
        return receipt(group.record(execution, self._event(execution), group.now, self))

    def _event(self, execution: Execution) -> Event:
        return execution.pause("operator", self.reason)


class Resume(Pause):
    """Lift the operator's hold (contract, Reading)."""

    action = "execution.resume"

    def _event(self, execution: Execution) -> Event:
        return execution.resume("operator", self.reason)


class GoIdle(SubjectCommand):
    """Record that a line went idle, if the rule says so at this moment (contract, State)."""

    def __init__(self, line_id: str) -> None:
        super().__init__(line_id, SWEEPER)

    def decide(self, group: Group) -> Receipt:
        """Leave a line as it is that is idle, held, closed or busy. Raises NotFound."""
        execution = group.memory.find(self.subject_id)
        if not isinstance(execution, Execution):
            raise NotFound("No such service line.")
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
