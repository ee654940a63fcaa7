"""Every stream of the ledger: a row for each kind, with its aggregate and its events."""

from collections.abc import Mapping
from typing import NamedTuple

from ledger.engine.values import values
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
    """One kind of stream."""

    prefix: str
    """The first three characters of its streams' ids."""
    aggregate: type[Folded]
    """The class that applies the events of such a stream."""
    events: tuple[EventRow, ...]
    noun: str = ""
    """The aggregate's name in refusals; empty if no command names one by its id."""
    subject_type: str = ""
    """The subject's type in the audit log, if a command's subject is such an aggregate."""
    ids: str = ""
    """The pattern of such a subject's id."""


STREAMS: tuple[StreamRow, ...] = (
    StreamRow("LIN", Execution, EXECUTION_TABLE, "service line", "service_line", values.LINE_ID),
    StreamRow("RUN", Run, RUN_TABLE, "run", "run", values.RUN_ID),
    StreamRow("DIR", DirectoryEntry, DIRECTORY_TABLE),
    StreamRow("KEY", ApiKey, API_KEY_TABLE, "key", "api_key", values.KEY_ID),
    StreamRow("WHK", Endpoint, ENDPOINT_TABLE, "webhook endpoint", "webhook", values.ENDPOINT_ID),
    StreamRow("REF", Refusals, REFUSAL_TABLE),
    StreamRow("REA", RunDataReads, READ_TABLE),
    StreamRow(
        "STM", UsageStatement, STATEMENT_TABLE, "statement", "statement", values.STATEMENT_ID
    ),
    StreamRow("WCH", Watch, WATCH_TABLE, "watch", "watch", values.WATCH_ID),
    StreamRow("ALR", Alert, ALERT_TABLE, "alert", "alert", values.ALERT_ID),
    StreamRow("SES", Session, SESSION_TABLE, "session", "session", values.SESSION_ID),
)

AGGREGATES: Mapping[str, type[Folded]] = {row.prefix: row.aggregate for row in STREAMS}

NOUNS: Mapping[type[Folded], str] = {row.aggregate: row.noun for row in STREAMS}

EVENT_TABLE: tuple[EventRow, ...] = tuple(event for row in STREAMS for event in row.events)

EVENTS: tuple[type[Event], ...] = tuple(row.event for row in EVENT_TABLE)

SINCE: dict[type[Event], int] = {row.event: row.since for row in EVENT_TABLE if row.since > 1}
"""Events that not every beating node understands, with the first language that has each."""
