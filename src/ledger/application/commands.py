"""Commands that are not facts: what people and the service itself ask for."""

import hashlib
from collections.abc import Iterable

from ledger.application.command import OwnCommand
from ledger.application.unit import Unit
from ledger.domain.api_key import ApiKey, ApiKeyCreated, Permission
from ledger.domain.errors import Invalid, NotFound
from ledger.domain.execution import Execution
from ledger.domain.recorded import Recorded
from ledger.intake.principal import SWEEPER, Principal
from ledger.intake.request import About, IdempotencyKey, Receipt


class Pause(OwnCommand):
    """Put the operator's hold on a line (contract 4)."""

    action = "execution.pause"

    def __init__(
        self,
        line_id: str,
        principal: Principal,
        request_id: str | None = None,
        *,
        reason: str | None,
        fault: Invalid | None = None,
        idempotency: IdempotencyKey | None = None,
    ) -> None:
        super().__init__(principal, request_id)
        self.line_id = line_id
        self.reason = reason
        self.fault = fault
        """What is wrong with the request: told only to who may know that the line exists."""
        self.idempotency = idempotency

    def streams(self) -> Iterable[str]:
        """The line."""
        return (self.line_id,)

    def about(self) -> About:
        """The line."""
        return About(self.action, ("service_line", self.line_id))

    def decide(self, unit: Unit) -> Receipt:
        """Raises NotFound, Invalid or InvalidState."""
        execution = self._line(unit)
        body = execution.pause("operator", self.reason)
        return receipt(unit.events.record(execution, body, unit.now, self))

    def _line(self, unit: Unit) -> Execution:
        execution = unit.loader.execution(self.line_id, self.principal)
        if self.fault is not None:
            raise self.fault
        return execution


class Resume(Pause):
    """Lift the operator's hold (contract 4)."""

    action = "execution.resume"

    def decide(self, unit: Unit) -> Receipt:
        """Raises NotFound, Invalid or InvalidState."""
        execution = self._line(unit)
        body = execution.resume("operator", self.reason)
        return receipt(unit.events.record(execution, body, unit.now, self))


class EraseRun(OwnCommand):
    """Make an ended run's input, output and error unreadable for good (contract 6)."""

    action = "run.erase"

    def __init__(
        self,
        run_id: str,
        principal: Principal,
        request_id: str | None = None,
        *,
        reason: str,
        fault: Invalid | None = None,
        idempotency: IdempotencyKey | None = None,
    ) -> None:
        super().__init__(principal, request_id)
        self.run_id = run_id
        self.reason = reason
        self.fault = fault
        """What is wrong with the request: told only to who may know that the run exists."""
        self.idempotency = idempotency

    def streams(self) -> Iterable[str]:
        """The run."""
        return (self.run_id,)

    def about(self) -> About:
        """The run."""
        return About(self.action, ("run", self.run_id))

    def decide(self, unit: Unit) -> Receipt:
        """Recorded once. Raises NotFound, Invalid or InvalidState."""
        run = unit.loader.run(self.run_id, self.principal)
        if self.fault is not None:
            raise self.fault
        body = run.erase(self.reason)
        if body is None:
            return Receipt(run.id, (), 0, duplicate=True)
        recorded = unit.events.record(run, body, unit.now, self)
        # Out of this process's memory at once. (The decision tables take it out of the database,
        # and tell the others.)
        unit.loader.run_key(run)
        return receipt(recorded)


class GoIdle(OwnCommand):
    """Record that a line went idle, if the rule says so at this moment (contract 3)."""

    def __init__(self, line_id: str) -> None:
        super().__init__(SWEEPER)
        self.line_id = line_id

    def streams(self) -> Iterable[str]:
        """The line."""
        return (self.line_id,)

    def decide(self, unit: Unit) -> Receipt:
        """Recorded once: a line that is idle, held, closed or busy is left as it is."""
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


class CreateApiKey(OwnCommand):
    """Hand out a key. The token is made by the caller; only its hash comes here."""

    def __init__(
        self,
        principal: Principal,
        token: str,
        *,
        name: str | None,
        organization_id: str | None,
        workspace_id: str | None,
        permissions: tuple[Permission, ...],
    ) -> None:
        super().__init__(principal)
        self._hash = hash_token(token)
        self._name = name
        self._tenant = (organization_id, workspace_id, None)
        self._permissions = permissions

    def decide(self, unit: Unit) -> Receipt:
        """Always recorded."""
        body = ApiKeyCreated(name=self._name, secret_hash=self._hash, permissions=self._permissions)
        key = ApiKey(unit.issue("KEY"))
        return receipt(unit.events.record(key, body, unit.now, self, tenant=self._tenant))


class RevokeApiKey(OwnCommand):
    """Take a key back; every worker refuses it within seconds."""

    action = "key.revoke"

    def __init__(self, principal: Principal, key_id: str) -> None:
        super().__init__(principal)
        self._key_id = key_id

    def streams(self) -> Iterable[str]:
        """The key."""
        return (self._key_id,)

    def about(self) -> About:
        """The key."""
        return About(self.action, ("api_key", self._key_id))

    def decide(self, unit: Unit) -> Receipt:
        """Raises NotFound or InvalidState."""
        key = unit.loader.find(self._key_id)
        if not isinstance(key, ApiKey):
            raise NotFound("No such key.")
        return receipt(unit.events.record(key, key.revoke(), unit.now, self))


def hash_token(token: str) -> bytes:
    """How a token is stored and looked up."""
    return hashlib.sha256(token.encode()).digest()


def receipt(recorded: Recorded, answer: bytes | None = None) -> Receipt:
    """What became of a command that recorded one event."""
    return Receipt(recorded.originator_id, (recorded.event_id,), recorded.position, answer=answer)
