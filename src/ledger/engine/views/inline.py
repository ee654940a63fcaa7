"""Views that the writer moves: a small append writes their rows too, in its own transaction.

So a small append is visible at once, and costs no second transaction. The writer folds only while
every live view stands at the end of the log and belongs to this version of the code, and while
nobody else appends. Otherwise it appends alone, and the projector follows. A fold that fails
refuses no event: the writer appends again alone, and the projector stops the view.
"""

import logging
import time
from collections.abc import Collection, Sequence

from ledger.engine.log.append import Append
from ledger.engine.log.codec import EnvelopeMapper
from ledger.engine.log.event_log import Log, reading
from ledger.engine.postgres.pipeline import Statement, Transaction
from ledger.engine.values.recorded import Recorded
from ledger.engine.views.contract import Projection, error_line
from ledger.engine.views.rounds import Elsewhere, LiveView, MovedViews, announcement, apply_round

MOST = 100
"""The most events of an append that folds, and the most by which a view may lag before it: the
append lock is held meanwhile."""

_ALONE_SECONDS = 0.1
"""How long a writer appends alone after others have appended, after a large append and after a
failure: a mixed load would else change hands with each append, and load the folds each time."""

_CHECK_SECONDS = 1.0
"""The time between two checks for views that were resumed or rebuilt."""

_ANNOUNCE_SECONDS = 0.05
"""The least time between two notifications: the own node needs none."""

_logger = logging.getLogger(__name__)

# The tracking, locked, so that no projector moves a view meanwhile; a stopped view has no position.
# A row that another transaction has locked is left out, so the count tells if it is missing.
_HOLD = Statement(b"""
SELECT name, version, generation, CASE WHEN stopped_at IS NULL THEN position END,
    (SELECT count(*) FROM ledger.projection)
FROM ledger.projection FOR NO KEY UPDATE SKIP LOCKED
""")


class InlineViews:
    """The views in a writer's memory, which only its thread uses."""

    def __init__(self, projections: Sequence[Projection], codec: EnvelopeMapper) -> None:
        self._projections, self._codec = {each.name: each for each in projections}, codec
        self._wanted = codec.topics_of(cls for view in projections for cls in view.events)
        self._live: list[LiveView] = []
        """The views that the last append moved to ``_end``; none if the projector moves them."""
        self._end = -1
        """The end of the log when this writer last appended."""
        self._check_at = 0.0
        """When the tracking is read again."""
        self._folding: Transaction | None = None
        """The transaction of the append that is under way, if it may write views."""
        self._announce_at = 0.0
        """When the next notification may be sent."""
        self._owed: MovedViews | None = None
        """What no notification has announced yet."""

    def fold(self, append: Append, events: Sequence[Recorded], start: int) -> bool:
        """Let an append also move the views, if they stand at its start.

        ``start`` is the end of the log before the append, ``events`` are all events of a small one,
        which are written. Returns True if nothing is left to the projector. Raises the error of a
        view.
        """
        end = append.next_position - 1
        is_small = 0 < len(events) <= MOST
        if append.is_first or start != self._end or not is_small:
            self._leave()
        self._end = end
        if not is_small:
            return False
        transaction = self._folding = append.transaction
        rounds = {start: self._live}
        if time.monotonic() >= self._check_at:
            rounds = self._check(transaction, start)
            if min(rounds, default=start) < start:
                events = self._read(transaction, min(rounds), end)
        for position, views in rounds.items():
            later = [event for event in events if event.position > position]
            if views:
                apply_round(transaction, views, later, position, end, waits=False)
        if not self._live:
            self._folding = None
        return bool(self._live)

    @property
    def names(self) -> Collection[str]:
        return self._projections.keys()

    def settle(self) -> MovedViews | None:
        """Note that the append has committed. Return the views that it has moved, if any."""
        if self._folding is None:
            return None
        self._folding = None
        self._owed = MovedViews([view.projection.name for view in self._live], self._end)
        return self._owed

    def announces_in(self) -> float | None:
        """Seconds until a notification is due; None if none is owed."""
        return None if self._owed is None else max(0.0, self._announce_at - time.monotonic())

    def announce(self, log: Log, *, is_last: bool = False) -> None:
        """Notify other processes, if it is due or ``is_last``. Raises psycopg.Error."""
        now = time.monotonic()
        if self._owed is not None and (is_last or now >= self._announce_at):
            self._announce_at = now + _ANNOUNCE_SECONDS
            log.connected().run(announcement(*self._owed))
            self._owed = None

    def fail(self, error: Exception) -> bool:
        """Note that the append has failed. Return True if it must be repeated, alone.

        It must not be repeated if the connection was lost: then it may have committed.
        """
        transaction, self._folding = self._folding, None
        if transaction is None:
            return False
        self._leave()
        if transaction.is_lost:
            return False
        if isinstance(error, Elsewhere):
            _logger.info("the views are left to the projector")
        else:
            _logger.warning(
                "an append with views failed; it is repeated alone: %s", error_line(error)
            )
        return True

    def _leave(self) -> None:
        """Leave the views to the projector for a while."""
        self._live, self._end = [], -1
        self._check_at = time.monotonic() + _ALONE_SECONDS

    def _check(self, transaction: Transaction, start: int) -> dict[int, list[LiveView]]:
        """Lock the tracking. Return the live views by position; none if an append must be alone."""
        now = time.monotonic()
        former, self._live, self._check_at = self._live, [], now + _ALONE_SECONDS
        rounds: dict[int, list[LiveView]] = {}
        rows = transaction.run(_HOLD)
        for name, version, generation, position, count in rows:
            view = self._projections.get(name)
            if position is None:  # it is stopped
                continue
            is_near = len(rows) == count and 0 <= start - position <= MOST
            if view is None or version != view.version or not is_near:
                return {}
            rounds.setdefault(position, []).append(LiveView(view, generation))
        self._live = [live for views in rounds.values() for live in views]
        if set(self._live) != set(former) or rounds.keys() != {start}:  # others have folded
            for view, _ in self._live:
                view.forget()
        self._check_at = now + _CHECK_SECONDS
        return rounds

    def _read(self, transaction: Transaction, start: int, end: int) -> list[Recorded]:
        """The events from a position on, with those of this append."""
        rows = transaction.run(reading(start, 2 * MOST))
        assert rows[-1][4] == end, "the missing events are too large"
        return [self._codec.decode(*row) for row in rows if row[2] in self._wanted]
