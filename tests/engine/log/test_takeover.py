"""A ledger of a version before 0.1.0 is taken over, if it is up to date, or refused untouched."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from ledger.app.composition.database import inspect_database, migrate_database, prepare_database
from ledger.app.features import projections
from ledger.app.settings import Settings
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.schema.migrate import SchemaError, migrate
from ledger.engine.log.schema.walls import protect
from ledger.engine.postgres.schema.catalog import items, rights
from ledger.engine.views.definitions import compare
from ledger.features.lines.model.execution_events import Woken
from tests.engine.log.test_migrate import NAMES
from tests.support.data_dirs import MASTER_KEY, QUICK
from tests.support.embedded import served
from tests.support.served import run_ledger
from tests.support.views import query, until
from tests.whole.golden.samples import envelope

BEFORE = """
0001_log.sql 27415e235b1dfe589474f5d5146ea76d53825a771224c0b028b05ec7b7ab8e25
0002_decision_tables.sql c48cc3ecffb2b6cda3b3ffb54b49f0342c7a2948cebd8ded746bc41d91d3120b
0003_projections.sql 021336556aedcd4a8a75ad9c76334eea6606e09eed583f3f19915ad9e975bc3c
0004_stream_snapshots.sql 0060cad4b6689ce94d7a7555d9a6b000b9eefd94299db44a42067392188186d2
0005_instants.sql ef24bfe92a96098fc8bfaa879f539278fd484ab3b75ab2d532beb568e16fd0be
0006_idempotency_and_refusals.sql 8c9d1952cbd2b5876d7225ec35fbc24df3593d95498dcaf560c31c70c26e7c8a
0007_webhook_deliveries.sql f454a9db173473eaea9099210afc813b037e82a1cd8c4b3eb3fecd1604ae1dfa
0008_endpoints.sql 1137035c0a18a889733cdc7a4341e498eb6fa4359c37611ca195cf8edc7a165d
0009_sealing.sql 830c777193a11ad7fb42af6ef03a4b1966c5c68c46164f6f9e6195ef57b05da6
0010_append_lock.sql 3f1474c03e1a007e532399f555d0ab1391f8e51fc35c41c3c893e95b06d51e3b
0011_append_probe.sql afdf795f597e8150fe41fc87904da050f000da8139d15f880801d302bd2c008f
0012_stored_events.sql 1ae68790e950b4b441d3606a656f209f57d7cb0d5c6c5d12ef7ad2a42e9a8bd8
0013_fact_identities.sql 3bd48734173458f097a1da5c63d9b990f69d8adfda5ac6fe891f0d39b32913ba
0014_run_version.sql f06e4215645f0a901051d90da85735a72abb9003b864428ad3596d16798844a3
0015_external_ids.sql 35655bd1d4c1c090daae7ffa3d1b5f99be54dbc1486bfa5e47a3de9b7d1fba98
0016_leases.sql 2e58c9408d975e363a8a0a3ddb392e92fbec4e3d63ff91279b7a2cec78de32dc
0017_recorded_at.sql a636bc0d48067b91562487977a38b35eb5ee91a0dcb2e5723de5f7ede56a808a
0018_webhook_requests.sql 1adbb2b83c4e1b251573f2a07f95df956010718e10ad24e959a8ef05763a7830
0019_api_keys.sql ce54593a6ff3dda930b1ac2dd6bab1667f9dac4332f2d8bcb900b1958714485b
0020_verification.sql fb8320e42b4897ee4535c3415d96f02964290e6d984e8c95635e84d3d4e993eb
0021_walls.sql e3c379fc80b565e1dd243cf1ab072ddbf6cb59ed261ed9e14c372cd9edf3cf2f
0022_nodes.sql 5e778065d45ea840bcf3f745e46b85ad787445b3705ad410a0fbdadd6c5fc5a1
0023_origins.sql abcaba789bd7a8637f223db23032abcd0342a0100cc16de99bccc045c6007dad
0024_beat.sql a5021e86863e12d4e6f8b16accfcdec3db62d7d905ae2603b761eaa9f1db484f
"""
"""The migrations of commit e6d622b, with their checksums."""

# The names and checksums as the last commit before 0.1.0 kept them: four files followed the 24.
AGED = f"""
DROP TABLE ledger.statement_document, ledger.organization_watch, ledger.watch_due,
    ledger.watch_look, ledger.watch_overflow, ledger.span, ledger.session, ledger.person;
