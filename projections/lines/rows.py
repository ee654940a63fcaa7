"""Rows and tables of the view of lines, except ``counts.py``, ``hours.py`` and ``rank.py``."""

from typing import NamedTuple

from ledger.engine.postgres.schema import table

FOREVER = 2**63 - 1
"""The end of an interval that still lasts."""


class ExecutionRow(NamedTuple):
    """What a line's own events change: columns for filters, and JSON of list row and detail."""

    line_id: table.Text
    line_key: table.LineKey
    """The line id as a number; rows of the past name the line by it."""
    record_key: table.BigInt
    """The record id as a number: the order of lists."""
    organization_id: table.Text
    workspace_id: table.Text
    execution_model: table.Text
    product_line: table.Text
    activated: table.BigInt
    project_tags: table.Texts
    state: table.Text
    causes: table.Texts
    head: table.Text
    """JSON members of list row and detail."""
    extra: table.Text
    """JSON members of the detail alone."""
    quiet: table.Text
    """The metric that follows the clock, in a period without activity."""
    position: table.BigInt


EXECUTION = table.Table(
    "execution",
    ExecutionRow,
    key=("line_id",),
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    options="fillfactor = 70, toast_tuple_target = 4080",
    # Rows are compressed only above half a page, and the column that lists read never.
    uncompressed=("head",),
    indexes=(
        # Lists by tenant, in the list's order. For the past, the index skips later activations.
        table.Index("record_key, activated"),
        table.Index("organization_id, record_key, activated"),
        table.Index("workspace_id, record_key, activated"),
        # Lists by columns that may have rare values: one scan per value. The tenant comes after
        # these columns, to find values that are rare in all tenants too.
        table.Index("state, organization_id, record_key"),
        table.Index("workspace_id, state, record_key"),
        table.Index("execution_model, product_line, organization_id, record_key, state"),
        table.Index("workspace_id, execution_model, product_line, record_key, state"),
        table.Index("organization_id, record_key", where="causes <> '{}'"),
        # Lists by a project and changing columns; counts by several projects.
        table.Index("project_tags", using="gin"),
    ),
)


class ActivityRow(NamedTuple):
    """What runs and check-ins change too: ready JSON, and the fold of the whole line.

    Every activity of a line writes this row. So it is narrow, and has no index but its key.
    """

    line_id: table.Text
    organization_id: table.Text
    workspace_id: table.Text
    counts: table.Text
    """JSON members of list row and detail that runs and check-ins change."""
    metrics: table.Text
    """JSON members: the metrics that do not follow the clock."""
    period_1: table.Date | None
    """The latest period with activity."""
    now_1: table.Text | None
    """The metric that follows the clock, in ``period_1``."""
    period_2: table.Date | None
    """The latest period with activity before ``period_1``."""
    now_2: table.Text | None
    """The metric that follows the clock, in ``period_2``."""
    fold: table.Octets
    position: table.BigInt


ACTIVITY = table.Table(
    "execution_activity",
    ActivityRow,
    key=("line_id",),
    tenant=("organization_id", "workspace_id"),
    hidden=(),  # a preview of a watch reads the fold, which has no more than the line's detail
    replaces=True,
    options="fillfactor = 70, toast_tuple_target = 4080",
    uncompressed=("counts", "metrics"),
)


class TagRow(NamedTuple):
    """A project tag that a line has or had, for lists by project."""

    line_id: table.Text
    project_tag: table.Text
    present: table.Bool
    record_key: table.BigInt
    organization_id: table.Text
    workspace_id: table.Text
    position: table.BigInt


TAG = table.Table(
    "execution_tag",
    TagRow,
    key=("line_id", "project_tag"),
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    indexes=(
        table.Index("project_tag, organization_id, record_key, workspace_id", where="present"),
    ),
)


class ResourceRow(NamedTuple):
    """A resource that a line has or had, for lists by resource."""

    line_id: table.Text
    resource_id: table.Text
    present: table.Bool
    record_key: table.BigInt
    organization_id: table.Text
    workspace_id: table.Text
    position: table.BigInt


