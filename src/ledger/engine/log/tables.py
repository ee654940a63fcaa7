"""The tables that an append writes, each described once.

The DDL is in the migrations. Tests compare each description with the catalog of a migrated
database, and the rows that are ``AS_FOLDED`` with a fold of the log.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from ledger.engine.postgres.schema import table
from ledger.engine.values.values import EARLIEST


class Derived(Enum):
    """How a table's rows follow from the log."""

    AS_FOLDED = auto()
    """``DecisionTables.note``, applied to the whole log, gives exactly the stored rows."""
    IN_PART = auto()
    """The log determines which rows exist, but not all of their columns."""
    NOT_DERIVABLE = auto()
    """The rows do not follow from the log."""


@dataclass(frozen=True, eq=False)
class DecisionTable(table.Table):
    """A table that decisions read under the append lock."""

    derived: Derived = Derived.NOT_DERIVABLE
    is_internal: bool = True


class LogRow(NamedTuple):
    """A stored event. The library's table, with one more column: ``recorded_at``."""

    originator_id: table.Text
    originator_version: table.BigInt
    topic: table.Text
    state: table.Octets
    notification_id: table.BigInt
    recorded_at: table.Instant


LOG = table.Table(
    "ledger_events", LogRow, key=("originator_id", "originator_version"), is_internal=True
)


class IdentityRow(NamedTuple):
    """An identity that no later event may have."""

    digest: table.Uuid
    """``Identity.digest``. The log does not have the identity of a failed delivery."""
    position: table.BigInt
    """The position of the event that has the identity."""


IDENTITY = DecisionTable("identity", IdentityRow, key=("digest",), derived=Derived.IN_PART)


class OpenRunRow(NamedTuple):
    """A pending or running run. The closing of a line takes the run's version from here."""

    line_id: table.Text
    run_id: table.Text
    version: table.BigInt
    started_at: table.Instant | None
    external_id: table.Text | None
    """For the closing's event, which loads no run; so are the next two."""
    attempt: table.Int
    retry_of: table.Text | None


OPEN_RUN = DecisionTable(
    "open_run", OpenRunRow, key=("line_id", "run_id"), replaces=True, derived=Derived.AS_FOLDED
)


class LineActivityRow(NamedTuple):
    """When a line was last active, for the decision that it is idle.

    Runs change this row without changing the version of the line's stream.
    """

    line_id: table.Text
    last_activity_at: table.Instant
    open_runs: table.Int


LINE_ACTIVITY = DecisionTable(
    "line_activity", LineActivityRow, key=("line_id",), replaces=True, derived=Derived.AS_FOLDED
)


class ExecutionRecordRow(NamedTuple):
    """An execution record. Its RUN id is used, but names no run."""

    execution_id: table.Text
    line_id: table.Text
    organization_id: table.Text


EXECUTION_RECORD = DecisionTable(
    "execution_record",
    ExecutionRecordRow,
    key=("execution_id",),
    tenant=("organization_id",),
    derived=Derived.AS_FOLDED,
)


class IdCounterRow(NamedTuple):
    """The last id issued, per prefix and UTC year of recording. Supplied ids never move it."""

    prefix: table.Text
    year: table.Int
    last: table.BigInt


ID_COUNTER = DecisionTable(
    "id_counter", IdCounterRow, key=("prefix", "year"), replaces=True, derived=Derived.AS_FOLDED
)


class ApiKeyRow(NamedTuple):
    """A credential."""

    key_id: table.Text
    secret_hash: table.Octets
    name: table.Text | None
    organization_id: table.Text | None
    workspace_id: table.Text | None
    permissions: table.Texts
    created_at: table.Instant
    revoked_at: table.Instant | None
    expires_at: table.Instant | None
    prefix: table.Text
    created_by_type: table.Text
    created_by_id: table.Text


API_KEY = DecisionTable(
    "api_key",
    ApiKeyRow,
    key=("key_id",),
    tenant=("organization_id", "workspace_id"),
    is_internal=False,
    hidden=("secret_hash",),
    replaces=True,
    derived=Derived.AS_FOLDED,
)


