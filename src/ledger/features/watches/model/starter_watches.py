"""The watches that an organization without any is offered, and that the demo has."""

from ledger.features.watches.model import watch

_HOUR, _DAY = 3_600, 86_400

STARTERS: tuple[watch.WatchSettings, ...] = (
    watch.WatchSettings(
        name="Blocked for two hours",
        condition=watch.InState(("blocked",)),
        for_seconds=2 * _HOUR,
        severity="critical",
        keep_seconds=300,
    ),
    watch.WatchSettings(name="Past due", condition=watch.PastDue(), for_seconds=0),
    watch.WatchSettings(
        name="No activity for five days",
        condition=watch.NoActivity(),
        for_seconds=5 * _DAY,
        severity="info",
    ),
    watch.WatchSettings(
        name="A run hangs",
        condition=watch.RunOpen(("pending", "running")),
        for_seconds=_HOUR,
        lines=watch.LineChoice(execution_model=("agent_runtime",)),
    ),
    watch.WatchSettings(
        name="Three runs failed in a row",
        condition=watch.RunsFailing(3),
        for_seconds=0,
        severity="critical",
    ),
    watch.WatchSettings(
        name="Red health for an hour",
        condition=watch.HealthBelow("red"),
        for_seconds=_HOUR,
        severity="critical",
    ),
)
"""Each is about all lines of the organization, but for the watch of runs."""
