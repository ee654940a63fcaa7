"""Watches and alerts as rendered: the JSON of their rows, with values that follow from others."""

from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from ledger.engine.values.recorded import Actor
from ledger.engine.values.rendering import ViewInstant, doc
from ledger.engine.values.values import ALERT_ID
from ledger.features.watches.kinds.base import AlertSubject
from ledger.features.watches.model.alert import ResolvedReason
from ledger.features.watches.model.watch import Severity

AlertStatus = Literal["open", "acknowledged", "resolved"]


class ShownAcknowledgement(msgspec.Struct):
    """The latest acknowledgement of an alert."""

    at: ViewInstant
    by: Actor
    note: str | None
    assignee: str | None
    until: Annotated[ViewInstant | None, doc("From then on the alert is open again.")]


class ShownResolution(msgspec.Struct):
    """The end of an alert."""

    at: ViewInstant
    reason: ResolvedReason


class ShownAlert(msgspec.Struct, kw_only=True):
    """An alert."""

    id: Annotated[str, Meta(pattern=ALERT_ID)]
    watch_id: str
    watch_name: Annotated[str, doc("As of the opening.")]
    severity: Annotated[Severity, doc("As of the opening.")]
    status: AlertStatus
    service_line_id: str | None
    service_line_name: str | None
    subject: AlertSubject
    since: Annotated[ViewInstant, doc("Since when the condition held.")]
    due: Annotated[ViewInstant, doc("When it had held for as long as the watch says.")]
    opened_at: Annotated[ViewInstant, doc("When the opening was recorded.")]
    text: Annotated[str, doc("One sentence, as of the opening.")]
    evidence: Annotated[list[str], doc("The EVT ids of the events that began the condition.")]
    acknowledged: ShownAcknowledgement | None
    resolved: ShownResolution | None


class AlertColumns(NamedTuple):
    """The columns from which an alert is made, in their order."""

    item: str
    service_line_name: str | None
    status: AlertStatus
    acknowledged: str | None
    resolved: str | None


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def alert_view(row: AlertColumns) -> ShownAlert:
    opened = _decode(f"{{{row.item}}}")
    opened["subject"] = AlertSubject(**opened["subject"])
    acknowledged = None
    if row.acknowledged is not None:
        values = _decode(row.acknowledged)
        acknowledged = ShownAcknowledgement(**values | {"by": Actor(**values["by"])})
    return ShownAlert(
        **opened,
        status=row.status,
        service_line_name=row.service_line_name,
        acknowledged=acknowledged,
        resolved=None if row.resolved is None else ShownResolution(**_decode(row.resolved)),
    )
