"""The view behind a line's history: every event as it is told outside (contract 4 and 5).

``event`` has one row an event, in log order, with its tenant and line; rows are only added.
``event_line`` is what the fold needs to know of a line: its state before and after.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ledger.domain.execution import Execution
from ledger.domain.execution_events import EXECUTION_EVENTS, HealthSignalReported
from ledger.domain.recorded import Recorded
from ledger.domain.run import RUN_EVENTS
from ledger.projection.contract import Table
from ledger.projection.folds import Folds
from ledger.projection.generation import Generation
from ledger.projection.rendering import members, time_text
from ledger.store.arrays import array
from projections import line
from projections.published import PUBLISHED, UNCHANGED_HEALTH

EVENT = Table(
    "event",
    key=("position",),
    columns={
        "position": "bigint",
        "line_id": "text",
        "organization_id": "text",
        "workspace_id": "text",
        "type": "text",
        "recorded_at": "timestamptz",
        "state_before": "text",
        "state_after": "text",
        "item": "text",
    },
)
LINE = Table(
    "event_line",
    key=("line_id",),
    replaces=True,
    columns={"line_id": "text", "fold": "bytea", "position": "bigint"},
)

# The folds of these lines.
_LOAD = "SELECT fold FROM ledger.event_line_{g} WHERE line_id = ANY(%s::text[])"

_encode = msgspec.json.Encoder().encode


class Standing(msgspec.Struct):
    """The fold's state for one line: the domain's own fold."""

    execution: Execution
    position: int = 0


_decode = msgspec.json.Decoder(Standing).decode


class EventView:
    """The projection."""

    name = "event"
    version = 1
    tables: tuple[Table, ...] = (EVENT, LINE)
    events = frozenset((*EXECUTION_EVENTS, *RUN_EVENTS))

    def __init__(self) -> None:
        self._lines: Folds[str, Standing] = Folds(lambda line_id: Standing(Execution(line_id)))

    @property
    def waiting(self) -> int:
        """Lines whose state has changed."""
        return self._lines.waiting

    def fold(self, generation: Generation, events: Sequence[Recorded]) -> None:
        """Tell a batch of events."""

        def load(line_ids: list[str]) -> Iterable[tuple[str, Standing]]:
            for (fold,) in generation.fetch(_LOAD, (array(line_ids),)):
                standing = _decode(fold)
                yield standing.execution.id, standing

        self._lines.bring({e.line_id: None for e in events}, load)
        rows = []
        for event in events:
            line_id = event.line_id
            standing = self._lines[line_id]
            if event.originator_id != line_id or type(event.body) in line.CHECK_INS:
                state = standing.execution.state
                rows.append(_told(event, line_id, PUBLISHED[type(event.body)].type, state, state))
            else:
                rows.append(_tell_change(event, standing))
                self._lines.change(line_id)
        generation.write(EVENT, rows)

    def store(self, generation: Generation) -> None:
        """Write the states of the lines that changed."""
        rows = [
            (standing.execution.id, _encode(standing), standing.position)
            for standing in self._lines.take_changed()
        ]
        generation.write(LINE, rows)

    def forget(self) -> None:
        """Drop the rows in memory."""
        self._lines.clear()


def _tell_change(event: Recorded, standing: Standing) -> tuple[Any, ...]:
    """Fold an event of the line's own stream and tell it with the state before and after."""
    execution = standing.execution
    before = execution.state if execution.version else None
    type_ = PUBLISHED[type(event.body)].type
    if isinstance(event.body, HealthSignalReported) and not _changes_health(event.body, execution):
        type_ = UNCHANGED_HEALTH
    execution.evolve(event)
    standing.position = event.position
    return _told(event, execution.id, type_, before, execution.state)


def _changes_health(body: HealthSignalReported, execution: Execution) -> bool:
    """Whether the signal's status changes; the score never changes without one (contract 5)."""
    signal = execution.signals.get(body.signal)
    return signal is None or signal.status != body.status


def _told(
    event: Recorded, line_id: str, type_: str, before: str | None, after: str
) -> tuple[Any, ...]:
    """One row of the table, in the order of its columns."""
    payload = PUBLISHED[type(event.body)].payload(event.body)
    if type_.startswith("execution."):
        payload |= {"state_before": before, "state_after": after}
    is_run = event.originator_id != line_id
    envelope = {
        "id": event.event_id,
        "type": type_,
        "occurred_at": time_text(event.occurred_at),
        "recorded_at": time_text(event.recorded_at),
        "position": event.position,
        "actor": event.actor,
        "reported_by": event.reported_by,
        "subject": {"type": "run" if is_run else "service_line", "id": event.originator_id},
        "service_line_id": line_id,
        "organization_id": event.organization_id,
        "workspace_id": event.workspace_id,
        "causation_id": event.causation_id,
        "payload": payload,
    }
    return (
        event.position,
        line_id,
        event.organization_id,
        event.workspace_id,
        type_,
        event.recorded_at,
        before,
        after,
        members(envelope),
    )
