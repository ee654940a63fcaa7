"""The table of a rehearsal."""

from collections.abc import Sequence

from scripts.rehearse.scenario import Outcome

_HEADS = (
    "what",
    "acknowledged",
    "lost",
    "doubled",
    "no writes, s",
    "no reads, s",
    "slowest answer, s",
    "`ledger verify`",
    "alerts",
)


def print_outcome(outcome: Outcome) -> None:
    """Print the result of a scenario, as soon as it is over."""
    print(_row(_cells(outcome)), flush=True)
    for fault in outcome.missed:
        print(f"    missed: {fault}", flush=True)


def print_table(outcomes: Sequence[Outcome]) -> None:
    """Print all scenarios as a table, and then each goal that was missed."""
    print()
    print(_row(_HEADS))
    print(_row(["---"] * len(_HEADS)))
    for outcome in outcomes:
        print(_row(_cells(outcome)))
    missed = [(one.scenario.title, fault) for one in outcomes for fault in one.missed]
    print()
    print("Every goal was met." if not missed else f"{len(missed)} goals were missed:")
    for title, fault in missed:
        print(f"* {title}: {fault}")


def _cells(outcome: Outcome) -> list[str]:
    counted = outcome.counted
    numbers = ["—"] * 6
    if counted is not None:
        gaps = outcome.writes, outcome.reads, outcome.slowest
        numbers = [f"{n:,}" for n in (counted.acknowledged, counted.lost, counted.doubled)]
        numbers += [f"{seconds:.1f}" for seconds in gaps]
    alerts = " ".join(sorted(name.removeprefix("Ledger") for name in outcome.alerts))
    return [outcome.scenario.title, *numbers, outcome.verified, alerts]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
