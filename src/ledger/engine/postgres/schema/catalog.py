"""The objects of the schema ``ledger``, as PostgreSQL's catalog defines them.

A definition is the same text in each version of PostgreSQL, so servers can be compared.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from psycopg import Connection

# Each object with its kind, its name, its definition, and its owner if it has its own. The last
# ones are outside the schema, but can change what it means: a cast between PostgreSQL's types, a
# function or operator with the name of one of PostgreSQL's (whose OIDs are below 16384), an event
# trigger at logins, and triggers that are off in all sessions.
_OBJECTS = r"""
WITH relation AS (SELECT * FROM pg_class WHERE relnamespace = 'ledger'::regnamespace)
SELECT 'schema', 'ledger', '', nspowner::regrole::text FROM pg_namespace WHERE nspname = 'ledger'
UNION ALL
SELECT 'table', c.relname, concat_ws(', ', nullif(c.relkind, 'r'), nullif(c.relpersistence, 'p'),
        CASE WHEN c.relrowsecurity THEN 'row security' END,
        CASE WHEN c.relforcerowsecurity THEN 'for its owner too' END,
        (SELECT 'with ' || string_agg(concat(i.inhparent::regclass, i.inhrelid::regclass), ', ')
         FROM pg_inherits AS i WHERE c.oid IN (i.inhparent, i.inhrelid))),
    c.relowner::regrole::text
FROM relation AS c WHERE c.relkind NOT IN ('i', 'I', 'S', 'v')
UNION ALL
SELECT 'view', c.relname, concat_ws(' ', array_to_string(c.reloptions, ' '), pg_get_viewdef(c.oid)),
    c.relowner::regrole::text
FROM relation AS c WHERE c.relkind = 'v'
UNION ALL
SELECT 'sequence', c.relname, concat_ws(' ', s.seqtypid::regtype, s.seqstart, s.seqincrement,
        s.seqmin, s.seqmax, s.seqcycle),
    c.relowner::regrole::text
FROM relation AS c JOIN pg_sequence AS s ON s.seqrelid = c.oid
UNION ALL
SELECT 'column', c.relname || '.' || a.attname, concat_ws(' ',
        format_type(a.atttypid, a.atttypmod),
        CASE WHEN a.attcollation NOT IN (0, 100) THEN a.attcollation::regcollation::text END,
        CASE WHEN a.attnotnull THEN 'NOT NULL' END, nullif(a.attidentity, ''),
        nullif(a.attgenerated, ''), 'DEFAULT ' || pg_get_expr(d.adbin, d.adrelid)),
    NULL
FROM relation AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relkind NOT IN ('i', 'I', 'S', 'v') AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
-- NOT NULL is a constraint since PostgreSQL 18. A constraint may bind new rows only: the nightly
-- verification compares the rows before them.
SELECT 'constraint', c.relname || '.' || n.conname,
    regexp_replace(pg_get_constraintdef(n.oid), ' NOT VALID$', ''), NULL
FROM relation AS c JOIN pg_constraint AS n ON n.conrelid = c.oid WHERE n.contype <> 'n'
UNION ALL
SELECT 'index', c.relname || '.' || x.relname,
    concat_ws(' ', pg_get_indexdef(i.indexrelid), CASE WHEN NOT i.indisvalid THEN 'invalid' END),
    NULL
FROM relation AS c JOIN pg_index AS i ON i.indrelid = c.oid
JOIN pg_class AS x ON x.oid = i.indexrelid
UNION ALL
-- PostgreSQL's own triggers, which enforce foreign keys, have numbers in their names.
SELECT 'trigger', c.relname || '.' || CASE WHEN t.tgisinternal
        THEN regexp_replace(t.tgname, '\d+$', ' ' || t.tgfoid::regproc) ELSE t.tgname END,
    concat_ws(' ', CASE WHEN NOT t.tgisinternal THEN pg_get_triggerdef(t.oid) END,
        CASE t.tgenabled WHEN 'O' THEN NULL WHEN 'D' THEN 'disabled' ELSE t.tgenabled::text END),
    NULL
FROM relation AS c JOIN pg_trigger AS t ON t.tgrelid = c.oid
UNION ALL
SELECT 'rule', c.relname || '.' || r.rulename, pg_get_ruledef(r.oid), NULL
FROM relation AS c JOIN pg_rewrite AS r ON r.ev_class = c.oid
WHERE NOT (c.relkind = 'v' AND r.rulename = '_RETURN')
UNION ALL
SELECT 'policy', c.relname || '.' || p.polname, concat_ws(' ',
        format('CREATE POLICY %I ON ledger.%I', p.polname, c.relname),
        CASE WHEN NOT p.polpermissive THEN 'AS RESTRICTIVE' END,
        CASE p.polcmd WHEN 'r' THEN 'FOR SELECT' ELSE 'FOR ' || p.polcmd::text END,
        CASE WHEN p.polroles <> '{0}' THEN 'TO ' || p.polroles::regrole[]::text END,
        'USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
        'WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')'),
    NULL
FROM relation AS c JOIN pg_policy AS p ON p.polrelid = c.oid
UNION ALL
SELECT 'function', format('%I(%s)', p.proname, pg_get_function_identity_arguments(p.oid)),
    CASE WHEN p.prokind = 'a' THEN 'aggregate' ELSE pg_get_functiondef(p.oid) END,
    p.proowner::regrole::text
