"""Commands about service lines: pause, resume, and the sweeper's command to go idle."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ledger.application.command import OwnCommand, SubjectCommand, receipt
from ledger.application.unit import Unit
from ledger.domain.errors import NotFound
from ledger.domain.execution import Execution
from ledger.intake.principal import SWEEPER
from ledger.intake.request import Receipt


@dataclass(eq=False, repr=False)
class Pause(SubjectCommand):
    """Put the operator's hold on a line (contract, Reading)."""

    action = "execution.pause"
    subject_type = "service_line"

    reason: str | None = field(kw_only=True)

    def decide(self, unit: Unit) -> Receipt:
        """Raises NotFound, Invalid or InvalidState."""
        execution = self._line(unit)
        body = execution.pause("operator", self.reason)
        return receipt(unit.events.record(execution, body, unit.now, self))

    def _line(self, unit: Unit) -> Execution:
        execution = unit.loader.execution(self.subject_id, self.principal)
        if self.fault is not None:
            raise self.fault
        return execution


class Resume(Pause):
    """Lift the operator's hold (contract, Reading)."""

    action = "execution.resume"

    def decide(self, unit: Unit) -> Receipt:
        """Raises NotFound, Invalid or InvalidState."""
        execution = self._line(unit)
        body = execution.resume("operator", self.reason)
        return receipt(unit.events.record(execution, body, unit.now, self))


class GoIdle(OwnCommand):
    """Record that a line went idle, if the rule says so at this moment (contract, State)."""

    def __init__(self, line_id: str) -> None:
        super().__init__(SWEEPER)
        self.line_id = line_id

    def streams(self) -> Iterable[str]:
        return (self.line_id,)

    def decide(self, unit: Unit) -> Receipt:
        """Record that the line went idle; an idle, held, closed or busy line is left as it is.

        Raises NotFound.
        """
        execution = unit.loader.find(self.line_id)
        if not isinstance(execution, Execution):
            raise NotFound("No such service line.")
        activity = unit.loader.activity(self.line_id)
        idle = execution.go_idle(
            activity.last_activity_at,
            activity.open_runs,
            unit.now,
            unit.idle_after(execution.execution_model),
        )
        if idle is None:
            return Receipt(self.line_id, (), 0, duplicate=True)
        body, at = idle
        return receipt(unit.events.record(execution, body, at, self))
