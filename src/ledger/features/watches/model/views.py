"""Watches as commands, the view and routes show them."""

from typing import Annotated

import msgspec
from msgspec import Meta

from ledger.engine.values.rendering import ViewInstant, doc, render_as
from ledger.engine.values.values import WATCH_ID, ExecutionModel, ProductLine
from ledger.features.watches.kinds import AnyKind
from ledger.features.watches.model.watch import Severity, Watch
from ledger.features.watches.model.watch_hours import WatchHours


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
    condition: AnyKind
    for_seconds: int
    severity: Severity
    hours: WatchHours | None
    keep_seconds: int
    remind_seconds: int
    lines: ShownWatchedLines
    enabled: bool
    created_at: ViewInstant
    updated_at: ViewInstant


class ShownWatch(WatchAsSetUp, kw_only=True):
    """A watch."""

    looking: Annotated[bool, doc("Whether its present revision is still looking at all lines.")]
    open_alerts: Annotated[int, Meta(ge=0), doc("Its unresolved alerts that the credential sees.")]
    overflow: Annotated[int, Meta(ge=0), doc("Its alerts that wait for room, up to 10,000.")]
    endpoints: Annotated[
        int, Meta(ge=0), doc("The enabled webhook endpoints that are told of its alerts.")
    ]


def watch_set_up(watch: Watch) -> WatchAsSetUp:
    settings = msgspec.structs.asdict(watch.config)
    return render_as(WatchAsSetUp, watch, **settings)
