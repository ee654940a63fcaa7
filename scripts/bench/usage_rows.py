"""The rows about many lines: usage, a comparison, a statement; the memory of an export.

The times are for 10,000 lines and 1 M events of three months, one answer at a time. The export is
that of the other rows' data set.
"""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from dataset import DataSet
from measure import Bench, Row, at_most
from processes import children_of, megabytes, name_of
from product import Client, run_ledger, serving
from story import ORGANIZATION

DATA = DataSet(1_000_000, 10_000, timedelta(weeks=13))
_MONTH = "from=2026-04-01&to=2026-05-01"
_QUERIES = (
    ("a month by line", f"/v1/usage?{_MONTH}", 1000),
    ("a month by project", f"/v1/usage?{_MONTH}&group_by=project", 1000),
    ("a month by workspace", f"/v1/usage?{_MONTH}&group_by=workspace", 1000),
    ("a month by day", f"/v1/usage?{_MONTH}&group_by=day", 1000),
    ("a month by resource", f"/v1/usage?{_MONTH}&group_by=resource", 2000),
    ("a week compared", f"/v1/compare?then=2026-04-10&now=2026-04-17&{_MONTH}", 2000),
)
"""The requests, and the milliseconds that an answer may take."""

_STATEMENT_MS = 3000
_MORE_MB = 60
ROUNDS = 7


def usage(bench: Bench) -> Iterator[Row]:
    """The median time of each answer. The first answer is not counted."""
    DATA.prepare()
    data_dir = bench.folder / "usage"
    DATA.copy_to(data_dir)
    create = ("keys", "create", "--organization", ORGANIZATION, "--permission", "read")
    env = {"LEDGER_DATA_DIR": str(data_dir)}
    key = run_ledger(env, *create, "statements:issue", seconds=60).strip()
    with serving(data_dir, key, bench.workers, bench.folder / "usage.log") as product:
        client = Client(product)
        for work, path, most in _QUERIES:
            yield _timed(work, most, lambda path=path: client.get(path))
        body = json.dumps({"from": "2026-04-01", "to": "2026-05-01", "by_resource": True}).encode()
        yield _timed("a statement", _STATEMENT_MS, lambda: client.send("/v1/statements", body))


def _timed(work: str, most: int, ask: Callable[[], object]) -> Row:
    times = list[float]()
    for _ in range(1 + ROUNDS):
        began = time.perf_counter()
        ask()
        times.append(1e3 * (time.perf_counter() - began))
    half = statistics.median(times[1:])
    note = f"{DATA.events:,} events; most {max(times[1:]):.0f}"
    return at_most(f"{work} of {DATA.lines:,} lines, ms", half, most, "ms", note)


def usage_export(bench: Bench) -> Row:
    """How much an export of all lines grows the workers' memory, after one of few lines."""
    client = Client(bench.product)
    few = f"&service_line_id={','.join(f'LIN-26-{n:06d}' for n in range(1, 101))}"
    path = "/v1/usage/export?from=2026-03-01&to=2026-04-01&format=csv"
    client.get(path + few)
    before = _memory(bench)
    began = time.perf_counter()
    lines = client.get(path)[1].count(b"\n") - 2
    elapsed = time.perf_counter() - began
    note = f"{lines:,} lines in {elapsed:.1f} s"
    work = "export of a month by line, growth of the workers' memory, MB"
    return at_most(work, max(0.0, _memory(bench) - before), _MORE_MB, "MB", note)


def _memory(bench: Bench) -> float:
    """The highest memory of all workers together."""
    workers = (
        pid for pid in children_of(bench.product.pid) if name_of(pid).startswith("ledger-api")
    )
    return sum(megabytes(pid, "VmHWM") for pid in workers)