FROM pg_proc AS p WHERE p.pronamespace = 'ledger'::regnamespace
UNION ALL
SELECT o.type, o.identity, '', NULL
FROM pg_depend AS d, pg_identify_object(d.classid, d.objid, 0) AS o
WHERE d.refclassid = 'pg_namespace'::regclass AND d.refobjid = 'ledger'::regnamespace
  AND d.classid NOT IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_default_acl'::regclass)
UNION ALL
SELECT replace(o.type, 'function', 'routine'), o.identity, '', NULL
FROM (
    SELECT 'pg_cast'::regclass AS class, c.oid FROM pg_cast AS c
    WHERE c.oid >= 16384 AND c.castsource < 16384 AND c.casttarget < 16384
    UNION ALL
    SELECT 'pg_proc'::regclass, p.oid FROM pg_proc AS p
    WHERE p.oid >= 16384 AND p.pronamespace = 'pg_catalog'::regnamespace
      AND EXISTS (SELECT FROM pg_proc AS o WHERE o.proname = p.proname AND o.oid < 16384)
    UNION ALL
    SELECT 'pg_operator'::regclass, p.oid FROM pg_operator AS p
    WHERE p.oid >= 16384 AND p.oprnamespace = 'pg_catalog'::regnamespace
      AND EXISTS (SELECT FROM pg_operator AS o WHERE o.oprname = p.oprname AND o.oid < 16384)
    UNION ALL
    SELECT 'pg_event_trigger'::regclass, e.oid FROM pg_event_trigger AS e
    WHERE e.evtevent = 'login' AND e.evtenabled <> 'D'
) AS beside, pg_identify_object(beside.class, beside.oid, 0) AS o
WHERE NOT EXISTS (SELECT FROM pg_depend AS d
    WHERE d.classid = beside.class AND d.objid = beside.oid AND d.deptype = 'e')
UNION ALL
SELECT 'setting', 'session_replication_role', current_setting('session_replication_role'), NULL
"""


# The rights of all roles but the owners.
_RIGHTS = """
WITH relation AS (SELECT * FROM pg_class WHERE relnamespace = 'ledger'::regnamespace),
acl AS (
    SELECT 'schema' AS kind, 'ledger' AS name, NULL::text AS part, n.nspowner AS owner,
        coalesce(n.nspacl, acldefault('n', n.nspowner)) AS rights
    FROM pg_namespace AS n WHERE n.nspname = 'ledger'
    UNION ALL
    SELECT CASE c.relkind WHEN 'S' THEN 'sequence' ELSE 'table' END, c.relname, NULL, c.relowner,
        coalesce(c.relacl,
            acldefault((CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END)::"char", c.relowner))
    FROM relation AS c
    UNION ALL
    SELECT 'table', c.relname, a.attname, c.relowner, a.attacl
    FROM relation AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
    UNION ALL
    SELECT 'function', p.oid::regprocedure::text, NULL, p.proowner,
        coalesce(p.proacl, acldefault('f', p.proowner))
    FROM pg_proc AS p WHERE p.pronamespace = 'ledger'::regnamespace
    UNION ALL
    SELECT 'new', CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES'
        WHEN 'f' THEN 'ROUTINES' ELSE 'TYPES' END, NULL, d.defaclrole, d.defaclacl
    FROM pg_default_acl AS d WHERE d.defaclnamespace = 'ledger'::regnamespace
)
SELECT acl.kind, acl.name, acl.part, coalesce(r.rolname, 'PUBLIC'),
    g.privilege_type || CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
FROM acl, aclexplode(acl.rights) AS g LEFT JOIN pg_roles AS r ON r.oid = g.grantee
WHERE g.grantee <> acl.owner
"""

_SIGNATURES = "SELECT to_regprocedure(f)::text FROM unnest(%s::text[]) AS f"

# Before PostgreSQL 16, a definition of a view with one table names this table with each column.
_FROM = re.compile(r"\n\s*FROM ledger\.(\w+)(?: (\w+))?(?=[\n;])")


class Item(NamedTuple):
    """An object of the schema."""

    kind: str
    name: str
    definition: str
    owner: str | None
    """The role that owns the object; None for the owner of its table."""


class Right(NamedTuple):
    """A right that a role has."""

    kind: str
    """With ``new``, ``name`` says which future objects the right applies to."""
    name: str
    part: str | None
    """The column; None for the whole object."""
    role: str
    privilege: str


def items(connection: Connection[Any]) -> list[Item]:
    found = [Item(*row) for row in connection.execute(_OBJECTS.encode())]
    if connection.info.server_version >= 160000:
        return found
    return [
        item._replace(definition=_without_alias(item.definition)) if item.kind == "view" else item
        for item in found
    ]


def rights(connection: Connection[Any]) -> list[Right]:
    """Read the rights of all roles but the owners."""
    return [Right(*row) for row in connection.execute(_RIGHTS)]


def signatures(connection: Connection[Any], functions: Sequence[str]) -> list[str]:
    """The functions that exist, named as in ``rights``."""
    return [name for (name,) in connection.execute(_SIGNATURES, (list(functions),)) if name]


def _without_alias(definition: str) -> str:
    """A view's definition as PostgreSQL 16 writes it."""
    found = _FROM.search(definition)
    if found is None or len(re.findall(r"\bFROM\b", definition)) > 1:
        return definition
    table, alias = found.groups()
    prefix = re.compile(rf"(?<![\w.]){alias or table}\.(?=[\w\"])")
    # Every other part is within quotation marks.
    parts = definition.split("'")
    parts[::2] = [prefix.sub("", part) for part in parts[::2]]
    return "'".join(parts)
