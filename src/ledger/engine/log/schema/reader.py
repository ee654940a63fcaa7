"""The role of the API's reads: a login of its own, which owns nothing and can become no other role.

The role is a setting (``LEDGER_API_DATABASE_URL``), or the ledger's own: one for each database,
with a password derived from the master key. So two ledgers of a cluster share no role. If the
database's user may not create roles, or the role may not log in, reads use the user's own login and
become ``ledger_api``. The policies hold too, but a statement could end them with ``RESET ROLE``.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow, tuple_row
from psycopg.sql import SQL, Identifier, Literal

from ledger.engine.log.schema import walls
from ledger.engine.postgres.schema.walls import POWERS, reader_of, remember_reader
from ledger.engine.postgres.session import is_pinned, options_of

GROUP = "ledger_api"
"""The role that reads become without their own login. The migrations create it."""

_OWN = "SELECT 'ledger_api_' || oid FROM pg_database WHERE datname = current_database()"

_MAKE = """
CREATE ROLE {} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION NOINHERIT
PASSWORD {}
"""

# The settings that the role of reads has set on itself: for all databases, or for this one.
_SETTINGS = """
SELECT DISTINCT s.setdatabase <> 0 FROM pg_db_role_setting AS s
JOIN pg_database AS d ON s.setdatabase IN (0, d.oid)
WHERE d.datname = current_database() AND s.setrole = to_regrole(quote_ident(%s))
"""
_RESET = "ALTER ROLE {role} RESET ALL"
_RESET_HERE = "ALTER ROLE {role} IN DATABASE {database} RESET ALL"

# A role may make large objects; nobody can forbid that.
_UNLINK = """
SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE lomowner = to_regrole(quote_ident(%s))
"""

# The service's sessions of the role of reads hold no advisory lock. A foreign one could delay the
# start with a lock.
_END_HOLDERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity AS a
WHERE a.usename = %s AND a.datname = current_database()
  AND EXISTS (SELECT FROM pg_locks AS l WHERE l.pid = a.pid AND l.locktype = 'advisory')
"""

# True if a role may make temporary tables and functions, and the database's user may forbid it.
_MAKES_TEMPORARY = """
SELECT has_database_privilege(%s, oid, 'TEMPORARY') AND pg_has_role(datdba, 'USAGE')
FROM pg_database WHERE datname = current_database()
"""
_NO_TEMPORARY = "REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC, {role}"

# Two sessions compare this to find out if they see one ledger: the same database and server.
_LEDGER = """
SELECT oid, pg_postmaster_start_time() FROM pg_database WHERE datname = current_database()
"""


class Reader(NamedTuple):
    """The login of reads."""

    conninfo: str
    role: str
    weakness: str | None = None
    """Why reads share the login of the database's user; None if they have their own."""


class BadReader(Exception):
    """Reads may not log in like this; the message is a reason of one line."""


def find_reader(
    connection: psycopg.Connection[TupleRow],
    conninfo: str,
    password_of: Callable[[str], str],
    *,
    makes: bool = True,
) -> Reader:
    """The ledger's own reader; ``password_of`` gives a role's password.

    With ``makes`` a missing role is created; otherwise nothing is written. Raises BadReader if its
    role has powers, or if nothing can keep reads apart from the database's user.
    """
    ((name,),) = connection.execute(_OWN).fetchall()
    password = password_of(name)
    own = Reader(make_conninfo(conninfo, user=name, password=password), name)
    try:
        if makes:
            _log_in(connection, own, password)
        else:
            check(own)
    except (psycopg.errors.InsufficientPrivilege, psycopg.OperationalError) as error:
        weakness = str(error).strip().splitlines()[-1]
    else:
        return own
    options = options_of(conninfo, f"-c role={GROUP}")
    shared = Reader(make_conninfo(conninfo, options=options), GROUP, weakness)
    try:
        check(shared)
    except psycopg.OperationalError as error:
        user = connection.info.user
        raise BadReader(
            f'"{user}" may neither create the role of reads nor become {GROUP}'
        ) from error
    return shared


