"""Commands about API keys."""

from ledger.application.command import OwnCommand, SubjectCommand, receipt
from ledger.application.unit import Unit
from ledger.domain.api_key import ApiKey, ApiKeyCreated, Permission
from ledger.domain.errors import NotFound
from ledger.intake.principal import Principal
from ledger.intake.request import Receipt
from ledger.intake.tokens import hash_token


class CreateApiKey(OwnCommand):
    """Hand out a key. The caller creates the token; the command keeps only the token's hash."""

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
        """Record the key; the command is never refused."""
        body = ApiKeyCreated(name=self._name, secret_hash=self._hash, permissions=self._permissions)
        key = ApiKey(unit.issue("KEY"))
        return receipt(unit.events.record(key, body, unit.now, self, tenant=self._tenant))


class RevokeApiKey(SubjectCommand):
    """Revoke a key; within seconds every worker refuses the key."""

    action = "key.revoke"
    subject_type = "api_key"

    def decide(self, unit: Unit) -> Receipt:
        """Raises NotFound or InvalidState."""
        key = unit.loader.find(self.subject_id)
        if not isinstance(key, ApiKey):
            raise NotFound("No such key.")
        return receipt(unit.events.record(key, key.revoke(), unit.now, self))
