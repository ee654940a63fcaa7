"""The login of reads: the ledger's own, one of a setting, or that of the database's user."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ledger.app.composition.database import ConfigurationError, prepare_database, prepare_reading
from ledger.app.settings import Settings
from ledger.engine.postgres import locks
from ledger.engine.postgres.embedded import EmbeddedPostgres
from ledger.engine.postgres.schema.walls import POWERS
from ledger.engine.values.principal import Tenant
from ledger.engine.views.schema import HOLD
from tests.support.data_dirs import QUICK
from tests.support.databases import copied
from tests.support.edge import edge_of
from tests.support.embedded import served
from tests.support.facts import fact
from tests.support.reader import MASTER_KEY, set_tenant
from tests.support.views import query, until

PAGE = "docs/operating.md"

_names = itertools.count(1)

WHO = "SELECT session_user::text, current_user::text"


class Guest:
    """A login role without powers, with a database of its own."""

    def __init__(self, url: str) -> None:
        self.name, self._url = f"guest_{next(_names)}", url
        self.execute(f"CREATE ROLE {self.name} LOGIN")
        self.execute(f"CREATE DATABASE {self.name} OWNER {self.name}")
        self.url = make_conninfo(url, user=self.name, dbname=self.name)

    def execute(self, statement: str) -> None:
        query(self._url, statement)

    def remove(self) -> None:
        self.execute(f"DROP DATABASE {self.name} WITH (FORCE)")
        self.execute(f"DROP ROLE {self.name}")


@pytest.fixture
def guest(server: EmbeddedPostgres) -> Iterator[Guest]:
    guest = Guest(server.url)
    yield guest
    guest.remove()


@pytest.fixture
def login(server: EmbeddedPostgres) -> str:
    """The name of a role that an administrator made for reads."""
    name = f"reads_{next(_names)}"
    query(server.url, f"CREATE ROLE {name} LOGIN")
    return name


def own(settings: Settings, conninfo: str, login: str) -> Settings:
    """Settings by which reads log in as a role."""
    urls = {"database_url": conninfo, "api_database_url": make_conninfo(conninfo, user=login)}
    return settings.model_copy(update=urls)


def who_reads(reading: str) -> tuple[str, str]:
    """The session's role at login, and the role that it is now."""
    ((login, role),) = query(reading, WHO)
    return login, role


def test_a_user_that_may_create_roles_gets_a_login_for_reads(
    guest: Guest, settings: Settings
) -> None:
    guest.execute(f"ALTER ROLE {guest.name} CREATEROLE")
    messages: list[str] = []
    made = prepare_reading(settings, prepare_database(settings, guest.url), messages.append)
    ((oid,),) = query(guest.url, "SELECT oid FROM pg_database WHERE datname = current_database()")
    assert who_reads(made) == (f"ledger_api_{oid}",) * 2
    assert messages == []
    with edge_of(settings, guest.url) as edge:
        line = edge.fresh()
        assert edge.data(f"/v1/execution/{line}")["service_line_id"] == line


def test_a_user_that_may_create_no_role_shares_its_login_and_one_line_says_so(
    guest: Guest, settings: Settings
) -> None:
    guest.execute(f"GRANT ledger_api TO {guest.name}")
    messages: list[str] = []
    made = prepare_reading(settings, prepare_database(settings, guest.url), messages.append)
    assert who_reads(made) == (guest.name, "ledger_api")
    (line,) = messages
    assert PAGE in line
    assert "\n" not in line
    with edge_of(settings, guest.url) as edge:
        line = edge.fresh()
        stranger = edge.token("read", organization_id="ORG-26-000002")
        assert edge.data(f"/v1/execution/{line}")["service_line_id"] == line
        assert edge.get(f"/v1/execution/{line}", stranger).status_code == 404
    with psycopg.connect(made) as connection:
        assert connection.execute("SELECT line_id FROM ledger.execution").fetchall() == []


def test_a_user_that_may_neither_create_nor_become_a_role_learns_where_the_sql_is(
    guest: Guest, settings: Settings
) -> None:
    made = prepare_database(settings, guest.url)
    with pytest.raises(ConfigurationError, match=f'"{guest.name}" .*{PAGE}') as refused:
        prepare_reading(settings, made)
    assert "\n" not in str(refused.value)


def test_reads_log_in_as_the_role_of_the_setting(
    guest: Guest, settings: Settings, login: str
) -> None:
    chosen, messages = own(settings, guest.url, login), list[str]()
    made = prepare_reading(chosen, prepare_database(chosen, guest.url), messages.append)
    assert who_reads(made) == (login, login)
    assert messages == []
    with edge_of(chosen, guest.url) as edge:
        line = edge.fresh()
        edge.accept(fact("execution.checked_in", line, {"hours": 1}))
        assert edge.data(f"/v1/execution/{line}")["service_line_id"] == line
        assert edge.data("/v1/events")[0]["service_line_id"] == line


