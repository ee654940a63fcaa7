"""Restores code that differs from this version's, before a service starts.

Code is functions, triggers, rules, policies with row-level security, database views and rights.
Columns, constraints, indexes, owners and other objects are only reported: data may contradict them,
or they may be an operator's.
"""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import psycopg
from psycopg import Connection
from psycopg.sql import SQL, Composed, Identifier

from ledger.engine.postgres import locks
from ledger.engine.postgres.schema.catalog import Right
from ledger.engine.views.contract import Projection
from ledger.engine.views.definitions import MISSING, TRACKING, Differing, compare
from ledger.engine.views.schema import HOLD, expose

MENDED = ("function", "trigger", "rule", "table", "policy", "view", "grant")
"""The kinds that are restored, in this order; ``table`` is its row-level security."""

_logger = logging.getLogger(__name__)


class Mended(NamedTuple):
    """The differences before a start."""

    objects: int
    """The objects and rights that were compared."""
    made: Sequence[Differing]
    left: Sequence[Differing]


def mend(connection: Connection[Any], projections: Sequence[Projection]) -> Mended:
    """Restore what differs, each in its own transaction. The connection is autocommit.

    The rights that the role of reads lacks are left to the start itself, which gives them.
    """
    objects, found = _differing(connection, projections)
    if not found:
        return Mended(objects, (), ())
    # Of two nodes that start at once, the second waits, and then finds what is left.
    connection.execute("SELECT pg_advisory_lock(%s)", (locks.POLICIES,))
    try:
        for each in sorted(filter(lambda each: each.kind in MENDED, found), key=_order):
            _mend(connection, projections, each)
    finally:
        connection.execute("SELECT pg_advisory_unlock(%s)", (locks.POLICIES,))
    objects, left = _differing(connection, projections)
    remaining = {each.printable for each in left}
    return Mended(objects, [each for each in found if each.printable not in remaining], left)


def _order(each: Differing) -> tuple[bool, int]:
    """Triggers and policies call functions: so functions come first, and superfluous ones last."""
    return each.kind == "function" and each.made is None, MENDED.index(each.kind)


def _differing(
    connection: Connection[Any], projections: Sequence[Projection]
) -> tuple[int, Sequence[Differing]]:
    objects, differing, *_ = compare(connection, projections)
    # An older version that starts again rebuilds the views of a newer one.
    there = [each for each in differing if each.kind != TRACKING]
    return objects, [each for each in there if each.right is None or each.says != MISSING]


def _mend(connection: Connection[Any], projections: Sequence[Projection], each: Differing) -> None:
    for statements in _ways(each):
        try:
            with connection.transaction():
                # Running nodes use the object all the time.
                connection.execute("SET LOCAL lock_timeout = '5s'")
                for statement in statements:
                    connection.execute(statement)
                if each.kind == "view":
                    _expose(connection, projections, each.name)
        except psycopg.Error as error:
            _logger.warning("%s: not mended: %s", each, str(error).splitlines()[0])
        else:
            return


def _expose(connection: Connection[Any], projections: Sequence[Projection], name: str) -> None:
    for view in projections:
        for table in view.tables:
            if name in (table.name, table.reading and table.reading.name):
                ((live,),) = connection.execute(HOLD, (view.name,)).fetchall()
                connection.execute(f"DROP VIEW IF EXISTS ledger.{name}".encode())
                expose(connection, [table], live)


def _ways(each: Differing) -> Iterator[Sequence[Composed]]:
    """Lists of statements that restore an object: if one list fails, the next may succeed."""
    relation, _, part = each.name.partition(".")
    table, name = Identifier("ledger", relation), Identifier(part)
    made = [] if each.made is None else [_sql(each.made)]
    match each.kind, each.made, each.found:
        case "grant", _, _:
            assert each.right is not None
            yield [_revoked(each.right)]
        case _, None, None:
            return  # the owner differs
        case "function", None, _:
            yield [_sql(f"DROP ROUTINE ledger.{each.name}")]
        case "function", _, _:
            closed = _sql(f"REVOKE ALL ON ROUTINE ledger.{each.name} FROM PUBLIC")
            yield [*made, closed]
            # The return type cannot be replaced.
            yield [_sql(f"DROP ROUTINE ledger.{each.name}"), *made, closed]
        case "trigger", "", _:
            yield [SQL("ALTER TABLE {} ENABLE TRIGGER ALL").format(table)]
        case ("trigger" | "rule" | "policy") as kind, _, _:
            gone = SQL(f"DROP {kind.upper()} IF EXISTS {{}} ON {{}}").format(name, table)
            yield [gone, *made]
        case "table", str(), str():
            on = "ENABLE" if "row security" in str(each.made) else "DISABLE"
            row = f"ALTER TABLE {{}} {on} ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY"
            yield [SQL(row).format(table)]
        case "view", str(), _:
            yield []


def _revoked(right: Right) -> Composed:
    role = SQL("PUBLIC") if right.role == "PUBLIC" else Identifier(right.role)
    privilege = SQL(right.privilege.removesuffix(" WITH GRANT OPTION"))
    if right.kind == "new":
        new = "ALTER DEFAULT PRIVILEGES IN SCHEMA ledger REVOKE {} ON {} FROM {} CASCADE"
        return SQL(new).format(privilege, SQL(right.name), role)
    if right.kind == "schema":
        return SQL("REVOKE {} ON SCHEMA ledger FROM {} CASCADE").format(privilege, role)
    if right.kind == "function":
        return SQL("REVOKE {} ON ROUTINE {} FROM {} CASCADE").format(
            privilege, SQL(right.name), role
        )
    part = SQL("({})").format(Identifier(right.part)) if right.part else SQL("")
    kind = SQL("SEQUENCE" if right.kind == "sequence" else "TABLE")
    table = Identifier("ledger", right.name)
    return SQL("REVOKE {} {} ON {} {} FROM {} CASCADE").format(privilege, part, kind, table, role)


def _sql(text: str) -> Composed:
    """A statement in PostgreSQL's own words, or with names as PostgreSQL writes them."""
    return Composed([SQL(text)])
