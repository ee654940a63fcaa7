"""Reads: who saw the input, output or error of a line's runs (contract, Feeds).

A reader may send a thousand requests an hour. So a credential's reads of one line's runs on one UTC
day have their own stream with a single event: the first read of the day. All processes use the same
stream, so the event is recorded once. The file has, in this order: event, state, fold.
"""

from datetime import date
from typing import ClassVar

from ledger.engine.values.event_table import PASSES, EventRow
from ledger.engine.values.recorded import Event, Folded, Recorded

STREAM_PREFIX = "READ-"

READ_ACTION = "run.read"
"""The audit log's action for a read of a run's input, output or error."""


class RunDataRead(Event, frozen=True, kw_only=True):
    """A credential was answered with an input, output or error of runs of a line.

    The event never has any of the data.
    """

    TOPIC = "run_data.read/1"
    service_line_id: str
    """The line of the runs. The envelope names no line: a read is not in a line's history."""


# Columns: event, published type, published payload, fact, command, note. All reads have
# the same action in the audit log.
READ_TABLE: tuple[EventRow, ...] = (EventRow(RunDataRead, None, None, None, None, PASSES),)


def stream_of(credential: str, line_id: str, day: date) -> str:
    return f"{STREAM_PREFIX}{credential}/{line_id}/{day.isoformat()}"


class RunDataReads(Folded):
    """A credential's reads of a line's runs on a day; version 1 means recorded."""

    organization_id: str | None = None
    workspace_id: str | None = None

    def _read(self, body: RunDataRead, recorded: Recorded) -> None:
        self.organization_id = recorded.organization_id
        self.workspace_id = recorded.workspace_id

    _APPLY: ClassVar = {RunDataRead: _read}
