"""The role by which the API reads, for tests that read without a service."""

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier

from ledger.app.composition.database import prepare_reading
from ledger.app.settings import Settings
from ledger.engine.postgres.schema.walls import reader_of
from ledger.engine.values.principal import Tenant

MASTER_KEY = "0f" * 32


def reading(conninfo: str, through: str | None = None) -> str:
    """The connection string of reads; ``through`` is the address of a relay, if any."""
    made = prepare_reading(Settings(master_key=MASTER_KEY), conninfo)
    login = {name: conninfo_to_dict(made)[name] for name in ("user", "password")}
    return make_conninfo(through or made, **login)


def become_reader(
    connection: psycopg.Connection[Any], conninfo: str, tenant: Tenant | None = None
) -> None:
    """Let a superuser's connection go on as the role of reads, for a tenant or for none."""
    role = reader_of(connection) or str(conninfo_to_dict(reading(conninfo))["user"])
    connection.execute(SQL("SET ROLE {}").format(Identifier(role)))
    if tenant is not None:
        set_tenant(connection, tenant)


def set_tenant(connection: psycopg.Connection[Any], tenant: Tenant) -> None:
    """Set the session's tenant."""
    for name, value in zip(Tenant._fields, tenant, strict=True):
        connection.execute("SELECT set_config(%s, %s, false)", (f"ledger.{name}_id", value))
