"""JSON that commands, views and reads make alike: of a value, of a key, of a webhook endpoint.

Views store JSON texts, so that reads pass them on without parsing.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from ledger.engine.values.recorded import Actor
from ledger.engine.values.values import (
    ENDPOINT_ID,
    KEY_ID,
    STATEMENT_ID,
    WATCH_ID,
    ExecutionModel,
    ProductLine,
    format_instant,
)
from ledger.features.keys.model import Permission
from ledger.features.runs.model.token_usage import TokenUsage
from ledger.features.watches.model.watch import Condition, Severity, Watch
from ledger.features.watches.model.watch_hours import WatchHours
from ledger.features.webhooks.model.channel import Format
from ledger.features.webhooks.model.endpoint import DisabledReason

S = TypeVar("S", bound=msgspec.Struct)

_encode = msgspec.json.Encoder().encode

ShownInstant = Annotated[datetime, Meta(tz=True)]
"""An instant in a struct that is shown: ``time_text`` renders it, and decoding gives it back."""


def doc(description: str) -> Meta:
    """The description of a field of what is shown."""
    return Meta(description=description)


def time_text(instant: datetime | None) -> Any:
    """The text of an instant, for a ``ShownInstant``: msgspec would write all six decimals."""
    return None if instant is None else format_instant(instant)


def shown_as(shown: type[S], of: object, **more: Any) -> S:
    """A struct of the values that ``of`` has under the names of its fields, and of ``more``."""
    names, pick = _picker(shown, tuple(more))
    values = [format_instant(each) if type(each) is datetime else each for each in pick(of)]
    return shown(**dict(zip(names, values, strict=True)), **more) if more else shown(*values)


@cache
def _picker(shown: type[S], but: tuple[str, ...]) -> tuple[tuple[str, ...], Callable[[Any], Any]]:
    names = tuple(name for name in shown.__struct_fields__ if name not in but)
    return names, attrgetter(*names)


def json_text(value: Any) -> str:
    return _encode(value).decode()


def members(value: Any) -> str:
    """The JSON members of an object without its braces, to be joined with other members."""
    return json_text(value)[1:-1]


class ShownTokenUsage(msgspec.Struct, gc=False):
    """The tokens of one model: caches are a part of `input`, reasoning is a part of `output`."""

    model: str
    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int


def shown_tokens(usage: Sequence[TokenUsage] | None) -> list[ShownTokenUsage] | None:
    return None if usage is None else [shown_as(ShownTokenUsage, each) for each in usage]


class ShownKey(msgspec.Struct):
    """An API key as those who manage keys see it, without any secret."""

    id: Annotated[str, Meta(pattern=KEY_ID)]
    name: str | None
    organization_id: Annotated[str | None, doc("Null for a key that belongs to none.")]
    workspace_id: Annotated[str | None, doc("Null: the key sees the whole organization.")]
    permissions: Sequence[Permission]
    created_at: ShownInstant
    created_by: Actor | None
    expires_at: ShownInstant | None
    last_used_at: Annotated[ShownInstant | None, doc("Within a minute. Null: never used.")]
    revoked_at: ShownInstant | None
    prefix: Annotated[
        str | None, doc("The first characters of the secret. Null for keys of earlier versions.")
    ]


class KeyWithSecret(ShownKey):
    """A key with its secret, which is not shown again."""

    key: Annotated[
        str, Meta(pattern="^elk_", description="The secret, to be sent as a bearer token.")
    ]


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
    disabled_at: ShownInstant | None
    created_at: ShownInstant
    updated_at: ShownInstant


class EndpointStatus(msgspec.Struct):
    """The state of an endpoint's deliveries."""

    sequence: Annotated[int, Meta(ge=0, description="The latest number that an event was given.")]
    failing_since: Annotated[
        ShownInstant | None, doc("The time of the first failure since the last success.")
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


class StatementAsIssued(msgspec.Struct, kw_only=True):
    """A statement as it was issued, without the sums of its document."""

    id: Annotated[str, Meta(pattern=STATEMENT_ID)]
    organization_id: str
    workspace_id: Annotated[str | None, doc("Null: the statement is of the whole organization.")]
    from_: ShownInstant = msgspec.field(name="from")
    to: ShownInstant
    time_zone: str
    as_of: Annotated[ShownInstant, doc("The numbers are those known at this instant.")]
    note: str | None
    reference: str | None
    issued_at: ShownInstant
    issued_by: Actor
    position: Annotated[int, doc("The log's position at the instant `as_of`.")]
    document_sha256: str
    replaces: str | None


class ShownWatchedLines(msgspec.Struct):
    """The lines that a watch is about; a field that is absent leaves out none."""

    execution_model: list[ExecutionModel] | msgspec.UnsetType = msgspec.UNSET
    product_line: list[ProductLine] | msgspec.UnsetType = msgspec.UNSET
    project_tag: list[str] | msgspec.UnsetType = msgspec.UNSET
    service_line_id: list[str] | msgspec.UnsetType = msgspec.UNSET


class WatchAsSetUp(msgspec.Struct, kw_only=True):
    """A watch as its owner sees it, without what follows from lines and alerts."""

    id: Annotated[str, Meta(pattern=WATCH_ID)]
    name: str
    organization_id: str
    workspace_id: Annotated[str | None, doc("Null: the watch is of the whole organization.")]
    condition: Condition
    for_seconds: int
    severity: Severity
    hours: WatchHours | None
    keep_seconds: int
    remind_seconds: int
    lines: ShownWatchedLines
    enabled: bool
    created_at: ShownInstant
    updated_at: ShownInstant


class ShownWatch(WatchAsSetUp, kw_only=True):
    """A watch."""

    looking: Annotated[bool, doc("Whether its present revision is still looking at all lines.")]
    open_alerts: Annotated[int, Meta(ge=0), doc("Its unresolved alerts that the credential sees.")]
    overflow: Annotated[int, Meta(ge=0), doc("Its alerts that wait for room, up to 10,000.")]
    endpoints: Annotated[
        int, Meta(ge=0), doc("The enabled webhook endpoints that are told of its alerts.")
    ]


def watch_set_up(watch: Watch) -> WatchAsSetUp:
    given = msgspec.structs.asdict(watch.given)
    return shown_as(WatchAsSetUp, watch, **given)
