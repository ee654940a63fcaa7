"""The dispatcher's memory: every endpoint, its deliveries in flight, and the order of claims.

A dead or slow endpoint occupies only a few slots of its own. An organization with very many such
endpoints does not fill the shared slots either: it never has more deliveries in flight than there
are free slots. So there is a free slot for the next organization, however many do so. (Switches
share their buffers in this way: Choudhury and Hahne, Dynamic Queue Length Thresholds, 1998.) An
endpoint with nothing to send costs nothing.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta

from ledger.engine.postgres.pool.round_robin import RoundRobin, share
from ledger.features.webhooks.delivery.deliveries import (
    AppliedRequest,
    Ask,
    Changed,
    ClaimedBatch,
    ViewChanges,
)
from ledger.features.webhooks.delivery.verdict import Claimed
from projections.webhooks.view import EndpointState

IN_FLIGHT = 16
"""Deliveries in flight at once, for one endpoint."""

PROBING = 4
"""… for an endpoint that fails: a dead endpoint holds each delivery until the deadline."""

MOST_IN_FLIGHT = 4000
"""… for all endpoints, if the system allows so many connections."""

GATHER_SECONDS = 5.0
"""How long a message to people waits for others about the same watch (contract, Feeds)."""

REST = timedelta(seconds=1)
"""The time between two messages to people at one endpoint."""

_AT_ONCE = 64
"""Endpoints for which one statement claims deliveries."""

_FOR_EVER = 2**63


class Watched:
    """One endpoint, as the dispatcher knows it."""

    def __init__(self, changed: Changed, now: datetime) -> None:
        self.state: EndpointState = changed.state
        self.planned = changed.planned
        """The position up to which all messages have become deliveries."""
        self.applied = changed.applied
        """The position of the latest test or recovery that was applied."""
        self.failing_since = changed.failing_since
        self.busy: dict[int, Claimed] = {}
        """The deliveries in flight, by position."""
        self.due: datetime | None = now
        """When to check for deliveries that are due."""
        self.timers: set[datetime] = set()
        """The times at which the registry has a timer for this endpoint."""
        self.recovered = 0
        """A delivery claimed in an earlier round than this may be due, against its own verdict."""
        self.rests_until = now
        """Nothing is claimed before this time: people receive one message a second."""
        self.halted = 0
        """From this position on, the view shows that the dispatcher disabled the endpoint."""
        self.secrets: dict[bytes, str] = {}
        """The decrypted secrets, by their encrypted form."""
        self._drop_old_failures()

    @property
    def id(self) -> str:
        return self.state.endpoint.id

    @property
    def organization(self) -> str | None:
        return self.state.endpoint.organization_id

    @property
    def sends(self) -> bool:
        """True if the endpoint receives events now. Tests are always sent."""
        return self.state.endpoint.enabled and self.state.position >= self.halted

    @property
    def free(self) -> int:
        if self.state.endpoint.gathers:
            return 0 if self.busy else 1
        slots = IN_FLIGHT if self.failing_since is None else PROBING
        return slots - len(self.busy)

    @property
    def slots(self) -> int:
        """The slots that the deliveries in flight take."""
        return sum(not claimed.follows for claimed in self.busy.values())

    @property
    def is_behind(self) -> bool:
        """True if the endpoint has new messages, to be taken now or soon."""
        return self.sends and self.state.latest > self.planned

    def update(self, state: EndpointState, now: datetime) -> None:
        sent = self.sends
        self.state = state
        if self.sends and not sent:
            self.due = now
        self._drop_old_failures()

    def counted_from(self, at: datetime) -> datetime:
        """When a failure at ``at`` began: not before the endpoint was enabled, if clocks differ."""
        enabled_at = self.state.enabled_at
        return at if enabled_at is None else max(at, enabled_at)

    def _drop_old_failures(self) -> None:
        """Forget failures from before the endpoint was enabled again."""
        enabled_at = self.state.enabled_at
        if self.failing_since and enabled_at and self.failing_since < enabled_at:
            self.failing_since = None

    def halt(self) -> bool:
        """Stop sending events; return False if the endpoint already received none."""
        if not self.sends:
            return False
        self.halted = _FOR_EVER
        return True

    def halt_until(self, position: int, now: datetime) -> None:
        """Send no events before the view has reached a position; then the view's state holds."""
        self.halted, self.due = position, now


