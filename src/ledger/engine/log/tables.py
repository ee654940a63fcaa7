"""The tables that an append writes, each described once.

The DDL is in the migrations. A test compares each description with the catalog of a migrated
database. Another test compares the rows that are ``AS_FOLDED`` with a fold of the log.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from ledger.engine.postgres.schema.table import (
    BigInt,
    Bool,
    Instant,
    Int,
    Octets,
    Table,
    Text,
    Texts,
    Uuid,
)
from ledger.engine.values.values import EARLIEST


class Derived(Enum):
    """How a table's rows follow from the log."""

    AS_FOLDED = auto()
    """The fold of the whole log (``DecisionTables.note``) gives exactly the stored rows."""
    IN_PART = auto()
    """The log determines which rows exist, but not all of their columns."""
    NOT_DERIVABLE = auto()
    """The rows do not follow from the log."""


@dataclass(frozen=True, eq=False)
class DecisionTable(Table):
    """A table that decisions read under the append lock."""

    derived: Derived = Derived.NOT_DERIVABLE
    is_internal: bool = True


class LogRow(NamedTuple):
    """A stored event. The table is the library's, with one more column: ``recorded_at``."""

    originator_id: Text
    originator_version: BigInt
    topic: Text
    state: Octets
    notification_id: BigInt
    """The position."""
    recorded_at: Instant


LOG = Table("ledger_events", LogRow, key=("originator_id", "originator_version"), is_internal=True)


class IdentityRow(NamedTuple):
    """An identity that no later event may have."""

    digest: Uuid
    """``Identity.digest``. The log does not have the identity of a failed delivery."""
    position: BigInt
    """The position of the event that has the identity."""


IDENTITY = DecisionTable("identity", IdentityRow, key=("digest",), derived=Derived.IN_PART)


class OpenRunRow(NamedTuple):
    """A pending or running run. A closing takes its version from here."""

    line_id: Text
    run_id: Text
    version: BigInt
    started_at: Instant | None
    external_id: Text | None
    """For the event of the closing, which loads no run; so are the next two."""
    attempt: Int
    retry_of: Text | None


OPEN_RUN = DecisionTable(
    "open_run", OpenRunRow, key=("line_id", "run_id"), replaces=True, derived=Derived.AS_FOLDED
)


class LineActivityRow(NamedTuple):
    """A line's activity, for the decision whether it is idle.

    Runs change this row without changing the version of the line's stream.
    """

    line_id: Text
    last_activity_at: Instant
    open_runs: Int


LINE_ACTIVITY = DecisionTable(
    "line_activity", LineActivityRow, key=("line_id",), replaces=True, derived=Derived.AS_FOLDED
)


class ExecutionRecordRow(NamedTuple):
    """An execution record. Its RUN id is taken, but names no run."""

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
    expires_at: Instant | None
    prefix: Text | None
    created_by_type: Text | None
    created_by_id: Text | None


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

    secret_hash: Octets
    key_id: Text
    organization_id: Text | None
    workspace_id: Text | None
    valid_until: Instant
    """From this instant on, the secret is refused."""


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

    run_id: Text
    organization_id: Text
    wrapped: Octets | None
    """The key, wrapped by the master key; None after its destruction. The log never has the key."""
    destroyed_at: Instant | None


RUN_KEY = DecisionTable(
    "run_key", RunKeyRow, key=("run_id",), tenant=("organization_id",), derived=Derived.IN_PART
)


class EndpointRow(NamedTuple):
    """A webhook endpoint that is not deleted, to limit the endpoints of an organization."""

    organization_id: Text
    endpoint_id: Text


ENDPOINT = DecisionTable(
    "endpoint",
    EndpointRow,
    key=("organization_id", "endpoint_id"),
    tenant=("organization_id",),
    derived=Derived.AS_FOLDED,
)


class OrganizationWatchRow(NamedTuple):
    """A watch that is not deleted, to limit the watches of an organization."""

    organization_id: Text
    watch_id: Text


WATCH = DecisionTable(
    "organization_watch",
    OrganizationWatchRow,
    key=("organization_id", "watch_id"),
    tenant=("organization_id",),
    derived=Derived.AS_FOLDED,
)


class OutcomeRow(NamedTuple):
    """The outcome of a command that was sent with an Idempotency-Key, kept for 24 hours."""

    credential: Text
    path: Text
    key: Text
    fingerprint: Octets
    outcome: Octets
    """Encrypted, since an outcome may show a secret."""
    recorded_at: Instant


OUTCOME = DecisionTable("idempotency", OutcomeRow, key=("credential", "path", "key"), replaces=True)
"""Rows are replaced: a stored outcome whose key is used for a new command has expired."""


class OmittedRow(NamedTuple):
    """A credential's refusals that were only counted, until an event records their number."""

    credential: Text
    organization_id: Text | None
    workspace_id: Text | None
    since: Instant
    count: BigInt  # type: ignore[assignment]  # the column, not the tuple's method


