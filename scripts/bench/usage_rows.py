"""The rows about many lines: the time of usage, a comparison and a statement; memory of an export.

The data set has 10,000 lines and 1 M events of three months. Each answer is asked for on its own.
"""

import statistics
import time
from collections.abc import Iterator
from datetime import timedelta

from dataset import DataSet
from measure import Bench, Row, at_most
from product import Client, serving

DATA = DataSet(1_000_000, 10_000, timedelta(weeks=13))
_MONTH = "from=2026-04-01&to=2026-05-01"
_ASKED = (
    ("a month by line", f"/v1/usage?{_MONTH}", 1000),
    ("a month by project", f"/v1/usage?{_MONTH}&group_by=project", 1000),
    ("a month by workspace", f"/v1/usage?{_MONTH}&group_by=workspace", 1000),
    ("a month by day", f"/v1/usage?{_MONTH}&group_by=day", 1000),
    ("a month by resource", f"/v1/usage?{_MONTH}&group_by=resource", 2000),
    ("a week compared", f"/v1/compare?then=2026-04-10&now=2026-04-17&{_MONTH}", 2000),
)
"""The questions, and the milliseconds that an answer may take."""

ROUNDS = 7


def usage(bench: Bench) -> Iterator[Row]:
    """The median of some answers each; the first one is not counted."""
    DATA.prepare()
    data_dir = bench.folder / "usage"
    DATA.copy_to(data_dir)
    with serving(data_dir, DATA.key, bench.workers, bench.folder / "usage.log") as product:
        client = Client(product)
        for work, path, most in _ASKED:
            taken = list[float]()
            for _ in range(1 + ROUNDS):
                began = time.perf_counter()
                client.get(path)
                taken.append(1e3 * (time.perf_counter() - began))
            half = statistics.median(taken[1:])
            note = f"{DATA.events:,} events; most {max(taken[1:]):.0f}"
            yield at_most(f"{work} of {DATA.lines:,} lines, ms", half, most, "ms", note)
