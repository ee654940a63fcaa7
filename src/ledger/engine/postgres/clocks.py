"""This machine's clock, compared with the database's (contract, Several nodes, "Clocks")."""

from collections.abc import Callable

_MOST_SECONDS = 5.0
"""A clock that differs more from the database's is wrong (contract, Several nodes)."""


def is_wrong(skew: float) -> bool:
    """True if a clock that is ahead by so many seconds is wrong."""
    return abs(skew) > _MOST_SECONDS


def skew(sent_at: float, at: float, answered_at: float) -> float:
    """By how many seconds this machine's clock is ahead at the least; behind is negative.

    The database gave ``at`` between the other two instants, which are this machine's. So a process
    that stood still meanwhile does not count as a wrong clock.
    """
    earliest, latest = sorted((sent_at, answered_at))
    return min(0.0, latest - at) or max(0.0, earliest - at)


class Comparison:
    """Compares the clocks during an append, which begins now. Nobody sets the ``steady`` clock."""

    def __init__(self, wall: Callable[[], float], steady: Callable[[], float]) -> None:
        self._wall, self._steady = wall, steady
        self._wall_began, self._steady_began = wall(), steady()
        self._skew: float | None = None

    def compare(self, at: float) -> None:
        """Take the database's instant, given since the beginning."""
        self._skew = skew(self._wall_began, at, self._wall())

    @property
    def skew(self) -> float | None:
        """By how many seconds this machine's clock is ahead now, at the least; None if unknown yet.

        If the clock was set since the beginning, it differs from the steady one.
        """
        if self._skew is None:
            return None
        moved, passed = self._wall() - self._wall_began, self._steady() - self._steady_began
        return self._skew + moved - passed
