"""The dispatcher's memory: every endpoint, what of it is in hand, and which to look at next.

An endpoint that is dead or slow has its own few deliveries in hand and no others. Nor does an
organization with very many of them fill what is shared: it never has more in hand than there is
room left for all, so however many do so, there is room for the next. (Switches share out their
buffers in this way: Choudhury and Hahne, Dynamic Queue Length Thresholds, 1998.) Looking costs
nothing for endpoints that have nothing to be sent.
"""

import heapq
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from ledger.feed.deliveries import Ask, Changed, Given, Heeded, News
from ledger.feed.sharing import share
from ledger.feed.verdict import Claimed
from projections.webhook.view import Standing

IN_FLIGHT = 16
"""Deliveries in hand at once, an endpoint."""

PROBING = 4
"""… while it fails: a dead endpoint holds each of them until the deadline."""

MOST_IN_FLIGHT = 4000
"""… in all, as far as the system allows so many connections."""

_AT_ONCE = 64
"""Endpoints that are claimed for in one statement."""

_FOR_EVER = 2**63


class Watched:
    """One endpoint."""

    def __init__(self, changed: Changed, now: datetime) -> None:
        self.standing: Standing = changed.standing
        self.taken = changed.planned
        """Up to here no new messages are left."""
        self.heeded = changed.heeded
        self.failing_since = changed.failing_since
        self.busy: dict[int, Claimed] = {}
        """What is in hand, by position."""
        self.due: datetime | None = now
        """When to look for deliveries that are due."""
        self.timers: set[datetime] = set()
        """When it is looked for in any case."""
        self.recovered = 0
        """Deliveries of an earlier round than this may be due though their attempt says not."""
        self.halted = 0
        """The position from which on the view shows it disabled by us."""
        self.secrets: dict[bytes, str] = {}
        """Opened ones, by their sealed form."""
        self._drop_old_failures()

    @property
    def id(self) -> str:
        """The WHK id."""
        return self.standing.endpoint.id

    @property
    def organization(self) -> str | None:
        """Whose it is."""
        return self.standing.endpoint.organization_id

    @property
    def sends(self) -> bool:
        """Whether it is sent events now. Tests it always is."""
        return self.standing.endpoint.enabled and self.standing.position >= self.halted

    @property
    def free(self) -> int:
        """How many more it may have in hand."""
        slots = IN_FLIGHT if self.failing_since is None else PROBING
        return slots - len(self.busy)

    @property
    def is_behind(self) -> bool:
        """Whether there are new messages for it, to be taken now or soon."""
        return self.sends and self.standing.latest > self.taken

    def take(self, standing: Standing, now: datetime) -> None:
        """Take in how the view has it now."""
        sent = self.sends
        self.standing = standing
        if self.sends and not sent:
            self.due = now
        self._drop_old_failures()

    def counted_from(self, at: datetime) -> datetime:
        """Since when a failure counts: not before it was enabled, though a clock may say so."""
        enabled_at = self.standing.enabled_at
        return at if enabled_at is None else max(at, enabled_at)

    def _drop_old_failures(self) -> None:
        """Enabled again, it starts anew: what it failed before no longer counts."""
        enabled_at = self.standing.enabled_at
        if self.failing_since and enabled_at and self.failing_since < enabled_at:
            self.failing_since = None

    def halt(self) -> bool:
        """Send nothing from now on; whether that is new."""
        if not self.sends:
            return False
        self.halted = _FOR_EVER
        return True

    def halt_until(self, position: int, now: datetime) -> None:
        """Send nothing before the view has come to a position; it shows then what holds."""
        self.halted, self.due = position, now

    def sealed_secrets(self, now: datetime) -> tuple[bytes, ...]:
        """Those that sign now, the present one first."""
        return self.standing.endpoint.signing(now)


