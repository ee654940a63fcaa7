"""The tables that an append writes, each described once.

The DDL is in the migrations. A test compares each description with the catalog of a migrated
database, and another one the rows that are ``AS_FOLDED`` with what the fold makes of the log.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from ledger.postgres.table import BigInt, Bool, Float, Instant, Int, Octets, Table, Text, Texts


class Derived(Enum):
    """How a table's rows follow from the log."""

    AS_FOLDED = auto()
    """The fold of the whole log (``DecisionTables.note``) gives exactly the stored rows."""
    IN_PART = auto()
    """The log tells which rows there are, but not everything that is in them."""
    NOT_DERIVABLE = auto()
    """The log tells nothing of them."""


@dataclass(frozen=True, eq=False)
class DecisionTable(Table):
    """A table that decisions read under the append lock."""

    derived: Derived = Derived.NOT_DERIVABLE


class LogRow(NamedTuple):
    """An event as it is stored. The table is the library's, with one column more."""

    originator_id: Text
    originator_version: BigInt
    topic: Text
    state: Octets
    notification_id: BigInt
    """The position."""
    recorded_at: Instant


LOG = Table("ledger_events", LogRow, key=("originator_id", "originator_version"))


class FactRow(NamedTuple):
    """A recorded fact's first outcome."""

    organization_id: Text
    source: Text
    fact_id: Text
    digest: Octets
    """Of its content. The log has it too, but not that a delivery was given up, which has none."""
    run_id: Text | None
    """Set where the digest is an HMAC under that run's key."""
    subject: Text
    event_ids: Text
    """EVT ids, the fact's own event first, separated by one space."""
    position: BigInt
    """Of the fact's own event."""


FACT = DecisionTable(
    "fact",
    FactRow,
    key=("organization_id", "source", "fact_id"),
    tenant=("organization_id",),
    derived=Derived.IN_PART,
)


class OpenRunRow(NamedTuple):
    """A pending or running run. A closing takes its version from here."""

    line_id: Text
    run_id: Text
    version: BigInt
    started_at: Instant | None


OPEN_RUN = DecisionTable(
    "open_run", OpenRunRow, key=("line_id", "run_id"), replaces=True, derived=Derived.AS_FOLDED
)


class LineActivityRow(NamedTuple):
    """The idle decision's view of one line: runs move it without moving the line's version."""

    line_id: Text
    last_activity_at: Instant
    open_runs: Int


LINE_ACTIVITY = DecisionTable(
    "line_activity", LineActivityRow, key=("line_id",), replaces=True, derived=Derived.AS_FOLDED
)


class CheckInRow(NamedTuple):
    """A check-in, so that it can be voided: a line has far too many of them for its aggregate."""

    line_id: Text
    source: Text
    fact_id: Text
    hours: Float | None
    at: Instant
    resource_id: Text | None
    voided: Bool


CHECK_IN = DecisionTable(
    "check_in", CheckInRow, key=("line_id", "source", "fact_id"), derived=Derived.AS_FOLDED
)


class ExecutionRecordRow(NamedTuple):
    """A RUN id that names an execution record: it is taken, and is no run."""

    execution_id: Text
    line_id: Text
    organization_id: Text


EXECUTION_RECORD = DecisionTable(
    "execution_record",
    ExecutionRecordRow,
    key=("execution_id",),
    tenant=("organization_id",),
    derived=Derived.AS_FOLDED,
)


class IdCounterRow(NamedTuple):
    """The last id issued, per prefix and UTC year of recording. Supplied ids never move it."""

    prefix: Text
    year: Int
    last: BigInt


ID_COUNTER = DecisionTable(
    "id_counter", IdCounterRow, key=("prefix", "year"), replaces=True, derived=Derived.AS_FOLDED
)


class ApiKeyRow(NamedTuple):
    """A credential."""

    key_id: Text
    secret_hash: Octets
    name: Text | None
    organization_id: Text | None
    workspace_id: Text | None
    permissions: Texts
    created_at: Instant
    revoked_at: Instant | None


API_KEY = DecisionTable(
    "api_key",
    ApiKeyRow,
    key=("key_id",),
    tenant=("organization_id", "workspace_id"),
    derived=Derived.AS_FOLDED,
)


class RunKeyRow(NamedTuple):
    """A run's data key. Its destruction is what erases the run's payloads."""

    run_id: Text
    organization_id: Text
    wrapped: Octets | None
    """None once it was destroyed; no log has it."""
    destroyed_at: Instant | None


RUN_KEY = DecisionTable(
    "run_key", RunKeyRow, key=("run_id",), tenant=("organization_id",), derived=Derived.IN_PART
)


class EndpointRow(NamedTuple):
    """A webhook endpoint that is not deleted: an organization may have so many and no more."""

    organization_id: Text
    endpoint_id: Text


ENDPOINT = DecisionTable(
    "endpoint",
    EndpointRow,
    key=("organization_id", "endpoint_id"),
    tenant=("organization_id",),
    derived=Derived.AS_FOLDED,
)


class OutcomeRow(NamedTuple):
    """The outcome of a command that was sent under an Idempotency-Key, for 24 hours."""

    credential: Text
    path: Text
    key: Text
    fingerprint: Octets
    outcome: Octets
    """Sealed: it may show a secret."""
    recorded_at: Instant


OUTCOME = DecisionTable("idempotency", OutcomeRow, key=("credential", "path", "key"), replaces=True)
"""An outcome that is there still when its key is used again has outlived its day."""


class OmittedRow(NamedTuple):
    """A credential's refusals that were only counted, until an event says how many they were."""

    credential: Text
    organization_id: Text | None
    workspace_id: Text | None
    since: Instant
    count: BigInt  # type: ignore[assignment]  # the column, not the tuple's method


OMITTED = DecisionTable(
    "refusals_omitted", OmittedRow, key=("credential",), tenant=("organization_id", "workspace_id")
)


class ProbeRow(NamedTuple):
    """When a node last wrote a row that says nothing."""

    is_only: Bool
    written_at: Instant


PROBE = DecisionTable("append_probe", ProbeRow, key=("is_only",))

DECISION_TABLES: tuple[DecisionTable, ...] = (
    FACT,
    OPEN_RUN,
    LINE_ACTIVITY,
    CHECK_IN,
    EXECUTION_RECORD,
    ID_COUNTER,
    API_KEY,
    RUN_KEY,
    ENDPOINT,
    OUTCOME,
    OMITTED,
    PROBE,
)


class SnapshotRow(NamedTuple):
    """Where the fold of a long stream stood. An aid, never a source: rows may go at any time."""

    stream: Text
    version: BigInt
    fold: Int
    """The number of the fold that made it; no other one reads it."""
    state: Octets


SNAPSHOT = Table("snapshot", SnapshotRow, key=("stream",), replaces=True)
