"""The rows and tables of the view of lines, but for ``counts.py``, ``hours.py`` and ``rank.py``."""

from typing import NamedTuple

from ledger.engine.postgres.schema.table import (
    BigInt,
    Bool,
    Date,
    Index,
    Instant,
    Int,
    LineKey,
    Octets,
    Table,
    Text,
    Texts,
)

FOREVER = 2**63 - 1
"""The position at which an interval that still lasts ends."""


class ExecutionRow(NamedTuple):
    """The present state of a line: columns for filters, and ready JSON of list row and detail."""

    line_id: Text
    line_key: LineKey
    """The line id as a number, by which the rows of the past name the line."""
    record_key: BigInt
    """The record id as a number, which is the order of lists."""
    organization_id: Text
    workspace_id: Text
    execution_model: Text
    product_line: Text
    activated: BigInt
    """The position of the line's activation."""
    project_tags: Texts
    state: Text
    causes: Texts
    """The distinct causes of the open blockers."""
    head: Text
    """JSON members of list row and detail."""
    extra: Text
    """JSON members of the detail alone."""
    counts: Text
    """JSON members of list row and detail that runs and check-ins change."""
    metrics: Text
    """JSON members: the metrics that do not follow the clock."""
    quiet: Text
    """The metric that follows the clock, in a period without activity."""
    period_1: Date | None
    """The latest period with activity."""
    now_1: Text | None
    """The metric that follows the clock, in ``period_1``."""
    period_2: Date | None
    """The latest period with activity before ``period_1``."""
    now_2: Text | None
    """The metric that follows the clock, in ``period_2``."""
    fold: Octets
    """The encoded fold."""
    position: BigInt


EXECUTION = Table(
    "execution",
    ExecutionRow,
    key=("line_id",),
    tenant=("organization_id", "workspace_id"),
    hidden=(),  # a preview of a watch reads the fold, which tells no more than the line's detail
    replaces=True,
    options="fillfactor = 70, toast_tuple_target = 4080",
    # Every activity of a line writes the line's row. So a row is compressed only if it is larger
    # than half a page; and then the columns that lists read stay uncompressed, in the row.
    uncompressed=("head", "counts", "metrics"),
    indexes=(
        # Lists, by tenant, in the list's order. Lists of the past skip lines that were activated
        # later within the index.
        Index("record_key, activated"),
        Index("organization_id, record_key, activated"),
        Index("workspace_id, record_key, activated"),
        # Lists by columns of which a value may be rare: a walk for each value. The tenant comes
        # after these columns, so that values that are rare in all tenants are found too.
        Index("state, organization_id, record_key"),
        Index("workspace_id, state, record_key"),
        Index("execution_model, product_line, organization_id, record_key, state"),
        Index("workspace_id, execution_model, product_line, record_key, state"),
        Index("organization_id, record_key", where="causes <> '{}'"),
        # Lists by a project and by changing columns; counts by several projects.
        Index("project_tags", using="gin"),
    ),
)


class TagRow(NamedTuple):
    """A project tag that a line has or had, for lists by project in the list's order."""

    line_id: Text
    project_tag: Text
    present: Bool
    """Whether the line has it now."""
    record_key: BigInt
    organization_id: Text
    workspace_id: Text
    position: BigInt


TAG = Table(
    "execution_tag",
    TagRow,
    key=("line_id", "project_tag"),
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    indexes=(Index("project_tag, organization_id, record_key, workspace_id", where="present"),),
)


class ResourceRow(NamedTuple):
    """A resource that a line has or had, for lists by resource."""

    line_id: Text
    resource_id: Text
    present: Bool
    """Whether it is allocated to the line now."""
    record_key: BigInt
    organization_id: Text
    workspace_id: Text
    position: BigInt


RESOURCE = Table(
    "execution_resource",
    ResourceRow,
    key=("line_id", "resource_id"),
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    indexes=(Index("resource_id, organization_id, record_key, workspace_id", where="present"),),
)


