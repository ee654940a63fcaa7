"""Turns: how organizations share the writers of a node (contract, Access, "Shares").

Commands wait by organization, and the writer goes round the organizations. An organization that is
alone has its commands taken as they come, up to a whole group. While others wait its turn ends
after ``TURN_FACTS`` commands or ``TURN_SECONDS`` under the append lock, also in the middle of a
batch, and also if the others came during the turn; one command is never divided. The rest of a
batch stays the first of its organization, so the commands of an organization keep their order.

Others wait if they have commands in this writer, or had any in the last second, here or in another
process of the node (``Neighbours``): a client that was just answered will soon send more.

The views are shared in the same way. Views show events in the order of the log, so a write waits
for all events before its own. An organization therefore gets no turn while the views lag behind its
own events by more than a round of theirs.
"""

import ctypes
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from multiprocessing import RawArray
from typing import NamedTuple

from ledger.application.command import Command
from ledger.intake.request import Outcome

TURN_FACTS = 100
TURN_SECONDS = 0.1
"""The length of a turn while others wait."""

GROUP = 1000
"""The most commands in one append: a larger group gains nothing and holds the lock for longer."""

_RECENT_NANOSECONDS = 1_000_000_000
"""For how long an organization counts as waiting after its last command came."""

_BEHIND, _BEHIND_BESIDE_OTHERS = 1000, 200
"""By how many events the views may lag before an organization's turn: alone, and beside others.

The views take in one group while the writer decides the next, so alone they may lag by a group.
"""

_STILL_SECONDS = 1.0
"""Views that have not moved for so long are not waited for: their process may have died."""

_REMEMBERED = 1000
"""The most organizations whose last position is remembered."""

Outcomes = list[Outcome]

Board = ctypes.Array[ctypes.c_longlong]


def create_board(processes: int) -> Board:
    """The memory in which the processes of a node tell each other whose commands wait."""
    return RawArray(ctypes.c_longlong, processes * 4)


class Neighbours:
    """The organizations whose commands came in the last second to any process of the node.

    Each process notes its latest two organizations, with times. Two are enough to tell whether
    there was another than a given one. The memory has no lock: a value that is read while it is
    written can only make one turn longer or shorter.
    """

    def __init__(self, board: Board | None = None, place: int = 0) -> None:
        """Without a board the process knows of its own organizations only."""
        self._board = create_board(1) if board is None else board
        self._first = place * 4
        for cell in range(self._first, self._first + 4):
            self._board[cell] = 0  # of a process that had the place before

    def note(self, party: str) -> None:
        """Note that commands of the organization wait."""
        board, first, name = self._board, self._first, hash(party)
        if board[first] != name:
            board[first + 2], board[first + 3] = board[first], board[first + 1]
            board[first] = name
        board[first + 1] = time.monotonic_ns()

    def has_others(self, party: str) -> bool:
        """Whether there was another organization than this one."""
        name, since = hash(party), time.monotonic_ns() - _RECENT_NANOSECONDS
        cells = self._board[:]
        return any(
            cells[cell + 1] > since and cells[cell] != name for cell in range(0, len(cells), 2)
        )


class Ticket:
    """Commands that were handed in together and are answered together."""

    __slots__ = ("commands", "deliver", "outcomes", "party")

    def __init__(self, commands: Sequence[Command], deliver: Callable[[Outcomes], None]) -> None:
        self.commands = commands
        self.deliver = deliver
        self.party = commands[0].principal.party
        self.outcomes: Outcomes = []

    @property
    def left(self) -> int:
        """The number of commands that are not decided yet."""
        return len(self.commands) - len(self.outcomes)


class Slice(NamedTuple):
    """The next commands of a ticket, which one append may decide."""

    ticket: Ticket
    size: int

    @property
    def commands(self) -> Sequence[Command]:
        """The commands themselves."""
        commands, done = self.ticket.commands, len(self.ticket.outcomes)
        return commands if self.size == len(commands) else commands[done : done + self.size]


