"""Webhook endpoints in the form that commands, the view and routes show."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from ledger.engine.values.rendering import ViewInstant, doc
from ledger.engine.values.values import ENDPOINT_ID
from ledger.features.watches.model.watch import Severity
from ledger.features.webhooks.model.channel import Format
from ledger.features.webhooks.model.endpoint import DisabledReason


class EndpointSetUp(msgspec.Struct):
    """A webhook endpoint as its owner sees it, without the secret, which is shown only once."""

    id: Annotated[str, Meta(pattern=ENDPOINT_ID)]
    format: Format
    url: Annotated[str, doc("Of `slack` without its path, of `email` without addresses.")]
    routing_key: Annotated[str | None, doc("`***` of `pagerduty`, else null.")]
    event_types: Sequence[str]
    watch_ids: Annotated[Sequence[str] | None, doc("Null: alerts of all watches.")]
    min_severity: Annotated[Severity, doc("Alerts of a lower severity are not sent.")]
    details: Annotated[bool, doc("False: alerts without the words of the tenant.")]
    organization_id: str
    workspace_id: str | None
    description: str | None
    enabled: bool
    disabled_reason: DisabledReason | None
    disabled_at: ViewInstant | None
    created_at: ViewInstant
    updated_at: ViewInstant


class EndpointStatus(msgspec.Struct):
    """The state of an endpoint's deliveries."""

    sequence: Annotated[int, Meta(ge=0, description="The latest number that an event was given.")]
    failing_since: Annotated[
        ViewInstant | None, doc("The time of the first failure since the last success.")
    ]


class ShownEndpoint(EndpointSetUp):
    """An endpoint."""

    status: Annotated[EndpointStatus | None, doc("Null in the answers of commands.")]


class EndpointWithSecret(ShownEndpoint):
    """An endpoint with its secret, which is not shown again."""

    secret: Annotated[
        Annotated[str, Meta(pattern="^whsec_")] | None,
        doc("Null where nothing is signed: of `slack`, `pagerduty` and `email`."),
    ]
