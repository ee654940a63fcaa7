"""The writer's connection: planned once, and still as its owner asks for it."""

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