DROP FUNCTION ledger.sessions_of;
ALTER TABLE ledger.open_run DROP COLUMN attempt, DROP COLUMN retry_of;
DELETE FROM ledger.migration WHERE name = '0001_ledger.sql' OR name >= '0006';
UPDATE ledger.migration SET name = to_char(left(name, 4)::int + 23, 'FM0000') || substr(name, 5);
INSERT INTO ledger.migration (name, checksum, applied_at)
SELECT split_part(line, ' ', 1), split_part(line, ' ', 2), date '2026-11-01' + day::int
FROM regexp_split_to_table('{BEFORE.strip()}', '\\n') WITH ORDINALITY AS told(line, day)
"""

# The four files, undone, but for the texts of a function and of a constraint.
UNDONE = """
DELETE FROM ledger.migration WHERE name >= '0025';
ALTER TABLE ledger.lease DROP COLUMN organization_id;
ALTER TABLE ledger.node DROP COLUMN opens_marks;
DROP FUNCTION ledger.check_signer CASCADE
"""

RECORD = """
INSERT INTO ledger.ledger_events (originator_id, originator_version, topic, state, recorded_at)
VALUES ('LIN-26-000001', %s, 'execution.woken/1', %s, %s)
"""

APPLIED = "SELECT name, applied_at FROM ledger.migration ORDER BY name"

TABLES = """
SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'ledger'::regnamespace
"""
READERS = "SELECT r::text FROM pg_roles AS r WHERE rolname LIKE 'ledger_api%' ORDER BY 1"

WAITS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database()
    AND query LIKE '%UPDATE ledger.migration%' AND wait_event_type = 'Lock'
"""


@pytest.fixture
def up_to_date(conninfo: str) -> str:
    """A ledger as the last commit before 0.1.0 kept it, with an event."""
    age(conninfo)
    return conninfo


@pytest.fixture
def of_e6d622b(up_to_date: str) -> str:
    """A ledger as commit e6d622b kept it."""
    query(up_to_date, UNDONE)
    return up_to_date


def age(conninfo: str) -> None:
    state = EnvelopeMapper().encode(envelope(Woken()))
    query(conninfo, RECORD, 1, state, "2026-04-15T08:30:00.123456Z")
    query(conninfo, AGED)


LATER = (
    "statement_document",
    "organization_watch",
    "watch_due",
    "watch_look",
    "watch_overflow",
    "span",
    "session",
    "person",
    "open_run.attempt",
    "open_run.retry_of",
)
"""The tables and columns that are new since."""


def everything(conninfo: str) -> dict[str, Any]:
    """All rows of the tables, all objects and rights, and the roles of reads."""
    with psycopg.connect(conninfo) as connection:
        found: dict[str, Any] = {
            table: connection.execute(
                f"SELECT t::text FROM ledger.{table} AS t ORDER BY 1".encode()
            ).fetchall()
            for (table,) in connection.execute(TABLES).fetchall()
            if table not in LATER
        }
        for name, all_ in (("objects", items), ("rights", rights)):
            found[name] = sorted(
                (i for i in all_(connection) if not any(t in str(i) for t in LATER)), key=str
            )
    found["roles"] = query(conninfo, READERS)
    return found


def names(conninfo: str) -> list[str]:
    return [name for name, _ in query(conninfo, APPLIED)]


def test_one_of_the_nodes_that_start_together_takes_over_a_ledger_of_e6d622b(
    of_e6d622b: str,
) -> None:
    with ThreadPoolExecutor(6) as pool:
        applied = list(pool.map(migrate, [of_e6d622b] * 6))
    assert sorted(applied) == [[]] * 5 + [NAMES]
    assert names(of_e6d622b) == NAMES
    ((_, applied_at), *_) = query(of_e6d622b, APPLIED)
    assert f"{applied_at:%Y-%m-%d}" == "2026-11-25", "when the last of the 24 was applied"
    with psycopg.connect(of_e6d622b) as connection:
        protect(connection)  # as each start does
        assert compare(connection, projections()).differing == []


def test_of_a_ledger_that_is_up_to_date_the_names_alone_are_replaced(up_to_date: str) -> None:
    before = everything(up_to_date)
    assert migrate(up_to_date) == [NAMES[0], *NAMES[5:]]
    after = everything(up_to_date)
    assert len(before.pop("migration")) == 28
    assert len(after.pop("migration")) == len(NAMES)
    assert after == before
    assert names(up_to_date) == NAMES
    assert migrate(up_to_date) == []


def test_the_finding_about_the_oldest_rows_which_no_night_replaces_is_dropped(
    up_to_date: str,
) -> None:
    found = "SELECT part FROM ledger.verification ORDER BY part"
    query(
        up_to_date,
        "INSERT INTO ledger.verification SELECT part, now(), now(), 1, 1, 0, 1, '[]'"
        " FROM unnest(ARRAY['recorded_at', 'tables']) AS part",
    )
    migrate(up_to_date)
    assert query(up_to_date, found) == [("tables",)]


