"""The cost of a failure: acknowledged facts that the log lost, has twice, or has elsewhere."""

from collections import Counter
from typing import NamedTuple

from scripts.rehearse.load import Load
from scripts.rehearse.sql import query

# The load's facts as the log has them. A fact's identity is the ninth field.
_RECORDED = """
SELECT convert_from(state, 'UTF8')::jsonb #>> '{8,1}', notification_id
FROM ledger.ledger_events
WHERE topic = 'execution.checked_in/1' AND convert_from(state, 'UTF8')::jsonb #>> '{8,0}' = %s
"""

_POSITIONS = """
SELECT count(*) FROM ledger.ledger_events WHERE notification_id = ANY(%s)
"""


class Tally(NamedTuple):
    """The acknowledged facts of a load, compared with the log."""

    acknowledged: int
    lost: int
    doubled: int
    reused: int
    """Positions of lost facts that other events have taken."""


def tally(load: Load, url: str) -> Tally:
    """Find each acknowledged fact in the log. Raises psycopg.Error."""
    rows = query(url, _RECORDED, load.source)
    times = Counter(name for name, _ in rows)
    positions = dict(rows)
    acknowledged = dict(load.acknowledged)
    lost = [name for name, position in acknowledged.items() if positions.get(name) != position]
    ((reused,),) = query(url, _POSITIONS, [acknowledged[name] for name in lost])
    return Tally(
        acknowledged=len(acknowledged),
        lost=len(lost),
        doubled=sum(number > 1 for number in times.values()),
        reused=reused,
    )
