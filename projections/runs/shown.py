"""A run as the API shows it, made of the columns of its row.

The fields of ``ShownRun`` determine its JSON, OpenAPI schema, CSV columns, and what the pages read.
"""

from datetime import datetime
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from ledger.engine.values.rendering import ViewInstant, doc, time_text
from ledger.engine.values.values import LINE_ID, RUN_ID, RunStatus, TriggerType, id_of_key
from ledger.features.runs.model.run import Trigger
from ledger.features.runs.model.token_usage import ShownTokenUsage, TokenUsage, tokens_view

Payloads = tuple[Any, Any, Any]
"""Input, output and error as JSON (``msgspec.Raw``); UNSET in a run without them."""


class RunColumns(NamedTuple):
    """The columns of a run that are shown, now or at a position; payloads are separate."""

    run_id: str
    requested_at: datetime
    organization_id: str
    workspace_id: str
    wrapped: bytes | None
    """The payloads' wrapped key; None once it is destroyed, and in rows without payloads."""
    line_key: int
    status: RunStatus
    trigger_type: TriggerType | None
    triggered_by: str | None
    duration_ms: int | None
    tokens_used: int | None
    started_at: datetime | None
    completed_at: datetime | None
    erased_at: datetime | None
    external_id: str | None
    attempt: int
    retry_key: int | None
    parent_key: int | None
    lease_seconds: int | None
    token_usage: str | None
    usage_corrected_at: datetime | None


class ShownError(msgspec.Struct, gc=False):
    """The error of a run."""

    code: str | None
    message: str | None


class ShownRun(msgspec.Struct, gc=False):
    """A run."""

    id: Annotated[str, Meta(pattern=RUN_ID)]
    service_line_id: Annotated[str, Meta(pattern=LINE_ID)]
    status: RunStatus
    triggered_by: Trigger | None
    input: Any
    output: Any
    error: ShownError | None
    duration_ms: int | None
    tokens_used: int | None
    token_usage: Annotated[list[ShownTokenUsage] | None, doc("Null: not known by model.")]
    usage_corrected_at: Annotated[
        ViewInstant | None, doc("The `time` of the correction of the tokens recorded last.")
    ]
    requested_at: ViewInstant
    started_at: ViewInstant | None
    completed_at: ViewInstant | None
    erased_at: ViewInstant | None
    external_id: Annotated[str | None, doc("The run's name at the source that reported it.")]
    parent_run_id: Annotated[str, Meta(pattern=RUN_ID)] | None
    lease_seconds: int | None
    attempt: Annotated[int, doc("With `external_id`, the run's name at its source.")]
    retry_of: Annotated[
        Annotated[str, Meta(pattern=RUN_ID)] | None, doc("The run that was the attempt before.")
    ]


tokens_by_model = msgspec.json.Decoder(tuple[TokenUsage, ...]).decode

NULL = msgspec.Raw(b"null")
_NONE: Payloads = (msgspec.UNSET, msgspec.UNSET, msgspec.UNSET)


def run_view(run: RunColumns, payloads: Payloads = _NONE) -> ShownRun:
    return ShownRun(
        run.run_id,
        id_of_key("LIN", run.line_key),
        run.status,
        None if run.trigger_type is None else Trigger(run.trigger_type, run.triggered_by),
        *payloads,
        run.duration_ms,
        run.tokens_used,
        None if run.token_usage is None else tokens_view(tokens_by_model(run.token_usage)),
        time_text(run.usage_corrected_at),
        time_text(run.requested_at),
        time_text(run.started_at),
        time_text(run.completed_at),
        time_text(run.erased_at),
        run.external_id,
        None if run.parent_key is None else id_of_key("RUN", run.parent_key),
        run.lease_seconds,
        run.attempt,
        None if run.retry_key is None else id_of_key("RUN", run.retry_key),
    )
