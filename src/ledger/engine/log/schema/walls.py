"""Tenant isolation of the tables of migrations: what the API's role sees of each.

Descriptions of tables add their own policies and grants (``tables.py``,
``engine/views/schema.py``). Each other table is in ``_OTHERS``, ``SHARED`` or ``INTERNAL``; a test
names a table that is not.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from psycopg import Connection
from psycopg.sql import SQL, Identifier

from ledger.engine.log.tables import DECISION_TABLES, LOG, SNAPSHOT, SPAN, STATEMENT_DOCUMENT
from ledger.engine.postgres.schema import walls
from ledger.engine.postgres.schema.walls import EVERYONE_ONLY, condition_of, of_tenant


class Policy(NamedTuple):
    """The rows and columns of a table that the API's role sees."""

    rows: str
    """The condition of the table's policy."""
    columns: str
    """The columns that the role may select, separated by blanks."""


# Metrics count all rows; a look-up of the endpoint for each would take seconds.
_OF_ENDPOINT = f"{EVERYONE_ONLY} OR ledger.sees_endpoint(endpoint_id)"

_OTHERS = {
    "key_use": Policy(
        of_tenant(("organization_id", "workspace_id")),
        "key_id organization_id workspace_id used_at",
    ),
    "delivery": Policy(
        _OF_ENDPOINT, "endpoint_id position sequence status round tried attempts due_at url"
    ),
    "dispatch": Policy(_OF_ENDPOINT, "endpoint_id planned heeded failing_since"),
    # The findings of verifications: differences may name ids of any tenant.
    "verification": Policy(
        EVERYONE_ONLY, "part started_at ended_at first last compared differences named"
    ),
    # The names of people, for pages of the organizations that they have entered.
    "person": Policy(
        f"{EVERYONE_ONLY} OR current_setting('ledger.organization_id', true) = ANY (organizations)",
        "sub name email seen_at organizations",
    ),
    # How far the loop of watches has come, and what waits for room.
    "watch_look": Policy(of_tenant(("organization_id",)), "organization_id position"),
    "watch_overflow": Policy(of_tenant(("organization_id",)), "watch_id organization_id waiting"),
    "watch_due": Policy(of_tenant(("organization_id",)), ""),
    # Internal, except for the number of rows, which is a metric.
    "lease": Policy(EVERYONE_ONLY, "run_id"),
}

SHARED: Mapping[str, str] = MappingProxyType(
    {
        # The positions of views, and why one has stopped: for /readyz.
        "projection": "name version generation position stopped_at error",
        # The tree of hashes and its signed heads, which any credential may read (contract, Proof).
        "tile": "level number hashes first_position",
        "checkpoint": "size position note",
        "signer": "vkey stopped_at error origin shown_size contradicts waits_for",
        "former_origin": "number vkey ended_at ended_by reason last_note kept_size",
        # The beating nodes with their witnesses, and the session that leads each loop.
        "node": "node_id version role started_at beaten_at witness",
        "leader": "loop node_id beaten_at",
    }
)
"""Tables without rows of tenants that the role reads: no policy, and these columns."""

INTERNAL: Mapping[str, str] = MappingProxyType(
    {
        "migration": "names and checksums of migrations",
        "setting": "what every process must agree on",
        "id_counter": "the last number of each prefix and year",
        "append_lock": "no rows",
        "append_probe": "an instant",
        "listening": "two instants",
        "former_checkpoint": "the signed heads of earlier origins",
        "lineage": "the PostgreSQL that wrote the log last",
    }
)
"""Tables without rows of tenants, with their content. The role has no right on them."""

# Only functions read the log (migration 0001), only the view of payloads reads keys of runs
# (projections/runs/view.py), and only decisions read the other internal tables.
POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        table.name: Policy(
            condition_of(table), "" if table.is_internal else " ".join(table.visible)
        )
        for table in (LOG, *DECISION_TABLES, SNAPSHOT, SPAN, STATEMENT_DOCUMENT)
        if table.name not in INTERNAL
    }
    | _OTHERS
)
"""The tables that hold rows of tenants."""

FUNCTIONS = (
    "await_append()",
    "stored_events(bigint[])",
    "log_end()",
    "position_by(timestamptz)",
    "position_from(timestamptz)",
    "recorded_at(bigint)",
    "beaten_at()",
    "known_until()",
    "events_between(bigint, bigint, bigint)",
    "passing_keys(bytea[], timestamptz)",
    "sessions_of(bytea[], timestamptz, interval)",
    "sees_line(text)",
    "sees_endpoint(text)",
)
"""The functions that only the role and the owner may execute."""


_HAS_RIGHTS = """
SELECT bool_and(has_column_privilege(%(role)s, to_regclass(t), c, 'SELECT'))
    AND (SELECT bool_and(has_function_privilege(%(role)s, to_regprocedure(f), 'EXECUTE'))
         FROM unnest(%(functions)s::text[]) AS f)
FROM unnest(%(tables)s::text[], %(columns)s::text[]) AS asked (t, c)
"""


# True if a role has a right on anything in this database.
_HAS_ANY_RIGHT = """
SELECT FROM pg_shdepend
WHERE refclassid = 'pg_authid'::regclass AND refobjid = quote_ident(%s)::regrole AND deptype = 'a'
  AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
LIMIT 1
"""


def protect(connection: Connection[Any]) -> None:
    """Ensure the policies of the tables of migrations."""
    walls.ensure_policies(connection, {table: policy.rows for table, policy in POLICIES.items()})
    # In a dump restored without its grants, everybody may execute the functions.
    connection.execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ledger FROM PUBLIC")


def withdraw(connection: Connection[Any], role: str) -> None:
    """Revoke every right in the schema from a role.

    REVOKE writes the rows of all tables and functions anew, even where it revokes nothing.
    """
    if connection.execute(_HAS_ANY_RIGHT, (role,)).fetchone() is None:
        return
    for kind in ("TABLES", "FUNCTIONS", "SEQUENCES"):
        connection.execute(
            SQL(f"REVOKE ALL ON ALL {kind} IN SCHEMA ledger FROM {{}}").format(Identifier(role))
        )
    connection.execute(SQL("REVOKE ALL ON SCHEMA ledger FROM {}").format(Identifier(role)))


def has_rights(connection: Connection[Any], role: str) -> bool:
    """True if the role has the rights that ``grant`` gives. Nothing is written."""
    columns = [(f"ledger.{table}", column) for table, some in granted().items() for column in some]
    tables, names = [list(each) for each in zip(*columns, strict=True)]
    functions = [f"ledger.{function}" for function in FUNCTIONS]
    rights = {"role": role, "tables": tables, "columns": names, "functions": functions}
    return connection.execute(_HAS_RIGHTS, rights).fetchone() == (True,)


def granted() -> Mapping[str, Sequence[str]]:
    """The columns of each table that the role may select."""
    columns = {**{table: policy.columns for table, policy in POLICIES.items()}, **SHARED}
    return {table: listed.split() for table, listed in columns.items()}


def grant(connection: Connection[Any], role: str) -> None:
    """Give the API's role its rights on the tables and functions of migrations."""
    name = Identifier(role)
    connection.execute(SQL("GRANT USAGE ON SCHEMA ledger TO {}").format(name))
    for table, columns in granted().items():
        walls.grant(connection, table, columns, role)
    functions = ", ".join(f"ledger.{function}" for function in FUNCTIONS)
    connection.execute(SQL(f"GRANT EXECUTE ON FUNCTION {functions} TO {{}}").format(name))
