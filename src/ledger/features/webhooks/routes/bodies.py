"""The bodies of commands about webhook endpoints (contract, Feeds)."""

from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema

from ledger.engine.http.models import Changes, Characters, CommandBody, distinct, set_of
from ledger.engine.http.reading import Bound
from ledger.engine.values.event_table import EVERY_TYPE
from ledger.engine.values.values import LABEL, ORGANIZATION_ID, WATCH_ID, WORKSPACE_ID
from ledger.features.feed.published import TYPES
from ledger.features.watches.model.watch import Severity
from ledger.features.webhooks.client.target import LONGEST_URL
from ledger.features.webhooks.model.channel import ROUTING_KEY, Format
from ledger.features.webhooks.model.endpoint import MAX_WATCH_IDS


def _event_types(types: list[str]) -> list[str]:
    if not {*types} <= {*TYPES, EVERY_TYPE}:
        raise ValueError("names an unknown event type")
    return distinct(types, EVERY_TYPE, "an event type", "types")


Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LONGEST_URL,
        description="http or https, to a public address. Redirects are not followed. Of `slack`,"
        " an incoming webhook; of `email`, `mailto:` and up to 10 addresses. `pagerduty` needs"
        " none.",
        examples=["https://example.com/webhooks"],
        json_schema_extra={"pattern": "^(https?://|mailto:)"},
    ),
]
EventTypes = Annotated[
    list[str],
    Field(
        min_length=1,
        max_length=100,
        description="Types of `/v1/event-types`, or `*` alone for all of them. For `slack`, `email`"
        " and `pagerduty`, those of alerts and `webhook.delivery_failed`.",
        examples=[["execution.blocked", "run.failed"]],
    ),
    set_of([*TYPES], EVERY_TYPE),
    AfterValidator(_event_types),
]
Description = Annotated[str, Field(max_length=500), Characters(LABEL)] | None


def _no_repetition(ids: list[str]) -> list[str]:
    if len(set(ids)) < len(ids):
        raise ValueError("names a watch twice")
    return ids


WatchIds = Annotated[
    Annotated[
        list[Annotated[str, Field(pattern=WATCH_ID)]],
        Field(min_length=1, max_length=MAX_WATCH_IDS, json_schema_extra={"uniqueItems": True}),
        AfterValidator(_no_repetition),
    ]
    | None,
    Field(description="Of alerts, only those of these watches are sent. Null: those of all."),
]
MinSeverity = Annotated[
    Severity, Field(description="Of alerts, only those of at least this severity are sent.")
]
Details = Annotated[
    bool,
    Field(
        description="Whether alerts are sent with their words. False: ids, severity, kind, times"
        " and link alone."
    ),
]


RoutingKey = Annotated[
    str, Field(pattern=ROUTING_KEY, description="PagerDuty's integration key. It is not shown.")
]
_ALWAYS = Field(validate_default=True)


def _require_url(url: str | None, info: ValidationInfo) -> str | None:
    """Require a URL, except for PagerDuty, whose address is known."""
    if url is None and info.data.get("format", "standard") != "pagerduty":
        raise ValueError("is required")
    return url


def _needs_an_address(schema: dict[str, Any]) -> None:
    """Describe which formats need a URL, and which need a routing key."""
    url = schema["properties"]["url"]
    url |= next(each for each in url.pop("anyOf") if each["type"] != "null")
    key = schema["properties"]["routing_key"]
    key |= next(each for each in key.pop("anyOf") if each["type"] != "null")
    only = {"type": "string", "const": "pagerduty"}
    is_pagerduty = {"properties": {"format": only}, "required": ["format"]}
    schema |= {
        "if": is_pagerduty,
        "then": _requires("routing_key"),
        "else": _requires("url"),
        "dependentSchemas": {"routing_key": is_pagerduty},
    }


def _requires(name: str) -> dict[str, Any]:
    # Linters want each required field in ``properties``, and then the other fields too.
    return {"properties": {name: {}}, "required": [name], "additionalProperties": True}


class NewWebhook(CommandBody):
    """A new endpoint."""

    model_config = ConfigDict(json_schema_extra=_needs_an_address)

    format: Annotated[Format, Field(description="What arrives. It is set once.")] = "standard"
    url: Annotated[Url | None, AfterValidator(_require_url), _ALWAYS] = None
    routing_key: RoutingKey | None = None
    event_types: EventTypes
    watch_ids: WatchIds = None
    min_severity: MinSeverity = "info"
    details: Details = True
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
    routing_key: RoutingKey = ""
    event_types: EventTypes = Field(default_factory=list)
    watch_ids: WatchIds = None
    min_severity: MinSeverity = "info"
    details: Details = True
    description: Description = None
    enabled: bool = True


class Recovery(CommandBody):
    """The start of a recovery."""

    since: Annotated[
        Bound, Field(description="The recovery covers events recorded from this instant on.")
    ]
