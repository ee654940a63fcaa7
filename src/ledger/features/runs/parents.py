"""Parents of runs in the log, which an append needs to keep runs free of cycles.

A view would lag behind the append lock, and a table of parents would cost each run a row. Few runs
get a parent when runs may be below them already.
"""

from ledger.engine.writer.group import Group
from ledger.features.runs.model.run import MAX_ABOVE, Run, RunParentGiven, RunRequested, RunStarted

_TOPICS = ", ".join(f"'{event.TOPIC}'" for event in (RunRequested, RunStarted, RunParentGiven))

# The runs above a run, the nearest first: a run's parent is the latest that its events named.
_ABOVE = f"""
WITH RECURSIVE above AS (
    SELECT %(run)s::text AS run_id, 0 AS depth
    UNION ALL
    SELECT found.parent_id, above.depth + 1
    FROM above CROSS JOIN LATERAL (
        SELECT parent_id
        FROM ledger.ledger_events AS e
        CROSS JOIN LATERAL (
            SELECT convert_from(e.state, 'UTF8')::json -> 12 ->> 'parent_run_id' OFFSET 0
        ) AS body (parent_id)
        WHERE e.originator_id = above.run_id AND parent_id IS NOT NULL AND e.topic IN ({_TOPICS})
        ORDER BY e.originator_version DESC LIMIT 1
    ) AS found
    WHERE above.depth < {MAX_ABOVE}
)
SELECT run_id FROM above WHERE depth > 0 ORDER BY depth
"""


def runs_above(run: Run, group: Group) -> set[str]:
    """The run and the runs above it; at least ``MAX_ABOVE + 2``, if there are more."""
    found, memory = {run.id}, group.memory
    above = run.parent_run_id
    while above is not None and above not in found and len(found) <= MAX_ABOVE + 1:
        found.add(above)
        parent = memory.current(above)
        if isinstance(parent, Run):
            above = parent.parent_run_id
            continue
        stored = [each for (each,) in group.append.select(_ABOVE, {"run": above})]
        current = (n for n, each in enumerate(stored) if memory.current(each) is not None)
        first = next(current, len(stored))
        found.update(stored[:first])
        above = stored[first] if first < len(stored) else None
    return found
