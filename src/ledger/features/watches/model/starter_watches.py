"""The watches that an organization without any is offered, and that the demo has."""

from ledger.features.watches.model.watch import (
    HealthBelow,
    InState,
    LineChoice,
    NoActivity,
    PastDue,
    RunOpen,
    RunsFailing,
    WatchSettings,
)

_HOUR, _DAY = 3_600, 86_400

STARTERS: tuple[WatchSettings, ...] = (
    WatchSettings(
        name="Blocked for two hours",
        condition=InState(("blocked",)),
        for_seconds=2 * _HOUR,
        severity="critical",
        keep_seconds=300,
    ),
    WatchSettings(name="Past due", condition=PastDue(), for_seconds=0),
    WatchSettings(
        name="No activity for five days",
        condition=NoActivity(),
        for_seconds=5 * _DAY,
        severity="info",
    ),
    WatchSettings(
        name="A run hangs",
        condition=RunOpen(("pending", "running")),
        for_seconds=_HOUR,
        lines=LineChoice(execution_model=("agent_runtime",)),
    ),
    WatchSettings(
        name="Three runs failed in a row",
        condition=RunsFailing(3),
        for_seconds=0,
        severity="critical",
    ),
    WatchSettings(
        name="Red health for an hour",
        condition=HealthBelow("red"),
        for_seconds=_HOUR,
        severity="critical",
    ),
)
"""Each is about all lines of the organization, but for the watch of runs."""
