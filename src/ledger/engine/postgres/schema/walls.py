"""Row-level security: the conditions by which a session sees a tenant's rows, and their policies.

The settings ``ledger.organization_id`` and ``ledger.workspace_id`` name a transaction's tenant
(``engine/postgres/pool/pipelined.py``): an organization with a workspace or ``*`` for all of them,
or ``*`` and ``*`` for every tenant. Without a setting, no row is visible. Policies bind every role
except superusers and a table's owner, who fills the tables (architecture, Walls).
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from psycopg import Connection
from psycopg.sql import SQL, Identifier, Literal

from ledger.engine.postgres.schema.table import Table

NOBODY = "false"
"""The condition of rows that only the owner sees."""

_ORGANIZATION = "current_setting('ledger.organization_id', true)"
_WORKSPACE = "current_setting('ledger.workspace_id', true)"

EVERYONE_ONLY = f"{_ORGANIZATION} = '*' AND {_WORKSPACE} = '*'"
"""The condition of rows that only administrators and the service itself see."""

# A row's organization is compared first: most rows that a statement meets are its tenant's. The IS
# NOT NULL around the CASE is for the planner, which takes it to be nearly always true. For an
# equation it would guess that few rows match, and then sort them instead of scanning an index.
_OF_TENANT = """
(CASE WHEN {organization} = {own} AND {organization} <> '' THEN {of_workspace}
      WHEN {everyone} THEN true {otherwise} END) IS NOT NULL
"""
_OF_WORKSPACE = """
CASE WHEN {all} = '*' OR {workspace} = {all} AND {workspace} <> '' THEN true END
"""
_OF_OWNER = """
(SELECT true FROM ledger.{owner} AS o WHERE o.{column} = {table}.{column} LIMIT 1) IS NOT NULL
"""

# A role without any right of ours can make large objects and temporary objects; no policy guards
# them. An object in another database gives no right here.
_POWERS = """
SELECT CASE
    WHEN r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication
        THEN 'is no plain login'
    WHEN EXISTS (SELECT FROM pg_auth_members AS m WHERE m.member = r.oid)
        THEN 'is a member of another role'
    WHEN EXISTS (SELECT FROM pg_shdepend AS d WHERE d.refclassid = 'pg_authid'::regclass
                 AND d.refobjid = r.oid AND d.deptype = 'o'
                 AND d.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
                 AND d.classid <> 'pg_largeobject'::regclass
                 AND (SELECT coalesce(o.schema, '') !~ '^pg_temp'
                      FROM pg_identify_object(d.classid, d.objid, d.objsubid) AS o))
        THEN 'owns an object'
END
FROM pg_roles AS r WHERE r.rolname = {role}
"""

POWERS = _POWERS.format(role="current_user")
"""The fault of the session's role, or null. Policies would not bind a role with a fault for long.
"""

POWERS_OF = _POWERS.format(role="%s")
"""The fault of a role, or null."""

# The policies of tables, and whether they are on.
_POLICIES = """
SELECT c.relname, c.relrowsecurity,
    array(SELECT p.polname::text FROM pg_policy AS p WHERE p.polrelid = c.oid)
FROM pg_class AS c WHERE c.relnamespace = to_regnamespace('ledger') AND c.relname = ANY(%s)
"""


def of_tenant(tenant: Sequence[str], row: str = "", otherwise: str = "") -> str:
    """The condition that the session's tenant has a row, by the row's columns of ``Table.tenant``.

    ``row`` is an alias with its dot. ``otherwise`` is a further ``WHEN … THEN true``.
    """
    organization, *workspace = [f"{row}{column}" for column in tenant]
    of_workspace = "true"
    if workspace:
        of_workspace = _OF_WORKSPACE.format(workspace=workspace[0], all=_WORKSPACE).strip()
    return _OF_TENANT.format(
        organization=organization,
        own=_ORGANIZATION,
        of_workspace=of_workspace,
        everyone=EVERYONE_ONLY,
        otherwise=otherwise,
    ).strip()


def of_owner(table: str, owner: str, column: str) -> str:
    """The condition that the session sees a row of the table ``owner`` with the same ``column``.

    That table's policy decides. LIMIT keeps the subquery a look-up by key: PostgreSQL would make
    EXISTS a hash of the whole table if many rows may be compared.
    """
    return _OF_OWNER.format(table=table, owner=owner, column=column).strip()


def condition_of(table: Table) -> str:
    """The condition of a table without an owner."""
    if table.is_internal:
        return NOBODY
    assert table.tenant, f"whose are the rows of {table.name}? (Table.tenant, owner)"
    return of_tenant(table.tenant)


def ensure_policies(connection: Connection[Any], conditions: Mapping[str, str]) -> None:
    """Ensure that row-level security is on, with one policy for each table: its condition.

    The policy's name has a digest of the condition, the same in each generation of a view's table.
    So a policy with another condition is replaced. The policy allows only reading.
    """
    for table, policies in _lacking(connection, conditions).items():
        condition, relation = conditions[table], Identifier("ledger", table)
        for policy in policies:
            connection.execute(SQL("DROP POLICY {} ON {}").format(Identifier(policy), relation))
        connection.execute(SQL("ALTER TABLE {} ENABLE ROW LEVEL SECURITY").format(relation))
        made = SQL("CREATE POLICY {} ON {} FOR SELECT USING ({})")
        name = Identifier(_policy_of(condition))
        connection.execute(made.format(name, relation, SQL(condition)))


def _lacking(connection: Connection[Any], conditions: Mapping[str, str]) -> dict[str, list[str]]:
    found = connection.execute(_POLICIES, ([*conditions],)).fetchall()
    states = {table: (is_on, policies) for table, is_on, policies in found}
    return {
        table: states.get(table, (False, []))[1]
        for table, condition in conditions.items()
        if states.get(table) != (True, [_policy_of(condition)])
    }


def _policy_of(condition: str) -> str:
    of_all_generations = re.sub(r"_g[0-9]+", "_g", condition)
    return f"seen_{hashlib.sha256(of_all_generations.encode()).hexdigest()[:12]}"


def grant(connection: Connection[Any], name: str, columns: Sequence[str], role: str) -> None:
    """Let the role select these columns of a table or a view. Without columns, do nothing."""
    if columns:
        listed = SQL(", ").join(map(Identifier, columns))
        connection.execute(
            SQL("GRANT SELECT ({}) ON {} TO {}").format(
                listed, Identifier("ledger", name), Identifier(role)
            )
        )


def grant_whole(connection: Connection[Any], name: str, role: str) -> None:
    """Let the role select every column of a table or a view.

    PostgreSQL checks rights on columns one by one, at each execution. A right on the whole saves a
    tenth of its time for the detail of a line.
    """
    relation = Identifier("ledger", name)
    connection.execute(SQL("GRANT SELECT ON {} TO {}").format(relation, Identifier(role)))


def reader_of(connection: Connection[Any]) -> str | None:
    """The role that the API reads as; None before the first start of the service."""
    row = connection.execute(
        "SELECT value FROM ledger.setting JOIN pg_roles ON rolname = value WHERE name = 'reader'"
    ).fetchone()
    return None if row is None else str(row[0])


def remember_reader(connection: Connection[Any], role: str) -> None:
    """Store the role that the API reads as: the tables of new generations are granted to it."""
    connection.execute(
        SQL(
            "INSERT INTO ledger.setting (name, value) VALUES ('reader', {})"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        ).format(Literal(role))
    )
