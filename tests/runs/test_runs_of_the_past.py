"""At any position a run shows the fold of its events up to that position."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.values.rendering import json_text, render_as, time_text
from ledger.features.facts.fact_types import FACT_TYPES
from ledger.features.runs.model.run import RUN_EVENTS, Run
from ledger.features.runs.model.token_usage import ShownTokenUsage
from projections.runs.shown import RunColumns, run_view
from projections.runs.statements import run_read
from tests.runs.test_field_of_a_run import FIELDS, PAYLOADS
from tests.support.facts import fact
from tests.support.ledger import Ledger, new_id
from tests.support.views import query

_EVENTS = """
SELECT originator_id, originator_version, topic, state, notification_id FROM ledger.ledger_events
WHERE originator_id = %s ORDER BY originator_version
"""

REQUESTED = {"triggered_by": {"type": "user", "actor_id": 'Say "hi" \\ \u00e9\u2028'}}
BEGUN = {"triggered_by": {"type": "schedule"}}
NAMED = {"external_id": 'build "7" \u00e9', "parent_run_id": "RUN-26-000003", "lease_seconds": 60}
"""The name at the source of the story. The test begins the parent."""
ENDED = {"duration_ms": 7, "tokens_used": 2**53 - 1}

STORIES: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "requested, started, completed": (
        ("run.requested", REQUESTED),
        ("run.started", BEGUN),
        ("run.completed", ENDED),
    ),
    "started, completed by models, corrected twice": (
        ("run.started", {}),
        ("run.completed", {"token_usage": [{"model": "m", "input": 3, "reasoning": 0}]}),
        ("run.usage_corrected", {"tokens_used": 7}),
        ("run.usage_corrected", {"token_usage": [{"model": "n", "output": 9, "reasoning": 9}]}),
    ),
    "requested, cancelled with tokens, corrected": (
        ("run.requested", REQUESTED),
        ("run.cancelled", {"tokens_used": 4}),
        ("run.usage_corrected", {"tokens_used": 0}),
    ),
    "started, failed": (("run.started", REQUESTED), ("run.failed", {})),
    "requested, failed": (("run.requested", {}), ("run.failed", {"tokens_used": 3})),
    "requested, cancelled": (("run.requested", REQUESTED), ("run.cancelled", {})),
    "requested by its name, started by another lease, failed": (
        ("run.requested", NAMED),
        ("run.started", {"lease_seconds": 5}),
        ("run.failed", {}),
    ),
    "requested, started by a name, completed": (
        ("run.requested", {}),
        ("run.started", NAMED),
        ("run.completed", ENDED),
    ),
    "started by a name, cancelled": (("run.started", NAMED), ("run.cancelled", {})),
    "requested, its parent came, started": (
        ("run.requested", {"parent_external_id": "a parent"}),
        ("parent", {}),
        ("run.started", {}),
    ),
    "requested, its parent came, started by another": (
        ("run.requested", {"parent_external_id": "a parent"}),
        ("parent", {}),
        ("run.started", {"parent_run_id": NAMED["parent_run_id"]}),
    ),
    "started, completed, its parent came": (
        ("run.started", {"parent_external_id": "a parent"}),
        ("run.completed", ENDED),
        ("parent", {}),
    ),
    "started as a retry": (
        ("run.requested", {}),
        ("retry", {}),
        ("run.started", {"external_id": "a task", "attempt": 2}),
    ),
    "started, closed, completed late": (
        ("run.started", {}),
        ("service_line.closed", {}),
        ("run.completed", ENDED),
    ),
    "started, expired, completed late": (
        ("run.started", {"lease_seconds": 60}),
        ("lease", {}),
        ("run.completed", ENDED),
    ),
    "requested, expired, failed late": (
        ("run.requested", REQUESTED | {"lease_seconds": 5}),
        ("lease", {}),
        ("run.failed", ENDED),
    ),
    "requested, closed, failed late": (
        ("run.requested", REQUESTED),
        ("service_line.closed", {}),
        ("run.failed", ENDED),
    ),
}


OTHER_RUNS = {"parent": "a parent", "retry": "a task"}
"""Steps at which another run begins at the source, with its name there."""


NOT_AS_SENT = {"triggered_by", "tokens_used", "token_usage", "duration_ms"}
"""Fields that differ from the values of a single fact."""


def expected(run: Run) -> dict[str, Any]:
    """A run as the API shows it, without its payloads."""
    values = {name: getattr(run, name) for name in FIELDS if name not in PAYLOADS}
    usage = run.token_usage and [render_as(ShownTokenUsage, t) for t in run.token_usage]
    texts = {k: time_text(v) if isinstance(v, datetime) else v for k, v in values.items()}
    return texts | {"token_usage": usage}


def view_of(row: dict[str, Any]) -> str:
    return json_text(run_view(RunColumns(*(row[name] for name in RunColumns._fields))))


def test_each_field_of_a_run_is_recorded_after_the_run_began() -> None:
    later = {name for story in STORIES.values() for _, data in story[1:] for name in data}
    facts = [kind.data for kind in FACT_TYPES.values() if kind.subject == "run"]
    sent = {name for data in facts for name in data.model_fields} & set(FIELDS) - PAYLOADS
    assert sent - later == {"service_line_id"}, "a story in STORIES tells the field, not first"


@pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)
def test_a_run_shows_at_each_position_the_fold_of_its_events_up_to_there(
    own_ledger: Ledger, story: tuple[tuple[str, dict[str, Any]], ...]
) -> None:
    line, run, source = own_ledger.line(), new_id("RUN"), new_id("source")
    if not own_ledger.events(parent := str(NAMED["parent_run_id"])):
        own_ledger.accept(fact("run.started", parent, {"service_line_id": line}))
        line = own_ledger.line()
    at = own_ledger.clock.now - timedelta(minutes=9)
    own_ledger.listen()
    times = [at + timedelta(seconds=s) for s in (0, 90.5, 90, 95)]
    for (kind, data), time in zip(story, times, strict=False):
        is_first = kind in ("run.requested", "run.started") and time == at
        more = {"service_line_id": line} if is_first else {}
        subject = line if kind.startswith("service_line") else run
        if kind == "lease":
            own_ledger.listen(61)
            assert own_ledger.lease_watch.run_once() == 1
        elif kind in OTHER_RUNS:
            begin = {"service_line_id": line, "external_id": OTHER_RUNS[kind]}
            own_ledger.accept(fact("run.started", None, begin, source=source))
            if kind == "retry":
                failed = {"external_id": OTHER_RUNS[kind]}
                own_ledger.accept(fact("run.failed", None, failed, source=source))
        else:
            own_ledger.accept(
                fact(kind, subject, data | more, time=time.isoformat(), source=source)
            )
    own_ledger.catch_up()
    rows = query(own_ledger.conninfo, _EVENTS, run)
    events = [EnvelopeMapper().decode(*row) for row in rows]
    assert {type(event.body) for event in events} <= set(RUN_EVENTS)
    folded = Run(run)
    for event in events:
        folded.apply(event)
        parameters = {"run_id": run, "as_of": event.recorded_at, "settled": True}
        statement = run_read(frozenset(), past=True).sql.encode()
        row = own_ledger.reader.execute(statement, parameters).fetchall()[0]
        assert view_of(row) == json_text(expected(folded)), type(event.body)
    now = run_read(frozenset()).sql.encode()
    row = own_ledger.reader.execute(now, {"run_id": run}).fetchall()[0]
    view = expected(folded)
    assert view_of(row) == json_text(view)
    sent = {name: value for _, data in story for name, value in data.items() if name in view}
    as_sent = {name: sent[name] for name in sent if name not in NOT_AS_SENT}
    assert view | as_sent == view, "a field is not handed on, or not folded"
