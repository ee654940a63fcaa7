"""The fair queue: how organizations share the writer of a node (contract, Access, "Shares").

Commands wait by organization, and the writer serves the organizations in turn. A single
organization has its commands taken as they come, up to a whole group. While others wait, its slot
ends after ``SLOT_FACTS`` commands or ``SLOT_SECONDS`` under the append lock: even in the middle of
a batch, and even if the others came during the slot. One command is never divided. The rest of a
batch stays first of its organization, so an organization's commands keep their order.

Others wait if they have commands in this writer, or had any in the last three seconds: a client
that just got its response will soon send more. A separate process, such as an import, does not
know that. It asks the database if an append waits for the lock, and sees under the lock if others
have recorded events.

The views are shared in the same way. They process events in the order of the log, so a write waits
for all events before its own. So an organization gets no slot while the views lag behind its own
events by more than a few slots. (A separate process applies this only if there are others.)
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from ledger.engine.postgres.pool.round_robin import RoundRobin
from ledger.engine.writer.command import Command
from ledger.engine.writer.request import Outcome

SLOT_FACTS = 100
SLOT_SECONDS = 0.1
"""The length of a slot in which facts are recorded or parsed while others wait."""

GROUP = 1000
"""The most commands in one append: a larger group gains nothing and holds the lock longer."""

_RECENT_SECONDS = 3.0
"""How long an organization counts as waiting after its last command came."""

_CHECK_EACH = 10
"""After so many commands of a slot the writer checks again for others."""

_BEHIND, _BEHIND_SHARED = 2000, 200
"""How many events the views may lag before an organization's slot: alone, and with others.