class EndpointRegistry:
    """Every endpoint that is not deleted."""

    def __init__(self, most_in_flight: int) -> None:
        self._most = most_in_flight
        self.position = 0
        """The position of the webhook view up to which the registry is current."""
        self.reached = 0
        """Messages may be taken up to this position: the webhook view may be ahead of others."""
        self._held: dict[str, None] = {}
        """The endpoints whose new messages lie beyond ``reached``."""
        self.in_hand = 0
        self._in_hand: Counter[str | None] = Counter()
        """``in_hand`` by organization, without the deliveries of endpoints deleted meanwhile."""
        self._watched: dict[str, Watched] = {}
        self._ready: RoundRobin[str | None, str] = RoundRobin()
        self._timers: list[tuple[datetime, str]] = []
        """When to check for due deliveries of an endpoint, the earliest first (a heap)."""

    @property
    def is_empty(self) -> bool:
        return not self._watched

    def get(self, endpoint_id: str) -> Watched | None:
        return self._watched.get(endpoint_id)

    def update(self, changes: ViewChanges, now: datetime) -> None:
        self.position = changes.position
        for one in changes.changed:
            endpoint = one.state.endpoint
            watched = self._watched.get(endpoint.id)
            if endpoint.deleted:
                if watched is not None:
                    del self._watched[endpoint.id]
                    self._in_hand[watched.organization] -= watched.slots
                continue
            if watched is None:
                watched = self._watched[endpoint.id] = Watched(one, now)
            else:
                watched.update(one.state, now)
            self._held.setdefault(watched.id)
        self.reached = max(self.reached, changes.reached)
        held, self._held = self._held, {}
        for endpoint_id in held:
            watched = self._watched.get(endpoint_id)
            if watched is not None:
                self.consider(watched, now)

    def requesting(self) -> list[Watched]:
        """The endpoints with an unapplied test or recovery."""
        return [w for w in self._watched.values() if w.state.requested > w.applied]

    def apply_outcomes(self, applied: Iterable[AppliedRequest], now: datetime) -> None:
        for one in applied:
            watched = self._watched[one.endpoint_id]
            watched.recovered = one.position
            watched.applied = one.position if one.is_done else watched.applied
            watched.due = now
            self.consider(watched, now)

    def consider(self, watched: Watched, now: datetime) -> None:
        """Queue an endpoint to claim deliveries, if there may be something to send."""
        if watched.free <= 0:
            return
        if watched.rests_until > now:
            self._set_timer(watched, watched.rests_until)
            return
        if watched.is_behind and watched.planned >= self.reached:
            self._held.setdefault(watched.id)
        elif watched.is_behind:
            self._queue_up(watched)
        if watched.due is None:
            return
        if watched.due <= now:
            self._queue_up(watched)
        else:
            self._set_timer(watched, watched.due)

    def _set_timer(self, watched: Watched, at: datetime) -> None:
        if at not in watched.timers:
            watched.timers.add(at)
            heapq.heappush(self._timers, (at, watched.id))

    def next_asks(self, now: datetime) -> list[Ask]:
        """Take the next endpoints from the queue; their organizations go to its end."""
        while self._timers and self._timers[0][0] <= now:
            due, endpoint_id = heapq.heappop(self._timers)
            watched = self._watched.get(endpoint_id)
            if watched is not None:
                watched.timers.discard(due)
                self.consider(watched, now)
        return list(self._asks())

    def _queue_up(self, watched: Watched) -> None:
        self._ready.add(watched.organization, watched.id)

    def _asks(self) -> Iterator[Ask]:
        """One endpoint of each organization in turn, while there is room."""
        room, counts = self._most - self.in_hand, Counter[str | None]()
        for _ in range(_AT_ONCE):
            if not self._ready:
                return
            organization = next(iter(self._ready))
            most = share(room, self._in_hand[organization] + counts[organization])
            if most > 0:
                watched = self._watched.get(self._ready.pop_first(organization))
                if watched is not None and watched.free > 0:
                    free = min(watched.free, most)
                    room -= free
                    counts[organization] += free
                    endpoint = watched.state.endpoint
                    kind = endpoint.is_channel, endpoint.gathers
                    yield Ask(watched.id, free, list(watched.busy), watched.sends, *kind)
            else:
                self._ready.serve(organization)

    @property
    def is_ready(self) -> bool:
        """True if an endpoint is queued and there is room for its deliveries."""
        room = self._most - self.in_hand
        return any(share(room, self._in_hand[one]) > 0 for one in self._ready)

    def next_due(self) -> datetime | None:
        return self._timers[0][0] if self._timers else None

    def give(self, asks: Iterable[Ask], batches: dict[str, ClaimedBatch], now: datetime) -> bool:
        """Note the deliveries claimed for each endpoint, and if more may be due.

        Returns False if an endpoint differs from the registry's state: then the view must be read.
        """
        is_current = True
        for ask in asks:
            watched, one = self._watched.get(ask.endpoint_id), batches.get(ask.endpoint_id)
            if watched is None or one is None or one.sends != ask.sends:
                is_current = False
            if watched is None or one is None:
                continue
            for claimed in one.claimed:
                watched.busy[claimed.position] = claimed
            slots = len(one.messages)
            self.in_hand += slots
            self._in_hand[watched.organization] += slots
            if ask.gathers and not all(claimed.is_test for claimed in one.claimed):
                watched.rests_until = now + REST
            if slots < ask.free:
                watched.due = one.next_due
                if one.sends:
                    watched.planned = max(watched.planned, one.reached)
            self.consider(watched, now)
        return is_current

    def release(self, claimed: Claimed, due: datetime | None, now: datetime) -> None:
        """Remove a delivery that is no longer in flight; ``due`` is when it is due again."""
        self.in_hand -= not claimed.follows
        watched = self._watched.get(claimed.endpoint_id)
        if watched is None:
            return
        watched.busy.pop(claimed.position, None)
        self._in_hand[watched.organization] -= not claimed.follows
        # The next delivery of the alert may have waited for this one.
        if claimed.round < watched.recovered or watched.state.endpoint.is_channel:
            due = now
        if due is not None:
            watched.due = due if watched.due is None else min(watched.due, due)
        self.consider(watched, now)


DecryptSecret = Callable[[str, bytes], str]


def secrets_of(watched: Watched, now: datetime, open_: DecryptSecret) -> list[str]:
    """The secrets that sign now. Raises the errors of ``open_``."""
    sealed = watched.state.endpoint.signing(now)
    watched.secrets = {one: watched.secrets.get(one) or open_(watched.id, one) for one in sealed}
    return [watched.secrets[one] for one in sealed]
