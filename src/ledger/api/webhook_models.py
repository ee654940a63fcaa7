"""Webhook endpoints as OpenAPI describes them, and what their routes take."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ledger.api.models import Meta, Model
from ledger.api.reading import Bound
from ledger.domain.endpoint import EVERY_TYPE, DisabledReason
from ledger.domain.values import ENDPOINT_ID, EVENT_ID, ORGANIZATION_ID, WORKSPACE_ID
from ledger.feed.target import LONGEST_URL
from ledger.language.published import TYPES


def _known_types(types: Sequence[str]) -> Sequence[str]:
    if list(types) == [EVERY_TYPE]:
        return types
    if EVERY_TYPE in types:
        raise ValueError('["*"] stands alone')
    if not set(types) <= TYPES.keys():
        raise ValueError("names a type that is not known")
    if len(set(types)) < len(types):
        raise ValueError("names a type twice")
    return types


Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LONGEST_URL,
        description="http or https, to a public address. Redirects are not followed.",
        examples=["https://example.com/webhooks"],
    ),
]
EventTypes = Annotated[
    list[str],
    Field(
        min_length=1,
        max_length=100,
        description="Types of `/v1/event-types`, or `*` alone for all of them.",
        examples=[["execution.blocked", "run.failed"]],
    ),
    AfterValidator(_known_types),
]
Description = Annotated[str | None, Field(max_length=500)]


class CommandBody(BaseModel):
    """A command's body."""

    model_config = ConfigDict(extra="forbid", strict=True)


class NewWebhook(CommandBody):
    """An endpoint to be set up."""

    url: Url
    event_types: EventTypes
    organization_id: Annotated[
        str | None,
        Field(pattern=ORGANIZATION_ID, description="The credential's own, unless it has none."),
    ] = None
    workspace_id: Annotated[
        str | None, Field(pattern=WORKSPACE_ID, description="Only this workspace's events.")
    ] = None
    description: Description = None
    enabled: bool = True


def _no_defaults(schema: dict[str, Any]) -> None:
    schema["minProperties"] = 1
    for field in schema["properties"].values():
        field.pop("default", None)


class WebhookChanges(CommandBody):
    """What of an endpoint is changed; the rest stays as it is."""

    model_config = ConfigDict(json_schema_extra=_no_defaults)

    url: Url = ""
    event_types: EventTypes = []
    description: Description = None
    enabled: bool = True

    @model_validator(mode="after")
    def _changes_something(self) -> "WebhookChanges":
        if not self.model_fields_set:
            raise ValueError("names nothing to change")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """What was sent."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class Recovery(CommandBody):
    """From when on."""

    since: Annotated[Bound, Field(description="Events recorded from then on.")]


class Nothing(CommandBody):
    """No field is known."""


class WebhookStatus(Model):
    """How deliveries stand."""

    sequence: int = Field(ge=0, description="The latest number given to an event.")
    failing_since: datetime | None = Field(description="The first failure since the last success.")


class WebhookModel(Model):
    """An endpoint."""

    id: str = Field(pattern=ENDPOINT_ID)
    url: str
    event_types: list[str]
    organization_id: str
    workspace_id: str | None
    description: str | None
    enabled: bool
    disabled_reason: DisabledReason | None
    disabled_at: datetime | None
    created_at: datetime
    updated_at: datetime
    status: WebhookStatus | None = Field(description="Null in the answers of commands.")


class WebhookWithSecret(WebhookModel):
    """An endpoint with its secret, which is not shown again."""

    secret: str = Field(pattern="^whsec_")


class WebhookList(Model):
    """A page of endpoints."""

    data: list[WebhookModel]
    meta: Meta


class WebhookAnswer(Model):
    """One endpoint's answer."""

    data: WebhookModel


class WebhookSecretAnswer(Model):
    """One endpoint's answer, with its secret."""

    data: WebhookWithSecret


class AttemptModel(Model):
    """One attempt at a delivery."""

    at: datetime
    response_status: int | None
    latency_ms: int
    error: str | None
    response_body: str | None = Field(description="The first KB of the answer.")


class DeliveryModel(Model):
    """One event and what became of it."""

    event_id: str = Field(pattern=EVENT_ID)
    type: str
    sequence: int = Field(ge=0, description="0 for a test.")
    status: Literal["pending", "delivered", "failed"]
    attempts: list[AttemptModel] = Field(description="The latest 50 at most, the last one last.")
    next_attempt_at: datetime | None


class DeliveryList(Model):
    """A page of deliveries."""

    data: list[DeliveryModel]
    meta: Meta
