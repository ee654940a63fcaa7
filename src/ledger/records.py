"""Every stream of the ledger: a row for each kind, with its aggregate and its events."""

from collections.abc import Mapping
from typing import NamedTuple

from ledger.engine.values.event_table import EventRow
from ledger.engine.values.recorded import Event, Folded
from ledger.engine.values.refusals import REFUSAL_TABLE, Refusals
from ledger.features.directory.model import DIRECTORY_TABLE, DirectoryEntry
from ledger.features.keys.model import API_KEY_TABLE, ApiKey
from ledger.features.lines.model.execution import Execution
from ledger.features.lines.model.execution_events import EXECUTION_TABLE
from ledger.features.runs.model.reads import READ_TABLE, RunDataReads
from ledger.features.runs.model.run import RUN_TABLE, Run
from ledger.features.sign_in.model import SESSION_TABLE, Session
from ledger.features.usage.model.statement import STATEMENT_TABLE, UsageStatement
from ledger.features.watches.model.alert import ALERT_TABLE, Alert
from ledger.features.watches.model.watch import WATCH_TABLE, Watch
from ledger.features.webhooks.model.endpoint import ENDPOINT_TABLE, Endpoint


class StreamRow(NamedTuple):
    """The row of one kind of stream."""

    prefix: str
    """The first three characters of the ids of its streams."""
    aggregate: type[Folded]
    """The class that the events of such a stream fold into."""
    events: tuple[EventRow, ...]
    noun: str | None
    """The aggregate's name in refusals; None: no command names one by its id."""


STREAMS: tuple[StreamRow, ...] = (
    StreamRow("LIN", Execution, EXECUTION_TABLE, "service line"),
    StreamRow("RUN", Run, RUN_TABLE, "run"),
    StreamRow("DIR", DirectoryEntry, DIRECTORY_TABLE, None),
    StreamRow("KEY", ApiKey, API_KEY_TABLE, "key"),
    StreamRow("WHK", Endpoint, ENDPOINT_TABLE, "webhook endpoint"),
    StreamRow("REF", Refusals, REFUSAL_TABLE, None),
    StreamRow("REA", RunDataReads, READ_TABLE, None),
    StreamRow("STM", UsageStatement, STATEMENT_TABLE, "statement"),
    StreamRow("WCH", Watch, WATCH_TABLE, "watch"),
    StreamRow("ALR", Alert, ALERT_TABLE, "alert"),
    StreamRow("SES", Session, SESSION_TABLE, "session"),
)

AGGREGATES: Mapping[str, type[Folded]] = {row.prefix: row.aggregate for row in STREAMS}

NOUNS: Mapping[type[Folded], str | None] = {row.aggregate: row.noun for row in STREAMS}

EVENT_TABLE: tuple[EventRow, ...] = tuple(event for row in STREAMS for event in row.events)

EVENTS: tuple[type[Event], ...] = tuple(row.event for row in EVENT_TABLE)

SINCE: dict[type[Event], int] = {row.event: row.since for row in EVENT_TABLE if row.since > 1}
"""The events that not every node understands which may beat, with their languages."""