class Roster:
    """Every endpoint that is not deleted."""

    def __init__(self, most_in_flight: int) -> None:
        self._most = most_in_flight
        self.seen = 0
        """The webhook view's position that is known here."""
        self._reached = 0
        """How far messages may be taken: the webhook view may be ahead of the others."""
        self._held: dict[str, None] = {}
        """Those whose new messages lie beyond."""
        self.in_hand = 0
        self._in_hand: Counter[str | None] = Counter()
        """The same by organization, but for what was sent to endpoints that are deleted now."""
        self._watched: dict[str, Watched] = {}
        self._ready: OrderedDict[str | None, OrderedDict[str, None]] = OrderedDict()
        """Those to claim for by organization, both in turn."""
        self._timers: list[tuple[datetime, str]] = []

    @property
    def is_empty(self) -> bool:
        """Whether there is no endpoint."""
        return not self._watched

    def get(self, endpoint_id: str) -> Watched | None:
        """An endpoint, or None once it is deleted."""
        return self._watched.get(endpoint_id)

    def update(self, news: News, now: datetime) -> None:
        """Take in what the view has that is new."""
        self.seen = news.seen
        for one in news.changed:
            endpoint = one.standing.endpoint
            watched = self._watched.get(endpoint.id)
            if endpoint.deleted:
                if watched is not None:
                    del self._watched[endpoint.id]
                    self._in_hand[watched.organization] -= len(watched.busy)
                continue
            if watched is None:
                watched = self._watched[endpoint.id] = Watched(one, now)
            else:
                watched.take(one.standing, now)
            self._held.setdefault(watched.id)
        self._reached = max(self._reached, news.reached)
        held, self._held = self._held, {}
        for endpoint_id in held:
            watched = self._watched.get(endpoint_id)
            if watched is not None:
                self.consider(watched, now)

    def requesting(self) -> list[Watched]:
        """Those for which a test or a recovery was asked that is not heeded yet."""
        return [w for w in self._watched.values() if w.standing.requested > w.heeded]

    def heed(self, heeded: Iterable[Heeded], now: datetime) -> None:
        """A test or recovery has made something due."""
        for one in heeded:
            watched = self._watched[one.endpoint_id]
            watched.recovered = one.position
            watched.heeded = one.position if one.is_done else watched.heeded
            watched.due = now
            self.consider(watched, now)

    def consider(self, watched: Watched, now: datetime) -> None:
        """Claim for an endpoint in its turn, if there may be something to be sent."""
        if watched.free <= 0:
            return
        if watched.is_behind and watched.taken >= self._reached:
            self._held.setdefault(watched.id)
        elif watched.is_behind:
            self._queue_up(watched)
        if watched.due is None:
            return
        if watched.due <= now:
            self._queue_up(watched)
        elif watched.due not in watched.timers:
            watched.timers.add(watched.due)
            heapq.heappush(self._timers, (watched.due, watched.id))

    def turn(self, now: datetime) -> list[Ask]:
        """Those whose turn it is; they go to the end of the queue."""
        while self._timers and self._timers[0][0] <= now:
            due, endpoint_id = heapq.heappop(self._timers)
            watched = self._watched.get(endpoint_id)
            if watched is not None:
                watched.timers.discard(due)
                self.consider(watched, now)
        return list(self._asks())

    def _queue_up(self, watched: Watched) -> None:
        self._ready.setdefault(watched.organization, OrderedDict()).setdefault(watched.id)

    def _asks(self) -> Iterator[Ask]:
        """One endpoint of each organization in turn, as far as there is room for it."""
        room, asked = self._most - self.in_hand, Counter[str | None]()
        for _ in range(_AT_ONCE):
            if not self._ready:
                return
            organization, ready = self._ready.popitem(last=False)
            most = share(room, self._in_hand[organization] + asked[organization])
            if most > 0:
                watched = self._watched.get(ready.popitem(last=False)[0])
                if watched is not None and watched.free > 0:
                    free = min(watched.free, most)
                    room -= free
                    asked[organization] += free
                    yield Ask(watched.id, free, list(watched.busy), watched.sends)
            if ready:
                self._ready[organization] = ready

    @property
    def is_ready(self) -> bool:
        """Whether somebody waits for its turn, and there is room for it."""
        room = self._most - self.in_hand
        return any(share(room, self._in_hand[one]) > 0 for one in self._ready)

    def next_due(self) -> datetime | None:
        """When something is to be tried again."""
        return self._timers[0][0] if self._timers else None

    def give(self, asks: Iterable[Ask], given: dict[str, Given], now: datetime) -> bool:
        """Note what was claimed for each, and whether there may be more.

        False where an endpoint is not what it is here: the view has to be looked at.
        """
        as_known = True
        for ask in asks:
            watched, one = self._watched.get(ask.endpoint_id), given.get(ask.endpoint_id)
            if watched is None or one is None or one.sends != ask.sends:
                as_known = False
            if watched is None or one is None:
                continue
            for claimed in one.claimed:
                watched.busy[claimed.position] = claimed
            self.in_hand += len(one.claimed)
            self._in_hand[watched.organization] += len(one.claimed)
            if len(one.claimed) < ask.free:
                watched.due = one.next_due
                if one.sends:
                    watched.taken = max(watched.taken, one.reached)
            self.consider(watched, now)
        return as_known

    def release(self, claimed: Claimed, due: datetime | None, now: datetime) -> None:
        """A delivery is no longer in hand; it may be due again."""
        self.in_hand -= 1
        watched = self._watched.get(claimed.endpoint_id)
        if watched is None:
            return
        watched.busy.pop(claimed.position, None)
        self._in_hand[watched.organization] -= 1
        if claimed.round < watched.recovered:
            due = now
        if due is not None:
            watched.due = due if watched.due is None else min(watched.due, due)
        self.consider(watched, now)


Opener = Callable[[str, bytes], str]
"""Opens an endpoint's sealed secret."""


def secrets_of(watched: Watched, now: datetime, open_: Opener) -> list[str]:
    """The secrets that sign now. Raises what the opener raises."""
    sealed = watched.sealed_secrets(now)
    watched.secrets = {one: watched.secrets.get(one) or open_(watched.id, one) for one in sealed}
    return [watched.secrets[one] for one in sealed]
