"""``ledger migrate``, and a service that may not change the schema (``LEDGER_MIGRATE=never``)."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from ledger.app.composition.database import ConfigurationError, prepare_database, prepare_reading
from ledger.app.settings import Settings
from ledger.engine.log.schema.migrate import SchemaError
from ledger.engine.postgres.embedded import EmbeddedPostgres
from tests.engine.log.test_migrate import NAMES
from tests.support.data_dirs import MASTER_KEY
from tests.support.databases import empty
from tests.support.documents import ROOT
from tests.support.edge import edge_of
from tests.support.embedded import query
from tests.support.served import run_ledger

_numbers = itertools.count(1)


@pytest.fixture
def never(settings: Settings) -> Settings:
    return settings.model_copy(update={"migrate": "never"})


@pytest.fixture
def bare(server: EmbeddedPostgres) -> Iterator[str]:
    with empty(server.url, f"bare_{next(_numbers)}") as conninfo:
        yield conninfo


def migrate(conninfo: str, folder: Path, **more: str) -> tuple[int, str, str]:
    settings = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    env = {**os.environ, **settings, "LEDGER_DATA_DIR": str(folder), **more}
    ended = run_ledger(env, "migrate")
    return ended.returncode, ended.stdout, ended.stderr


def rights_of_the_page(user: str) -> str:
    """The SQL of the page on operating for a user without the right to change the schema."""
    page = (ROOT / "docs/operating.md").read_text()
    section = page.split("## A user that may not change the schema")[1]
    return section.split("```sql\n")[1].split("```")[0].replace("ledger_service", user)


@pytest.fixture
def limited(server: EmbeddedPostgres, bare: str, tmp_path: Path) -> Iterator[str]:
    """An address of a migrated database, for a user without the right to change the schema."""
    code, _, output = migrate(bare, tmp_path / "data")
    assert code == 0, output
    user = f"limited_{next(_numbers)}"
    query(bare, rights_of_the_page(user))
    yield make_conninfo(bare, user=user)
    query(bare, f"DROP OWNED BY {user}")
    query(bare, f"DROP ROLE {user}")


def test_migrate_prints_what_it_applied_and_then_has_nothing_to_do(
    bare: str, tmp_path: Path
) -> None:
    code, output, error = migrate(bare, tmp_path / "data")
    assert (code, error) == (0, "")
    assert output.splitlines() == NAMES
    assert query(bare, "SELECT count(*) FROM ledger.ledger_events") == [(0,)]
    assert query(bare, "SELECT FROM ledger.setting WHERE name = 'master_key'") == []
    assert migrate(bare, tmp_path / "data")[:2] == (0, "No migration was due.\n")


def test_migrate_refuses_another_master_key_before_any_change(
    conninfo: str, tmp_path: Path
) -> None:
    query(conninfo, "DELETE FROM ledger.migration")
    for key in ({"LEDGER_MASTER_KEY": "ab" * 32}, {}):
        env = {**os.environ, "LEDGER_DATABASE_URL": conninfo, **key}
        ended = run_ledger({**env, "LEDGER_DATA_DIR": str(tmp_path / "data")}, "migrate")
        assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
        assert "master key" in ended.stderr
    assert query(conninfo, "SELECT FROM ledger.migration") == []
    assert not (tmp_path / "data").exists()


def test_a_service_that_must_not_migrate_works_for_a_user_who_may_not(
    limited: str, never: Settings
) -> None:
    with edge_of(never, prepare_database(never, limited)) as edge:
        line = edge.fresh()
        assert edge.data(f"/v1/execution/{line}")["service_line_id"] == line
        recorded_at = edge.get("/v1/events").json()["data"][0]["recorded_at"]
        past = edge.get(f"/v1/execution/{line}?as_of={recorded_at}")
        assert past.status_code == 200
    user = query(limited, "SELECT current_user")[0][0]
    creates = "SELECT has_schema_privilege(%s, 'ledger', 'CREATE')".replace("%s", f"'{user}'")
    assert query(limited, creates) == [(False,)]


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM ledger.migration",
        "DELETE FROM ledger.projection WHERE name = 'run'",
        "COMMENT ON VIEW ledger.run IS 'of an earlier version'",
        "DROP POLICY {policy} ON ledger.run_g1",
        "ALTER TABLE ledger.lease DISABLE ROW LEVEL SECURITY",
        "ALTER FUNCTION ledger.log_end() RESET ALL",
    ],
)
def test_a_schema_that_is_not_up_to_date_is_refused_in_one_line(
    conninfo: str, never: Settings, damage: str
) -> None:
    assert prepare_database(never, conninfo)
    ((policy,),) = query(
        conninfo, "SELECT polname FROM pg_policy WHERE polrelid = 'ledger.run_g1'::regclass"
    )
    query(conninfo, damage.format(policy=policy))
    with pytest.raises(SchemaError, match="run `ledger migrate`") as refused:
        prepare_database(never, conninfo)
    assert "\n" not in str(refused.value)
    # A start that may migrate mends what is of the schema.
    if "DELETE" not in damage:
        prepare_database(never.model_copy(update={"migrate": "auto"}), conninfo)
        assert prepare_database(never, conninfo)


def test_an_empty_database_is_refused_in_one_line(bare: str, never: Settings) -> None:
    with pytest.raises(SchemaError, match="no ledger yet: run `ledger migrate`"):
        prepare_database(never, bare)
    assert query(bare, "SELECT FROM pg_namespace WHERE nspname = 'ledger'") == []


def test_a_role_of_reads_that_lacks_a_right_is_refused_in_one_line(
    conninfo: str, never: Settings, settings: Settings
) -> None:
    prepare_reading(settings, prepare_database(settings, conninfo))
    made = prepare_database(never, conninfo)
    assert prepare_reading(never, made)
    ((role,),) = query(conninfo, "SELECT value FROM ledger.setting WHERE name = 'reader'")
    query(conninfo, f"REVOKE EXECUTE ON FUNCTION ledger.beaten_at() FROM {role}")
    with pytest.raises(ConfigurationError, match="lacks rights: run `ledger migrate`"):
        prepare_reading(never, made)


def test_a_command_that_must_not_migrate_works_where_the_schema_is_up_to_date(
    conninfo: str, tmp_path: Path
) -> None:
    settings = {"LEDGER_DATABASE_URL": conninfo, "LEDGER_MASTER_KEY": MASTER_KEY}
    env = {**os.environ, **settings, "LEDGER_DATA_DIR": str(tmp_path), "LEDGER_MIGRATE": "never"}
    made = run_ledger(env, "keys", "create", "--admin")
    assert (made.returncode, made.stdout[:4]) == (0, "elk_"), made.stderr
    query(conninfo, "DELETE FROM ledger.migration")
    for command in (("keys", "create", "--admin"), ("serve", "--port", "0")):
        refused = run_ledger(env, *command)
        assert (refused.returncode, refused.stderr.count("\n")) == (1, 1), refused.stderr
        assert "0001_ledger.sql" in refused.stderr