def test_a_role_that_reads_no_more_loses_its_rights(
    conninfo: str, settings: Settings, login: str
) -> None:
    before = prepare_reading(settings, conninfo)
    positions = "SELECT position FROM ledger.projection"
    assert query(before, positions)
    prepare_reading(own(settings, conninfo, login), conninfo)
    with psycopg.connect(before) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(positions.encode())


@pytest.mark.parametrize(
    ("powers", "fault"),
    [
        ("ALTER ROLE {login} SUPERUSER", "is no plain login"),
        ("ALTER ROLE {login} BYPASSRLS", "is no plain login"),
        ("GRANT ledger_api TO {login}", "is a member of another role"),
        ("CREATE SCHEMA theirs AUTHORIZATION {login}", "owns an object"),
    ],
)
def test_a_login_with_powers_is_refused_in_one_line(
    conninfo: str, settings: Settings, login: str, powers: str, fault: str
) -> None:
    query(conninfo, powers.format(login=login))
    with pytest.raises(ConfigurationError, match=f"{login}.*{fault}.*{PAGE}") as refused:
        prepare_reading(own(settings, conninfo, login), conninfo)
    assert "\n" not in str(refused.value)
    query(conninfo, f"DROP OWNED BY {login}")


def test_the_database_users_own_login_is_refused_for_reads(
    guest: Guest, settings: Settings
) -> None:
    chosen = own(settings, guest.url, guest.name)
    with pytest.raises(ConfigurationError, match="owns an object"):
        prepare_reading(chosen, prepare_database(chosen, guest.url))


def test_reads_of_another_database_are_refused(
    server: EmbeddedPostgres, conninfo: str, settings: Settings, login: str
) -> None:
    with copied(server.url, "beside") as beside:
        chosen = own(settings, conninfo, login).model_copy(
            update={"api_database_url": make_conninfo(beside, user=login)}
        )
        with pytest.raises(ConfigurationError, match="another one"):
            prepare_reading(chosen, conninfo)


def test_the_password_of_the_ledgers_login_follows_from_the_master_key(data_dir: Path) -> None:
    with served(data_dir, purpose="tests", settings=QUICK) as postgres:
        settings = Settings(master_key=MASTER_KEY)
        conninfo = prepare_database(settings, postgres.url)
        rules = Path(str(query(postgres.url, "SHOW hba_file")[0][0]))
        rules.write_text("local all postgres trust\nlocal all all scram-sha-256\n")
        query(postgres.url, "SELECT pg_reload_conf()")
        made = prepare_reading(settings, conninfo)
        login = conninfo_to_dict(made)
        assert who_reads(made) == (login["user"],) * 2
        assert prepare_reading(settings, conninfo) == made
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(make_conninfo(made, password="0" * 64))
        # A password that somebody has changed is set again.
        query(postgres.url, f"ALTER ROLE {login['user']} PASSWORD 'changed'")
        assert prepare_reading(settings, conninfo) == made
        rules.write_text("local all postgres trust\n")
        query(postgres.url, "SELECT pg_reload_conf()")
        messages: list[str] = []
        shared = prepare_reading(settings, conninfo, messages.append)
        assert who_reads(shared) == ("postgres", "ledger_api")
        assert len(messages) == 1


SETTINGS = (
    "SET row_security = off",
    "SET local_preload_libraries = 'no_such_library'",
    "IN DATABASE {database} SET local_preload_libraries = 'no_such_library'",
    "IN DATABASE {database} SET statement_timeout = '1ms'",
    "SET default_transaction_read_only = off",
)
"""Settings that a role may give itself; with a library that is missing it cannot log in."""

OWNED = """
SELECT (SELECT count(*) FROM pg_db_role_setting WHERE setrole = '{role}'::regrole),
    (SELECT count(*) FROM pg_largeobject_metadata WHERE lomowner = '{role}'::regrole)
"""


def test_settings_and_objects_of_the_role_of_reads_are_taken_back_at_the_start(
    conninfo: str, settings: Settings
) -> None:
    made = prepare_reading(settings, prepare_database(settings, conninfo))
    names = {
        "role": who_reads(made)[0],
        "database": query(conninfo, "SELECT current_database()")[0][0],
    }
    with psycopg.connect(made, autocommit=True) as reader:
        reader.execute("SELECT lo_create(0)")
        assert reader.execute(POWERS).fetchone() == (None,), "a worker that starts again may read"
        for setting in SETTINGS:
            reader.execute(f"ALTER ROLE {names['role']} {setting.format(**names)}".encode())
    assert query(conninfo, OWNED.format(**names)) == [(2, 1)]
    messages: list[str] = []
    assert prepare_reading(settings, prepare_database(settings, conninfo), messages.append) == made
    assert who_reads(made) == (names["role"],) * 2
    assert messages == []
    assert query(conninfo, OWNED.format(**names)) == [(0, 0)]


