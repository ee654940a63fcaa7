"""Parents of runs as the log has them, which is all that an append needs to keep them no ring.

A view would lag behind the append lock, and a table of parents would cost each run a row. Few runs
get a parent when others may lie below them already.
"""

from ledger.features.runs.model.run import MAX_ABOVE, RunParentGiven, RunRequested, RunStarted

_TOPICS = ", ".join(f"'{event.TOPIC}'" for event in (RunRequested, RunStarted, RunParentGiven))

# The runs above a run, the nearest first: a run's parent is the one that its events named last.
ABOVE = f"""
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
