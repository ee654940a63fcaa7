"""Commands that are not facts: what people and the service itself ask for."""

import hashlib
from collections.abc import Iterable

from ledger.application.principal import SWEEPER, Principal
from ledger.application.unit import Receipt, TenantOf, Unit
from ledger.domain.api_key import ApiKey, ApiKeyCreated, Permission
from ledger.domain.errors import Invalid, NotFound
from ledger.domain.execution import Execution
from ledger.domain.recorded import Recorded


class _LineCommand:
    """A command about one line."""

    def __init__(self, line_id: str, principal: Principal, request_id: str | None = None) -> None:
        self.line_id = line_id
        self.principal = principal
        self.request_id = request_id

    def streams(self) -> Iterable[str]:
        """The line."""
        return (self.line_id,)

    def identity(self, tenant_of: TenantOf) -> None:
        """No fact."""


class Pause(_LineCommand):
    """Put the operator's hold on a line (contract 4)."""

    def __init__(
        self,
        line_id: str,
        principal: Principal,
        request_id: str | None = None,
        *,
        reason: str | None,
        fault: Invalid | None = None,
    ) -> None:
        super().__init__(line_id, principal, request_id)
        self.reason = reason
        self.fault = fault
        """What is wrong with the request: told only to who may know that the line exists."""

    def decide(self, unit: Unit) -> Receipt:
        """Raises NotFound, Invalid or InvalidState."""
        execution = unit.execution(self.line_id, self.principal)
        if self.fault is not None:
            raise self.fault
        body = execution.pause("operator", self.reason)
        return _receipt(unit.record(execution, body, unit.now, self))


class Resume(Pause):
    """Lift the operator's hold (contract 4)."""

    def decide(self, unit: Unit) -> Receipt:
        """Raises NotFound, Invalid or InvalidState."""
        execution = unit.execution(self.line_id, self.principal)
        if self.fault is not None:
            raise self.fault
        body = execution.resume("operator", self.reason)
        return _receipt(unit.record(execution, body, unit.now, self))


class GoIdle(_LineCommand):
    """Record that a line went idle, if the rule says so at this moment (contract 3)."""

    def __init__(self, line_id: str) -> None:
        super().__init__(line_id, SWEEPER)

    def decide(self, unit: Unit) -> Receipt:
        """Recorded once: a line that is idle, held, closed or busy is left as it is."""
        execution = unit.find(self.line_id)
        if not isinstance(execution, Execution):
            raise NotFound("No such service line.")
        activity = unit.activity(self.line_id)
        idle = execution.go_idle(
            activity.last_activity_at,
            activity.open_runs,
            unit.now,
            unit.idle_after(execution.execution_model),
        )
        if idle is None:
            return Receipt(self.line_id, (), 0, duplicate=True)
        body, at = idle
        return _receipt(unit.record(execution, body, at, self))


class CreateApiKey:
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
        self.principal = principal
        self.request_id: str | None = None
        self._hash = hash_token(token)
        self._name = name
        self._tenant = (organization_id, workspace_id, None)
        self._permissions = permissions

    def streams(self) -> Iterable[str]:
        """A new stream."""
        return ()

    def identity(self, tenant_of: TenantOf) -> None:
        """No fact."""

    def decide(self, unit: Unit) -> Receipt:
        """Always recorded."""
        body = ApiKeyCreated(name=self._name, secret_hash=self._hash, permissions=self._permissions)
        key = ApiKey(unit.issue("KEY"))
        return _receipt(unit.record(key, body, unit.now, self, tenant=self._tenant))


class RevokeApiKey:
    """Take a key back; every worker refuses it within seconds."""

    def __init__(self, principal: Principal, key_id: str) -> None:
        self.principal = principal
        self.request_id: str | None = None
        self._key_id = key_id

    def streams(self) -> Iterable[str]:
        """The key."""
        return (self._key_id,)

    def identity(self, tenant_of: TenantOf) -> None:
        """No fact."""

    def decide(self, unit: Unit) -> Receipt:
        """Raises NotFound or InvalidState."""
        key = unit.find(self._key_id)
        if not isinstance(key, ApiKey):
            raise NotFound("No such key.")
        return _receipt(unit.record(key, key.revoke(), unit.now, self))


def hash_token(token: str) -> bytes:
    """How a token is stored and looked up."""
    return hashlib.sha256(token.encode()).digest()


def _receipt(recorded: Recorded) -> Receipt:
    return Receipt(recorded.originator_id, (recorded.event_id,), recorded.position)
