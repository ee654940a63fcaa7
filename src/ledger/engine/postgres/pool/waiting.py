"""Turns of organizations, and the reads that wait for theirs (contract, Access, "Shares").

An organization has only a few reads under way at once, each from its sending until its group has
ended. Its further reads wait behind each other, and no read of others waits behind them. So the
answers of one organization cannot fill PostgreSQL, the lanes, or a turn of the event loop.
"""

from collections import OrderedDict
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import Generic, TypeVar

from ledger.engine.postgres.pool.lane import Asked

P = TypeVar("P", bound=Hashable)
T = TypeVar("T", bound=Hashable)


class RoundRobin(Generic[P, T]):
    """Items that wait, by party. Iteration yields the parties in the order of their turns.

    The items of a party keep their order, and a party without items is forgotten. All that
    organizations share is given out so: reads, appends (``engine/writer/turns.py``), the parsing of
    large bodies (``engine/http/machinery/parsing.py``), the event loop
    (``engine/http/machinery/loop_turns.py``), places for deliveries
    (``features/webhooks/delivery/roster.py``).
    """

    def __init__(self) -> None:
        self._queues: OrderedDict[P, OrderedDict[T, None]] = OrderedDict()
        self.count = 0
        """The number of items."""

    def __len__(self) -> int:
        """The number of parties."""
        return len(self._queues)

    def __iter__(self) -> Iterator[P]:
        return iter(self._queues)

    def of(self, party: P) -> Collection[T]:
        return self._queues[party].keys()

    def add(self, party: P, item: T) -> None:
        """Let an item wait behind those of its party, unless it waits already."""
        queue = self._queues.get(party)
        if queue is None:
            queue = self._queues[party] = OrderedDict()
        if item not in queue:
            queue[item] = None
            self.count += 1

    def add_first(self, party: P, item: T) -> None:
        """Let an item wait before all others."""
        self.add(party, item)
        self._queues[party].move_to_end(item, last=False)
        self._queues.move_to_end(party, last=False)

    def remove(self, party: P, item: T) -> None:
        """Let an item wait no more, if it does."""
        queue = self._queues.get(party, ())
        if item in queue:
            del self._queues[party][item]
            self.count -= 1
            if not queue:
                del self._queues[party]

    def serve(self, party: P) -> None:
        """End the turn of a party: it is the last now."""
        if party in self._queues:
            self._queues.move_to_end(party)

    def take(self, party: P) -> T:
        """End the turn of a party by taking its first item."""
        queue = self._queues[party]
        first, _ = queue.popitem(last=False)
        self.count -= 1
        if queue:
            self._queues.move_to_end(party)
        else:
            del self._queues[party]
        return first


def share(room: int, taken: int) -> int:
    """How many of the ``room`` free places a holder of ``taken`` may take in addition.

    The holder then has no more places than are left free. Its first place needs one free place.
    """
    return max((room - taken) // 2, int(taken == 0 < room))


class Waiting:
    """The waiting reads of one kind, short or long, by organization."""

    def __init__(self, share: int) -> None:
        """``share``: how many reads of an organization may be under way at once."""
        self._share = share
        self._waiting: RoundRobin[str, Asked] = RoundRobin()
        self._under_way: dict[str, int] = {}

    def __len__(self) -> int:
        """The number of waiting reads, those included whose callers have left."""
        return self._waiting.count

    def __iter__(self) -> Iterator[Asked]:
        for name in self._waiting:
            yield from self._waiting.of(name)

    @property
    def under_way(self) -> int:
        """The number of reads that are under way, of all organizations."""
        return sum(self._under_way.values())

    def add(self, asked: Asked) -> None:
        self._waiting.add(asked.organization, asked)

    def add_again(self, asked: Asked) -> None:
        """Take in a read that was under way in vain: it is the first of all."""
        self._waiting.add_first(asked.organization, asked)

    def first(self) -> Asked | None:
        """The read whose turn it is; None if no organization with a waiting read may send one."""
        for name in self._waiting:
            if self._under_way.get(name, 0) >= self._share:
                continue
            asked = next(iter(self._waiting.of(name)))
            if not asked.future.done():
                return asked
            self.drop_ended()
            return self.first()
        return None

    def begin(self, most: int) -> list[Asked]:
        """Take out the reads whose turn it is, one of each organization in turn.

        A read that was under way before is the first of them, or none of them.
        """
        begun: list[Asked] = []
        while len(begun) < most and (asked := self.first()) is not None:
            if begun and asked.tries:
                break
            name = asked.organization
            self._under_way[name] = self._under_way.get(name, 0) + 1
            begun.append(self._waiting.take(name))
        return begun

    def end(self, group: Sequence[Asked]) -> None:
        for asked in group:
            self._under_way[asked.organization] -= 1
            if not self._under_way[asked.organization]:
                del self._under_way[asked.organization]

    def is_share_taken(self, asked: Asked) -> bool:
        """Whether a read waits for others of its organization."""
        return self._under_way.get(asked.organization, 0) >= self._share

    def drop_ended(self) -> None:
        """Drop the waiting reads that have failed, or whose callers have left."""
        for asked in [*self]:
            if asked.future.done():
                self._waiting.remove(asked.organization, asked)
