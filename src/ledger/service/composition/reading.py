"""The login of the API's reads, which is prepared before any worker starts."""

from collections.abc import Callable

import psycopg
from psycopg.rows import tuple_row

from ledger.log.reader import (
    BadReader,
    Reader,
    admit,
    compare,
    find_reader,
    reader_at,
    refuse_unadmitted,
)
from ledger.postgres import locks
from ledger.postgres.session import pin
from ledger.service.composition.database import (
    ConfigurationError,
    inspect_database,
    open_vault,
    prepare_database,
)
from ledger.settings import Settings
from ledger.views.schema import grant
from ledger.views.shadow import live_generations
from projections import projections

# A rebuild holds its view's row while it grants rights on the new generation: it would otherwise
# meet the rights that a start gives and takes, in another order.
_KEEP_GENERATIONS = b"LOCK TABLE ledger.projection IN EXCLUSIVE MODE"


def prepare_all(
    settings: Settings, conninfo: str, announce: Callable[[str], None]
) -> tuple[str, str]:
    """Prepare the database; return the connection strings of the node and of its reads."""
    conninfo = prepare_database(settings, conninfo)
    return conninfo, prepare_reading(settings, conninfo, announce)


def find_all(settings: Settings, conninfo: str, announce: Callable[[str], None]) -> tuple[str, str]:
    """As ``prepare_all``, for a read node: compare what another node has prepared."""
    conninfo = inspect_database(settings, conninfo, serves=True)
    return conninfo, find_reading(settings, conninfo, announce)


def prepare_reading(
    settings: Settings, conninfo: str, announce: Callable[[str], None] | None = None
) -> str:
    """Prepare the role by which the API reads; return the connection string of reads.

    ``conninfo`` is that of ``prepare_database``. ``announce`` gets one line if reads have no login
    of their own. With ``LEDGER_MIGRATE=never`` the role is only looked for. Raises
    ConfigurationError, or psycopg.OperationalError if the database is away.
    """
    if settings.migrate == "never":
        return find_reading(settings, conninfo, announce)
    return admit_reads(settings, conninfo, announce)


def admit_reads(
    settings: Settings, conninfo: str, announce: Callable[[str], None] | None = None
) -> str:
    """As ``prepare_reading``, whatever ``LEDGER_MIGRATE`` says: give the role its rights."""
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (locks.WALLS,))
        try:
            reader = _reader(connection, settings, conninfo)
            with connection.transaction():
                connection.execute(_KEEP_GENERATIONS)
                live = [*live_generations(connection, projections())]
                with connection.pipeline():
                    admit(connection, reader)
                    for view, generation in live:
                        grant(connection, view.tables, generation, reader.role)
            if settings.api_database_url is not None:
                compare(connection, reader)
        except BadReader as error:
            raise ConfigurationError(_refusal(settings, str(error))) from error
        except psycopg.errors.UndefinedObject as error:
            reason = "The role of reads is not known to the database"
            raise ConfigurationError(_refusal(settings, reason)) from error
    _tell_of_weakness(reader, announce)
    return reader.conninfo


def find_reading(
    settings: Settings, conninfo: str, announce: Callable[[str], None] | None = None
) -> str:
    """Find the role by which the API reads, as ``prepare_reading`` left it; write nothing.

    Works on a standby. Raises as ``prepare_reading`` does.
    """
    with psycopg.connect(conninfo, autocommit=True, row_factory=tuple_row) as connection:
        try:
            reader = _reader(connection, settings, conninfo, makes=False)
            refuse_unadmitted(connection, reader)
            compare(connection, reader)
        except BadReader as error:
            raise ConfigurationError(_refusal(settings, str(error))) from error
    _tell_of_weakness(reader, announce)
    return reader.conninfo


def _tell_of_weakness(reader: Reader, announce: Callable[[str], None] | None) -> None:
    if reader.weakness is not None and announce is not None:
        announce(
            f"Reads use the login of the database's user ({reader.weakness}): docs/operating.md,"
            " The login of reads, has the SQL of a role of their own."
        )


def _reader(
    connection: psycopg.Connection[tuple[object, ...]],
    settings: Settings,
    conninfo: str,
    *,
    makes: bool = True,
) -> Reader:
    if settings.api_database_url is None:
        password_of = open_vault(settings).password_of
        return find_reader(connection, conninfo, password_of, makes=makes)
    try:
        return reader_at(pin(settings.api_database_url))
    except psycopg.OperationalError as error:
        raise BadReader(f"Reads cannot log in: {str(error).strip().splitlines()[-1]}") from error


def _refusal(settings: Settings, reason: str) -> str:
    name = "LEDGER_DATABASE_URL" if settings.api_database_url is None else "LEDGER_API_DATABASE_URL"
    return f"{name}: {reason}. See docs/operating.md, The login of reads."
