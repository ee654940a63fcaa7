"""This machine's clock, compared with the database's (contract, Several nodes, "Clocks")."""

_MOST_SECONDS = 5.0
"""A clock that is farther from the database's is wrong (contract, Several nodes)."""


def is_wrong(skew: float) -> bool:
    """Whether a clock that is ahead by so many seconds is wrong."""
    return abs(skew) > _MOST_SECONDS


def skew(sent_at: float, at: float, answered_at: float) -> float:
    """By how many seconds this machine's clock is ahead at the least; behind is negative.

    The database gave ``at`` at some moment between the other two instants. Both are this machine's.
    So a process that stood still meanwhile does not count as a wrong clock.
    """
    earliest, latest = sorted((sent_at, answered_at))
    return min(0.0, latest - at) or max(0.0, earliest - at)
