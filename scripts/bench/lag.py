"""The time from each event's recording until every view has it, and a read would see it."""

import threading
import time
from datetime import datetime

import psycopg
from product import UnmeasuredError
from psycopg.rows import tuple_row

_RECORDED = """
SELECT notification_id, recorded_at FROM ledger.ledger_events
WHERE recorded_at >= %s ORDER BY notification_id
"""

_VIEWS = "SELECT name, position FROM ledger.projection"


class Watch:
    """Listens on a thread to the views' positions, as the service's own workers do."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._connection = psycopg.connect(database_url, autocommit=True, row_factory=tuple_row)
        self._connection.execute("LISTEN ledger_views")
        self._positions: dict[str, int] = dict(self._connection.execute(_VIEWS).fetchall())
        self._reached: list[tuple[float, int]] = []
        """(when it was heard, the position that every view has reached)"""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(5)
        self._connection.close()

    def _listen(self) -> None:
        while not self._over.is_set():
            for heard in self._connection.notifies(timeout=0.1):
                at = time.time()
                names, _, position = heard.payload.rpartition(" ")
                self._positions |= dict.fromkeys(names.split(","), int(position))
                self._reached.append((at, min(self._positions.values())))

    def milliseconds(self, since: datetime) -> list[float]:
        """The age of each event recorded since ``since`` when all views were heard to have it.

        `recorded_at` is set under the append lock, before the decision and the commit. The figure
        therefore includes both.
        """
        with psycopg.connect(self._url, row_factory=tuple_row) as connection:
            recorded = connection.execute(_RECORDED, (since,)).fetchall()
        taken: list[float] = []
        heard = iter(self._reached)
        at, position = next(heard, (0.0, 0))
        for event, instant in recorded:
            while position < event:
                following = next(heard, None)
                if following is None:
                    raise UnmeasuredError(f"position {event} was not heard to be in all views")
                at, position = following
            taken.append(1e3 * (at - instant.timestamp()))
        return sorted(taken)