RESOURCE = table.Table(
    "execution_resource",
    ResourceRow,
    key=("line_id", "resource_id"),
    tenant=("organization_id", "workspace_id"),
    replaces=True,
    indexes=(
        table.Index("resource_id, organization_id, record_key, workspace_id", where="present"),
    ),
)


class QuietRow(NamedTuple):
    """A candidate of the idle sweeper: a line that looks idle, or whose hold has an end.

    A table of its own: every activity of a line writes its row of ``execution_activity``, and these
    updates stay within the page (HOT) since no indexed column changes.
    """

    line_id: table.Text
    execution_model: table.Text
    quiet_since: table.Instant | None
    """The minute of the last activity or change; null if the line has open runs or is not running.

    Rounded down, so that a busy line's row changes once a minute. The sweeper compares the exact
    instants of the lines that it finds.
    """
    changed_at: table.Instant | None
    held_until: table.Instant | None
    """When the operator's hold is due to be lifted; null if it has no end, or is not on."""
    position: table.BigInt


QUIET = table.Table(
    "execution_quiet",
    QuietRow,
    key=("line_id",),
    is_internal=True,
    replaces=True,
    options="fillfactor = 80",
    indexes=(
        table.Index("execution_model, quiet_since", where="quiet_since IS NOT NULL"),
        table.Index("held_until", where="held_until IS NOT NULL"),
    ),
)


class IntervalRow(NamedTuple):
    """The values by which a line was found and counted between two positions."""

    line_key: table.LineKey
    record_key: table.BigInt
    opened: table.BigInt
    ended: table.BigInt
    """``FOREVER`` while the interval lasts."""
    position: table.BigInt
    since: table.Instant
    """Effective time of the latest change of state or causes."""
    state_since: table.Instant
    open_blockers: table.Int
    health_score: table.Int | None
    turned: table.Bool
    state: table.Text
    causes: table.Texts
    project_tags: table.Texts
    organization_id: table.Text
    workspace_id: table.Text
    execution_model: table.Text
    product_line: table.Text


INTERVAL = table.Table(
    "execution_interval",
    IntervalRow,
    key=("line_key", "opened"),
    tenant=("organization_id", "workspace_id"),
    is_filtered_by_view=True,  # lists of the past by project: an index of arrays
    replaces=True,
    indexes=(
        # Lists of the past by changing columns, in the list's order. PostgreSQL compares both ends
        # of an interval within the index.
        table.Index("organization_id, state, record_key, opened, ended"),
        table.Index("workspace_id, state, record_key, opened, ended"),
        table.Index("organization_id, record_key, opened, ended", where="causes <> '{}'"),
        table.Index("project_tags", using="gin"),
        # Timelines: the turning points of a line by effective time.
        table.Index("line_key, since, opened DESC", where="turned"),
    ),
)


class VersionRow(NamedTuple):
    """A line's head and extra after an event of its own stream changed them."""

    line_key: table.LineKey
    position: table.BigInt
    health_score: table.Int | None
    head: table.Text
    extra: table.Text


EXECUTION_VERSION = table.Table(
    "execution_version",
    VersionRow,
    key=("line_key", "position"),
    owner=("execution_interval", "line_key"),
    is_keyed_late=True,
)


class StepRow(NamedTuple):
    """The numbers behind a line's counts and metrics, after an event changed them.

    Null where the line's model does not show the number. The wide columns come first, so that
    PostgreSQL needs no padding.
    """

    line_key: table.LineKey
    position: table.BigInt
    last_activity_at: table.Instant
    hours_total: table.BigInt | None
    """Hundredths of hours."""
    last_run_duration_ms: table.BigInt | None
    amount_1: table.BigInt | None
    """The amount of ``period_1``, for the metric that follows the clock."""
    amount_2: table.BigInt | None
    open_runs: table.Int
    started_runs: table.Int | None
    completed_runs: table.Int | None
    period_1: table.Date | None
    """The latest period with activity, unless it had ended when the event was recorded."""
    period_2: table.Date | None
    """The latest period with activity before ``period_1``, likewise."""


STEP = table.Table(
    "execution_step",
    StepRow,
    key=("line_key", "position"),
    owner=("execution_interval", "line_key"),
    is_keyed_late=True,
)
