"""A run as the API shows it, made of the columns of its row."""

from datetime import datetime
from typing import NamedTuple

import msgspec

from ledger.domain.values import format_instant, id_of_key
from ledger.language.rendering import time_text

Payload = msgspec.Raw | msgspec.UnsetType
"""An input, output or error as JSON text; UNSET: the run is shown without it."""

Payloads = tuple[Payload, Payload, Payload]


class RunColumns(NamedTuple):
    """The columns of a run that are shown, now or as of then; its payloads come beside them."""

    run_id: str
    requested_at: datetime
    organization_id: str
    workspace_id: str
    wrapped: bytes | None
    """The wrapped key of the payloads; None once it is destroyed, and in rows without payloads."""
    line_key: int
    status: str
    trigger_type: str | None
    triggered_by: str | None
    duration_ms: int | None
    tokens_used: int | None
    started_at: datetime | None
    completed_at: datetime | None
    erased_at: datetime | None
    external_id: str | None
    parent_key: int | None
    lease_seconds: int | None


class _Trigger(msgspec.Struct, gc=False):
    type: str
    actor_id: str | None


class ShownRun(msgspec.Struct, gc=False):
    """A run: the members of its JSON object, in their order. UNSET members are left out."""

    id: str
    service_line_id: str
    status: str
    triggered_by: _Trigger | None
    input: Payload
    output: Payload
    error: Payload
    duration_ms: int | None
    tokens_used: int | None
    requested_at: str
    started_at: str | None
    completed_at: str | None
    erased_at: str | None
    external_id: str | None
    parent_run_id: str | None
    lease_seconds: int | None


NULL = msgspec.Raw(b"null")
_NONE: Payloads = (msgspec.UNSET, msgspec.UNSET, msgspec.UNSET)


def shown_run(run: RunColumns, payloads: Payloads = _NONE) -> ShownRun:
    """A run of its columns, with its input, output and error."""
    return ShownRun(
        run.run_id,
        id_of_key("LIN", run.line_key),
        run.status,
        None if run.trigger_type is None else _Trigger(run.trigger_type, run.triggered_by),
        *payloads,
        run.duration_ms,
        run.tokens_used,
        format_instant(run.requested_at),
        time_text(run.started_at),
        time_text(run.completed_at),
        time_text(run.erased_at),
        run.external_id,
        None if run.parent_key is None else id_of_key("RUN", run.parent_key),
        run.lease_seconds,
    )
