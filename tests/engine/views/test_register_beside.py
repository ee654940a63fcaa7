"""A node that starts registers its views while a projector leads on another node."""

import threading

import psycopg

from ledger.app.features import projections
from ledger.engine.views.registration import register
from tests.support.views import query, until

NAMES = sorted(projection.name for projection in projections())
WAITS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def test_a_start_waits_for_a_tracking_that_moves_without_holding_any_other(conninfo: str) -> None:
    """Held trackings would deadlock with a projector, which moves all of them at once."""
    for moving in NAMES:
        starting = threading.Thread(target=register, args=(conninfo, projections()))
        with psycopg.connect(conninfo, options="-c lock_timeout=2s") as projector:
            move = "UPDATE ledger.projection SET position = position WHERE name = %s"
            projector.execute(move, (moving,))
            starting.start()
            until(lambda: query(conninfo, WAITS) == [(1,)], "the start to wait")
            for name in NAMES:
                projector.execute(move, (name,))
        starting.join(15)
        assert not starting.is_alive(), moving
