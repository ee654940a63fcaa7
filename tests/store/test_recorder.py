"""The writer's connection: planned once, still as its owner asks for it, and alive."""

import psycopg
from psycopg.conninfo import make_conninfo

from ledger.store.log import Log


def test_the_connection_strings_own_options_hold_beside_ours(conninfo: str) -> None:
    log = Log(make_conninfo(conninfo, options="-c work_mem=8MB"))
    try:
        with log.ledger_recorder.datastore.get_connection() as connection:
            shown = [
                connection.execute(f"SHOW {name}".encode()).fetchone()
                for name in ("work_mem", "plan_cache_mode", "enable_seqscan")
            ]
    finally:
        log.close()
    assert [next(iter(row.values())) for row in shown if row] == [
        "8MB",
        "force_generic_plan",
        "off",
    ]


def test_one_that_was_ended_meanwhile_is_not_used(conninfo: str) -> None:
    log = Log(conninfo)
    try:
        for _ in range(3):
            with log.ledger_recorder.append_transaction() as append:
                append.read({})
                assert append.next_position == 1
            with psycopg.connect(conninfo, autocommit=True) as other:
                ended = other.execute(
                    "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
                    " WHERE application_name = 'ledger' AND datname = current_database()"
                ).fetchone()
                assert ended == (1,)
    finally:
        log.close()