class FormerSecretRow(NamedTuple):
    """A secret of a key that a rotation has replaced."""

    secret_hash: table.Octets
    key_id: table.Text
    organization_id: table.Text | None
    workspace_id: table.Text | None
    valid_until: table.Instant
    """The secret is refused from then on."""


FORMER_SECRET = DecisionTable(
    "former_secret",
    FormerSecretRow,
    key=("secret_hash",),
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    derived=Derived.AS_FOLDED,
)


class RunKeyRow(NamedTuple):
    """A run's data key. Destroying the key erases the run's payloads."""

    run_id: table.Text
    organization_id: table.Text
    wrapped: table.Octets | None
    """The key, wrapped by the master key; None after its destruction. It is never in the log."""
    destroyed_at: table.Instant | None


RUN_KEY = DecisionTable(
    "run_key", RunKeyRow, key=("run_id",), tenant=("organization_id",), derived=Derived.IN_PART
)


class EndpointRow(NamedTuple):
    """A webhook endpoint that is not deleted, to limit the endpoints of an organization."""

    organization_id: table.Text
    endpoint_id: table.Text


ENDPOINT = DecisionTable(
    "endpoint",
    EndpointRow,
    key=("organization_id", "endpoint_id"),
    tenant=("organization_id",),
    derived=Derived.AS_FOLDED,
)


class OrganizationWatchRow(NamedTuple):
    """A watch that is not deleted, to limit the watches of an organization."""

    organization_id: table.Text
    watch_id: table.Text


WATCH = DecisionTable(
    "organization_watch",
    OrganizationWatchRow,
    key=("organization_id", "watch_id"),
    tenant=("organization_id",),
    derived=Derived.AS_FOLDED,
)


class OutcomeRow(NamedTuple):
    """The outcome of a command with an Idempotency-Key, stored for 24 hours."""

    credential: table.Text
    path: table.Text
    key: table.Text
    fingerprint: table.Octets
    outcome: table.Octets
    """Encrypted, since an outcome may contain a secret."""
    recorded_at: table.Instant


OUTCOME = DecisionTable("idempotency", OutcomeRow, key=("credential", "path", "key"), replaces=True)
"""Rows are replaced: a stored outcome whose key is used for a new command has expired."""


class OmittedRow(NamedTuple):
    """A credential's refusals that were only counted, until an event records their number."""

    credential: table.Text
    organization_id: table.Text | None
    workspace_id: table.Text | None
    since: table.Instant
    count: table.BigInt  # type: ignore[assignment]  # the column, not the tuple's method


OMITTED = DecisionTable(
    "refusals_omitted", OmittedRow, key=("credential",), tenant=("organization_id", "workspace_id")
)


class ProbeRow(NamedTuple):
    """The row that ``Append.probe`` updates, with the instant of the last probe."""

    is_only: table.Bool
    written_at: table.Instant


PROBE = DecisionTable("append_probe", ProbeRow, key=("is_only",))


class LeaseRow(NamedTuple):
    """The lease of an open run. The log does not have the heartbeats, which move the instants."""

    run_id: table.Text
    seconds: table.Int
    heard_at: table.Instant
    """When a fact or a heartbeat of the run last arrived."""
    ends_at: table.Instant
    """``seconds`` later, plus the time in which no heartbeat could be taken."""
    due_at: table.Instant
    """When the lease is next checked, at its end or before: heartbeats do not touch this index."""
    organization_id: table.Text


LEASE = DecisionTable(
    "lease",
    LeaseRow,
    key=("run_id",),
    tenant=("organization_id",),
    replaces=True,
    derived=Derived.IN_PART,
)


class ListeningRow(NamedTuple):
    """The row of beats: when the service could last take heartbeats, and the last beat."""

    is_only: table.Bool
    listened_at: table.Instant
    beaten_at: table.Instant


LISTENING = DecisionTable("listening", ListeningRow, key=("is_only",))