def test_a_function_that_knows_the_format_before_is_mended_as_in_an_upgrade(
    up_to_date: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    knows = "replace(pg_get_functiondef('ledger.stored_events'::regproc), ' END;', ' /* [ */ END;')"
    query(up_to_date, f"DO $$ BEGIN EXECUTE {knows}; END $$")
    with caplog.at_level("INFO"):
        prepare_database(settings, up_to_date)
    (told,) = caplog.records
    assert (told.levelname, "mended: function stored_events" in told.message) == ("INFO", True)


def test_a_process_that_is_killed_in_the_midst_has_taken_over_nothing(up_to_date: str) -> None:
    command = (
        "import sys; from ledger.engine.log.schema.migrate import migrate; migrate(sys.argv[1])"
    )
    with psycopg.connect(up_to_date) as connection:
        connection.execute("SELECT FROM ledger.migration WHERE name > '0025' FOR UPDATE")
        process = subprocess.Popen([sys.executable, "-c", command, up_to_date])
        until(lambda: query(up_to_date, WAITS), "the takeover to wait")
        process.kill()
        process.wait()
        assert len(names(up_to_date)) == 28
    # The next start waits until PostgreSQL has ended the session of the killed process.
    assert migrate(up_to_date) == [NAMES[0], *NAMES[5:]]
    assert names(up_to_date) == NAMES


OBJECT = b'{"recorded_at":"2026-04-15T08:30:00.123457Z"}'

FORMAT = "The ledger has events of a format that ended before 0.1.0: no later version opens it."
FEWER = "The ledger is of a version before 0.1.0: run `ledger migrate` of commit e6d622b first."

REFUSED = [
    pytest.param("DELETE FROM ledger.migration WHERE name > '0023'", FEWER, id="fewer names"),
    pytest.param("DELETE FROM ledger.migration WHERE name LIKE '0007%'", FEWER, id="a gap"),
    pytest.param(
        "UPDATE ledger.migration SET checksum = '' WHERE name LIKE '0007%'", FEWER, id="edited"
    ),
    pytest.param(
        "INSERT INTO ledger.migration (name, checksum) VALUES ('0024_more.sql', '')",
        FEWER,
        id="another name",
    ),
    pytest.param(
        f"INSERT INTO ledger.ledger_events VALUES ('LIN-26-000001', 2, 'execution.woken/1',"
        f" '{OBJECT.decode()}', 2, '2026-04-15T08:30:00.123457Z')",
        FORMAT,
        id="an event of the format before",
    ),
]


@pytest.mark.parametrize(("damage", "reason"), REFUSED)
def test_any_other_ledger_of_a_version_before_0_1_0_is_refused_untouched(
    up_to_date: str, settings: Settings, damage: str, reason: str, tmp_path: Path
) -> None:
    query(up_to_date, damage)
    before = everything(up_to_date)
    keyless = Settings(data_dir=tmp_path / "data")
    never = settings.model_copy(update={"migrate": "never"})
    for refused in (
        lambda: migrate(up_to_date),
        lambda: migrate_database(settings, up_to_date),
        lambda: prepare_database(settings, up_to_date),
        lambda: prepare_database(keyless, up_to_date),
        lambda: prepare_database(never, up_to_date),
        lambda: inspect_database(settings, up_to_date),
        lambda: inspect_database(settings, up_to_date, verifies=True),
    ):
        with pytest.raises(SchemaError) as told:
            refused()
        assert str(told.value) == reason
    assert everything(up_to_date) == before
    assert not keyless.data_dir.exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("SET checksum = '' WHERE name LIKE '0026%'", "Migration 0003_signer.sql was changed"),
        ("SET name = '0029_more.sql' WHERE name LIKE '0028%'", "newer version .* 0029_more.sql"),
        ("SET name = 'more.sql' WHERE name LIKE '0028%'", "newer version .* more.sql"),
    ],
)
def test_a_ledger_whose_later_files_are_others_is_refused_with_its_names(
    up_to_date: str, change: str, reason: str
) -> None:
    query(up_to_date, f"UPDATE ledger.migration {change}")
    before = everything(up_to_date)
    with pytest.raises(SchemaError, match=reason):
        migrate(up_to_date)
    assert everything(up_to_date) == before


def test_a_service_that_may_not_migrate_refuses_a_ledger_of_e6d622b_as_outdated(
    of_e6d622b: str, settings: Settings
) -> None:
    before = everything(of_e6d622b)
    never = settings.model_copy(update={"migrate": "never"})
    for refused in (
        lambda: prepare_database(never, of_e6d622b),
        lambda: inspect_database(settings, of_e6d622b),
    ):
        with pytest.raises(SchemaError, match=r"^The schema is older .*: run `ledger migrate`\.$"):
            refused()
    assert everything(of_e6d622b) == before


def test_an_embedded_ledger_that_is_too_old_is_refused_in_one_line(data_dir: Path) -> None:
    given = {**os.environ, "LEDGER_DATA_DIR": str(data_dir), "LEDGER_MASTER_KEY": MASTER_KEY}
    with served(data_dir, purpose="tests", settings=QUICK) as postgres:
        age(postgres.url)
        query(postgres.url, "DELETE FROM ledger.migration WHERE name > '0023'")
        before = everything(postgres.url)
    ended = run_ledger(given, "serve", "--port", "0")
    assert (ended.returncode, ended.stderr) == (1, f"ledger: {FEWER}\n")
    with served(data_dir, purpose="tests", settings=QUICK) as postgres:
        assert everything(postgres.url) == before