def test_a_setting_of_the_role_changes_no_read_meanwhile(conninfo: str, settings: Settings) -> None:
    made = prepare_reading(settings, prepare_database(settings, conninfo))
    role = who_reads(made)[0]
    query(made, f"ALTER ROLE {role} SET row_security = off")
    assert query(made, "SHOW row_security") == [("on",)]
    assert query(made, "SELECT line_id FROM ledger.execution") == []
    query(conninfo, f"ALTER ROLE {role} RESET ALL")


def test_the_role_of_reads_makes_nothing_temporary(conninfo: str, settings: Settings) -> None:
    made = prepare_reading(settings, prepare_database(settings, conninfo))
    with psycopg.connect(made, autocommit=True) as reader:
        for mine in ("TABLE", "VIEW"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(f"CREATE TEMPORARY {mine} mine AS SELECT 1 AS one".encode())


def test_temporary_objects_of_the_role_of_reads_keep_no_service_from_starting(
    guest: Guest, settings: Settings
) -> None:
    """A user that owns the tables, and not the database, cannot forbid them."""
    guest.execute(f"ALTER ROLE {guest.name} CREATEROLE")
    guest.execute(f"ALTER DATABASE {guest.name} OWNER TO CURRENT_USER")
    guest.execute(f"GRANT CREATE ON DATABASE {guest.name} TO {guest.name}")
    made = prepare_reading(settings, prepare_database(settings, guest.url))
    with psycopg.connect(made, autocommit=True) as reader:
        reader.execute("CREATE TEMPORARY TABLE mine (id text)")
        reader.execute("CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql RETURN 1")
        assert prepare_reading(settings, prepare_database(settings, guest.url)) == made
        assert reader.execute(POWERS).fetchone() == (None,)


def test_a_lock_of_the_service_that_the_role_of_reads_holds_keeps_no_service_from_starting(
    conninfo: str, settings: Settings
) -> None:
    made = prepare_reading(settings, prepare_database(settings, conninfo))
    with psycopg.connect(made, autocommit=True) as reader:
        for lock in (locks.MIGRATIONS, locks.VIEW_TABLES, locks.POLICIES):
            reader.execute("SELECT pg_advisory_lock(%s)", (lock,))
        with ThreadPoolExecutor(1) as pool:
            starting = pool.submit(prepare_database, settings, conninfo)
            try:
                starting.result(60)
            finally:
                reader.close()


@pytest.mark.parametrize("views", [("event", "run"), ("run", "event")])
def test_a_start_gives_rights_before_or_after_a_view_is_swapped(
    views: tuple[str, str], conninfo: str, settings: Settings
) -> None:
    made = prepare_reading(settings, conninfo)
    role = conninfo_to_dict(made)["user"]
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with ThreadPoolExecutor(1) as pool, psycopg.connect(conninfo) as swapping:
        swapping.execute(HOLD, ("run",))
        swapping.execute(f"GRANT SELECT ON ledger.{views[0]} TO {role}".encode())
        starting = pool.submit(prepare_reading, settings, conninfo)
        until(lambda: query(conninfo, waiting) == [(1,)], "the start waits for the swap")
        swapping.execute(f"GRANT SELECT ON ledger.{views[1]} TO {role}".encode())
        swapping.commit()
        assert starting.result(60) == made


def test_an_append_waits_for_no_transaction_that_has_awaited_one(
    conninfo: str, settings: Settings
) -> None:
    lock = "LOCK TABLE ledger.append_lock IN EXCLUSIVE MODE NOWAIT"
    with psycopg.connect(prepare_reading(settings, conninfo)) as reader:
        reader.execute("SELECT ledger.await_append()")
        with psycopg.connect(conninfo) as writer:
            writer.execute(lock)
            # The append in flight is nevertheless awaited.
            reader.execute("SET lock_timeout = '10ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                reader.execute("SELECT ledger.await_append()")


def test_a_function_in_a_query_gets_no_payload_of_another_tenant(
    conninfo: str, settings: Settings
) -> None:
    made = prepare_reading(settings, prepare_database(settings, conninfo))
    query(
        conninfo,
        "INSERT INTO ledger.run_key (run_id, organization_id, wrapped) VALUES"
        " ('RUN-26-000001', 'ORG-26-000001', ''), ('RUN-26-000002', 'ORG-26-000002', '')",
    )
    query(
        conninfo,
        "CREATE FUNCTION public.tell(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001"
        " AS 'BEGIN RAISE NOTICE ''%'', $1; RETURN true; END'",
    )
    received: list[str | None] = []
    with psycopg.connect(made, autocommit=True) as reader:
        reader.add_notice_handler(lambda notice: received.append(notice.message_primary))
        set_tenant(reader, Tenant("ORG-26-000001", "*"))
        found = reader.execute("SELECT run_id FROM ledger.run_content WHERE public.tell(run_id)")
        assert found.fetchall() == [("RUN-26-000001",)]
    assert received == ["RUN-26-000001"]