class Turns:
    """The commands that wait for one writer. Its caller holds a lock, except for ``is_over``."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours
        self._parties: OrderedDict[str, deque[Ticket]] = OrderedDict()
        """The tickets of each organization, in the order of their turns."""
        self._counts: dict[str, int] = {}
        """The undecided commands of each organization."""
        self.waiting = 0
        """All undecided commands."""
        self._end = 0
        """The end of the log when this writer last appended."""
        self._ends: dict[str, int] = {}
        """The same for each organization that recorded an event."""
        self._shown: int | None = None
        """The position that the views have reached; None: this process does not follow them."""
        self._moved_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._parties)

    def waiting_of(self, party: str) -> int:
        """The undecided commands of an organization."""
        return self._counts.get(party, 0)

    def add(self, ticket: Ticket) -> None:
        """Take in commands, behind those of the same organization."""
        party, count = ticket.party, len(ticket.commands)
        self._neighbours.note(party)
        tickets = self._parties.get(party)
        if tickets is None:
            tickets = self._parties[party] = deque()
        tickets.append(ticket)
        self._counts[party] = self._counts.get(party, 0) + count
        self.waiting += count

    def note_shown(self, position: int) -> None:
        """Note the position that the views have reached."""
        self._shown, self._moved_at = position, time.monotonic()

    def is_ready(self) -> bool:
        """Whether any organization may have a turn now."""
        return any(map(self._may_go, self._parties))

    def plan(self, *, is_last: bool = False) -> list[Slice]:
        """The commands of the next append; ``is_last``: the views are not waited for."""
        slices: list[Slice] = []
        room = GROUP
        for party, tickets in self._parties.items():
            if not (is_last or self._may_go(party)):
                continue
            self._neighbours.note(party)
            is_alone = self._is_alone(party)
            left = room if is_alone else min(room, TURN_FACTS)
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

    def is_over(self, plan: Sequence[Slice], decided: int, began: float) -> bool:
        """Whether the append should end after so many commands, begun at ``began`` (monotonic)."""
        if decided < TURN_FACTS or decided % 10:
            if time.monotonic() - began < TURN_SECONDS:
                return False
        elif plan[0].ticket.party != plan[-1].ticket.party:
            return time.monotonic() - began >= TURN_SECONDS
        return not self._is_alone(plan[0].ticket.party)

    def settle(self, plan: Sequence[Slice], outcomes: Outcomes) -> list[Ticket]:
        """Give the outcomes to the plan's first commands; return the tickets that are complete.

        Organizations that had a turn are the last now.
        """
        finished: list[Ticket] = []
        start = 0
        for ticket, count in plan:
            got = outcomes[start : start + count]
            if not got:
                break
            start += count
            ticket.outcomes += got
            party = ticket.party
            self._counts[party] -= len(got)
            if not ticket.left:
                finished.append(ticket)
                self._parties[party].popleft()
        for party in dict.fromkeys(ticket.party for ticket, _ in plan if ticket.outcomes):
            if self._parties[party]:
                self._parties.move_to_end(party)
            else:
                del self._parties[party], self._counts[party]
        self.waiting -= len(outcomes)
        return finished

    def note_end(self, plan: Sequence[Slice], position: int) -> None:
        """Note the end of the log after an append of the plan that recorded events."""
        self._end = position
        if len(self._ends) > _REMEMBERED:
            shown = self._shown or 0
            self._ends = {party: end for party, end in self._ends.items() if end > shown}
        self._ends |= dict.fromkeys((ticket.party for ticket, _ in plan), position)

    def _is_alone(self, party: str) -> bool:
        return len(self._parties) == 1 and not self._neighbours.has_others(party)

    def _may_go(self, party: str) -> bool:
        """Whether the views lag so little that the organization may have a turn."""
        shown = self._shown
        if shown is None or self._end - shown <= _BEHIND_BESIDE_OTHERS:
            return True
        if self._ends.get(party, 0) <= shown:
            return True  # no event that the views have yet to show is its own
        if time.monotonic() - self._moved_at > _STILL_SECONDS:
            return True
        return self._end - shown <= _BEHIND and self._is_alone(party)
