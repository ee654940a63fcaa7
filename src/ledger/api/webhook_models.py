"""Webhook endpoints and deliveries as OpenAPI describes them, and the bodies of commands."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from ledger.api.models import Changes, CommandBody, Meta, Model
from ledger.api.reading import Bound
from ledger.domain.endpoint import EVERY_TYPE, DisabledReason
from ledger.domain.values import ENDPOINT_ID, EVENT_ID, LABEL, ORGANIZATION_ID, WORKSPACE_ID
from ledger.feed.target import LONGEST_URL
from ledger.intake.fact_types import Characters
from ledger.language.published import TYPES


def _known_types(types: Sequence[str]) -> Sequence[str]:
    if list(types) == [EVERY_TYPE]:
        return types
    if EVERY_TYPE in types:
        raise ValueError('has "*" beside other types: "*" must be the only one')
    if not set(types) <= TYPES.keys():
        raise ValueError("names an unknown event type")
    if len(set(types)) < len(types):
        raise ValueError("names an event type twice")
    return types


Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LONGEST_URL,
        description="http or https, to a public address. Redirects are not followed.",
        examples=["https://example.com/webhooks"],
        json_schema_extra={"pattern": "^https?://"},
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
    WithJsonSchema(
        {
            "type": "array",
            "items": {"enum": [*TYPES, EVERY_TYPE]},
            "minItems": 1,
            "maxItems": len(TYPES),
            "uniqueItems": True,
            # Client generators ignore `if`; they cannot tell alternatives of arrays apart.
            "if": {"contains": {"const": EVERY_TYPE}},
            "then": {"maxItems": 1},
        }
    ),
    AfterValidator(_known_types),
]
Description = Annotated[str, Field(max_length=500), Characters(LABEL)] | None


class NewWebhook(CommandBody):
    """A new endpoint."""

    url: Url
    event_types: EventTypes
    organization_id: Annotated[
        str | None,
        Field(
            pattern=ORGANIZATION_ID,
            description="By default the credential's organization; required if it has none.",
        ),
        WithJsonSchema({"type": "string", "pattern": ORGANIZATION_ID}),
    ] = None
    workspace_id: Annotated[
        str | None,
        Field(pattern=WORKSPACE_ID, description="Deliver the events of this workspace only."),
    ] = None
    description: Description = None
    enabled: bool = True


class WebhookChanges(Changes):
    """The changes of an endpoint; a field that is left out stays as it is."""

    url: Url = ""
    event_types: EventTypes = Field(default_factory=list)
    description: Description = None
    enabled: bool = True


class Recovery(CommandBody):
    """The start of a recovery."""

    since: Annotated[
        Bound, Field(description="The recovery covers events recorded from this instant on.")
    ]


class WebhookStatus(Model):
    """The state of an endpoint's deliveries."""

    sequence: int = Field(ge=0, description="The latest number that an event was given.")
    failing_since: datetime | None = Field(
        description="The time of the first failure since the last success."
    )


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
    """The answer that shows an endpoint."""

    data: WebhookModel


class WebhookSecretAnswer(Model):
    """The answer that shows an endpoint with its secret."""

    data: WebhookWithSecret


class AttemptModel(Model):
    """An attempt at a delivery."""

    at: datetime
    response_status: int | None
    latency_ms: int
    error: str | None
    response_body: str | None = Field(description="The first KB of the endpoint's answer.")


class RequestModel(Model):
    """The request of an attempt at a delivery."""

    url: str
    headers: dict[str, str] = Field(description="The signature is masked.")
    body: str = Field(description="The text of the body, as the running version renders it.")


class DeliveryModel(Model):
    """A delivery of an event, with its attempts."""

    event_id: str = Field(pattern=EVENT_ID)
    type: str
    sequence: int = Field(ge=0, description="The event's number; 0 for a test.")
    status: Literal["pending", "retrying", "delivered", "failed"] = Field(
        description="`pending` before the first attempt, `retrying` after a failed one."
    )
    attempts: list[AttemptModel] = Field(
        description="The latest attempts, 50 at most, oldest first."
    )
    next_attempt_at: datetime | None
    request: RequestModel | None = Field(
        description="The request of the latest attempt. Null before the first attempt, and if an"
        " earlier version made the latest attempt."
    )


class DeliveryList(Model):
    """A page of deliveries."""

    data: list[DeliveryModel]
    meta: Meta