def tidy(connection: psycopg.Connection[TupleRow], url: str | None) -> None:
    """Undo what the role of reads has set on itself, made, or locked; before anything else.

    ``url`` is the setting's. What the database's user may not undo stays: pinned settings win over
    the role's, and policies guard against all that the role makes.
    """
    ((own,),) = connection.execute(_OWN).fetchall()
    role = own if url is None else conninfo_to_dict(url).get("user")
    found = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
    if found is None or role == connection.info.user:
        return
    names = {"role": Identifier(str(role)), "database": Identifier(connection.info.dbname)}
    here = [is_here for (is_here,) in connection.execute(_SETTINGS, (role,))]
    due = [SQL(_RESET_HERE if is_here else _RESET).format(**names) for is_here in here]
    for statement in due:
        with suppress(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement)
    for query in (_UNLINK, _END_HOLDERS):
        with suppress(psycopg.errors.InsufficientPrivilege):
            connection.execute(query, (role,))


def check(reader: Reader) -> None:
    """Log in as the reader. Raises BadReader if its role has powers, else psycopg's errors."""
    with _connect(reader.conninfo) as connection:
        ((fault,),) = connection.execute(POWERS).fetchall()
        if fault is not None:
            raise BadReader(f'The role "{_role_of(connection)}" {fault}')


def reader_at(conninfo: str) -> Reader:
    """The reader of a pinned connection string. Raises BadReader if its role has powers."""
    with _connect(conninfo) as connection:
        if not is_pinned(connection):
            raise BadReader("A connection pooler drops the session settings")
        reader = Reader(conninfo, _role_of(connection))
    check(reader)
    return reader


def admit(connection: psycopg.Connection[TupleRow], reader: Reader) -> None:
    """Give the reader its rights on the tables of migrations, and revoke an earlier one's.

    PostgreSQL lets each role make temporary tables and functions, unless PUBLIC has lost the right.
    """
    for role in {reader_of(connection), GROUP, reader.role} - {None}:
        walls.withdraw(connection, str(role))
    walls.grant(connection, reader.role)
    if connection.execute(_MAKES_TEMPORARY, (reader.role,)).fetchone() == (True,):
        names = {"role": Identifier(reader.role), "database": Identifier(connection.info.dbname)}
        connection.execute(SQL(_NO_TEMPORARY).format(**names))
    remember_reader(connection, reader.role)


def refuse_unadmitted(connection: psycopg.Connection[TupleRow], reader: Reader) -> None:
    """Raise BadReader unless the reader has its rights on the tables of migrations already."""
    if reader_of(connection) != reader.role or not walls.has_rights(connection, reader.role):
        raise BadReader(f'The role "{reader.role}" lacks rights: run `ledger migrate`')


def compare(connection: psycopg.Connection[TupleRow], reader: Reader) -> None:
    """Raise BadReader unless the reader sees the ledger of this connection."""
    with _connect(reader.conninfo) as theirs:
        found = theirs.execute(_LEDGER).fetchone()
    if found != connection.execute(_LEDGER).fetchone():
        raise BadReader("The database of reads is another one")


def _log_in(connection: psycopg.Connection[TupleRow], own: Reader, password: str) -> None:
    """Log in as the ledger's own reader; create the role or set its password if needed."""
    try:
        check(own)
    except psycopg.OperationalError:
        found = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (own.role,))
        make = SQL("ALTER ROLE {} PASSWORD {}") if found.fetchone() else SQL(_MAKE)
        # As PostgreSQL stores it, so that no log of statements shows the password.
        hidden = connection.pgconn.encrypt_password(
            password.encode(), own.role.encode(), b"scram-sha-256"
        )
        connection.execute(make.format(Identifier(own.role), Literal(hidden.decode())))
        check(own)


def _connect(conninfo: str) -> psycopg.Connection[TupleRow]:
    return psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row)


def _role_of(connection: psycopg.Connection[TupleRow]) -> str:
    ((role,),) = connection.execute("SELECT current_user")
    return str(role)
