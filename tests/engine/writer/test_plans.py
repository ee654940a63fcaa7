"""Plans that are made while the tables of a new ledger are empty, and then stay in use."""

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from ledger.engine.values.principal import COMMAND_LINE
from ledger.engine.writer.request import IdempotencyKey
from ledger.features.keys.commands import RevokeApiKey, UpdateApiKey
from ledger.features.lines.commands.lines import Pause
from ledger.features.runs.commands import ExpireLease
from ledger.features.webhooks.commands import DeleteEndpoint
from tests.engine.writer.test_decision_tables import create_endpoint, create_key, rotate_key
from tests.support.facts import fact
from tests.support.ledger import REPORTER, Ledger

# `projection` has one row per view, `listening` and `lineage` one row, `open_run` one row per open
# run, and `id_counter` one row per prefix and year.
SMALL = {"projection", "listening", "open_run", "lineage", "id_counter"}


def plans(connection: psycopg.Connection[Any]) -> Iterator[dict[str, Any]]:
    """The generic plans of the statements that this connection has prepared."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        prepared = cursor.execute(
            "SELECT name, cardinality(parameter_types) FROM pg_prepared_statements"
            " WHERE generic_plans > 0"
        ).fetchall()
        assert prepared
        for name, parameters in prepared:
            arguments = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
            explain = f'EXPLAIN (FORMAT JSON) EXECUTE "{name}"{arguments}'
            (row,) = cursor.execute(explain.encode()).fetchall()
            if isinstance(row[0][0], dict):  # a utility statement has no plan
                yield row[0][0]["Plan"]


def scanned_tables(plan: dict[str, Any]) -> Iterator[str]:
    """The tables that a plan scans from one end to the other."""
    if plan["Node Type"] == "Limit":
        return
    if "Scan" in plan["Node Type"] and "Relation Name" in plan and "Index Cond" not in plan:
        yield plan["Relation Name"]
    for child in plan.get("Plans", []):
        yield from scanned_tables(child)


def carry_out_rare_writes(ledger: Ledger, ended_run: str) -> None:
    """Update and delete stored rows, and issue ids."""
    line = ledger.line("agent_runtime")
    check_in = fact("execution.checked_in", line, {"hours": 1})
    ledger.accept(
        check_in,
        fact("run.started", None, {"service_line_id": line}),
        fact("execution.check_in_voided", line, {"fact_id": check_in["id"]}),
        fact("service_line.closed", line),
    )
    commands = [
        create_key(0),
        UpdateApiKey("KEY-26-000001", COMMAND_LINE, name="changed"),
        rotate_key(0, 1, 24),
        RevokeApiKey("KEY-26-000001", COMMAND_LINE),
        create_endpoint(),
        DeleteEndpoint("WHK-26-000001", COMMAND_LINE),
    ]
    leased = fact("run.started", None, {"service_line_id": ledger.line(), "lease_seconds": 5})
    (run,) = ledger.accept(leased)
    assert ledger.beat(run.subject or "").refusal == (None, None)
    assert ledger.execute(ExpireLease(run.subject or "")).outcome == "duplicate"
    items = [ledger.erase(ended_run), *(ledger.execute(command) for command in commands)]
    assert [item for item in items if item.outcome != "recorded"] == []


def test_no_statement_of_a_writer_or_projector_scans_a_whole_table(own_ledger: Ledger) -> None:
    """This holds even if statistics say that a table is empty, as after ANALYZE on a new ledger."""
    own_ledger.reader.execute("ANALYZE")
    line = own_ledger.line()
    run = own_ledger.run(line)
    own_ledger.accept(
        fact("run.completed", run, {"tokens_used": 7}),
        fact("execution.checked_in", line, {"hours": 1}),
        fact("execution.blocked", line, {"blocker_id": "b", "cause": "approval_gap"}),
    )
    key = IdempotencyKey(REPORTER.id, "/v1/execution", "k", b"\0" * 32)
    own_ledger.execute(Pause(line, REPORTER, reason=None, idempotency=key))
    carry_out_rare_writes(own_ledger, run)
    own_ledger.catch_up()
    writer = own_ledger.log.connected().connection
    prepared = [*plans(writer), *plans(own_ledger.projector.connection)]
    assert len(prepared) > 30
    tables = {table for plan in prepared for table in scanned_tables(plan)}
    assert {table for table in tables if not table.endswith("_seq")} <= SMALL
