"""At any position a run shows the fold of its events up to that position."""

from datetime import timedelta
from typing import Any

import pytest

from ledger.domain.run import RUN_EVENTS, Run
from ledger.language.rendering import json_text, time_text
from ledger.log.codec import EnvelopeMapper
from projections.run.statements import run_statement
from tests.support.facts import fact
from tests.support.ledger import Ledger, new_id
from tests.support.views import query

_EVENTS = """
SELECT originator_id, originator_version, topic, state, notification_id FROM ledger.ledger_events
WHERE originator_id = %s ORDER BY originator_version
"""

ASKED = {"triggered_by": {"type": "user", "actor_id": 'Say "hi"\t\u00e9\u2028\x1f'}}
BEGUN = {"triggered_by": {"type": "schedule"}}
ENDED = {"duration_ms": 7, "tokens_used": 2**53 - 1}

STORIES: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "requested, started, completed": (
        ("run.requested", ASKED),
        ("run.started", BEGUN),
        ("run.completed", ENDED),
    ),
    "started, failed": (("run.started", ASKED), ("run.failed", {})),
    "requested, failed": (("run.requested", {}), ("run.failed", {"tokens_used": 3})),
    "requested, cancelled": (("run.requested", ASKED), ("run.cancelled", {})),
    "started, closed, completed late": (
        ("run.started", {}),
        ("service_line.closed", {}),
        ("run.completed", ENDED),
    ),
    "requested, closed, failed late": (
        ("run.requested", ASKED),
        ("service_line.closed", {}),
        ("run.failed", ENDED),
    ),
}


def shown(run: Run) -> tuple[str, str]:
    """The JSON members of a run before its payloads, and after them."""
    head = {
        "id": run.id,
        "service_line_id": run.service_line_id,
        "status": run.status,
        "triggered_by": run.triggered_by,
    }
    tail = {
        "duration_ms": run.duration_ms,
        "tokens_used": run.tokens_used,
        "requested_at": time_text(run.requested_at),
        "started_at": time_text(run.started_at),
        "completed_at": time_text(run.completed_at),
        "erased_at": time_text(run.erased_at),
    }
    return json_text(head)[1:-1], json_text(tail)[1:-1]


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_a_run_shows_at_each_position_the_fold_of_its_events_up_to_there(
    ledger: Ledger, story: tuple[tuple[str, dict[str, Any]], ...]
) -> None:
    line, run = ledger.line(), new_id("RUN")
    at = ledger.clock.now - timedelta(minutes=9)
    times = [at, at + timedelta(seconds=90.5), at + timedelta(seconds=90)]
    for (kind, data), time in zip(story, times, strict=False):
        is_first = kind in ("run.requested", "run.started") and time == at
        more = {"service_line_id": line} if is_first else {}
        subject = line if kind.startswith("service_line") else run
        ledger.accept(fact(kind, subject, data | more, time=time.isoformat()))
    ledger.catch_up()
    rows = query(ledger.conninfo, _EVENTS, run)
    events = [EnvelopeMapper().decode(*row) for row in rows]
    assert {type(event.body) for event in events} <= set(RUN_EVENTS)
    folded = Run(run)
    for event in events:
        folded.evolve(event)
        asked = {"run_id": run, "as_of": event.recorded_at, "settled": True}
        statement = run_statement(frozenset(), past=True).encode()
        row = ledger.reader.execute(statement, asked).fetchall()[0]
        assert (row["head"], row["tail"]) == shown(folded), type(event.body)
    now = run_statement(frozenset()).encode()
    row = ledger.reader.execute(now, {"run_id": run}).fetchall()[0]
    assert (row["head"], row["tail"]) == shown(folded)
