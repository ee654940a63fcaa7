"""Round robin of organizations, and the reads that wait (contract, Access, "Shares").

An organization has only a few reads under way at once, each from its sending until its group has
ended. Its further reads wait behind each other, and no read of others waits behind them. So the
answers of one organization cannot fill PostgreSQL, the connections, or the event loop.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import TypeVar

from ledger.engine.postgres.pool.pipelined import PendingRead

P = TypeVar("P", bound=Hashable)
T = TypeVar("T", bound=Hashable)


class RoundRobin(OrderedDict[P, OrderedDict[T, None]]):
    """Items that wait, by key. The keys are in the order in which they are served.

    The items of a key keep their order, and a key without items is dropped. It shares out among
    organizations: reads, appends (``engine/writer/fair_queue.py``), the parsing of large bodies
    (``engine/http/machinery/parsing.py``), the event loop
    (``engine/http/machinery/loop_slices.py``) and slots for deliveries
    (``features/webhooks/delivery/registry.py``).
    """

    count = 0
    """The number of items."""

    def add(self, key: P, item: T) -> None:
        """Append an item to those of its key, unless it waits already."""
        queue = self.get(key)
        if queue is None:
            queue = self[key] = OrderedDict()
        if item not in queue:
            queue[item] = None
            self.count += 1

    def add_first(self, key: P, item: T) -> None:
        """Put an item before all others."""
        self.add(key, item)
        self[key].move_to_end(item, last=False)
        self.move_to_end(key, last=False)

    def remove(self, key: P, item: T) -> None:
        """Remove an item if it waits."""
        queue = self.get(key, ())
        if item in queue:
            del self[key][item]
            self.count -= 1
            if not queue:
                del self[key]

    def serve(self, key: P) -> None:
        """Move a key behind the others: it was served."""
        if key in self:
            self.move_to_end(key)

    def pop_first(self, key: P) -> T:
        """Serve a key: take its first item, and move the key behind the others."""
        queue = self[key]
        first, _ = queue.popitem(last=False)
        self.count -= 1
        if queue:
            self.move_to_end(key)
        else:
            del self[key]
        return first


def share(room: int, used: int) -> int:
    """How many of the ``room`` free slots a holder of ``used`` ones may take in addition.

    The holder then has no more slots than are left free. Its first slot needs one free slot.
    """
    return max((room - used) // 2, int(used == 0 < room))


class WaitingReads(RoundRobin[str, PendingRead]):
    """The waiting reads of one kind, short or long, by organization.

    They include reads whose callers have left.
    """

    def __init__(self, share: int) -> None:
        """``share``: the most reads of an organization under way at once."""
        super().__init__()
        self._share = share
        self._under_way: dict[str, int] = {}

    @property
    def reads(self) -> list[PendingRead]:
        return [read for queue in self.values() for read in queue]

    @property
    def under_way(self) -> int:
        """The number of reads under way, of all organizations."""
        return sum(self._under_way.values())

    def first(self) -> PendingRead | None:
        """The next read; None if no organization with a waiting read may send one."""
        for name, queue in self.items():
            if self._under_way.get(name, 0) >= self._share:
                continue
            read = next(iter(queue))
            if not read.future.done():
                return read
            self.drop_ended()
            return self.first()
        return None

    def begin(self, most: int) -> list[PendingRead]:
        """Take out the next reads, one of each organization in turn.

        A read that was under way before goes alone, whatever ended its group. So no read is passed
        over for ever, and a read that makes the server end connections fails no other reads again.
        """
        begun: list[PendingRead] = []
        while self and len(begun) < most and (read := self.first()) is not None:
            if begun and (read.tries or begun[0].tries):
                break
            name = read.organization
            self._under_way[name] = self._under_way.get(name, 0) + 1
            begun.append(self.pop_first(name))
        return begun

    def end(self, group: Sequence[PendingRead]) -> None:
        for read in group:
            self._under_way[read.organization] -= 1
            if not self._under_way[read.organization]:
                del self._under_way[read.organization]

    def is_share_used(self, read: PendingRead) -> bool:
        """True if a read waits for others of its organization."""
        return self._under_way.get(read.organization, 0) >= self._share

    def drop_ended(self) -> None:
        """Drop the waiting reads that have failed, or whose callers have left."""
        for read in self.reads:
            if read.future.done():
                self.remove(read.organization, read)
