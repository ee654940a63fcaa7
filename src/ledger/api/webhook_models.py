"""The bodies of commands about webhook endpoints."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from ledger.api.models import Changes, CommandBody
from ledger.api.reading import Bound
from ledger.domain.endpoint import EVERY_TYPE
from ledger.domain.values import LABEL, ORGANIZATION_ID, WORKSPACE_ID
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
