"""Reads that wait for a lane: organizations take turns (contract, Access, "Shares").

An organization has only a few reads under way at once, each from its sending until its group has
ended. Its further reads wait behind each other, and no read of others waits behind them. So the
answers of one organization cannot fill PostgreSQL, the lanes, or a turn of the event loop.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

from ledger.postgres.lane import Asked


class Waiting:
    """The waiting reads of one kind, short or long, by organization."""

    def __init__(self, share: int) -> None:
        """``share``: how many reads of an organization may be under way at once."""
        self._share = share
        self._organizations: OrderedDict[str, deque[Asked]] = OrderedDict()
        """In the order of their turns."""
        self._under_way: dict[str, int] = {}
        self._count = 0

    def __len__(self) -> int:
        """The number of waiting reads, those included whose callers have left."""
        return self._count

    def __iter__(self) -> Iterator[Asked]:
        for asked in self._organizations.values():
            yield from asked

    @property
    def under_way(self) -> int:
        """The number of reads that are under way, of all organizations."""
        return sum(self._under_way.values())

    def add(self, asked: Asked) -> None:
        """Take in a read, behind those of its organization."""
        name = asked.organization
        reads = self._organizations.get(name)
        if reads is None:
            self._organizations[name] = deque((asked,))
        else:
            reads.append(asked)
        self._count += 1

    def add_again(self, asked: Asked) -> None:
        """Take in a read that was under way in vain: it is the first of all."""
        self._organizations.setdefault(asked.organization, deque()).appendleft(asked)
        self._organizations.move_to_end(asked.organization, last=False)
        self._count += 1

    def first(self) -> Asked | None:
        """The read whose turn it is; None if no organization with a waiting read may send one."""
        for name, reads in self._organizations.items():
            if self._under_way.get(name, 0) >= self._share:
                continue
            if not reads[0].future.done():
                return reads[0]
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
            reads = self._organizations[name]
            if len(reads) == 1:
                del self._organizations[name]
            else:
                reads.popleft()
                self._organizations.move_to_end(name)
            self._count -= 1
            self._under_way[name] = self._under_way.get(name, 0) + 1
            begun.append(asked)
        return begun

    def end(self, group: Sequence[Asked]) -> None:
        for asked in group:
            name = asked.organization
            left = self._under_way[name] - 1
            if left:
                self._under_way[name] = left
            else:
                del self._under_way[name]

    def is_share_taken(self, asked: Asked) -> bool:
        """Whether a read waits for others of its organization."""
        return self._under_way.get(asked.organization, 0) >= self._share

    def drop_ended(self) -> None:
        """Drop the waiting reads that have failed, or whose callers have left."""
        for name, reads in [*self._organizations.items()]:
            left = deque(asked for asked in reads if not asked.future.done())
            self._count -= len(reads) - len(left)
            if left:
                self._organizations[name] = left
            else:
                del self._organizations[name]