OMITTED = DecisionTable(
    "refusals_omitted", OmittedRow, key=("credential",), tenant=("organization_id", "workspace_id")
)


class ProbeRow(NamedTuple):
    """The row that ``Append.probe`` updates, with the instant of the last probe."""

    is_only: Bool
    written_at: Instant


PROBE = DecisionTable("append_probe", ProbeRow, key=("is_only",))


class LeaseRow(NamedTuple):
    """The lease of an open run. The log does not have the heartbeats, which move the instants."""

    run_id: Text
    seconds: Int
    heard_at: Instant
    """When a fact or a heartbeat of the run last arrived."""
    ends_at: Instant
    """``seconds`` later, and later still by the time in which no heartbeat could be taken."""
    due_at: Instant
    """When the lease is looked at next, at its end or before: heartbeats leave this index alone."""
    organization_id: Text
    """``''``: a node of a version without this column began the lease."""


LEASE = DecisionTable(
    "lease",
    LeaseRow,
    key=("run_id",),
    tenant=("organization_id",),
    replaces=True,
    derived=Derived.IN_PART,
)


class ListeningRow(NamedTuple):
    """The row of beats: when the service was last able to take heartbeats, and the last beat."""

    is_only: Bool
    listened_at: Instant
    beaten_at: Instant


LISTENING = DecisionTable("listening", ListeningRow, key=("is_only",))


class SessionRow(NamedTuple):
    """A session of a person at the pages (contract, Sign-in); its last use is among those of keys.

    Rows leave with the end of their session.
    """

    session_id: Text
    secret_hash: Octets
    """SHA-256 of the cookie's 32 random bytes."""
    by: Text
    """``provider`` or ``token``."""
    issuer: Text | None
    sub: Text
    """The provider's name of the person; of a token, the id of the key, or the token's ``sub``."""
    sid: Text | None
    """The provider's name of its own session."""
    organization_id: Text | None
    workspace_id: Text | None
    permissions: Texts
    """In the tenant; empty: several are granted, and none is chosen yet."""
    claims: Text
    """JSON: the values by which grants are judged (``features/sign_in/access/grants.py``)."""
    kept: Octets
    """Sealed: the token, or the refresh token and the ID token."""
    signed_at: Instant
    """When the person signed in, by the provider's clock: a logout ends what began before it."""
    checked_at: Instant
    """When the provider gave the claims."""
    asked_at: Instant
    """When a node last began to ask for them anew."""
    begun_at: Instant
    ends_at: Instant
    browser: Text
    network: Text

    @property
    def tenant(self) -> tuple[str | None, str | None]:
        """The tenant that the session has entered; (None, None) too if it has entered none."""
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
    """The folded aggregate of a long stream. A cache: rows may be deleted at any time."""

    stream: Text
    version: BigInt
    fold: Int
    """The version of the folds that made it (``snapshots.FOLD``); other versions ignore it."""
    state: Octets


SNAPSHOT = Table("snapshot", SnapshotRow, key=("stream",), is_internal=True, replaces=True)


class DocumentRow(NamedTuple):
    """The document of a statement, which is stored before its event, and never changed."""

    document_sha256: Octets
    organization_id: Text
    workspace_id: Text | None
    document: Octets
    total: Text
    """The JSON of the document's ``total``, for lists of statements."""
    stored_at: Instant
    """The instant of the document's numbers, which is before that of its event."""


STATEMENT_DOCUMENT = Table(
    "statement_document",
    DocumentRow,
    key=("document_sha256",),
    tenant=("organization_id", "workspace_id"),
)


class PersonRow(NamedTuple):
    """The names of a person, as the latest sign-in told them: never in the log."""

    sub: Text
    name: Text | None
    email: Text | None
    seen_at: Instant
    organizations: Texts
    """The organizations that the person has entered: their members are shown the names."""


PERSON = Table("person", PersonRow, key=("sub",), replaces=True)


class SpanRow(NamedTuple):
    """A span, as far as other spans need it (contract, Traces): kept for an hour."""

    organization_id: Text
    trace_id: Octets
    span_id: Octets
    parent_id: Octets | None
    """None: the span is a root."""
    workspace_id: Text
    """The workspace of the credential that sent the span; empty: it sees all. No other credential
    changes the row."""
    source: Text | None
    """Of a run: with the two ids its name. None: the span is no run."""
    model: Text | None
    input: BigInt | None
    """None: the span used no tokens; then so are the next four."""
    output: BigInt | None
    cache_read: BigInt | None
    cache_write: BigInt | None
    reasoning: BigInt | None
    response_id: Text | None
    """The model's answer that used the tokens: two spans may tell of one."""
    number: BigInt = 0
    """Rises in an organization: the oldest spans leave first. The database gives it."""
    arrived_at: Instant = EARLIEST


SPAN = Table(
    "span",
    SpanRow,
    key=("span_id", "trace_id", "organization_id", "workspace_id"),
    is_internal=True,
)
