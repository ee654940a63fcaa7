"""How far views and seal are behind the log: each event's delay, and waits until they have all.

``Watch`` measures the time from each event's recording until every view, and so a read, has it.
"""

import json
import threading
import time
from collections.abc import Callable
from datetime import datetime

import psycopg
from corpus_request import Request, Send, sending
from product import LEDGER, Product, UnmeasuredError
from psycopg.rows import tuple_row

from ledger.app.features import projections

TIMEOUT = 3600.0  # seconds for the views of a large ledger, or for its seal

_RECORDED = """
SELECT notification_id, recorded_at FROM ledger.ledger_events
WHERE recorded_at >= %s ORDER BY notification_id
"""

_VIEWS = "SELECT name, position FROM ledger.projection"


class Watch:
    """A thread that listens to the views' positions, as the service's own workers do."""

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
            for notify in self._connection.notifies(timeout=0.1):
                at = time.time()
                names, _, position = notify.payload.rpartition(" ")
                self._positions |= dict.fromkeys(names.split(","), int(position))
                self._reached.append((at, min(self._positions.values())))

    def milliseconds(self, since: datetime) -> list[float]:
        """The age of each event recorded since ``since`` when the last view had it.

        `recorded_at` is set under the append lock, before the decision and the commit. So the
        figure includes both.
        """
        with psycopg.connect(self._url, row_factory=tuple_row) as connection:
            recorded = connection.execute(_RECORDED, (since,)).fetchall()
        lags: list[float] = []
        reached = iter(self._reached)
        at, position = next(reached, (0.0, 0))
        for event, instant in recorded:
            while position < event:
                following = next(reached, None)
                if following is None:
                    raise UnmeasuredError(f"position {event} was not heard to be in all views")
                at, position = following
            lags.append(1e3 * (at - instant.timestamp()))
        return sorted(lags)


def await_views(product: Product) -> None:
    """Wait until every view has the whole log, after a rebuild if another version built it.

    Raises UnmeasuredError if a view has stopped.
    """
    wanted = {view.name: view.version for view in projections()}

    def are_current(send: Send) -> bool:
        views = json.loads(send(Request("nobody", "/readyz")).body)["projections"]
        if product.ledger == (LEDGER,):
            # A view of another version does not move until it is rebuilt.
            current = [view for view in views if view["version"] == wanted[view["name"]]]
        else:
            current = views
        if stopped := [view["name"] for view in current if view["stopped"]]:
            raise UnmeasuredError(f"stopped: {', '.join(stopped)}")
        return len(current) == len(views) and not any(view["lag"] for view in views)

    _await(product, are_current, "the views do not reach the end of the log")


def await_sealed(product: Product) -> None:
    """Wait until the whole log is sealed. Then no work on earlier writes is left."""

    def is_sealed(send: Send) -> bool:
        recorded, sealed = (
            send(Request("reader", path)).headers["ledger-position"]
            for path in ("/healthz", "/v1/log/checkpoint")
        )
        return recorded == sealed

    _await(product, is_sealed, "the log is not sealed up to its end")


def _await(product: Product, is_so: Callable[[Send], bool], lacking: str) -> None:
    deadline = time.monotonic() + TIMEOUT
    with sending(product.port, {"reader": product.key}) as send:
        while not is_so(send):
            if time.monotonic() > deadline:
                raise UnmeasuredError(lacking)
            time.sleep(0.05)
