"""Plans that are made while the tables are empty, as all are on a new ledger, and then stay."""

from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from ledger.application.commands.keys import RevokeApiKey
from ledger.application.commands.lines import Pause
from ledger.application.commands.webhooks import DeleteEndpoint
from ledger.intake.principal import COMMAND_LINE
from ledger.intake.request import IdempotencyKey
from tests.application.test_decision_tables import create_endpoint, create_key
from tests.support.facts import fact
from tests.support.ledger import REPORTER, Ledger

# They have one row a view, or only what is under way.
SMALL = {"projection", "open_run"}


def plans(connection: psycopg.Connection[Any]) -> Iterator[dict[str, Any]]:
    """The plans of what this connection has prepared."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        prepared = cursor.execute(
            "SELECT name, cardinality(parameter_types) FROM pg_prepared_statements"
            " WHERE generic_plans > 0"
        ).fetchall()
        assert prepared
        for name, parameters in prepared:
            given = f"({', '.join(['NULL'] * parameters)})" if parameters else ""
            explain = f'EXPLAIN (FORMAT JSON) EXECUTE "{name}"{given}'
            (row,) = cursor.execute(explain.encode()).fetchall()
            if isinstance(row[0][0], dict):  # what is no query has no plan
                yield row[0][0]["Plan"]


def walks(plan: dict[str, Any]) -> Iterator[str]:
    """The tables that a plan goes through from one end to the other."""
    if plan["Node Type"] == "Limit":
        return
    if "Scan" in plan["Node Type"] and "Relation Name" in plan and "Index Cond" not in plan:
        yield plan["Relation Name"]
    for child in plan.get("Plans", []):
        yield from walks(child)


def carry_out_what_is_rare(ledger: Ledger, ended_run: str) -> None:
    """Changes and ends of stored rows, and ids that the ledger issues."""
    line = ledger.line("agent_runtime")
    told = fact("execution.checked_in", line, {"hours": 1})
    ledger.accept(
        told,
        fact("run.started", None, {"service_line_id": line}),
        fact("execution.check_in_voided", line, {"fact_id": told["id"]}),
        fact("service_line.closed", line),
    )
    commands = [
        create_key(0),
        RevokeApiKey("KEY-26-000001", COMMAND_LINE),
        create_endpoint(),
        DeleteEndpoint("WHK-26-000001", COMMAND_LINE),
    ]
    items = [ledger.erase(ended_run), *(ledger.execute(command) for command in commands)]
    assert [item for item in items if item.outcome != "recorded"] == []


def test_no_statement_of_a_writer_or_projector_walks_a_table(own_ledger: Ledger) -> None:
    """Not even where statistics say that it is empty, as after ANALYZE on a new ledger."""
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
    carry_out_what_is_rare(own_ledger, run)
    own_ledger.catch_up()
    projector = own_ledger.projector._pipeline
    assert projector is not None
    with own_ledger.log.ledger_recorder.datastore.get_connection() as writer:
        found = [*plans(writer), *plans(projector.connection)]
    tables = {table for plan in found for table in walks(plan)}
    assert {table for table in tables if not table.endswith("_seq")} <= SMALL
