"""Health: the score of a line from its reported signals (contract, State)."""

from collections.abc import Iterable
from typing import Any, Literal, get_args

import msgspec

SignalName = Literal[
    "hours_on_target",
    "sla_compliance",
    "delivery_velocity",
    "capacity_utilisation",
    "incident_frequency",
    "agent_error_rate",
    "outcome_progress",
]
SignalStatus = Literal["green", "amber", "red"]

HealthLevel = Literal["amber", "red"]

LEVELS: tuple[HealthLevel, ...] = get_args(HealthLevel)

PENALTY: dict[SignalStatus, int] = {"green": 0, "amber": 6, "red": 31}
"""The points by which a signal of this status reduces the score of 100."""

LEAST: dict[SignalStatus, int] = {"green": 70, "amber": 50, "red": 0}


class Signal(msgspec.Struct, frozen=True, array_like=True):
    """The latest report of one signal."""

    signal: SignalName
    status: SignalStatus
    value: Any = None
    evidence: Any = None


def score(signals: Iterable[Signal]) -> int | None:
    """The health score, 0 to 100; None without any signal."""
    penalties = [PENALTY[signal.status] for signal in signals]
    return max(0, 100 - sum(penalties)) if penalties else None


def status(points: int | None) -> SignalStatus | None:
    if points is None:
        return None
    return next(status for status, least in LEAST.items() if points >= least)


def is_below(points: int | None, level: HealthLevel) -> bool:
    """True if a score has this level, or is worse; False without a score."""
    best: SignalStatus = "green" if level == "amber" else "amber"
    return points is not None and points < LEAST[best]