The first is a whole round of the projector: smaller rounds would slow the organization down.
"""

STILL_SECONDS = 1.0
"""Views that have not moved for so long are not waited for: their process may have died."""

_REMEMBERED = 1000
"""The most organizations whose last position is stored."""

Outcomes = list[Outcome]


@dataclass(eq=False)
class Ticket:
    """Commands that were submitted together and get their outcomes together."""

    commands: Sequence[Command]
    deliver: Callable[[Outcomes], None]
    outcomes: Outcomes = field(default_factory=list)

    @cached_property
    def tenant_key(self) -> str:
        return self.commands[0].principal.tenant_key

    @property
    def left(self) -> int:
        return len(self.commands) - len(self.outcomes)


class Slice(NamedTuple):
    """The next commands of a ticket, which one append may decide."""

    ticket: Ticket
    size: int

    @property
    def commands(self) -> Sequence[Command]:
        commands, done = self.ticket.commands, len(self.ticket.outcomes)
        return commands if self.size == len(commands) else commands[done : done + self.size]


class FairQueue:
    """The commands that wait for one writer. Its caller holds a lock, except for ``Slot``."""

    def __init__(self, *, is_apart: bool) -> None:
        """``is_apart`` is true for a writer that does not serve the API."""
        self._is_apart = is_apart
        self._recent: dict[str, float] = {}
        """When commands of the latest two organizations came or were taken: enough to find one
        besides a given one."""
        self._others_at = 0.0
        """When the writer of a separate process last saw that others had recorded events."""
        self._tenants: RoundRobin[str, Ticket] = RoundRobin()
        self._counts: dict[str, int] = {}
        self.waiting = 0
        """All undecided commands."""
        self._end = 0
        """The end of the log when this writer last appended."""
        self._ends: dict[str, int] = {}
        """The same for each organization that recorded an event."""
        self._projected: int | None = None
        """The position that the views have reached; None if this process does not follow them."""
        self._moved_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._tenants)

    def waiting_of(self, tenant_key: str) -> int:
        return self._counts.get(tenant_key, 0)

    def add(self, ticket: Ticket) -> None:
        """Append commands to those of the same organization."""
        tenant_key, count = ticket.tenant_key, len(ticket.commands)
        self._note_recent(tenant_key)
        self._tenants.add(tenant_key, ticket)
        self._counts[tenant_key] = self._counts.get(tenant_key, 0) + count
        self.waiting += count

    def _note_recent(self, tenant_key: str) -> None:
        self._recent.pop(tenant_key, None)
        self._recent[tenant_key] = time.monotonic()
        if len(self._recent) > 2:
            del self._recent[next(iter(self._recent))]

    def note_projected(self, position: int) -> None:
        self._projected, self._moved_at = position, time.monotonic()

    def is_ready(self) -> bool:
        return any(map(self._may_go, self._tenants))

    def plan(self, *, is_last: bool = False) -> list[Slice]:
        """The commands of the next append. With ``is_last`` it does not wait for the views."""
        slices: list[Slice] = []
        room = GROUP
        for tenant_key, tickets in self._tenants.items():
            if not (is_last or self._may_go(tenant_key)):
                continue
            self._note_recent(tenant_key)
            is_alone = self._is_alone(tenant_key)
            left = room if is_alone else min(room, SLOT_FACTS)
            for ticket in tickets:
                count = min(ticket.left, left)
                if is_alone and slices and count < ticket.left:
                    break
                slices.append(Slice(ticket, count))
                left -= count
                room -= count
                if not left:
                    break
            if not room:
                break
        return slices

    def begin(
        self,
        plan: Sequence[Slice],
        is_awaited: Callable[[], bool],
        receive: Callable[[], None],
    ) -> "Slot":
        """The slot of an append that begins now.

        ``is_awaited`` checks if an append of another process waits: only a separate process calls
        it. ``receive`` lets commands come during the append.
        """
        tenants = {each.ticket.tenant_key for each in plan}
        if len(tenants) > 1:
            return Slot(None, None)
        (tenant_key,) = tenants

        def is_alone() -> bool:
            receive()
            return self._is_alone(tenant_key)

        return Slot(is_alone, is_awaited if self._is_apart else None)

    def settle(self, plan: Sequence[Slice], outcomes: Outcomes) -> list[Ticket]:
        """Give the outcomes to the plan's first commands; return the tickets that are complete.

        Organizations that had a slot are now last.
        """
        finished: list[Ticket] = []
        served: dict[str, None] = {}
        start = 0
        for ticket, count in plan:
            got = outcomes[start : start + count]
            if not got:
                break
            start += count
            ticket.outcomes += got
            served[ticket.tenant_key] = None
            self._counts[ticket.tenant_key] -= len(got)
            if not ticket.left:
                finished.append(ticket)
                self._tenants.remove(ticket.tenant_key, ticket)
        for tenant_key in served:
            self._tenants.serve(tenant_key)
            if not self._counts[tenant_key]:
                del self._counts[tenant_key]
        self.waiting -= len(outcomes)
        return finished

    def note_end(self, plan: Sequence[Slice], start: int, position: int) -> None:
        """Note the log's ends before and after an append of the plan that recorded events."""
        if self._is_apart and 0 < self._end < start:
            self._others_at = time.monotonic()
        self._end = position
        if len(self._ends) > _REMEMBERED:
            viewed = self._projected or 0
            self._ends = {tenant_key: end for tenant_key, end in self._ends.items() if end > viewed}
        self._ends |= dict.fromkeys((ticket.tenant_key for ticket, _ in plan), position)

    def _is_alone(self, tenant_key: str) -> bool:
        since = time.monotonic() - _RECENT_SECONDS
        has_others = any(at > since for key, at in self._recent.items() if key != tenant_key)
        return len(self._tenants) == 1 and not has_others and self._others_at < since

    def _may_go(self, tenant_key: str) -> bool:
        """True if the views lag so little that the organization may have a slot."""
        viewed = self._projected
        if viewed is None or self._end - viewed <= _BEHIND_SHARED:
            return True
        if self._ends.get(tenant_key, 0) <= viewed:
            return True  # the views have reached all of its events
        if time.monotonic() - self._moved_at > STILL_SECONDS:
            return True
        return (self._is_apart or self._end - viewed <= _BEHIND) and self._is_alone(tenant_key)


class Slot:
    """The end of one append: it comes with the plan's end, or while others wait.

    ``is_alone`` is True if the plan's organization is alone, None if the plan has several. If an
    append of one that seems alone takes long, ``is_awaited`` asks the database for another append
    that waits. (The answer comes behind all events that were sent before.)
    """

    def __init__(
        self, is_alone: Callable[[], bool] | None, is_awaited: Callable[[], bool] | None
    ) -> None:
        self._is_alone, self._is_awaited = is_alone, is_awaited
        self._ask_at = time.monotonic() + SLOT_SECONDS

    def is_over(self, decided: int) -> bool:
        """True if the append should end after so many commands."""
        is_late = time.monotonic() >= self._ask_at
        if self._is_alone is None:
            return is_late
        if not is_late and (decided < SLOT_FACTS or decided % _CHECK_EACH):
            return False
        if not self._is_alone():
            return True
        if not is_late or self._is_awaited is None:
            return False
        self._ask_at = time.monotonic() + SLOT_SECONDS
        return self._is_awaited()
