"""The rows about the service itself: the memory of its workers, the time of its start."""

import statistics

from measure import Bench, Row, at_most
from processes import children_of, megabytes, name_of
from product import UnmeasuredError

MOST_MB = 300
MOST_SECONDS = 2
STARTS = 3


def memory(bench: Bench) -> Row:
    """The largest memory of any API worker since its start."""
    held = {
        name: megabytes(pid, "VmHWM")
        for pid in children_of(bench.product.pid)
        if (name := name_of(pid)).startswith("ledger-")
    }
    workers = [most for name, most in held.items() if name.startswith("ledger-api")]
    if not workers:
        raise UnmeasuredError("no API worker was found among the service's processes")
    note = ", ".join(f"{name} {most:,.0f}" for name, most in sorted(held.items()))
    return at_most("memory of an API worker at most, MB", max(workers), MOST_MB, "MB", note)


def start(bench: Bench) -> Row:
    """The time from the command to the line `Serving on`, after a clean stop."""
    taken = []
    for _ in range(STARTS):
        bench.product.stop()
        taken.append(bench.product.start())
    note = f"{bench.data.events:,} events; {', '.join(f'{one:.2f}' for one in taken)}"
    work = "start on an existing ledger, seconds"
    return at_most(work, statistics.median(taken), MOST_SECONDS, "s", note)