class QuietRow(NamedTuple):
    """A candidate of the idle sweeper: a line that looks idle, or whose hold has an end.

    The table is separate from ``execution``, whose rows are wide and have many indexes. Updates of
    ``execution`` stay within the page (HOT) as long as no indexed column changes.
    """

    line_id: Text
    execution_model: Text
    quiet_since: Instant | None
    """The minute of the last activity or change; null: the line has open runs or is not running.

    The instant is rounded down, so that a busy line's row changes once a minute, not with every
    activity. The sweeper compares the exact instants of the lines that it finds.
    """
    changed_at: Instant | None
    """The exact instant of the last change."""
    held_until: Instant | None
    """When the operator's hold is due to be lifted; null: it has no end, or is not on."""
    position: BigInt


QUIET = Table(
    "execution_quiet",
    QuietRow,
    key=("line_id",),
    is_internal=True,
    replaces=True,
    options="fillfactor = 80",
    indexes=(
        Index("execution_model, quiet_since", where="quiet_since IS NOT NULL"),
        Index("held_until", where="held_until IS NOT NULL"),
    ),
)


class IntervalRow(NamedTuple):
    """The values by which a line was found and counted, from one position to another."""

    line_key: LineKey
    record_key: BigInt
    opened: BigInt
    """Position of the event that began the interval."""
    ended: BigInt
    """Position of the event that ended the interval; ``FOREVER`` while it lasts."""
    position: BigInt
    since: Instant
    """Effective time of the latest change of state or causes."""
    state_since: Instant
    """Effective time at which the state began."""
    open_blockers: Int
    health_score: Int | None
    turned: Bool
    """Whether state or causes changed here."""
    state: Text
    causes: Texts
    project_tags: Texts
    organization_id: Text
    workspace_id: Text
    execution_model: Text
    product_line: Text


INTERVAL = Table(
    "execution_interval",
    IntervalRow,
    key=("line_key", "opened"),
    tenant=("organization_id", "workspace_id"),
    is_seen_by_view=True,  # lists of the past by project: an index of arrays
    replaces=True,
    indexes=(
        # Lists of the past by changing columns, in the list's order. PostgreSQL compares both ends
        # of an interval within the index.
        Index("organization_id, state, record_key, opened, ended"),
        Index("workspace_id, state, record_key, opened, ended"),
        Index("organization_id, record_key, opened, ended", where="causes <> '{}'"),
        Index("project_tags", using="gin"),
        # Timelines: the turning points of a line by effective time.
        Index("line_key, since, opened DESC", where="turned"),
    ),
)


class VersionRow(NamedTuple):
    """A line's head and extra after an event of its own stream that changed them."""

    line_key: LineKey
    position: BigInt
    health_score: Int | None
    head: Text
    extra: Text


EXECUTION_VERSION = Table(
    "execution_version",
    VersionRow,
    key=("line_key", "position"),
    owner=("execution_interval", "line_key"),
    is_keyed_late=True,
)


class StepRow(NamedTuple):
    """The numbers of which a line's counts and metrics were made, after an event that changed them.

    A number that the line's model does not show is null. The wide columns come first, so that
    PostgreSQL needs no padding.
    """

    line_key: LineKey
    position: BigInt
    last_activity_at: Instant
    hours_total: BigInt | None
    """Hundredths of hours."""
    last_run_duration_ms: BigInt | None
    amount_1: BigInt | None
    """The amount of ``period_1`` that the metric shows which follows the clock."""
    amount_2: BigInt | None
    open_runs: Int
    started_runs: Int | None
    completed_runs: Int | None
    period_1: Date | None
    """The latest period with activity, unless it had ended when the event was recorded."""
    period_2: Date | None
    """The latest period with activity before ``period_1``, likewise."""


STEP = Table(
    "execution_step",
    StepRow,
    key=("line_key", "position"),
    owner=("execution_interval", "line_key"),
    is_keyed_late=True,
)
