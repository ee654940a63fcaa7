"""Every event of the ledger: the event tables of all aggregates joined."""

from ledger.engine.values.event_table import EventRow
from ledger.engine.values.recorded import Event
from ledger.engine.values.refusals import REFUSAL_TABLE
from ledger.features.directory.model import DIRECTORY_TABLE
from ledger.features.keys.model import API_KEY_TABLE
from ledger.features.lines.model.execution_events import EXECUTION_TABLE
from ledger.features.runs.model.reads import READ_TABLE
from ledger.features.runs.model.run import RUN_TABLE
from ledger.features.sign_in.model import SESSION_TABLE
from ledger.features.usage.model.statement import STATEMENT_TABLE
from ledger.features.watches.model.alert import ALERT_TABLE
from ledger.features.watches.model.watch import WATCH_TABLE
from ledger.features.webhooks.model.endpoint import ENDPOINT_TABLE

EVENT_TABLE: tuple[EventRow, ...] = (
    *EXECUTION_TABLE,
    *RUN_TABLE,
    *DIRECTORY_TABLE,
    *API_KEY_TABLE,
    *ENDPOINT_TABLE,
    *REFUSAL_TABLE,
    *READ_TABLE,
    *STATEMENT_TABLE,
    *WATCH_TABLE,
    *ALERT_TABLE,
    *SESSION_TABLE,
)

EVENTS: tuple[type[Event], ...] = tuple(row.event for row in EVENT_TABLE)

SINCE: dict[type[Event], int] = {row.event: row.since for row in EVENT_TABLE if row.since > 1}
"""The events that not every node understands which may beat, with their languages."""
