"""The bodies of commands about API keys."""

from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from ledger.api.models import Changes, CommandBody
from ledger.api.reading import Bound
from ledger.domain.api_key import GRACE, LONGEST_GRACE, SINGLE_PERMISSIONS, Permission
from ledger.domain.values import ORGANIZATION_ID, WORKSPACE_ID
from ledger.intake.fact_types import Label

_ADMIN: Permission = "admin"
_ALL = (*SINGLE_PERMISSIONS, _ADMIN)


def _once_each(permissions: list[Permission]) -> list[Permission]:
    if len(set(permissions)) < len(permissions):
        raise ValueError("names a permission twice")
    if _ADMIN in permissions and len(permissions) > 1:
        raise ValueError('has "admin" beside other permissions: "admin" must be the only one')
    return permissions


Name = Annotated[Label | None, Field(examples=["billing"])]
Permissions = Annotated[
    list[Permission],
    Field(
        min_length=1,
        description="Permissions that the credential has itself. `admin` stands alone.",
        examples=[["read", "write"]],
    ),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"enum": list(_ALL)},
            "minItems": 1,
            "maxItems": len(SINGLE_PERMISSIONS),
            "uniqueItems": True,
            # Client generators ignore `if`; they cannot tell alternatives of arrays apart.
            "if": {"contains": {"const": _ADMIN}},
            "then": {"maxItems": 1},
        }
    ),
    AfterValidator(_once_each),
]
_Later = Annotated[Bound, Field(examples=["2091-01-01T00:00:00Z"])]
"""An instant in the future. Its example lies so late that it does not expire."""

ExpiresAt = Annotated[
    _Later | None,
    Field(
        description="From this instant on the key is refused. Null: it works until it is revoked."
    ),
]


class NewKey(CommandBody):
    """A new key."""

    name: Name = None
    organization_id: Annotated[
        str | None,
        Field(
            pattern=ORGANIZATION_ID,
            description="By default the credential's organization. An administrator names it, but"
            " not for a key with the permission `admin`, which belongs to no organization.",
        ),
    ] = None
    workspace_id: Annotated[
        str | None,
        Field(
            pattern=WORKSPACE_ID,
            description="The key sees this workspace only. By default the credential's workspace.",
        ),
    ] = None
    permissions: Permissions
    expires_at: ExpiresAt = None


class KeyChanges(Changes):
    """The changes of a key; a field that is left out stays as it is."""

    name: Name = None
    expires_at: ExpiresAt = None


class Rotation(CommandBody):
    """The rotation of a key."""

    grace_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=int(LONGEST_GRACE.total_seconds()),
            description="How long the replaced secret still works.",
        ),
    ] = int(GRACE.total_seconds())

    @property
    def grace(self) -> timedelta:
        """How long the replaced secret still works."""
        return timedelta(seconds=self.grace_seconds)