class SessionRow(NamedTuple):
    """A person's session at the pages (contract, Sign-in). Keys' table has its last use.

    Rows are deleted with the end of their session.
    """

    session_id: table.Text
    secret_hash: table.Octets
    """SHA-256 of the cookie's 32 random bytes."""
    by: table.Text
    """``provider`` or ``token``."""
    issuer: table.Text | None
    sub: table.Text
    """The provider's name of the person; for a token, the key's id or the token's ``sub``."""
    sid: table.Text | None
    """The provider's name of its own session."""
    organization_id: table.Text | None
    workspace_id: table.Text | None
    permissions: table.Texts
    """In the tenant; empty if several tenants are granted and none is chosen yet."""
    claims: table.Text
    """JSON: the values that decide on grants (``features/sign_in/access/grants.py``)."""
    kept: table.Octets
    """Sealed: the token, or the refresh token and the ID token."""
    signed_at: table.Instant
    """When the person signed in, by the provider's clock: a logout ends what began before it."""
    checked_at: table.Instant
    """When the provider gave the claims."""
    asked_at: table.Instant
    """When a node last began to ask for new claims."""
    begun_at: table.Instant
    ends_at: table.Instant
    browser: table.Text
    network: table.Text

    @property
    def tenant(self) -> tuple[str | None, str | None]:
        """The tenant that the session has entered; (None, None) if none."""
        return self.organization_id, self.workspace_id


SESSION = DecisionTable(
    "session",
    SessionRow,
    key=("session_id",),
    tenant=("organization_id", "workspace_id"),
    is_internal=False,
    hidden=("secret_hash", "claims", "kept"),
    replaces=True,
)

DECISION_TABLES: tuple[DecisionTable, ...] = (
    IDENTITY,
    OPEN_RUN,
    LINE_ACTIVITY,
    EXECUTION_RECORD,
    ID_COUNTER,
    API_KEY,
    FORMER_SECRET,
    RUN_KEY,
    ENDPOINT,
    WATCH,
    OUTCOME,
    OMITTED,
    PROBE,
    LEASE,
    LISTENING,
    SESSION,
)


class SnapshotRow(NamedTuple):
    """The aggregate of a long stream. A cache: rows may be deleted at any time."""

    stream: table.Text
    version: table.BigInt
    fold: table.Int
    """The version of the folds that made it (``snapshots.VERSION``); other versions ignore it."""
    state: table.Octets


SNAPSHOT = table.Table("snapshot", SnapshotRow, key=("stream",), is_internal=True, replaces=True)


class DocumentRow(NamedTuple):
    """A statement's document. It is stored before its event and never changed."""

    document_sha256: table.Octets
    organization_id: table.Text
    workspace_id: table.Text | None
    document: table.Octets
    total: table.Text
    """The JSON of the document's ``total``, for lists of statements."""
    stored_at: table.Instant
    """The instant of the document's numbers, which is before that of its event."""


STATEMENT_DOCUMENT = table.Table(
    "statement_document",
    DocumentRow,
    key=("document_sha256",),
    tenant=("organization_id", "workspace_id"),
)


class PersonRow(NamedTuple):
    """A person's names, from the latest sign-in: never in the log."""

    sub: table.Text
    name: table.Text | None
    email: table.Text | None
    seen_at: table.Instant
    organizations: table.Texts
    """The organizations that the person has entered: their members see the names."""


PERSON = table.Table("person", PersonRow, key=("sub",), replaces=True)


class SpanRow(NamedTuple):
    """The part of a span that other spans need (contract, Traces), stored for an hour."""

    organization_id: table.Text
    trace_id: table.Octets
    span_id: table.Octets
    parent_id: table.Octets | None
    """None for a root."""
    workspace_id: table.Text
    """The workspace of the credential that sent the span; empty if it sees all. No other credential
    changes the row."""
    source: table.Text | None
    """For a run: its name, with the two ids. None if the span is no run."""
    model: table.Text | None
    input: table.BigInt | None
    """None if the span used no tokens; the next four are then None too."""
    output: table.BigInt | None
    cache_read: table.BigInt | None
    cache_write: table.BigInt | None
    reasoning: table.BigInt | None
    response_id: table.Text | None
    """The model's response that used the tokens: two spans may report one."""
    number: table.BigInt = 0
    """Rises in an organization: the oldest spans leave first. The database sets it."""
    arrived_at: table.Instant = EARLIEST


SPAN = table.Table(
    "span",
    SpanRow,
    key=("span_id", "trace_id", "organization_id", "workspace_id"),
    is_internal=True,
)
